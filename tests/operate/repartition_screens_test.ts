/** While an entity is repartitioned, and afterwards, every screen says the same, from either number's point of view. */

import assert from "node:assert/strict";
import {
  type Config,
  connectRedis,
  discardDeadLetters,
  insertDocument,
  listDeadLetters,
  listTargets,
  mendStreams,
  openTarget,
  readFigures,
  readStatus,
  RedisWriteBehind,
  repairRedis,
  repairTarget,
  repartition,
  RepartitioningError,
  Sampler,
  updateDocument,
} from "writebehind";
import { Watch } from "writebehind/dev/stage/watch.ts";
import { serveMetrics } from "writebehind/metrics/prometheus.ts";
import { drain, testPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { seriesOf } from "../support/prometheus.ts";
import { killAt, LOCK } from "../support/repartitioned.ts";
import { waitFor } from "../support/servers.ts";

const AUTO = { streams: { partitions: "auto" } } as const;

const pipeline = await testPipeline(AUTO);
Deno.test.afterAll(async () => await pipeline[Symbol.asyncDispose]());

/** What a screen says of all partitions together: written, applied, behind, parked. */
type Said = [written: number, applied: number, lag: number, parked: number];

const sum = (values: (number | null)[]) => values.reduce<number>((all, one) => all + one!, 0);

/** Somebody who looks on: connections of their own, and a configuration that has learned nothing from others. */
async function viewer(partitions: number | "auto") {
  const config = pipeline.with({ streams: { partitions } });
  await using opened = new AsyncDisposableStack();
  const redis = opened.use(await connectRedis(config));
  const target = opened.use(await openTarget(config));
  const owned = opened.move();
  return { config, redis, target, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** What `status` says; nothing is wrong but that it is repartitioned. */
async function statusFor(partitions: number | "auto"): Promise<Said> {
  await using own = await viewer(partitions);
  const status = await readStatus(own.redis, own.target, own.config, "session");
  for (const { stuck, doubts, warnings } of status) {
    assert.deepEqual([stuck, doubts], [[], []], String(partitions));
    for (const warning of warnings) {
      assert.match(warning, /^a repartition from \d to \d is under way/);
    }
  }
  const figures = await readFigures(own.redis, own.target, own.config, "session");
  const said: Said = [
    sum(status.map(({ written }) => written)),
    sum(status.map(({ applied }) => applied)),
    sum(status.map(({ lagEvents }) => lagEvents)),
    sum(status.map(({ parked }) => parked)),
  ];
  assert.deepEqual([figures.written, figures.applied, figures.lag, figures.parked], said);
  return said;
}

/** Parks the updates of five of twenty documents. */
async function begin({ redis, pool, config }: typeof pipeline) {
  const requestId = (n: number) => ({ requestId: `r${n}` });
  for (let n = 0; n < 20; n++) {
    await insertDocument(redis, config, "session", { n: 1 }, `d${n}`, requestId(n));
  }
  await waitFor(
    async () => (await pool.query("SELECT FROM sessions")).rowCount === 20,
    { what: "rows", deadlineMs: 60_000 },
  );
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT small CHECK ((payload->>'n')::int < 9)");
  for (let n = 0; n < 5; n++) await updateDocument(redis, config, "session", `d${n}`, { n: 10 });
}

async function letters({ target, config }: { target: typeof pipeline["pool"]; config: Config }) {
  const found = await Array.fromAsync(listDeadLetters(target, config, "session"));
  return sum(found.map(({ waiting }) => 1 + waiting));
}

Deno.test("all screens agree at each step of a repartition, and after it", async (t) => {
  const { redis, pool, config } = pipeline;
  await using owned = await viewer("auto");
  await using metrics = serveMetrics({ port: 0 });
  await using sink = new RedisWriteBehind(owned.redis, owned.target, owned.config, "session");
  metrics.watch({ ...owned, entity: "session" }, sink);
  sink.start();
  await begin(pipeline);

  await using sampled = await viewer("auto");
  await using sampler = new Sampler(sampled.redis, sampled.target, sampled.config);
  await using staged = await viewer("auto");
  let shown: Said | null = null;
  await using watch = new Watch({
    ...staged,
    entity: "session",
    onSample: (sample) =>
      shown = sample && [sample.written, sample.applied, sample.lag, sample.parked],
  });
  watch.start();
  const scraped = async () => {
    const text = await (await fetch(metrics.url)).text();
    return (name: string) => Object.values(seriesOf(text, `writebehind_${name}`));
  };
  const agree = async (expected: Said, numbers: (number | "auto")[]) => {
    for (const number of numbers) assert.deepEqual(await statusFor(number), expected);
    const { written, applied, lagEvents, parked } = await sampler.sample();
    assert.deepEqual([written, applied, lagEvents, parked], expected, "the chart");
    assert.equal(await letters({ target: pool, config }), expected[3]);
    await waitFor(() => String(shown) === String(expected), {
      what: `the stage to say ${expected}, not ${shown}`,
      deadlineMs: 30_000,
    });
    await waitFor(async () => {
      const series = await scraped();
      const names = ["written_events_total", "applied_events_total", "lag_events", "parked_events"];
      return String(names.map((name) => sum(series(name)))) === String(expected);
    }, { what: `/metrics to say ${expected}`, deadlineMs: 30_000 });
  };

  await waitFor(async () => (await sampler.sample()).parked === 5, {
    what: "five to be parked",
    deadlineMs: 60_000,
  });
  await agree([25, 25, 0, 5], ["auto", 1]);
  const args = ["--config", await configFile(AUTO), "--to", "3"];
  for (const place of ["marked", "pausing", "targets", "switching"]) {
    await t.step(place, async () => {
      await killAt(place, args, environmentOf(config));
      await redis.del(LOCK);
      await agree([25, 25, 0, 5], ["auto", 1, 3]);
      await waitFor(async () => {
        const listed = await listTargets(owned.redis, owned.config, "session");
        return listed.map(({ stream, lagEvents }) => `${stream} ${lagEvents}`).join() ===
          "stream:session 0";
      }, { what: "the target to have told that it has all", deadlineMs: 30_000 });
    });
  }
  await t.step("afterwards", async () => {
    await killAt("switched", args, environmentOf(config));
    await redis.del(LOCK);
    await agree([0, 0, 0, 5], ["auto", 3]);
    await using done = await viewer("auto");
    await repartition(done.redis, [done.target], done.config, "session", { to: 3 });
    await agree([0, 0, 0, 5], ["auto", 3]);
    // Each new partition's series begins with 0; the old one's goes on.
    await waitFor(async () => {
      const events = (await scraped())("sink_events_total").toSorted((a, b) => a - b);
      return events.join() === "0,0,25";
    }, { what: "all to be claimed", deadlineMs: 30_000 });
  });
  await t.step("with fewer, nothing is said of those that are gone", async () => {
    await using done = await viewer("auto");
    await repartition(done.redis, [done.target], done.config, "session", { to: 2 });
    await waitFor(async () => sum((await scraped())("sink_state")) === 2, {
      what: "the sink to have two",
      deadlineMs: 30_000,
    });
    await agree([0, 0, 0, 5], ["auto", 2]);
    assert.equal((await scraped())("sink_failures_in_a_row").length, 2);
  });
  await t.step("what is listed can be discarded, whatever number the file has", async () => {
    await using discard = startTask(
      ["dead-letter", "discard", "--doc", "d0", "--yes", "--config", args[1]!],
      environmentOf(config),
    );
    assert.equal((await discard.status).code, 0, discard.output());
    assert.match(discard.output(), /^1 event discarded$/m);
    const old = pipeline.with({ streams: { partitions: 1 } });
    assert.equal(await discardDeadLetters(pool, old, "session", { docId: "d1" }), 1);
    await agree([0, 0, 0, 3], ["auto", 2]);
  });
});

Deno.test("repairs and mending see that documents move, or have moved", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await drain(pipeline);
  const noted = (text: string) => redis.hset("stream:settings:session", "partitions", text);
  const gone = [{ id: "gone", difference: "extra" as const, document: null, row: null }];
  const repairs = [
    () => repairTarget(redis, config, "session", gone),
    () => repairRedis(redis, pool, config, "session", gone),
  ];
  const mends = () => mendStreams(redis, pool, config, "session");
  await noted("1 to 4");
  for (const repair of repairs) await assert.rejects(repair(), RepartitioningError);
  await mends();
  await noted("1 into 4");
  for (const run of [...repairs, mends]) await assert.rejects(run(), RepartitioningError);
  await noted("4");
  for (const run of [...repairs, mends]) await assert.rejects(run(), /expected 4, as the first/);
  assert.equal(await redis.exists("session:gone"), 0);
  assert.equal(await redis.xlen("stream:session"), 1, "nothing was appended");
});
