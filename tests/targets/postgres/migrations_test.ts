import assert from "node:assert/strict";
import type { Pool } from "pg";
import { connectPostgres, consumePeriodically, RedisWriteBehind, versionOf } from "writebehind";
import { postgresErrorKind } from "writebehind/targets/postgres/errors.ts";
import { createTable } from "writebehind/targets/postgres/migrate.ts";
import { checkSchema, schemaState } from "writebehind/targets/postgres/schema.ts";
import { assertEqual, drain, type Pipeline } from "../../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../../support/processes.ts";
import { testServers, waitFor } from "../../support/servers.ts";
import {
  ALL,
  COLOR,
  emptyPipeline,
  NEXT,
  next,
  recordOf,
  refusalOf,
  released,
  tablesIn,
  write,
} from "./databases.ts";

const servers = await testServers();
Deno.test.afterAll(async () => await servers[Symbol.asyncDispose]());

/** All that makes up the tables, for comparing. */
async function shapeOf(pool: Pool): Promise<unknown> {
  const { rows } = await pool.query(
    `SELECT c.relname, c.reloptions,
            (SELECT json_agg(json_build_array(attname, format_type(atttypid, atttypmod), attnotnull,
                                              attidentity, attgenerated, pg_get_expr(adbin, adrelid))
                             ORDER BY attnum)
               FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
              WHERE attrelid = c.oid AND attnum > 0) AS columns,
            (SELECT json_agg(pg_get_constraintdef(oid) ORDER BY 1::text, conname) FROM pg_constraint
              WHERE conrelid = c.oid) AS constraints,
            (SELECT json_agg(indexdef ORDER BY indexdef) FROM pg_indexes
              WHERE tablename = c.relname) AS indexes
       FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname`,
  );
  return rows;
}

Deno.test("databases of all released versions are brought up to date, and a sink goes on in them", async (t) => {
  await using fresh = await emptyPipeline(servers);
  await createTable(fresh.pool, fresh.config, "session");
  const expected = await shapeOf(fresh.pool);

  for (const name of ["first", "dead_letter", "unnumbered"]) {
    await t.step(name, async () => {
      await using pipeline = await emptyPipeline(servers);
      const { redis, pool } = pipeline;
      await pool.query(await released(name));
      await write(pipeline);
      // That version's sink has applied the first two events, and has gone without giving back its lease.
      const [first, second] = (await redis.xrange("stream:session", "-", "+", "COUNT", 2)).map((
        [id],
      ) => id);
      await pool.query(
        `INSERT INTO sessions (id, payload, version) VALUES ('a', '{"n": 1}', $1), ('b', '{"n": 1}', $2)`,
        [versionOf(first!), versionOf(second!)],
      );
      await pool.query(
        `INSERT INTO writebehind_offset (stream, last_id, events, epoch, owner)
         VALUES ('stream:session', $1, 2, 4, 'old')`,
        [second],
      );
      await pool.query(
        `INSERT INTO writebehind_lease VALUES ('stream:session', 'old', 4, now(), 1, now())`,
      );
      const { events } = await drain(pipeline);
      assert.equal(events, 3, "the first two were applied already");
      await assertEqual(pipeline);
      const { rows } = await pool.query("SELECT events, epoch, went_back FROM writebehind_offset");
      assert.deepEqual(rows, [{ events: "5", epoch: "5", went_back: 0 }]);
      assert.deepEqual(await recordOf(pool), ALL);
      assert.deepEqual(await shapeOf(pool), expected);
    });
  }

  await t.step("the original project, with rows", async () => {
    await using pipeline = await emptyPipeline(servers);
    const { config, pool } = pipeline;
    await pool.query(await released("original"));
    await pool.query(
      `INSERT INTO sessions (id, payload) VALUES ('a', '{"n": 0}'), ('b', '{"n": 0}')`,
    );
    assert.equal(await schemaState(pool, config, "session"), "missing");
    await write(pipeline);
    await drain(pipeline);
    await assertEqual(pipeline);
    assert.deepEqual(await shapeOf(pool), expected);
  });
});

Deno.test("tables that are up to date cost one query", async () => {
  await using pipeline = await emptyPipeline(servers);
  const { config, pool } = pipeline;
  await createTable(pool, config, "session");
  let queries = 0;
  pool.on("acquire", () => queries++);
  for (let n = 0; n < 5; n++) await createTable(pool, config, "session");
  await checkSchema(pool, config, "session");
  assert.equal(queries, 6);
});

Deno.test("sinks that start together on an empty database make the tables once", async (t) => {
  await t.step("three sinks", async () => {
    await using pipeline = await emptyPipeline(servers);
    const { redis, config, pool } = pipeline;
    await write(pipeline);
    await using stack = new AsyncDisposableStack();
    const pools = await Promise.all([1, 2, 3].map(() => connectPostgres(config)));
    for (const own of pools) stack.use(own);
    const sinks = pools.map((own) => stack.use(consumePeriodically(redis, own, config, "session")));
    await waitFor(() => sinks.some(({ status }) => status.events === 5), { what: "the events" });
    await waitFor(() => sinks.every(({ status }) => status.partitions[0]!.state !== "idle"), {
      what: "all three sinks",
    });
    for (const { lastError } of sinks) assert.equal(lastError, null);
    await assertEqual(pipeline);
    assert.deepEqual(await recordOf(pool), ALL);
  });

  await t.step("a migration that may run once only", async () => {
    await using pipeline = await emptyPipeline(servers);
    const { config, pool } = pipeline;
    await createTable(pool, config, "session");
    await pool.query("CREATE TABLE runs (number INTEGER)");
    const known = next({ of: "ours", sql: "INSERT INTO runs VALUES (3);" });
    await Promise.all(Array.from({ length: 8 }, () => createTable(pool, config, "session", known)));
    assert.equal((await pool.query("SELECT FROM runs")).rowCount, 1);
    assert.deepEqual(await recordOf(pool), [...ALL, `${NEXT} `]);
  });
});

Deno.test("each entity's table is migrated for itself, in order, and once dropped made anew", async () => {
  await using pipeline = await emptyPipeline(servers);
  const { pool } = pipeline;
  const config = pipeline.with({
    entities: [
      { name: "session", table: "sessions", index_name: "i" },
      { name: "user", table: "users", index_name: "j" },
    ],
  });
  const known = next({ sql: COLOR });
  await createTable(pool, config, "session", known);
  assert.deepEqual(await recordOf(pool), [...ALL, `${NEXT} sessions`]);
  await createTable(pool, config, "user");
  await createTable(pool, config, "user", known);
  await pool.query("SELECT color FROM users");
  const all = [...ALL, "2 users", `${NEXT} sessions`, `${NEXT} users`].sort();
  assert.deepEqual(await recordOf(pool), all);

  await pool.query("DROP TABLE users, writebehind_lease");
  assert.equal(await schemaState(pool, config, "user", known), "missing");
  assert.equal(await schemaState(pool, config, "session", known), "old");
  await Promise.all(Array.from({ length: 8 }, () => createTable(pool, config, "user", known)));
  assert.equal(await schemaState(pool, config, "user", known), "current");
  assert.equal(await schemaState(pool, config, "session", known), "current");
  await pool.query("SELECT color FROM users, writebehind_lease");
  assert.deepEqual(await recordOf(pool), all);
});

Deno.test("tables are changed where they are, also where another schema comes first", async () => {
  await using pipeline = await emptyPipeline(servers);
  const { config, pool } = pipeline;
  await pool.query(await released("original"));
  await pool.query(`INSERT INTO sessions (id, payload) VALUES ('a', '{"n": 0}')`);
  await pool.query(`CREATE SCHEMA "My Own"`);
  await pool.query(
    `ALTER DATABASE "${config.postgresql.database}" SET search_path = "My Own", public`,
  );
  const own = await connectPostgres(config);
  await using _own = own;
  await write(pipeline);
  await using sink = new RedisWriteBehind(pipeline.redis, own, config, "session");
  await sink.drain();
  assert.deepEqual(await tablesIn(pool), [
    '"My Own".writebehind_dead_letter',
    '"My Own".writebehind_lease',
    '"My Own".writebehind_migration',
    '"My Own".writebehind_offset',
    '"My Own".writebehind_probe',
    "sessions",
  ]);
  await assertEqual(pipeline);
});

Deno.test("a migration that is killed half way leaves nothing or is complete, and the next sink finishes", async (t) => {
  /** Runs `start` on a database of the first version, kills in the middle, and looks what is left. */
  async function killed(
    start: (pipeline: Pipeline) => Promise<unknown>,
    kill: (pid: number, pool: Pool) => Promise<unknown>,
  ): Promise<string[]> {
    await using pipeline = await emptyPipeline(servers);
    const { pool } = pipeline;
    await pool.query(await released("first"));
    await write(pipeline);
    const before = await tablesIn(pool);
    const reader = await pool.connect();
    // Closed whatever comes: else the pool would wait for it for ever.
    using closing = new DisposableStack();
    closing.defer(() => reader.release(true));
    // In the way of ALTER TABLE, which comes behind the record.
    await reader.query("BEGIN; LOCK writebehind_offset IN ACCESS SHARE MODE");
    const started = start(pipeline);
    const { pid } = await waitFor(async () => {
      const { rows: [row] } = await pool.query<{ pid: number }>(
        `SELECT pid FROM pg_stat_activity
          WHERE wait_event_type = 'Lock' AND wait_event = 'relation' AND datname = current_database()`,
      );
      return row;
    }, { what: "the migration to stand still", deadlineMs: 20_000 });
    await kill(pid, pool);
    await started;
    const gone = () =>
      pool.query("SELECT FROM pg_stat_activity WHERE pid = $1", [pid]).then((r) =>
        r.rowCount === 0
      );
    await reader.query("ROLLBACK");
    await waitFor(gone, { what: "the session to end" });
    const left = (await tablesIn(pool)).filter((name) => !before.includes(name));
    await drain(pipeline);
    await assertEqual(pipeline);
    assert.deepEqual(await recordOf(pool), ALL);
    return left;
  }

  await t.step("its session", async () => {
    const left = await killed(
      ({ pool, config }) =>
        assert.rejects(createTable(pool, config, "session"), /terminating connection/),
      (pid, pool) => pool.query("SELECT pg_terminate_backend($1)", [pid]),
    );
    assert.deepEqual(left, []);
  });

  await t.step("its process", async () => {
    const file = await configFile({ write_behind: { lease_seconds: 1 } });
    let sink: ReturnType<typeof startTask> | undefined;
    const left = await killed(
      ({ config }) => (sink = startTask(["sink", "--config", file], environmentOf(config))).status,
      () => Promise.resolve(sink!.kill("SIGKILL")),
    );
    // The server only notices when it has done what it was asked for.
    const complete = ["writebehind_dead_letter", "writebehind_migration", "writebehind_probe"];
    assert.deepEqual(left, left.length === 0 ? [] : complete);
  });

  await t.step("one that fails", async () => {
    await using pipeline = await emptyPipeline(servers);
    const { pool, config } = pipeline;
    const known = next({ sql: `${COLOR} SELECT 1 / 0;` });
    await assert.rejects(createTable(pool, config, "session", known), /division by zero/);
    assert.deepEqual(await recordOf(pool), ALL);
    await createTable(pool, config, "session", next({ sql: COLOR }));
  });
});

Deno.test("a table that somebody holds is waited for a while, then it is said; a sink tries again", async () => {
  await using pipeline = await emptyPipeline(servers);
  const { pool, config } = pipeline;
  await pool.query(await released("original"));
  const reader = await pool.connect();
  await reader.query("BEGIN; SELECT FROM sessions");
  const error = await refusalOf(createTable(pool, config, "session"));
  await reader.query("ROLLBACK");
  reader.release();
  assert.match(
    error.message,
    /^0002_entity_table for session .* had to wait for more than 5 s: .*try again$/,
  );
  assert.equal(postgresErrorKind(error), "chance");
  await createTable(pool, config, "session");
});
