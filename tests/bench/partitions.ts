/** Rows 20 and 22: many partitions in one process, and two processes. */

import { delay } from "writebehind/core/delay.ts";
import { cpuBetween, cpuTimes } from "./cpu.ts";
import { measureDeployment, warmUp } from "./growth.ts";
import type { GrowthPoint } from "./findings.ts";
import { freshness, sinkFollows, type Times } from "./freshness.ts";
import { interleave, median, perSecond, ratios, type Row, row } from "./measure.ts";
import { SinkProcess } from "./sink_process.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { ENTITY, type Workbench } from "./workbench.ts";
import { uniqueInserts } from "./workload.ts";

const MANY = 64;
const FEW = 2;
const OWNED_WITHIN_MS = 30_000;
const LOOK_MS = 50;
/** How long after its start it counts as idle, in ms: it has looked around everywhere. */
const SETTLED_MS = 8000;
/** How long an idle sink is watched, in ms: several renewals of its leases. */
const IDLE_MS = 15_000;

export async function partitionRows(bench: Workbench, wanted: Set<number>): Promise<Row[]> {
  return [
    ...wanted.has(20) ? await manyInOne(bench) : [],
    ...wanted.has(22) ? [await twoProcesses(bench)] : [],
  ];
}

/** Row 22: what a second process gives, and what it takes of the machine. */
async function twoProcesses(bench: Workbench): Promise<Row> {
  await bench.clear();
  const { events } = bench.sizes;
  const partitions = 8;
  const config = bench.with({ streams: { partitions } });
  const backlog = await bench.fill("two processes", config, uniqueInserts(events), events);
  const points = [2, 1].map((sinks): GrowthPoint => ({ partitions, sinks, rates: [], cores: [] }));
  await warmUp(bench, backlog);
  await interleave(
    points.map((point) =>
      [`${point.sinks} sink processes`, async () => {
        await measureDeployment(bench, backlog, point);
        return point.rates.at(-1)!;
      }] as const
    ),
    bench.rounds,
    bench.step,
  );
  const [two, one] = points as [GrowthPoint, GrowthPoint];
  const cores = ({ cores }: GrowthPoint) =>
    cores.length === 0
      ? "?"
      : median(cores.map(({ deno, postgres, redis }) => deno + postgres + redis)).toFixed(1);
  return row(
    "22",
    `two sink processes / one, with ${partitions} partitions`,
    ratios(two.rates, one.rates),
    null,
    `${perSecond(two.rates)} / ${perSecond(one.rates)}; cores ${cores(two)} / ${cores(one)}`,
  );
}

/** Row 20. */
async function manyInOne(bench: Workbench): Promise<Row[]> {
  await bench.clear();
  const { events } = bench.sizes;
  const nameOf = (partitions: number) => `drain of ${partitions} partitions`;
  const contenders = [];
  for (const partitions of [MANY, FEW]) {
    const config = bench.with({ streams: { partitions } });
    const name = nameOf(partitions);
    const backlog = await bench.fill(name, config, uniqueInserts(events), events);
    const point = { partitions, sinks: 1, rates: [] as number[], cores: [] };
    const drained = async () => {
      await measureDeployment(bench, backlog, point);
      await bench.checkRows(events);
      return point.rates.at(-1)!;
    };
    contenders.push([name, drained] as const);
    await warmUp(bench, backlog);
  }
  const rates = await interleave(contenders, bench.rounds, bench.step);
  const [many, few] = [rates(nameOf(MANY)), rates(nameOf(FEW))];
  const fresh = new Map<number, Times[]>([[MANY, []], [1, []]]);
  for (let round = 1; round <= bench.rounds; round++) {
    for (const [partitions, times] of fresh) {
      bench.step(`round ${round} of ${bench.rounds}: freshness with ${partitions} partitions`);
      const config = bench.with({ streams: { partitions } });
      const follows = sinkFollows({ redis: bench.redis, config });
      times.push(await freshness(bench, `${partitions} partitions`, follows, config));
    }
  }
  const freshOf = (partitions: number) => fresh.get(partitions)!.map(({ p50 }) => p50);
  const [freshMany, freshOne] = [freshOf(MANY), freshOf(1)];
  const idle = await idleSink(bench);
  const cores = `PostgreSQL beside it ${idle.postgres.toFixed(1)} %, Redis ${
    idle.redis.toFixed(1)
  } %`;
  const of = `of a sink with ${MANY} partitions that are idle`;
  return [
    row("20a", `drain of ${MANY} partitions / of ${FEW}, by one process`, ratios(many, few), {
      atLeast: 0.95,
    }, `${perSecond(many)} / ${perSecond(few)}`),
    row("20b", `connections to PostgreSQL ${of}`, [idle.connections], { atMost: 6 }),
    row("20c", `CPU ${of} (% of a core)`, [idle.deno], { atMost: 3 }, cores),
    row("20d", `memory ${of} (MB)`, [idle.memory], { atMost: 150 }),
    row(
      "20e",
      `freshness p50 at 1,000 writes/s over ${MANY} partitions / over one, at most`,
      ratios(freshMany, freshOne),
      { atMost: 1.3 },
      `${median(freshMany).toFixed(2)} ms / ${median(freshOne).toFixed(2)} ms`,
    ),
  ];
}

/** What a process costs that owns many partitions and has nothing to do. */
async function idleSink(bench: Workbench) {
  bench.step(`${MANY} partitions that are idle`);
  await bench.clear();
  await bench.settle();
  const config = bench.with({ streams: { partitions: MANY } });
  await using sink = await SinkProcess.start(bench, config);
  const deadline = Date.now() + OWNED_WITHIN_MS;
  for (;;) {
    const { rows: [leases] } = await bench.pool.query<{ held: number }>(
      "SELECT count(*)::int AS held FROM writebehind_lease WHERE lease_until > now() AND stream = ANY ($1)",
      [allPartitions(config, ENTITY).map(({ stream }) => stream)],
    );
    if (leases!.held === MANY) break;
    if (Date.now() > deadline) {
      throw new Error(`the process owns ${leases!.held}: ${await sink.stop()}`);
    }
    await delay(LOOK_MS);
  }
  await delay(SETTLED_MS);
  const before = cpuTimes(bench, [sink.pid]);
  await delay(IDLE_MS);
  const used = before && cpuBetween(before, cpuTimes(bench, [sink.pid])!, IDLE_MS / 1000 / 100);
  const { rows: [sessions] } = await bench.pool.query<{ count: number }>(
    `SELECT count(*)::int AS count FROM pg_stat_activity
      WHERE datname = current_database() AND backend_type = 'client backend'
        AND pid <> pg_backend_pid()`,
  );
  // Those of the bench itself are idle in its own pool.
  const connections = sessions!.count - (bench.pool.totalCount - 1);
  return { ...used ?? { deno: 0, postgres: 0, redis: 0 }, connections, memory: sink.memory().now };
}
