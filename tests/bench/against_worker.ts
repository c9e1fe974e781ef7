/** Row 13: the sink beside the worker that users would otherwise write, both with the same events. */

import { Redis } from "ioredis";
import { connectPostgres, insertDocument } from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { drained } from "./drain.ts";
import { type Follows, freshness, sinkFollows, type Times } from "./freshness.ts";
import {
  type Goal,
  interleave,
  median,
  perSecond,
  ratios,
  type Row,
  row,
  seconds,
} from "./measure.ts";
import { SinkProcess } from "./sink_process.ts";
import { type Backlog, ENTITY, type Workbench } from "./workbench.ts";
import { hotUpdates, uniqueInserts } from "./workload.ts";
import { work } from "./worker.ts";

const LOOK_EVERY_MS = 2;

export async function workerRows(bench: Workbench): Promise<Row[]> {
  await bench.clear();
  const { events, hotKeys } = bench.sizes;
  const unique = await bench.fill("unique", bench.config, uniqueInserts(events), events);
  const hot = await bench.fill("hot", bench.config, hotUpdates(events, hotKeys), hotKeys);
  bench.step("warm-up: drain");
  await drained(bench, unique);
  const rates = await interleave(
    [
      ["sink, inserts", () => drained(bench, unique)],
      ["worker, inserts", () => worked(bench, unique)],
      ["sink, hot keys", () => drained(bench, hot)],
      ["worker, hot keys", () => worked(bench, hot)],
    ],
    bench.rounds,
    bench.step,
  );
  const rateRow = (id: string, what: "inserts" | "hot keys") => {
    const [ours, theirs] = [rates(`sink, ${what}`), rates(`worker, ${what}`)];
    const note = `${perSecond(ours)} / ${perSecond(theirs)}`;
    return row(id, `drain of ${what} / a worker's`, ratios(ours, theirs), { atLeast: 1 }, note);
  };
  const times: { sink: Times[]; worker: Times[] } = { sink: [], worker: [] };
  for (let round = 1; round <= bench.rounds; round++) {
    bench.step(`round ${round} of ${bench.rounds}: freshness of sink and worker`);
    times.sink.push(
      await freshness(bench, "from the write call to the visible row", sinkFollows(bench)),
    );
    times.worker.push(await freshness(bench, "the same by a worker", workerFollows(bench)));
  }
  const timeRow = (
    id: string,
    what: string,
    ours: readonly number[],
    theirs: readonly number[],
    unit: string,
  ) => {
    const note = `${median(ours).toFixed(2)} ${unit} / ${median(theirs).toFixed(2)} ${unit}`;
    const goal: Goal = { atMost: 1 };
    return row(id, `${what} / a worker's, at most`, ratios(ours, theirs), goal, note);
  };
  bench.step("warm-up: recovery");
  const started = { sink: () => SinkProcess.start(bench), worker: () => SinkProcess.worker(bench) };
  await recovery(bench, started.worker);
  const recovered = await interleave(
    [
      ["sink, recovery", () => recovery(bench, started.sink)],
      ["worker, recovery", () => recovery(bench, started.worker)],
    ],
    bench.rounds,
    bench.step,
  );
  const share = (of: "p50" | "p99") =>
    [times.sink.map((time) => time[of]), times.worker.map((time) => time[of])] as const;
  return [
    rateRow("13a", "inserts"),
    rateRow("13b", "hot keys"),
    timeRow("13c", "freshness p50 at 1,000 writes/s", ...share("p50"), "ms"),
    timeRow("13d", "freshness p99 at 1,000 writes/s", ...share("p99"), "ms"),
    timeRow(
      "13e",
      "restart after kill -9 to the first row",
      recovered("sink, recovery"),
      recovered("worker, recovery"),
      "s",
    ),
  ];
}

/** Seconds from the start of a process whose forerunner was killed to the row of a document that it never saw. */
async function recovery(
  bench: Workbench,
  start: () => SinkProcess | Promise<SinkProcess>,
): Promise<number> {
  const { redis, config } = bench;
  await bench.clear();
  await bench.settle();
  const write = (docId: string) => insertDocument(redis, config, ENTITY, { n: 1 }, docId);
  {
    await using first = await start();
    await write("before");
    await first.hasRow("before", LOOK_EVERY_MS);
    await first.kill();
  }
  await write("since");
  await using next = await start();
  await next.hasRow("since", LOOK_EVERY_MS);
  return (performance.now() - next.since) / 1000;
}

/** Drains a backlog by the worker, and returns events a second. */
async function worked(bench: Workbench, backlog: Backlog): Promise<number> {
  await bench.restore(backlog);
  using connection = redisOf(bench);
  let events = 0;
  const took = await seconds(async () => {
    events = await work({ redis: connection.redis, pool: bench.pool });
  });
  if (events !== backlog.events) throw new Error(`the worker read ${events} events`);
  await bench.checkRows(backlog.rows);
  return events / took;
}

function redisOf({ environment }: Workbench) {
  const redis = new Redis(environment.REDIS_URL);
  return { redis, [Symbol.dispose]: () => redis.disconnect() };
}

/** The worker in this process, as the sink is measured. */
const workerFollows = (bench: Workbench): Follows => async (onCommit) => {
  const pool = await connectPostgres(bench.config);
  const connection = redisOf(bench);
  const stop = new AbortController();
  const { redis } = connection;
  const working = work({
    redis,
    pool,
    signal: stop.signal,
    onCommit: (lastId) => onCommit(partitionKeys(bench.config, ENTITY, 0).stream, lastId),
  });
  return {
    stop: async () => {
      stop.abort();
      await working;
      connection[Symbol.dispose]();
      await pool.end();
    },
  };
};
