import assert from "node:assert/strict";
import { connectPostgres, createTable } from "writebehind";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { PostgresRows } from "writebehind/targets/postgres/rows.ts";
import { testPipeline } from "../../support/pipeline.ts";

Deno.test("PostgreSQL: a look at rows on a connection that has silently died ends", async () => {
  await using pipeline = await testPipeline();
  const { host, port } = pipeline.servers.postgres;
  await using proxy = await TcpProxy.start({ host, port });
  const config = pipeline.with({ postgresql: { port: proxy.port } });
  const pool = await connectPostgres(config);
  try {
    await createTable(pool, config, "session");
    const rows = new PostgresRows(pool, config);
    const keys = partitionKeys(config, "session", 0);
    assert.deepEqual((await rows.at(keys, ["a"])).rows, [null]);
    proxy.vanish();
    await assert.rejects(rows.at(keys, ["a"]), /Query read timeout/);
    assert.deepEqual((await rows.at(keys, ["a", "b"])).rows, [null, null], "by another one");
  } finally {
    await pool[Symbol.asyncDispose]();
  }
});
