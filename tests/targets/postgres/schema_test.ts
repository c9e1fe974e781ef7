import assert from "node:assert/strict";
import type { Pool } from "pg";
import {
  type Config,
  connectPostgres,
  consumePeriodically,
  deleteDocument,
  insertDocument,
  readStatus,
  updateDocument,
} from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import type { Migration } from "writebehind/targets/migrations.ts";
import { postgresErrorKind } from "writebehind/targets/postgres/errors.ts";
import { createTable } from "writebehind/targets/postgres/migrate.ts";
import { MIGRATIONS } from "writebehind/targets/postgres/migrations/mod.ts";
import { checkSchema, schemaState } from "writebehind/targets/postgres/schema.ts";
import { documentedGrants } from "../../docs/pages.ts";
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

Deno.test("commands that only read change nothing, and say in one line where the tables are not as needed", async () => {
  await using pipeline = await emptyPipeline(servers);
  const { pool, config } = pipeline;
  const where = `session in the database ${config.postgresql.database}`;
  const check = (known?: Migration[]) => checkSchema(pool, config, "session", known);
  const refusal = async (known?: Migration[]) => (await refusalOf(check(known))).message;
  const missing =
    `The tables for ${where} are not there yet: start a sink once (deno task sink), it makes them`;
  assert.equal(await refusal(), missing);
  assert.deepEqual(await tablesIn(pool), []);

  await pool.query(await released("original"));
  assert.equal(await refusal(), missing);
  await pool.query("DROP TABLE sessions");

  await pool.query(await released("first"));
  assert.match(
    await refusal(),
    /are older than this version \(missing: 0001_our_tables, 0003_identity, 0004_lease_session\): start a sink/,
  );
  assert.deepEqual(await tablesIn(pool), ["sessions", "writebehind_lease", "writebehind_offset"]);

  await pool.query(await released("unnumbered"));
  await pool.query("ALTER TABLE writebehind_offset ADD parked_version BIGINT");
  assert.equal(await schemaState(pool, config, "session"), "old, workable");
  await check();
  assert(!(await tablesIn(pool)).includes("writebehind_migration"));

  assert.match(await refusal(next({ sql: COLOR })), new RegExp(`missing: .*000${NEXT}_next`));
  const lazy = next({ sql: COLOR, canWait: true });
  assert.equal(await schemaState(pool, config, "session", lazy), "old, workable");
  await check(lazy);
});

Deno.test("a database of a newer version", async (t) => {
  await t.step("works where that says so: sinks go on, and new ones start", async () => {
    await using pipeline = await emptyPipeline(servers);
    const { redis, pool, config } = pipeline;
    await using running = consumePeriodically(redis, pool, config, "session");
    await write(pipeline);
    await waitFor(() => running.status.events === 5, { what: "the events" });
    await createTable(pool, config, "session", next({ sql: COLOR, oldest: NEXT - 1 }));
    assert.equal(await schemaState(pool, config, "session"), "newer, workable");
    await checkSchema(pool, config, "session");
    await insertDocument(redis, config, "session", { n: 3 }, "d");
    await waitFor(() => running.status.events === 6, { what: "the event after the migration" });
    await running.stop();
    await updateDocument(redis, config, "session", "d", { n: 4 });
    assert.equal((await drain(pipeline)).events, 1);
    await assertEqual(pipeline);
  });

  await t.step("is refused where that says so, also by a sink that runs", async () => {
    await using pipeline = await emptyPipeline(servers);
    const { redis, pool, config } = pipeline;
    const newer = next({ sql: COLOR, oldest: NEXT });
    await using running = consumePeriodically(redis, pool, config, "session");
    await write(pipeline);
    await waitFor(() => running.status.events === 5, { what: "the events" });
    await createTable(pool, config, "session", newer);
    const refused =
      `The tables for session in the database ${config.postgresql.database} were changed by a newer ` +
      `version of writebehind, and one older than migration ${NEXT} cannot work with them ` +
      `(this one knows ${NEXT - 1}): install the newer version`;
    await insertDocument(redis, config, "session", { n: 3 }, "d");
    await waitFor(() => running.lastError?.message === refused, { what: "the refusal" });
    assert.equal(running.status.events, 5);
    assert.equal((await pool.query("SELECT FROM sessions WHERE id = 'd'")).rowCount, 0);
    await running.stop();
    for (
      const attempt of [
        () => drain(pipeline),
        () => createTable(pool, config, "session"),
        () => checkSchema(pool, config, "session"),
      ]
    ) assert.equal((await refusalOf(attempt())).message, refused);
    assert.equal(await schemaState(pool, config, "session"), "newer, refused");
    assert.equal(await redis.xlen("stream:session") > 0, true, "nothing was trimmed");
  });
});

Deno.test("a user without rights", async (t) => {
  let users = 0;
  /** A database with a user who may only connect; `admin` is an administrator's pool. */
  async function withUser(): Promise<Pipeline & { admin: Pool; role: string }> {
    const pipeline = await emptyPipeline(servers);
    const role = `app-${++users}`;
    await pipeline.pool.query(`CREATE ROLE "${role}" LOGIN PASSWORD 'word'`);
    const config: Config = pipeline.with({ postgresql: { user: role, password: "word" } });
    const pool = await connectPostgres(config);
    return {
      ...pipeline,
      config,
      pool,
      role,
      admin: pipeline.pool,
      [Symbol.asyncDispose]: async () => {
        await pool.end();
        await pipeline[Symbol.asyncDispose]();
      },
    };
  }
  /** The SQL for an administrator, out of the one message. */
  async function sqlOf(failing: Promise<unknown>, role: string): Promise<string> {
    const error = await refusalOf(failing);
    assert.equal(postgresErrorKind(error), "configuration");
    return sqlIn(error.message, role);
  }
  function sqlIn(message: string, role: string): string {
    const [said, sql] = message.split("\n\nBEGIN;");
    assert.match(
      said!,
      /^The PostgreSQL user "app-\d+" may not make or change the tables for session .*:$/,
    );
    // Not more than the page says that it needs.
    const granted = [...sql!.matchAll(/^GRANT .*;$/gm)].map(([line]) => line);
    const page = documentedGrants().replaceAll(/\bapp\b/g, `"${role}"`);
    assert.deepEqual(
      granted.map((line) => line.replaceAll(/\bpublic\.|"(?=sessions)|(?<=sessions)"/g, "")),
      ["GRANT SELECT ON writebehind_migration TO PUBLIC;"].filter((line) => granted.includes(line))
        .concat(page.split("\n").filter((line) => line.startsWith("GRANT"))),
    );
    return `BEGIN;${sql}`;
  }
  const poison = (admin: Pool) =>
    admin.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");

  for (const name of ["nothing", "original", "first"]) {
    await t.step(
      `on a database with ${name}: an administrator runs the SQL, and the sink works`,
      async () => {
        await using pipeline = await withUser();
        const { redis, config, pool, admin, role } = pipeline;
        if (name !== "nothing") await admin.query(await released(name));
        const before = await tablesIn(admin);
        await write(pipeline);
        if (name === "nothing") {
          const { message } = await refusalOf(checkSchema(pool, config, "session"));
          assert.match(message, /^The tables for session .* are not there yet: start a sink .*$/);
        }
        const sql = await sqlOf(drain(pipeline), role);
        assert.deepEqual(await tablesIn(admin), before);
        await admin.query(sql);
        // All that a sink does: it parks a document as well.
        await poison(admin);
        await insertDocument(redis, config, "session", { bad: true }, "bad");
        assert.equal((await drain(pipeline)).parked, 1);
        await deleteDocument(redis, config, "session", "bad");
        assert.equal((await drain(pipeline)).parked, 1, "behind the one that is parked");
        await assertEqual(pipeline);
        assert.equal(await schemaState(pool, config, "session"), "current");
      },
    );
  }

  // The tables of older versions, and a role with just the rights that docs/operating.md gives.
  for (const version of ["dead_letter", "unnumbered", 2, 3]) {
    await t.step(
      `of version ${version} with the documented GRANTs: a sink waits for the SQL, and goes on`,
      async () => {
        await using pipeline = await withUser();
        const { redis, config, pool, admin, role } = pipeline;
        if (typeof version === "string") await admin.query(await released(version));
        else await createTable(admin, config, "session", MIGRATIONS.slice(0, version));
        const there = await tablesIn(admin);
        for (
          const [, right, tables] of documentedGrants().matchAll(/GRANT (.*) ON ([a-z_, ]+) TO/g)
        ) {
          const older = tables!.split(", ").filter((table) => there.includes(table));
          if (older.length > 0) await admin.query(`GRANT ${right} ON ${older} TO "${role}"`);
        }
        await write(pipeline);
        // Commands that only read need not wait.
        const [before] = await readStatus(redis, pool, config, "session");
        assert.equal(before!.lagEvents, 5);

        await using sink = consumePeriodically(redis, pool, config, "session");
        const error = await waitFor(() => sink.status.partitions[0]!.lastError, {
          what: "the sink to say what it needs",
        });
        const sql = sqlIn(error, role);
        // Whoever looks is told the same: in one line where it is, and otherwise as it stands.
        await redis.counters.flush();
        const file = await configFile({ write_behind: { retry_base_ms: 5 } });
        const look = async (...more: string[]) => {
          await using task = startTask(
            ["status", "--config", file, ...more],
            environmentOf(config),
          );
          await task.status;
          return task.output();
        };
        assert.match(
          await look(),
          /Let an administrator run this .* \(it is in the sink's log, and/,
        );
        const told = await waitFor(
          async () => (await readStatus(redis, pool, config, "session"))[0]!.lastError,
          { what: "status to say it" },
        );
        assert.equal(sqlIn(told, role), sql);
        await admin.query(sql);
        await waitFor(() => sink.status.events === 5, { what: "the sink to go on" });
        await sink.stop();
        await assertEqual(pipeline);
        assert.deepEqual(await recordOf(admin), ALL);
        await poison(admin);
        await insertDocument(redis, config, "session", { bad: true }, "bad");
        assert.equal((await drain(pipeline)).parked, 1);
      },
    );
  }

  await t.step(
    "needs nobody where the tables are as they should be",
    async () => {
      await using pipeline = await withUser();
      const { config, pool, admin, role } = pipeline;
      await createTable(admin, config, "session");
      await admin.query(`GRANT ALL ON ALL TABLES IN SCHEMA public TO "${role}"`);
      await write(pipeline);
      await drain(pipeline);
      await assertEqual(pipeline);
      let queries = 0;
      pool.on("acquire", () => queries++);
      for (let n = 0; n < 5; n++) await createTable(pool, config, "session");
      assert.equal(queries, 5);

      // The next version does need one.
      const known = next({ sql: COLOR });
      const sql = await sqlOf(createTable(pool, config, "session", known), role);
      assert(!sql.includes("CREATE TABLE IF NOT EXISTS writebehind_offset"));
      await admin.query(sql);
      await createTable(pool, config, "session", known);
      assert.deepEqual(await recordOf(pool), [...ALL, `${NEXT} sessions`]);
    },
  );

  await t.step(
    "may not even use the schema: said so, whether there are tables in it or not",
    async () => {
      await using pipeline = await withUser();
      const { config, pool, admin, role } = pipeline;
      await admin.query("REVOKE ALL ON SCHEMA public FROM PUBLIC");
      for (const make of [false, true]) {
        if (make) await createTable(admin, config, "session");
        const { message } = await refusalOf(createTable(pool, config, "session"));
        assert.match(
          message,
          /may use none of the schemas of its search_path, so no tables for session /,
        );
        assert(
          message.includes(`an administrator runs GRANT USAGE ON SCHEMA … TO "${role}"`),
          message,
        );
      }
    },
  );

  await t.step("may read of which version the tables are", async () => {
    await using pipeline = await withUser();
    const { config, pool, admin } = pipeline;
    await createTable(admin, config, "session");
    await createTable(pool, config, "session");
    await checkSchema(pool, config, "session");
  });
});

Deno.test("a table that goes away while it is looked for is not made anew", async () => {
  await using pipeline = await emptyPipeline(servers);
  const { pool, config } = pipeline;
  await createTable(pool, config, "session");
  await pool.query(
    `INSERT INTO sessions (id, payload) VALUES ('a', '{}');
     INSERT INTO writebehind_offset (stream, last_id, events) VALUES ('stream:session', '5-0', 1);
     ALTER TABLE sessions RENAME TO away`,
  );
  // It is back when it is asked whether it is missed, and away again when it is made.
  const [back, away] = ["relkind AS kind", "CREATE TABLE"];
  const steps = [[back, "away RENAME TO sessions"], [away, "sessions RENAME TO away"], [
    back,
    "away RENAME TO sessions",
  ]];
  const query = async (...args: Parameters<typeof pool.query>) => {
    const [next] = steps;
    if (next && JSON.stringify(args).includes(next[0]!)) {
      await pool.query(`ALTER TABLE ${next[1]}`);
      steps.shift();
    }
    return await pool.query(...args);
  };
  const renaming: typeof pool = Object.create(pool, { query: { value: query } });
  await createTable(renaming, config, "session", undefined, allPartitions(config, "session"));
  const { rows } = await pool.query("SELECT id FROM sessions");
  assert.deepEqual(rows, [{ id: "a" }]);
  assert.deepEqual(steps, []);
  await pool.query("ALTER TABLE sessions RENAME TO away");
  await assert.rejects(
    createTable(pool, config, "session", undefined, allPartitions(config, "session")),
    /The table sessions is gone/,
  );
});
