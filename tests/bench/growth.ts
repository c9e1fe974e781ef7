/** Growth: the same backlog against partitions and sink processes, and which part of it is busy. */

import { delay } from "writebehind/core/delay.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { cpuBetween, cpuTimes } from "./cpu.ts";
import type { GrowthPoint } from "./findings.ts";
import { median } from "./measure.ts";
import { SinkProcess } from "./sink_process.ts";
import { type Backlog, ENTITY, send, type Workbench } from "./workbench.ts";
import { uniqueInserts } from "./workload.ts";

/** A partition has one sink, so a second sink needs a second partition. */
const DEPLOYMENTS = [
  { partitions: 1, sinks: 1 },
  { partitions: 2, sinks: 1 },
  { partitions: 4, sinks: 1 },
  { partitions: 2, sinks: 2 },
  { partitions: 4, sinks: 2 },
] as const;

const MAX_ROUNDS = 3;
const LOOK_EVERY_MS = 10;
const OWNED_WITHIN_MS = 20_000;
/** Who takes less than this of a core for so many ms has nothing to do. */
const REST_CORES = 0.1;
const REST_MS = 500;

/** Measures each deployment, with sinks in processes of their own, and keeps what it finds for the page. */
export async function measureGrowth(bench: Workbench): Promise<void> {
  await bench.clear();
  const { events } = bench.sizes;
  const backlogs = new Map<number, Backlog>();
  for (const partitions of new Set(DEPLOYMENTS.map(({ partitions }) => partitions))) {
    const config = bench.with({ streams: { partitions } });
    const name = `${partitions} partition${partitions === 1 ? "" : "s"}`;
    backlogs.set(partitions, await bench.fill(name, config, uniqueInserts(events), events));
  }
  const points: GrowthPoint[] = DEPLOYMENTS.map((deployment) => ({
    ...deployment,
    rates: [],
    cores: [],
  }));
  const rounds = Math.min(bench.rounds, MAX_ROUNDS);
  await warmUp(bench, backlogs.get(1)!);
  for (let round = 1; round <= rounds; round++) {
    for (const point of points) {
      const { partitions, sinks } = point;
      bench.step(`round ${round} of ${rounds}: partitions ${partitions}, sinks ${sinks}`);
      await measureDeployment(bench, backlogs.get(partitions)!, point);
    }
  }
  bench.findings.growth = points;
}

/** Drains a backlog before any is measured: a server that has just been started makes its files meanwhile. */
export async function warmUp(bench: Workbench, backlog: Backlog): Promise<void> {
  bench.step("warm-up: drain");
  await measureDeployment(bench, backlog, { partitions: 1, sinks: 1, rates: [], cores: [] });
}

/** The sinks own their partitions before the backlog appears, so that no start is measured. */
export async function measureDeployment(
  bench: Workbench,
  backlog: Backlog,
  point: GrowthPoint,
): Promise<void> {
  const { redis } = bench;
  const streams = allPartitions(backlog.config, ENTITY).map(({ stream }) => stream);
  // Out of the sinks' sight, and back in one step: copying it takes Redis a while.
  await bench.restore(backlog);
  const aside = streams.map((stream) => [stream, `bench:aside:${stream}`] as const);
  const ends = await bench.ends(backlog.config);
  for (const [stream, away] of aside) await redis.rename(stream, away);
  await using running = new AsyncDisposableStack();
  const sinks: SinkProcess[] = [];
  for (let n = 0; n < point.sinks; n++) {
    sinks.push(running.use(await SinkProcess.start(bench, backlog.config)));
  }
  await shared(bench, streams, point.sinks);
  const pids = sinks.map(({ pid }) => pid);
  await atRest(bench, pids);
  const before = cpuTimes(bench, pids);
  const since = performance.now();
  const appearing = redis.multi();
  for (const [stream, away] of aside) appearing.rename(away, stream);
  await send(appearing);
  await sinks[0]!.reaches(ends, { everyMs: LOOK_EVERY_MS });
  const seconds = (performance.now() - since) / 1000;
  const after = cpuTimes(bench, pids);
  await bench.checkRows(backlog.rows);
  point.rates.push(backlog.events / seconds);
  if (before && after) point.cores.push(cpuBetween(before, after, seconds));
}

/** One row a deployment, as text. */
export function growthTable(points: readonly GrowthPoint[]): string {
  const head = ["partitions", "sinks", "events/s", "cores: Deno", "PostgreSQL", "Redis"];
  const lines = points.map(({ partitions, sinks, rates, cores }) => [
    ...[partitions, sinks, Math.round(median(rates))].map((value) => value.toLocaleString("en")),
    ...(["deno", "postgres", "redis"] as const).map((part) =>
      cores.length === 0 ? "" : median(cores.map((core) => core[part])).toFixed(2)
    ),
  ]);
  const all = [head, ...lines];
  const widths = head.map((_, column) => Math.max(...all.map((line) => line[column]!.length)));
  return all.map((line) => line.map((cell, column) => cell.padStart(widths[column]!)).join("  "))
    .join("\n");
}

/** Waits until the sinks have looked around in all of their partitions, which they do after claiming them. */
async function atRest(bench: Workbench, pids: readonly number[]): Promise<void> {
  const deadline = Date.now() + OWNED_WITHIN_MS;
  for (let before = cpuTimes(bench, pids); before !== null;) {
    await delay(REST_MS);
    const now = cpuTimes(bench, pids)!;
    if (cpuBetween(before, now, REST_MS / 1000).deno < REST_CORES) return;
    if (Date.now() > deadline) throw new Error("the sinks have not come to rest");
    before = now;
  }
}

/** Waits until the sinks have shared the partitions among them. */
async function shared({ pool }: Workbench, streams: string[], sinks: number): Promise<void> {
  const deadline = Date.now() + OWNED_WITHIN_MS;
  for (;;) {
    const { rows } = await pool.query<{ held: number }>(
      `SELECT count(*)::int AS held FROM writebehind_lease
        WHERE stream = ANY ($1) AND lease_until > clock_timestamp() GROUP BY owner`,
      [streams],
    );
    if (rows.length === sinks && rows.every(({ held }) => held === streams.length / sinks)) return;
    if (Date.now() > deadline) throw new Error(`the sinks have not shared ${streams.join(", ")}`);
    await delay(LOOK_EVERY_MS);
  }
}
