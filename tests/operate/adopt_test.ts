/** Redis, target and table belong together: others are refused, said by status, and adopted on purpose. */

import assert from "node:assert/strict";
import {
  adopt,
  caughtUp,
  ConfigError,
  connectPostgres,
  connectRedis,
  consumePeriodically,
  insertDocument,
  readStatus,
  rebuild,
  RedisWriteBehind,
  repairTarget,
  replayDeadLetters,
  verify,
} from "writebehind";
import {
  assertEqual,
  drain,
  type Pipeline,
  rowsOf,
  testPipeline,
  withPipeline,
} from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { testDatabase, testRedis, waitFor } from "../support/servers.ts";

type Servers = Pick<Pipeline, "redis" | "pool" | "config">;

async function statusOf({ redis, pool, config }: Servers) {
  const [status] = await readStatus(redis, pool, config, "session");
  return status!;
}

/** Writes some documents and carries them on. */
async function filled(pipeline: Servers, count = 5) {
  for (let n = 0; n < count; n++) {
    await insertDocument(pipeline.redis, pipeline.config, "session", { n }, `d${n}`, {
      overwrite: true,
    });
  }
  await drain(pipeline);
}

/** The sink refuses, status says why, and the plan of adopting changes nothing. */
async function assertRefused(servers: Servers, why: RegExp, kind: string) {
  await assert.rejects(drain(servers), (error) => {
    assert(error instanceof ConfigError, String(error));
    assert.match(error.message, why);
    assert.match(error.message, /deno task adopt --entity \w+/);
    return true;
  });
  const { stuck, owner } = await statusOf(servers);
  assert.match(stuck.join(), why);
  assert.equal(owner, null, "nobody else is kept out");
  const { redis, pool, config } = servers;
  const { partitions } = await adopt(redis, pool, config, "session", { dryRun: true });
  assert.deepEqual(partitions[0]!.mismatches.map((mismatch) => mismatch.kind), [kind]);
  await assert.rejects(drain(servers), why);
}

/** Adopts, drains, repairs, and sees that all is equal and said to be so. */
async function assertAdopted(servers: Servers) {
  const { redis, pool, config } = servers;
  await adopt(redis, pool, config, "session");
  assert.deepEqual((await adopt(redis, pool, config, "session")).partitions, []);
  await drain(servers);
  const doubtful = await statusOf(servers);
  assert.deepEqual(doubtful.stuck, []);
  assert.match(doubtful.doubts.join(), /adopted/);
  const { mismatches, doubts: [doubt] } = await verify(redis, pool, config, "session");
  assert.equal(doubt!.settled, mismatches.length === 0);
  await repairTarget(redis, config, "session", mismatches);
  await drain(servers);
  const { counts } = await verify(redis, pool, config, "session");
  assert.equal(counts.mismatches, 0);
  assert.deepEqual((await statusOf(servers)).doubts, []);
}

Deno.test("what belongs together goes on, what does not is refused and adopted on purpose", (t) =>
  withPipeline(t, {
    "an older database and Redis go on, and are noted": async (pipeline) => {
      const { redis, pool } = pipeline;
      await filled(pipeline);
      await pool.query("UPDATE writebehind_offset SET source = NULL, table_oid = NULL");
      await redis.hdel("stream:settings:session", "identity");
      await filled(pipeline, 2);
      const { rows: [row] } = await pool.query("SELECT source FROM writebehind_offset");
      const source = String(row.source);
      assert.match(source, /^[0-9a-f]{16}$/);
      assert.equal(await redis.hget("stream:settings:session", "identity"), source);
      // Only Redis's note is lost: it is the same data.
      await redis.hdel("stream:settings:session", "identity");
      await filled(pipeline, 1);
      assert.equal(await redis.hget("stream:settings:session", "identity"), source);
      // All is lost: they are others.
      await redis.flushall();
      await filled(pipeline, 1);
      assert.notEqual(await redis.hget("stream:settings:session", "identity"), source);
    },

    "another Redis": async (pipeline) => {
      await filled(pipeline);
      await using server = await testRedis();
      const config = pipeline.with({ redis: { host: server.host, port: server.port } });
      await using redis = await connectRedis(config);
      const other = { redis, config, pool: pipeline.pool };
      await using own = await testDatabase(pipeline.servers.postgres);
      const elsewhere = pipeline.with({
        redis: { host: server.host, port: server.port },
        postgresql: { database: own.name },
      });
      await using pool = await connectPostgres(elsewhere);
      await filled({ redis, config: elsewhere, pool });
      await insertDocument(redis, config, "session", { n: "new" }, "new");
      await assertRefused(other, /belongs to other data in Redis/, "source");
      for (
        const command of [
          () => verify(redis, pipeline.pool, config, "session"),
          () => rebuild(redis, pipeline.pool, config, "session"),
          () => replayDeadLetters(redis, pipeline.pool, config, "session", { all: true }),
        ]
      ) await assert.rejects(command(), /belongs to other data in Redis/);
      await assertAdopted(other);
      await assertEqual({ ...pipeline, ...other });
    },

    "another database": async (pipeline) => {
      await filled(pipeline);
      await using database = await testDatabase(pipeline.servers.postgres);
      const config = pipeline.with({ postgresql: { database: database.name } });
      await using pool = await connectPostgres(config);
      const other = { redis: pipeline.redis, config, pool };
      await assertRefused(other, /was carried on to another target/, "target");
      await assertAdopted(other);
      await assertEqual({ ...pipeline, ...other });
    },

    "a stream and its tables that were emptied together go on": async (pipeline) => {
      await filled(pipeline);
      await pipeline.redis.del("stream:session");
      await pipeline.pool.query("TRUNCATE sessions, writebehind_offset");
      await filled(pipeline, 3);
      assert.equal((await rowsOf(pipeline)).size, 3);
      assert.deepEqual((await statusOf(pipeline)).stuck, []);
    },

    "a table that was made anew": async (pipeline) => {
      await filled(pipeline);
      await pipeline.pool.query("DROP TABLE sessions");
      await assert.rejects(drain(pipeline), /The table sessions is gone/);
      assert.match((await statusOf(pipeline)).stuck.join(), /The table sessions is gone/);
      await pipeline.pool.query(
        `CREATE TABLE sessions (id TEXT PRIMARY KEY, payload JSONB, created_at TIMESTAMPTZ,
           updated_at TIMESTAMPTZ NOT NULL DEFAULT now(), version BIGINT NOT NULL DEFAULT 0)`,
      );
      await assertRefused(pipeline, /is not the one that the offset/, "table");
      await assertAdopted(pipeline);
      await assertEqual(pipeline);
    },

    "a table that is gone is made anew on purpose": async (pipeline) => {
      await filled(pipeline);
      await pipeline.pool.query("DROP TABLE sessions");
      await assertAdopted(pipeline);
      await assertEqual(pipeline);
    },

    "a table that was emptied": async (pipeline) => {
      await filled(pipeline);
      await pipeline.pool.query("TRUNCATE sessions");
      await assertRefused(pipeline, /The table sessions was emptied/, "emptied");
      await assertAdopted(pipeline);
      await assertEqual(pipeline);
    },

    "a table emptied under a running sink: it pauses, whatever came meanwhile": async (
      pipeline,
    ) => {
      const { redis, pool } = pipeline;
      const config = pipeline.with({ write_behind: { lease_seconds: 0.9 } });
      await using sink = consumePeriodically(redis, pool, config, "session");
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await caughtUp(redis, pool, config, "session");
      await pool.query("VACUUM FULL sessions");
      const { rows: [before] } = await pool.query("SELECT table_file FROM writebehind_offset");
      await waitFor(async () => {
        const { rows: [now] } = await pool.query("SELECT table_file FROM writebehind_offset");
        return now.table_file !== before.table_file;
      }, { what: "the rewritten file to be noted" });
      assert.equal(sink.lastError, null);
      await insertDocument(redis, config, "session", { n: 2 }, "b");
      await caughtUp(redis, pool, config, "session");
      await pool.query("TRUNCATE sessions");
      let n = 0;
      await waitFor(async () => {
        await insertDocument(redis, config, "session", { n }, `after${n++}`).catch(() => {});
        return /was emptied/.test(sink.lastError?.message ?? "");
      }, { what: "the sink to say so" });
      await sink.stop();
      await assertRefused({ ...pipeline, config }, /was emptied/, "emptied");
      await assertAdopted({ ...pipeline, config });
      await assertEqual(pipeline);
    },

    "another prefix of streams": async (pipeline) => {
      await filled(pipeline);
      const config = pipeline.with({ streams: { prefix: "events" } });
      await insertDocument(pipeline.redis, config, "session", { n: 1 }, "new");
      await assertRefused(
        { ...pipeline, config },
        /holds the rows of stream:session, and events:session is not among them/,
        "streams",
      );
      await assertAdopted({ ...pipeline, config });
      await assertEqual(pipeline);
      await assertRefused(pipeline, /holds the rows of events:session/, "streams");
    },

    "another table in the configuration": async (pipeline) => {
      await filled(pipeline);
      const [entity] = pipeline.config.entities;
      const config = pipeline.with({ entities: [{ ...entity!, table: "others" }] });
      await pipeline.pool.query("CREATE TABLE others (LIKE sessions INCLUDING ALL)");
      try {
        await assertRefused({ ...pipeline, config }, /The table others is not the one/, "table");
      } finally {
        await pipeline.pool.query("DROP TABLE others");
      }
    },

    "an offset that went back is said until a verify has looked": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      await filled(pipeline, 2);
      const { rows: [old] } = await pool.query("SELECT last_id, witness FROM writebehind_offset");
      for (let n = 2; n < 9; n++) {
        await insertDocument(redis, config, "session", { n }, `d${n}`);
      }
      await drain(pipeline);
      // A standby without the last commits.
      await pool.query("DELETE FROM sessions WHERE id > 'd1'");
      await pool.query("UPDATE writebehind_offset SET last_id = $1, witness = $2", [
        old.last_id,
        old.witness,
      ]);
      assert.match((await statusOf(pipeline)).doubts.join(), /were removed from the stream/);
      await using sink = new RedisWriteBehind(redis, pool, config, "session");
      const said: string[] = [];
      sink.events.on("doubted", ({ reason }) => said.push(reason));
      await insertDocument(redis, config, "session", { n: 9 }, "d9");
      await sink.drain();
      assert.match(said.join(), /events up to \S+ were removed/);
      assert.equal(said.length, 1);
      const { wentBack, stuck, doubts } = await statusOf(pipeline);
      assert.deepEqual([wentBack, stuck], [0, []]);
      assert.match(doubts.join(), /events up to \S+ were removed/);
      const { mismatches, doubts: [found] } = await verify(redis, pool, config, "session");
      assert.equal(mismatches.length, 6);
      assert.equal(found!.settled, false);
      await repairTarget(redis, config, "session", mismatches);
      await drain(pipeline);
      await verify(redis, pool, config, "session");
      assert.deepEqual((await statusOf(pipeline)).doubts, []);
    },

    "an offset that is missing beside its rows is said": async (pipeline) => {
      await filled(pipeline);
      await pipeline.pool.query("DELETE FROM writebehind_offset");
      assert.match((await statusOf(pipeline)).doubts.join(), /the offset is missing/);
      await filled(pipeline, 1);
      assert.match((await statusOf(pipeline)).doubts.join(), /the offset is missing/);
      await verify(pipeline.redis, pipeline.pool, pipeline.config, "session");
      assert.deepEqual((await statusOf(pipeline)).doubts, []);
      await assertEqual(pipeline);
    },

    "the row that was written last is missed": async (pipeline) => {
      await filled(pipeline);
      await pipeline.pool.query("DELETE FROM sessions WHERE id = 'd4'");
      assert.match(
        (await statusOf(pipeline)).doubts.join(),
        /the row of the document "d4", which was written last, is missing/,
      );
    },

    "tables of ours that are gone are said, and made anew": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      for (let times = 0; times < 5; times++) await filled(pipeline);
      await pool.query("DROP TABLE writebehind_lease, writebehind_dead_letter");
      assert.match(
        (await statusOf(pipeline)).doubts.join(),
        /writebehind_lease, writebehind_dead_letter gone/,
      );
      await using sink = new RedisWriteBehind(redis, pool, config, "session");
      const anew: string[] = [];
      sink.events.on("madeAnew", ({ tables }) => anew.push(...tables));
      await sink.drain();
      assert.deepEqual(anew, ["writebehind_lease", "writebehind_dead_letter"]);
      assert.match((await statusOf(pipeline)).doubts.join(), /the dead letter was dropped/);
    },
  }));

Deno.test("deno task adopt prints the plan, and does it with --yes", async () => {
  await using pipeline = await testPipeline();
  const file = await configFile({}); // its table has no columns
  const run = async (...args: string[]) => {
    await using task = startTask([...args, "--config", file], environmentOf(pipeline.config));
    const { code } = await task.status;
    return { code, output: task.output() };
  };
  await filled(pipeline);
  const nothing = await run("adopt");
  assert.equal(nothing.code, 0, nothing.output);
  assert.match(nothing.output, /nothing to adopt/);
  await pipeline.pool.query("TRUNCATE sessions");
  const status = await run("status");
  assert.equal(status.code, 1, status.output);
  assert.match(status.output, /STUCK: The table sessions was emptied/);
  const plan = await run("adopt");
  assert.equal(plan.code, 1, plan.output);
  assert.match(plan.output, /stream:session would go on from offset 0-0 \(it was at \d+-\d+\)/);
  assert.match(plan.output, /nothing was changed; --yes does it/);
  const done = await run("adopt", "--yes");
  assert.equal(done.code, 0, done.output);
  await drain(pipeline);
  const doubtful = await run("status");
  assert.equal(doubtful.code, 1, doubtful.output);
  assert.match(doubtful.output, /DOUBTFUL: rows may be missing .*adopted/);
  const repaired = await run("verify", "--repair", "target", "--yes");
  assert.equal(repaired.code, 0, repaired.output);
  assert.match(repaired.output, /was in doubt \(.*\): settled/);
  await drain(pipeline);
  assert.equal((await run("status")).code, 0);
  await assertEqual(pipeline);
});
