/** Typed columns on a running system: told by a sink, made by an operator, and what a later document does to them. */

import assert from "node:assert/strict";
import {
  caughtUp,
  type Config,
  connectPostgres,
  consumePeriodically,
  createTable,
  insertDocument,
  listDeadLetters,
  migrateColumns,
  openTarget,
  readStatus,
  RedisWriteBehind,
  replayDeadLetters,
  type Target,
  verify,
} from "writebehind";
import { Stage } from "writebehind/dev/stage/stage.ts";
import { serveMetrics } from "writebehind/metrics/prometheus.ts";
import { targetOf } from "writebehind/targets/open.ts";
import { drain, type Pipeline, withPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { seriesOf } from "../support/prometheus.ts";
import { asOwner, queryAt, testDatabase, testFolder, waitFor } from "../support/servers.ts";

const COLUMNS = [
  { name: "user_id", type: "text", index: true },
  { name: "login_time", type: "timestamp_ms", on_error: null },
  { name: "n", type: "integer" },
] as const;

/** The configuration with columns, where the table has none yet. */
function withColumns({ config, with: other }: Pipeline): Config {
  const [entity] = config.entities;
  return other({ entities: [{ ...entity!, columns: COLUMNS }] });
}

/** A table as it is before there are columns. */
async function older({ pool, config }: Pipeline) {
  await pool.query("DROP TABLE sessions");
  await createTable(pool, config, "session");
}

const write = ({ redis, config }: Pipeline, id: string, document: Record<string, unknown>) =>
  insertDocument(redis, config, "session", document as { n: number }, id, { overwrite: true });

async function values({ pool }: Pipeline, id: string) {
  const { rows: [row] } = await pool.query(
    "SELECT user_id, login_time, n FROM sessions WHERE id = $1",
    [id],
  );
  return row;
}

Deno.test("columns of a table that is there", async (t) => {
  await withPipeline(t, {
    "two that change them at once come to their end": async (pipeline) => {
      const config = withColumns(pipeline);
      for (let round = 0; round < 8; round++) {
        await older(pipeline);
        const change = () => migrateColumns(pipeline.pool, config, "session");
        const reports = await Promise.all([change(), change()]);
        assert(reports.some(({ changed }) => changed));
        assert.deepEqual((await migrateColumns(pipeline.pool, config, "session")).sql, []);
      }
    },
    "a sink tells once that they differ, and goes on": async (pipeline) => {
      const { redis, pool } = pipeline;
      const config = withColumns(pipeline);
      const told: string[] = [];
      await using sink = new RedisWriteBehind(redis, pool, config, "session");
      sink.events.on("columnsDiffer", ({ differences }) => told.push(differences));
      for (const id of ["a", "b"]) {
        await write(pipeline, id, { n: 1 });
        assert.equal((await sink.drain()).events > 0, true);
      }
      assert.deepEqual(told, [
        "the column user_id is missing; the column login_time is missing; the column n is missing",
      ]);
      assert.deepEqual((await verify(redis, pool, config, "session")).counts.mismatches, 0);
      assert.deepEqual((await readStatus(redis, pool, config, "session"))[0]!.warnings, [
        `the table's typed columns are not as configured: ${told[0]}; run deno task target migrate`,
      ]);
      await migrateColumns(pool, config, "session");
      assert.deepEqual((await readStatus(redis, pool, config, "session"))[0]!.warnings, []);
      await using next = new RedisWriteBehind(redis, pool, config, "session");
      next.events.on("columnsDiffer", ({ differences }) => told.push(differences));
      await next.drain();
      assert.equal(told.length, 1);
    },

    "status, metrics and the stage tell that they differ, and what to run": async (pipeline) => {
      const { redis, pool } = pipeline;
      const config = pipeline.with({
        entities: withColumns(pipeline).entities,
        streams: { partitions: 2 },
        targets: [
          { name: "postgresql", kind: "postgresql" },
          { name: "file", kind: "sqlite", path: `${testFolder("columns")}/rows.db` },
        ],
      });
      await using file = await openTarget(config, "file");
      await createTable(file, config, "session"); // as configured
      const targets = { postgresql: targetOf(pool, config), file };
      await using server = serveMetrics({ port: 0 });
      for (const target of Object.values(targets)) {
        const sink = new RedisWriteBehind(redis, target, config, "session");
        server.watch({ redis, target, config, entity: "session" }, sink);
      }
      const differ = async () => {
        const text = await (await fetch(server.url)).text();
        return seriesOf(text, "writebehind_columns_differ");
      };
      const labels = (target: string) => `entity="session",target="${target}"`;
      const warnings = async (target: Target) =>
        (await readStatus(redis, target, config, "session")).map(({ warnings }) => warnings.length);
      assert.deepEqual(await differ(), { [labels("postgresql")]: 1, [labels("file")]: 0 });
      assert.deepEqual(await warnings(targets.postgresql), [1, 0]);
      assert.deepEqual(await warnings(file), [0, 0]);
      await using stage = await Stage.start({ given: { config, configPath: undefined } });
      const said = () => stage.happened.entries.map(({ text }) => text);
      await waitFor(() => said().length > 0, { what: "the stage to look" });
      assert.match(
        said().join("\n"),
        /^postgresql: .*column user_id is missing; .*target migrate$/,
      );
      await migrateColumns(pool, config, "session");
      assert.deepEqual(await differ(), { [labels("postgresql")]: 0, [labels("file")]: 0 });
    },

    "looking changes nothing; rows block it by their ids": async (pipeline) => {
      const { pool } = pipeline;
      const config = withColumns(pipeline);
      await write(pipeline, "good", { user_id: "u", login_time: 1764000000123, n: 1 });
      await write(pipeline, "bad", { user_id: 1, n: 1.5, login_time: "yesterday" });
      await drain(pipeline);
      const looked = await migrateColumns(pool, config, "session", { dryRun: true });
      assert.equal(looked.changed, false);
      assert.deepEqual(looked.blocked, [
        { column: "user_id", type: "text", rows: 1, ids: ["bad"] },
        { column: "n", type: "integer", rows: 1, ids: ["bad"] },
      ]);
      assert.match(looked.sql.join("\n"), /lock_timeout = '5s'[^]*ALTER TABLE "sessions"/);
      const refused = await migrateColumns(pool, config, "session");
      assert.deepEqual(refused, looked, "what blocks it is not overridden");
      await write(pipeline, "bad", {});
      await drain(pipeline);
      assert.equal((await migrateColumns(pool, config, "session")).changed, true);
      assert.deepEqual(await values(pipeline, "good"), {
        user_id: "u",
        login_time: new Date(1764000000123),
        n: "1",
      });
      const again = await migrateColumns(pool, config, "session");
      assert.deepEqual(again, { differences: [], sql: [], blocked: [], changed: false });
    },

    "a later document that a column cannot hold is parked with its name": async (pipeline) => {
      const { redis, pool } = pipeline;
      const config = withColumns(pipeline);
      await migrateColumns(pool, config, "session");
      await write(pipeline, "good", { user_id: "u", n: 7 });
      await write(pipeline, "bad", { user_id: "v", n: "seven", login_time: "yesterday" });
      await write(pipeline, "long", { user_id: "x".repeat(513) });
      await write(pipeline, "other", { login_time: "yesterday" });
      await drain({ ...pipeline, config });
      const letters = await Array.fromAsync(listDeadLetters(pool, config, "session"));
      assert.deepEqual(letters.map(({ docId, sqlstate }) => [docId, sqlstate]), [
        ["bad", "23514"],
        ["long", "23514"],
      ]);
      const says = (column: string) =>
        `new row for relation "sessions" violates check constraint "${column}_in_sessions"`;
      assert.deepEqual(letters.map(({ reason }) => reason), [
        says("n_is_integer"),
        says("user_id_is_text"),
      ]);
      assert.deepEqual(await values(pipeline, "good"), { user_id: "u", login_time: null, n: "7" });
      assert.deepEqual(await values(pipeline, "other"), {
        user_id: null,
        login_time: null,
        n: null,
      });
      // From now on they are NULL, and what is parked may be replayed.
      const [entity] = config.entities;
      const columns = COLUMNS.map((column) => ({ ...column, on_error: null }));
      const lenient = pipeline.with({ entities: [{ ...entity!, columns }] });
      const { differences, changed } = await migrateColumns(pool, lenient, "session");
      assert(changed);
      assert.deepEqual(differences, [
        "the column user_id parks documents, and on_error: null is configured",
        "the column n parks documents, and on_error: null is configured",
      ]);
      await replayDeadLetters(redis, pool, lenient, "session", { all: true });
      assert.deepEqual(await values(pipeline, "bad"), { user_id: "v", login_time: null, n: null });
      assert.deepEqual(await values(pipeline, "long"), {
        user_id: null,
        login_time: null,
        n: null,
      });
      assert.equal((await verify(redis, pool, lenient, "session")).counts.mismatches, 0);
    },

    "they are made while a sink carries events on": async (pipeline) => {
      const { redis, pool } = pipeline;
      const config = withColumns(pipeline);
      await using sink = await consumePeriodically(redis, pool, config, "session");
      let stop = false;
      const writing = (async () => {
        let n = 0;
        for (; !stop; n++) await write(pipeline, `d${n % 500}`, { user_id: `u${n}`, n });
        return n;
      })();
      await caughtUp(redis, pool, config, "session", {});
      assert.equal((await migrateColumns(pool, config, "session")).changed, true);
      stop = true;
      assert(await writing > 0);
      await caughtUp(redis, pool, config, "session", {});
      assert.equal(sink.status.parked, 0);
      const { rows: [row] } = await pool.query(
        `SELECT count(*) FILTER (WHERE user_id = payload->>'user_id' AND n = (payload->'n')::bigint)
                AS alike, count(*) AS all FROM sessions`,
      );
      assert.equal(row.alike, row.all);
      assert.equal((await verify(redis, pool, config, "session")).counts.mismatches, 0);
    },

    "a table that another transaction holds is left alone after 5 s": async (pipeline) => {
      const { pool } = pipeline;
      const config = withColumns(pipeline);
      const holder = await pool.connect();
      try {
        await holder.query("BEGIN; LOCK TABLE sessions IN ACCESS SHARE MODE");
        await assert.rejects(
          migrateColumns(pool, config, "session"),
          /The table sessions was not free for 5 s: .*Nothing was changed; try again/,
        );
        await holder.query("ROLLBACK");
      } finally {
        holder.release();
      }
      assert.equal((await migrateColumns(pool, config, "session")).changed, true);
    },

    "a user that may not is told, and whom to ask": async (pipeline) => {
      const config = withColumns(pipeline);
      const { postgres } = pipeline.servers;
      await asOwner(postgres, "CREATE ROLE reader LOGIN PASSWORD 'reader'");
      const login = { user: "reader", password: "reader" };
      await pipeline.pool.query(
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
      );
      await using pool = await connectPostgres(pipeline.with({ postgresql: login }));
      await assert.rejects(
        migrateColumns(pool, config, "session"),
        /The PostgreSQL user reader may not change the table sessions: .*Let its owner run the SQL/,
      );
    },
  }, older);
});

Deno.test("deno task target migrate prints the SQL, and runs it with --yes", async (t) => {
  await withPipeline(t, {
    "shown, blocked, run, and nothing left to do": async (pipeline) => {
      const { postgresql, redis } = pipeline.config;
      const config = withColumns(pipeline);
      const file = await configFile({
        postgresql: { ...postgresql, password: postgresql.password },
        redis,
        entities: config.entities,
      });
      const run = async (...args: string[]) => {
        const env = environmentOf(config);
        await using task = startTask(["target", "migrate", "--config", file, ...args], env);
        const { code } = await task.status;
        return { code, output: task.output() };
      };
      await write(pipeline, "bad", { n: "x" });
      await drain(pipeline);
      await using status = startTask(["status", "--config", file], environmentOf(config));
      await status.status;
      assert.match(
        status.output(),
        /WARNING: .*user_id is missing; .*run deno task target migrate/,
      );
      const shown = await run();
      assert.equal(shown.code, 1, shown.output);
      assert.match(
        shown.output,
        /the column user_id is missing; .*\nBEGIN;\nSET LOCAL lock_timeout/,
      );
      assert.match(
        shown.output,
        /\nthe column n, which takes integer, is blocked by 1 row: "bad"\n/,
      );
      const blocked = await run("--yes");
      assert.equal(blocked.code, 1, blocked.output);
      assert.match(blocked.output, /nothing was changed where rows block it: mend those/);
      await write(pipeline, "bad", {});
      await drain(pipeline);
      const again = await run();
      assert.equal(again.code, 1);
      assert.match(again.output, /nothing was changed; --yes does it/);
      const done = await run("--yes", "--target", "postgresql");
      assert.equal(done.code, 0, done.output);
      assert.match(done.output, /\nchanged: sessions has its columns as configured/);
      const json = await run("--json");
      assert.equal(json.code, 0);
      const { targets } = JSON.parse(json.output.slice(json.output.indexOf("{")));
      assert.deepEqual(targets, [{
        target: "postgresql",
        entity: "session",
        differences: [],
        sql: [],
        blocked: [],
        changed: false,
      }]);
      const stranger = await run("--target", "nobody");
      assert.match(stranger.output, /no target "nobody" in the configuration/);
    },

    "before the first sink, and for a table that a sink makes": async (pipeline) => {
      const config = withColumns(pipeline);
      await using database = await testDatabase(pipeline.servers.postgres);
      const fresh = pipeline.with({
        entities: config.entities,
        postgresql: { database: database.name },
      });
      await using pool = await connectPostgres(fresh);
      await assert.rejects(
        migrateColumns(pool, fresh, "session"),
        /are not there yet: start a sink once/,
      );
      await createTable(pool, fresh, "session");
      const { sql } = await migrateColumns(pool, fresh, "session");
      assert.deepEqual(sql, []);
      await pool.query("SELECT user_id, login_time, n FROM sessions");
      const { host, port, user, password } = pipeline.servers.postgres;
      const url = `postgresql://${user}:${password}@${host}:${port}/${database.name}`;
      const [index] = await queryAt<{ indexdef: string }>(
        url,
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'user_id_index_of_sessions'",
      );
      assert.match(index!.indexdef, /\(user_id\)/);
    },
  }, older);
});
