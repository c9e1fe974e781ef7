import assert from "node:assert/strict";
import {
  consumePeriodically,
  createSearchIndex,
  insertDocument,
  mendStreams,
  type PartitionStatus,
  readStatus,
  updateDocument,
} from "writebehind";
import { drain, type Pipeline, testPipeline, withPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

async function statusOf({ redis, pool, config }: Pipeline): Promise<PartitionStatus> {
  const [status, ...others] = await readStatus(redis, pool, config, "session");
  assert.deepEqual(others, []);
  return status!;
}

Deno.test("status", (t) =>
  withPipeline(t, {
    "of nothing: no offset, no lag, not stuck": async (pipeline) => {
      assert.deepEqual(await statusOf(pipeline), {
        entity: "session",
        stream: "stream:session",
        node: pipeline.redis.address,
        target: "postgresql",
        offset: "0-0",
        applied: 0,
        written: 0,
        lagEvents: 0,
        lagSeconds: 0,
        owner: null,
        leaseSeconds: null,
        parked: 0,
        wentBack: 0,
        wentBackAt: null,
        state: null,
        failures: 0,
        lastError: null,
        cache: null,
        stuck: [],
        warnings: [],
        doubts: [],
      });
    },

    "watched, it is told again and again, until Ctrl-C": async (pipeline) => {
      const { redis, config } = pipeline;
      const args = ["status", "--config", await configFile({}), "--watch", "0.1", "--json"];
      await using task = startTask(args, environmentOf(config));
      const lags = () =>
        [...task.output().matchAll(/^{"away":\[\],"partitions":\[{.*"lagEvents":(\d+)/gm)]
          .map(([, lag]) => lag);
      const seen = (lag: string) =>
        waitFor(() => lags().includes(lag), { what: `a lag of ${lag}` });
      await seen("0");
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await seen("1");
      task.kill("SIGINT");
      assert.equal((await task.status).code, 0, task.output());
      await drain(pipeline);
    },

    "tells offset, lag and owner while a sink runs and after it": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await using sink = consumePeriodically(redis, pool, config, "session");
      const { streamId } = await insertDocument(redis, config, "session", { n: 1 }, "a");
      await waitFor(() => sink.status.events === 1, { what: "the event" });
      await waitFor(async () => (await statusOf(pipeline)).state === "owner", {
        what: "the gauge",
      });
      const running = await statusOf(pipeline);
      assert.equal(running.offset, streamId);
      assert.equal(running.lagEvents, 0);
      assert.match(running.owner!, /^\d+-/);
      assert(running.leaseSeconds! > 0 && running.leaseSeconds! <= 10);
      await sink.stop();
      for (let n = 0; n < 7; n++) await updateDocument(redis, config, "session", "a", { n });
      const after = await statusOf(pipeline);
      assert.deepEqual([after.owner, after.state], [null, null]);
      assert.deepEqual([after.written, after.applied, after.lagEvents], [8, 1, 7]);
      assert(after.lagSeconds! >= 0 && after.lagSeconds! < 10);
      assert.deepEqual(after.stuck, [], "not for longer than the lease yet");
    },

    "events that nobody carries on for longer than a lease are stuck": async (pipeline) => {
      const config = pipeline.with({ write_behind: { lease_seconds: 0.2 } });
      await insertDocument(pipeline.redis, config, "session", { n: 1 }, "a");
      const stuck = async () => (await statusOf({ ...pipeline, config })).stuck;
      await waitFor(async () => (await stuck()).length > 0, { what: "stuck" });
      assert.match((await stuck()).join(), /no sink owns/);
      await drain(pipeline);
      assert.deepEqual(await stuck(), []);
    },

    "failures in a row are seen from another connection, until they are over": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await drain(pipeline);
      await pool.query("ALTER TABLE sessions RENAME COLUMN payload TO away");
      await using sink = consumePeriodically(redis, pool, config, "session");
      try {
        await insertDocument(redis, config, "session", { n: 1 }, "a");
        await waitFor(async () => (await statusOf(pipeline)).stuck.length > 0, { what: "stuck" });
        const status = await statusOf(pipeline);
        assert(status.failures! >= config.write_behind.max_retry_attempts);
        assert.match(status.stuck.join(), /failures in a row/);
        assert.match(status.lastError!, /payload/);
        assert.equal(status.state, "paused");
      } finally {
        await pool.query("ALTER TABLE sessions RENAME COLUMN away TO payload");
      }
      await waitFor(async () => (await statusOf(pipeline)).failures === 0, { what: "mended" });
      const mended = await statusOf(pipeline);
      assert.deepEqual([mended.lastError, mended.stuck, mended.lagEvents], [null, [], 0]);
      await sink.stop();
    },

    "a partition that cannot even be claimed is stuck": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await pool.query("ALTER TABLE writebehind_lease RENAME COLUMN backend_pid TO away");
      await using sink = consumePeriodically(redis, pool, config, "session");
      try {
        await waitFor(async () => (await statusOf(pipeline)).stuck.length > 0, { what: "stuck" });
        assert.match((await statusOf(pipeline)).lastError!, /backend_pid/);
      } finally {
        await pool.query("ALTER TABLE writebehind_lease RENAME COLUMN away TO backend_pid");
      }
      await waitFor(() => sink.lastError === null, { what: "the sink to go on by itself" });
    },

    "a failure that is over is not the last word, though no event comes": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await using sink = consumePeriodically(redis, pool, config, "session");
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await waitFor(() => sink.status.events === 1, { what: "the event" });
      // Its reading connection breaks again and again, while nothing is there to be applied.
      for (let times = 0; times < 3; times++) {
        const failures = sink.status.partitions[0]!.failuresInARow;
        await waitFor(async () => {
          await redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
          return sink.status.partitions[0]!.failuresInARow > failures;
        }, { what: "a failure" });
      }
      await waitFor(() => sink.lastError === null, { what: "the sink to be well again" });
      await waitFor(async () => (await statusOf(pipeline)).failures === 0, { what: "mended" });
      await sink.stop();
    },

    "parked events are counted": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (NOT payload ? 'bad')");
      try {
        await insertDocument(redis, config, "session", { bad: 1 }, "a");
        await insertDocument(redis, config, "session", { bad: 1 }, "b");
        await drain(pipeline);
        const { parked, stuck } = await statusOf(pipeline);
        assert.equal(parked, 2);
        assert.deepEqual(stuck, [], "they block nobody");
      } finally {
        await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
      }
    },

    "a stream that has gone back is stuck until a sink has rewound it": async (pipeline) => {
      const { redis, config } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await drain(pipeline);
      await redis.flushall();
      assert.match((await statusOf(pipeline)).stuck.join(), /gone back/);
      await drain(pipeline);
      const { stuck, wentBack, wentBackAt } = await statusOf(pipeline);
      assert.deepEqual(stuck, []);
      assert.equal(wentBack, 1);
      assert(wentBackAt instanceof Date);
    },

    "a lag past the limit, and the lock that a batch waits for, are told": async (pipeline) => {
      const { redis, pool } = pipeline;
      const config = pipeline.with({ write_behind: { warn_lag_seconds: 0.2 } });
      await drain(pipeline);
      await using sink = consumePeriodically(redis, pool, config, "session");
      await waitFor(() => sink.status.partitions[0]!.state === "owner", { what: "the claim" });
      const warnings = async () => (await statusOf({ ...pipeline, config })).warnings.join("; ");
      const other = await pool.connect();
      try {
        await other.query("SET application_name = 'a visitor'; BEGIN; LOCK TABLE sessions");
        await insertDocument(redis, config, "session", { secret: 1 }, "a");
        await waitFor(
          async () => /waits for a lock.*lag is|lag is.*waits for a lock/.test(await warnings()),
          {
            what: "the warnings",
          },
        );
        assert.match(
          await warnings(),
          /a lock of process \d+ \(a visitor, user \w+, idle in transaction, \w+\)/,
        );
        assert.match(await warnings(), /the lag is \d+ s/);
      } finally {
        await other.query("ROLLBACK; RESET application_name");
        other.release();
      }
      await waitFor(async () => await warnings() === "", { what: "no warnings" });
      await sink.stop();
    },

    "ids that a wrong clock has left behind are told": async (pipeline) => {
      const { redis, config } = pipeline;
      await drain(pipeline);
      const add = async (id: string) => {
        await redis.xadd("stream:session", id, "x", "y");
        await redis.xdel("stream:session", id);
        return await statusOf(pipeline);
      };
      const ahead = await add(`${Date.now() + 3_600_000}-0`);
      assert.deepEqual(ahead.stuck, []);
      assert.match(ahead.warnings.join(), /(359\d|360\d) s ahead of the clock of Redis/);
      const far = await add("8796093022208-0");
      assert.match(far.stuck.join(), /past the year 2248.*deno task mend/);
      await mendStreams(redis, pipeline.pool, config, "session");
      const mended = await statusOf(pipeline);
      assert(!/2248/.test(mended.stuck.join()), mended.stuck.join());
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await drain(pipeline);
      assert.deepEqual(
        await statusOf(pipeline).then(({ parked, lagEvents }) => [parked, lagEvents]),
        [0, 0],
      );
    },

    "documents that no search finds are told": async (pipeline) => {
      const { redis } = pipeline;
      const config = pipeline.with({
        search_index: { create_index: true, fields: [{ name: "n", type: "NUMERIC" }] },
      });
      await createSearchIndex(redis, config, "session");
      await insertDocument(redis, config, "session", { n: "no number" }, "a");
      const warnings = async () => (await statusOf({ ...pipeline, config })).warnings.join();
      await waitFor(warnings, { what: "the warning" });
      assert.match(
        await warnings(),
        /idx:sessions could not index 1 document, which no search finds/,
      );
      await redis.call("FT.DROPINDEX", "idx:sessions");
      assert.equal(await warnings(), "");
    },

    "what a server that is away would know is null": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await drain(pipeline);
      const [withoutTarget] = await readStatus(redis, null, config, "session");
      assert.equal(withoutTarget!.offset, null);
      assert.equal(withoutTarget!.lagEvents, null);
      const [withoutRedis] = await readStatus(null, pool, config, "session");
      assert.match(withoutRedis!.offset!, /^\d+-\d+$/);
      assert.equal(withoutRedis!.lagEvents, null);
      assert.equal(withoutRedis!.failures, null);
    },
  }));

Deno.test("deno task status", async (t) => {
  await using pipeline = await testPipeline({ write_behind: { lease_seconds: 10 } });
  const { redis, config } = pipeline;
  const env = environmentOf(config);
  const file = await configFile({}); // its table has no columns
  const run = async (more: Record<string, string> = {}, ...args: string[]) => {
    await using task = startTask(["status", "--config", file, ...args], { ...env, ...more });
    const { code } = await task.status;
    return { code, output: task.output() };
  };
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await drain(pipeline);
  await t.step("well: a line, status 0", async () => {
    const { code, output } = await run();
    assert.equal(code, 0, output);
    assert.match(output, /^stream:session \| ok \| offset \d+-\d+ \| lag 0 events/m);
    assert(!output.includes(`:${config.postgresql.password}@`));
  });
  await t.step("--json prints the same for programs", async () => {
    const { code, output } = await run({}, "--json");
    const { away, partitions } = JSON.parse(
      output.slice(output.indexOf("{\n"), output.lastIndexOf("}") + 1),
    );
    assert.equal(code, 0);
    assert.deepEqual(away, []);
    assert.equal(partitions[0].stream, "stream:session");
  });
  await t.step("stuck: status 1", async () => {
    await redis.hset("metrics:sink:stream:session", {
      state: "paused",
      failures: 99,
      last_error: "first\nsecond \u001b[2J",
    });
    const { code, output } = await run();
    assert.equal(code, 1, output);
    assert.match(
      output,
      /STUCK: 99 failures in a row.*last error \(99 in a row\): first; second \\u001b/,
    );
    await redis.del("metrics:sink:stream:session");
  });
  await t.step("PostgreSQL away: says so, status 1", async () => {
    const { code, output } = await run({ DATABASE_URL: "postgresql://u:secret@127.0.0.1:1/none" });
    assert.equal(code, 1, output);
    assert.match(output, /PostgreSQL at 127\.0\.0\.1:1: connection refused/);
    assert.match(output, /stream:session \| unknown \| offset \? \| lag \? events/);
    assert(!output.includes("secret"), output);
  });
  await t.step("Redis away: says so, status 1", async () => {
    const { code, output } = await run({ REDIS_URL: "redis://127.0.0.1:1" });
    assert.equal(code, 1, output);
    assert.match(output, /Redis at 127\.0\.0\.1:1: connection refused/);
    assert.match(output, /stream:session \| unknown \| offset \d+-\d+ \| lag \? events/);
  });
  await t.step("an unknown entity: status 1, with the names", async () => {
    const { code, output } = await run({}, "--entity", "nobody");
    assert.equal(code, 1);
    assert.match(output, /session/);
  });
});
