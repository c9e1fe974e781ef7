import assert from "node:assert/strict";
import { configWith, parseConfig, serverOverrides } from "writebehind";
import { startOwnServers } from "writebehind/dev/servers/own.ts";
import { openScratchDatabases } from "writebehind/notebook/scratch_databases.ts";
import { testPipeline } from "../support/pipeline.ts";

/** The file that the notebook on speed has COPY write and read. */
const FILE = `SELECT current_setting('data_directory') || '/base/' || oid || '/speed.copy' AS path
  FROM pg_database WHERE datname = current_database()`;

Deno.test("on servers of one's own COPY reads and writes files of the server, by their owner alone", async () => {
  const plain = parseConfig("", "test.yaml");
  await using servers = await startOwnServers({ config: plain, replica: false });
  const config = configWith(plain, serverOverrides(servers));
  const { ownerUrl } = servers;
  await using scratch = await openScratchDatabases(config, { ownerUrl });
  const { redis, postgres, copying } = scratch;
  assert.match(await redis.info("replication"), /connected_slaves:0/, "nothing slows it down");
  await postgres.query("INSERT INTO sessions (id, payload) VALUES ('a', '{}')");
  const [{ path } = { path: "" }] = (await postgres.query<{ path: string }>(FILE)).rows;
  await copying.query(`COPY sessions TO '${path}'`);
  await postgres.query("TRUNCATE sessions");
  await copying.query(`COPY sessions FROM '${path}'`);
  const { rows } = await postgres.query("SELECT id FROM sessions");
  assert.deepEqual(rows, [{ id: "a" }]);
  await assert.rejects(postgres.query(`COPY sessions TO '${path}'`), { code: "42501" });
});

Deno.test("notebooks at the same time have databases of their own, and leave others' alone", async () => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  const inDatabase = async (db: number, ...command: [string, ...string[]]) => {
    await redis.multi().select(db).call(...command).select(0).exec();
  };
  await inDatabase(1, "SET", "theirs", "1");
  await inDatabase(2, "SET", "writebehind:speed", "left behind by one that was killed");
  {
    await using first = await openScratchDatabases(config);
    await using second = await openScratchDatabases(config);
    assert.deepEqual([first.config.redis.db, second.config.redis.db], [2, 3]);
    assert.notEqual(first.config.postgresql.database, second.config.postgresql.database);
    await first.postgres.query("SELECT FROM sessions");
  }
  assert.match(await redis.info("keyspace"), /^db1:keys=1,/m);
  assert.doesNotMatch(await redis.info("keyspace"), /^db[23]:/m);
});

Deno.test("on other servers COPY has the rights of the user", async () => {
  await using pipeline = await testPipeline();
  await pipeline.redis.flushall();
  await using scratch = await openScratchDatabases(pipeline.config);
  assert.equal(scratch.copying, scratch.postgres);
});
