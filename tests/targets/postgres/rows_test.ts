import assert from "node:assert/strict";
import { connectPostgres, createTable, openTarget } from "writebehind";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { Looks } from "writebehind/targets/postgres/looks.ts";
import { PostgresRows } from "writebehind/targets/postgres/rows.ts";
import { testPipeline } from "../../support/pipeline.ts";
import { waitFor } from "../../support/servers.ts";

Deno.test("PostgreSQL: a look at rows on a connection that has silently died ends", async () => {
  await using pipeline = await testPipeline();
  const { host, port } = pipeline.servers.postgres;
  await using proxy = await TcpProxy.start({ host, port });
  const config = pipeline.with({ postgresql: { port: proxy.port } });
  const pool = await connectPostgres(config);
  try {
    await createTable(pool, config, "session");
    const keys = partitionKeys(config, "session", 0);
    const vanishing = async (keeps: boolean) => {
      const looks = new Looks(pool, keeps);
      const rows = new PostgresRows(pool, config, looks);
      assert.deepEqual((await rows.at(keys, ["a"])).rows, [null]);
      proxy.vanish();
      await assert.rejects(rows.at(keys, ["a"]), /Query read timeout|Connection terminated/);
      assert.deepEqual((await rows.at(keys, ["a", "b"])).rows, [null, null], "by another one");
      looks.close();
    };
    await vanishing(false);
    await vanishing(true);
  } finally {
    await pool[Symbol.asyncDispose]();
  }
});

/** Looks that keep a connection of a pool of their own. */
async function keepingLooks() {
  await using stack = new AsyncDisposableStack();
  const pipeline = stack.use(await testPipeline());
  const pool = stack.use(await connectPostgres(pipeline.config));
  const looks = new Looks(pool, true);
  stack.defer(() => looks.close());
  const owned = stack.move();
  return { pipeline, pool, looks, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

Deno.test("PostgreSQL: looks that follow each other keep a connection, and give it back", async () => {
  await using keeping = await keepingLooks();
  const { pipeline, pool, looks } = keeping;
  const pid = async () => {
    const text = "SELECT pg_backend_pid()";
    const { rows: [row] } = await looks.query<[number]>({ text, rowMode: "array" });
    return row![0];
  };
  const isKept = () => pool.totalCount - pool.idleCount === 1;
  const first = await pid();
  assert(isKept());
  assert.deepEqual(await Promise.all([pid(), pid().then((other) => other === first)]), [
    first,
    false,
  ], "one that comes meanwhile goes by another");

  const lost = pid();
  await pipeline.pool.query("SELECT pg_terminate_backend($1)", [await lost]);
  await waitFor(() => !isKept(), { what: "the end of the connection" });
  assert.notEqual(await pid(), first);

  await waitFor(() => !isKept(), { what: "the return of one that is not used" });
  await pid();
  assert(isKept());
  looks.close();
  assert(!isKept());
  await pid();
  assert(!isKept(), "it keeps none any more");
});

Deno.test("PostgreSQL: a look that failed gives its connection up", async () => {
  await using keeping = await keepingLooks();
  const { pipeline: { config }, pool, looks } = keeping;
  await createTable(pool, config, "session");
  const rows = new PostgresRows(pool, config, looks);
  const keys = partitionKeys(config, "session", 0);
  await rows.at(keys, ["a"]);
  // As a pooler does, or whoever took the connection before.
  await looks.query({ text: "DEALLOCATE ALL", rowMode: "array" });
  await assert.rejects(rows.at(keys, ["a"]), /prepared statement/);
  assert.deepEqual((await rows.at(keys, ["a"])).rows, [null]);
});

Deno.test("PostgreSQL: a target that keeps a connection for looks is closed at once", async () => {
  await using pipeline = await testPipeline();
  const { config } = pipeline;
  const target = await openTarget(config);
  const keys = partitionKeys(config, "session", 0);
  assert.deepEqual((await target.rows!.at(keys, ["a"])).rows, [null]);
  const since = performance.now();
  await target.close();
  assert(performance.now() - since < 1800, "it did not wait until the connection was given back");
});
