import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { caughtUp, type Figures, insertDocument, readFigures, readStatus } from "writebehind";
import { recentFreshness } from "writebehind/metrics/figures.ts";
import { below } from "writebehind/core/random.ts";
import { startPostgres } from "writebehind/dev/servers/postgres.ts";
import { startRedis } from "writebehind/dev/servers/redis.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { Author } from "../faults/author.ts";
import { judge, keepLedger } from "../faults/ledger.ts";
import { withSeed } from "../faults/seed.ts";
import { killAt, killSink, startSink } from "../faults/sinks.ts";
import { drain, type Pipeline, testPipeline, withPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

const STREAM = "stream:session";
const figuresOf = ({ redis, pool, config }: Pipeline) =>
  readFigures(redis, pool, config, "session");

async function write({ redis, config }: Pipeline, count: number, from = 0) {
  for (let n = from; n < from + count; n++) {
    await insertDocument(redis, config, "session", { n }, `d${n}`);
  }
}

/** The figures without what differs from run to run. */
const counts = ({ written, applied, lag, parked }: Figures) => [written, applied, lag, parked];

Deno.test("how fresh rows are is told while it is new, by clocks that agree", () => {
  const at = (ago: number) => [String(Date.now() - ago), "3", "9"];
  assert.deepEqual(recentFreshness([at(100)]), [[3, 9]]);
  assert.deepEqual(recentFreshness([at(60_000), at(-60_000), [null, null, null]]), []);
});

Deno.test("figures", (t) =>
  withPipeline(t, {
    "of nothing are zeros": async (pipeline) => {
      const { at, ...figures } = await figuresOf(pipeline);
      assert(Math.abs(at - Date.now()) < 1000);
      const zeros = { applied: 0, lag: 0, lagSeconds: 0, written: 0, parked: 0 };
      const partition = { partition: 0, stream: STREAM, owner: null, offset: "0-0", ...zeros };
      assert.deepEqual(figures, { ...zeros, partitions: [partition] });
    },

    "tell what is applied, what waits and what is parked": async (pipeline) => {
      await write(pipeline, 5);
      assert.deepEqual(counts(await figuresOf(pipeline)), [5, 0, 5, 0]);
      await pipeline.pool.query(
        "ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'n' <> '3')",
      );
      await drain(pipeline);
      await pipeline.pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
      await write(pipeline, 2, 5);
      const figures = await figuresOf(pipeline);
      assert.deepEqual(counts(figures), [7, 5, 2, 1]);
      assert(figures.lagSeconds > 0 && figures.lagSeconds < 10);
      await drain(pipeline);
      assert.equal((await figuresOf(pipeline)).lagSeconds, 0);
    },

    "count exactly what is committed and not trimmed": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      await write(pipeline, 2100);
      await killAt("trimming", config);
      assert.equal(await redis.xlen(STREAM), 2100, "nothing was trimmed");
      await write(pipeline, 400, 2100);
      assert.deepEqual(counts(await figuresOf(pipeline)), [2500, 2100, 400, 0]);
      await write(pipeline, 1, 2500);
      assert.deepEqual(counts(await figuresOf(pipeline)), [2501, 2100, 401, 0]);
      const [status] = await readStatus(redis, pool, config, "session");
      assert.equal(status!.lagEvents, 401, "status says the same");
      await drain(pipeline);
      assert.deepEqual(counts(await figuresOf(pipeline)), [2501, 2501, 0, 0]);
    },

    "never go below zero by DEL, FLUSHALL or a promoted replica": async (pipeline) => {
      const { redis } = pipeline;
      await write(pipeline, 10);
      await drain(pipeline);
      let made = 0;
      const harms = [
        () => redis.del(STREAM),
        () => redis.flushall(),
        // What a replica has that was behind: neither the newest entries, nor their numbers.
        () =>
          redis.xadd(STREAM, "5-1", "doc_id", "d1").then(() => redis.xtrim(STREAM, "MAXLEN", 1)),
      ];
      for (const harm of harms) {
        await redis.del(STREAM);
        await harm();
        const figures = await figuresOf(pipeline);
        const { applied, lag, written } = figures;
        assert(applied >= 10 && lag >= 0 && written === applied + lag, JSON.stringify(figures));
        await drain(pipeline);
        await write(pipeline, 1, 100 + made++);
        await drain(pipeline);
        const after = await figuresOf(pipeline);
        assert.equal(after.lag, 0);
        assert(after.written >= written);
      }
    },

    "are not led astray by whoever moves the consumer group": async (pipeline) => {
      const { redis } = pipeline;
      await write(pipeline, 3);
      await drain(pipeline);
      await write(pipeline, 4, 3);
      await redis.xgroup("SETID", STREAM, "writebehind", "$", "ENTRIESREAD", 1);
      assert.deepEqual(counts(await figuresOf(pipeline)), [7, 3, 4, 0]);
    },
  }));

Deno.test("whatever is killed while it runs, the figures never contradict themselves and end at the ledger's", () =>
  withSeed(async (random) => {
    await using restarted = new AsyncDisposableStack(); // stopped last: the database is dropped before
    await using pipeline = await testPipeline({
      streams: { partitions: 2 },
      write_behind: { lease_seconds: 1, batch_size: 50, retry_max_ms: 50 },
    });
    const { redis, pool, config, servers } = pipeline;
    await keepLedger(pipeline);
    const author = new Author(redis, config, { random, documents: 60, paceMs: 2 });
    await using sinks = new AsyncDisposableStack();
    const begin = async () => {
      const sink = sinks.use(await startSink(config, { batch_size: 30 }));
      await waitFor(() => sink.output().includes("carrying session events"), {
        what: "the sink to begin",
        deadlineMs: 20_000,
      });
      return sink;
    };
    let sink = await begin();
    const faults: Record<string, () => Promise<void>> = {
      sink: async () => {
        await killSink(sink);
        sink = await begin();
      },
      postgres: async () => {
        const { dir, port } = servers.postgres;
        await servers.postgres.kill();
        const again = await startPostgres({ dir, port });
        restarted.defer(() => again.stop("immediate"));
      },
      redis: async () => {
        const { dir, port } = servers.redis;
        await servers.redis.kill();
        const again = await startRedis({ dir, port });
        restarted.defer(() => again.stop());
      },
      connections: async () => {
        await redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no").catch(() => {});
        await pool.query(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
        ).catch(() => {});
      },
    };
    const watching = new AbortController();
    const watched = watch(pipeline, () => author.events, watching.signal);
    watched.catch(() => {}); // awaited below
    const writing = author.start();
    try {
      const names = Object.keys(faults);
      while (names.length > 0) {
        const [name] = names.splice(below(random, names.length), 1);
        await delay(200 * random());
        await faults[name!]!();
        // It is under way again before the next one.
        const goal = author.events + 20;
        await waitFor(async () => {
          return author.events >= goal && (await figuresOf(pipeline)).applied >= goal - 20;
        }, { what: `writes and batches after ${name}`, deadlineMs: 30_000 });
      }
    } finally {
      watching.abort();
      await writing.stop();
    }
    await caughtUp(redis, pool, config, "session", { deadlineMs: 30_000 });
    assert((await watched) > 10, "figures were read while it ran");
    const figures = await figuresOf(pipeline);
    assert.deepEqual(counts(figures), [author.events, author.events, 0, 0]);
    assert.equal(figures.partitions.length, allPartitions(config, "session").length);
    assert.deepEqual(await judge(pipeline), { lost: 0, twice: 0, outOfOrder: 0 });
  }));

/**
 * Reads figures again and again. Each time, at least what was acknowledged before is written; nothing goes back.
 * @returns how often they could be read
 */
async function watch(pipeline: Pipeline, acknowledged: () => number, end: AbortSignal) {
  let read = 0;
  let before = { applied: 0, written: 0 };
  while (!end.aborted) {
    const known = acknowledged();
    // A server that is away says nothing, and nothing wrong.
    const figures = await figuresOf(pipeline).catch(() => null);
    if (figures !== null) {
      const { applied, lag, written, parked } = figures;
      assert(lag >= 0 && parked === 0 && written === applied + lag);
      assert(written >= known, `${written} written, but ${known} were acknowledged`);
      assert(applied >= before.applied && written >= before.written, "figures went back");
      before = figures;
      read++;
    }
    await delay(5);
  }
  return read;
}
