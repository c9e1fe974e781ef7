import assert from "node:assert/strict";
import {
  caughtUp,
  consumePeriodically,
  insertDocument,
  RedisWriteBehind,
  verify,
} from "writebehind";
import { drain, testPipeline } from "../../support/pipeline.ts";
import { waitFor } from "../../support/servers.ts";

const REST = `created_at TIMESTAMPTZ DEFAULT now(), updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  version BIGINT NOT NULL DEFAULT 0`;
const COLUMNS = `payload JSONB, ${REST}`;

/** Tables that would double rows, or take one document for another. */
const REFUSED: Record<string, [sql: string, names: RegExp]> = {
  "no key": [`CREATE TABLE sessions (id TEXT, ${COLUMNS})`, /no unique key on id/],
  "a composite key": [
    `CREATE TABLE sessions (id TEXT, ${COLUMNS}, PRIMARY KEY (id, created_at))`,
    /no unique key on id/,
  ],
  "a partial unique index": [
    `CREATE TABLE sessions (id TEXT, ${COLUMNS}); CREATE UNIQUE INDEX ON sessions (id) WHERE id <> ''`,
    /no unique key on id/,
  ],
  "a deferrable key": [
    `CREATE TABLE sessions (id TEXT UNIQUE DEFERRABLE, ${COLUMNS})`,
    /no unique key on id/,
  ],
  "a unique index on an expression": [
    `CREATE TABLE sessions (id TEXT, ${COLUMNS}); CREATE UNIQUE INDEX ON sessions (lower(id))`,
    /no unique key on id/,
  ],
  "CHAR(n)": [`CREATE TABLE sessions (id CHAR(8) PRIMARY KEY, ${COLUMNS})`, /is character/],
  "a number": [`CREATE TABLE sessions (id BIGINT PRIMARY KEY, ${COLUMNS})`, /is bigint/],
  "a collation without case": [
    `CREATE COLLATION IF NOT EXISTS ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
     CREATE TABLE sessions (id TEXT COLLATE ci PRIMARY KEY, ${COLUMNS})`,
    /collation of its key/,
  ],
  "a generated id": [
    `CREATE TABLE sessions (id TEXT GENERATED ALWAYS AS (payload->>'id') STORED PRIMARY KEY, ${COLUMNS})`,
    /is generated/,
  ],
  "a view": [
    `CREATE TABLE base (id TEXT PRIMARY KEY, ${COLUMNS}); CREATE VIEW sessions AS SELECT * FROM base`,
    /is a view/,
  ],
  "a payload of JSON": [
    `CREATE TABLE sessions (id TEXT PRIMARY KEY, payload JSON, ${REST})`,
    /payload is json/,
  ],
  "a payload of TEXT": [
    `CREATE TABLE sessions (id TEXT PRIMARY KEY, payload TEXT, ${REST})`,
    /payload is text/,
  ],
};

/** Tables that are other than ours, and do. */
const WORKING: Record<string, string> = {
  "VARCHAR": `CREATE TABLE sessions (id VARCHAR(512) PRIMARY KEY, ${COLUMNS})`,
  "a unique constraint": `CREATE TABLE sessions (id TEXT NOT NULL UNIQUE, ${COLUMNS})`,
  "a partitioned table":
    `CREATE TABLE sessions (id TEXT PRIMARY KEY, ${COLUMNS}) PARTITION BY HASH (id);
    CREATE TABLE base PARTITION OF sessions FOR VALUES WITH (MODULUS 1, REMAINDER 0)`,
  "another deterministic collation":
    `CREATE TABLE sessions (id TEXT COLLATE "C" PRIMARY KEY, ${COLUMNS})`,
  "more columns": `CREATE TABLE sessions (id TEXT PRIMARY KEY, note TEXT DEFAULT '-', ${COLUMNS})`,
};

Deno.test("tables whose key is not the id are refused when they are claimed", async (t) => {
  for (const [what, [sql, names]] of Object.entries(REFUSED)) {
    await t.step(what, async () => {
      await using pipeline = await testPipeline();
      const { redis, pool, config } = pipeline;
      await pool.query(`DROP TABLE sessions; ${sql}`);
      for (const [id, n] of [["K1", 1], ["k1", 2], ["k1 ", 3]] as const) {
        await insertDocument(redis, config, "session", { n }, id);
      }
      await using sink = new RedisWriteBehind(redis, pool, config, "session");
      await assert.rejects(sink.drain(), (error: Error) => {
        assert.match(error.message, /the table sessions/);
        assert.match(error.message, names);
        return true;
      });
      assert.equal((await pool.query("SELECT FROM sessions")).rowCount, 0);
    });
  }
});

Deno.test("tables of another making that have the id as their key work", async (t) => {
  for (const [what, sql] of Object.entries(WORKING)) {
    await t.step(what, async () => {
      await using pipeline = await testPipeline();
      const { redis, pool, config } = pipeline;
      await pool.query(`DROP TABLE sessions; ${sql}`);
      for (const id of ["K1", "k1", "k1 ", "é", "e\u0301"]) {
        await insertDocument(redis, config, "session", { id }, id);
      }
      await drain(pipeline);
      const { equal, counts } = await verify(redis, pool, config, "session");
      assert.equal(equal, 5);
      assert.equal(counts.mismatches, 0);
    });
  }
});

Deno.test("a table that is gone under a running sink is not made anew: it pauses, and goes on when it is back", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await using sink = consumePeriodically(redis, pool, config, "session");
  await insertDocument(redis, config, "session", { n: 1 }, "before");
  await caughtUp(redis, pool, config, "session");
  await pool.query("ALTER TABLE sessions RENAME TO hidden");
  await insertDocument(redis, config, "session", { n: 2 }, "behind");
  await waitFor(() => /The table sessions is gone/.test(sink.lastError?.message ?? ""), {
    what: "the message",
  });
  const { rows: [{ made }] } = await pool.query("SELECT to_regclass('sessions') AS made");
  assert.equal(made, null);
  await pool.query("ALTER TABLE hidden RENAME TO sessions");
  await caughtUp(redis, pool, config, "session");
  assert.equal((await pool.query("SELECT FROM sessions")).rowCount, 2);
});

Deno.test("a table that goes away while a claim looks at it is not made anew", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await drain(pipeline);
  // It goes away after each query of the claim in turn.
  for (let after = 1; after <= 4; after++) {
    let queries = 0;
    const query = pool.query;
    const owner = await pool.connect();
    pool.query = (async (...args: Parameters<typeof query>) => {
      const result = await query.apply(pool, args);
      if (++queries === after) await owner.query("ALTER TABLE sessions RENAME TO away");
      return result;
    }) as unknown as typeof query;
    await using sink = new RedisWriteBehind(redis, pool, config, "session");
    await insertDocument(redis, config, "session", { n: 2 }, `b${after}`);
    await assert.rejects(sink.drain(), /The table sessions is gone|relation "sessions" does not/);
    pool.query = query;
    owner.release();
    const { rows } = await pool.query("SELECT to_regclass('sessions') AS made");
    assert.deepEqual(rows, [{ made: null }], `after ${after} queries`);
    await pool.query("ALTER TABLE away RENAME TO sessions");
  }
});
