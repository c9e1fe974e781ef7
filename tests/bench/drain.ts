/** Rows 1 to 5 and 10: how fast a backlog is drained. */

import { RedisWriteBehind } from "writebehind";
import { asOwner } from "../support/servers.ts";
import { consume, produce } from "writebehind/notebook/original.ts";
import { bareDrain } from "./bare_drain.ts";
import { cpuBetween, cpuTimes } from "./cpu.ts";
import {
  type Figures,
  type Goal,
  interleave,
  median,
  perSecond,
  ratios,
  type Row,
  row,
  seconds,
} from "./measure.ts";
import { type Backlog, ENTITY, type Workbench } from "./workbench.ts";
import { type DraftEvent, hotUpdates, mixedChanges, rowsAfter, uniqueInserts } from "./workload.ts";

const DRAIN = "drain";
const COPY = "COPY";
const ORIGINAL = "the original's algorithm";
const MIXED = "mixed changes";
const HOT = "hot keys";
const BARE = "bare drain";
const IN_PARTITIONS = ["drain of 2 partitions", "drain of 4 partitions"] as const;
type Contender =
  | typeof DRAIN
  | typeof COPY
  | typeof ORIGINAL
  | typeof MIXED
  | typeof HOT
  | typeof BARE
  | typeof IN_PARTITIONS[number];

/** Events that the original reads at once, its `batch_size`. */
const ORIGINAL_BATCH = 10_000;

/** What the rows need, beside the drain itself. */
const NEEDS = new Map<number, readonly Contender[]>([
  [1, [COPY]],
  [2, [COPY, ...IN_PARTITIONS]],
  [3, [ORIGINAL]],
  [4, [MIXED]],
  [5, [HOT]],
  [10, [BARE]],
]);

export async function drainRows(bench: Workbench, wanted: Set<number>): Promise<Row[]> {
  await bench.clear();
  const { events, mixedKeys, hotKeys, originalEvents } = bench.sizes;
  const unique = await bench.fill(DRAIN, bench.config, uniqueInserts(events), events);
  bench.step("warm-up: drain");
  await drained(bench, unique);

  /**
   * What each contender has to get ready; it returns its measurement. They are measured in this order, those
   * that are compared next to each other, since the machine is not as fast at all times.
   */
  const preparations: Record<Contender, () => Promise<() => Promise<number>>> = {
    [BARE]: () => Promise.resolve(() => barelyDrained(bench, unique)),
    [DRAIN]: () => Promise.resolve(() => drained(bench, unique, DRAIN)),
    [COPY]: async () => {
      const path = await copyOfTable(bench);
      return () => copied(bench, path, events);
    },
    [IN_PARTITIONS[0]]: () => inPartitions(bench, IN_PARTITIONS[0], 2),
    [IN_PARTITIONS[1]]: () => inPartitions(bench, IN_PARTITIONS[1], 4),
    [ORIGINAL]: async () => {
      const stream = await produced(bench, originalEvents);
      return () => consumed(bench, stream, originalEvents);
    },
    [MIXED]: () => changed(bench, MIXED, () => mixedChanges(events, mixedKeys)),
    [HOT]: () => changed(bench, HOT, () => hotUpdates(events, hotKeys)),
  };
  const needed = new Set([DRAIN, ...[...wanted].flatMap((row) => NEEDS.get(row) ?? [])]);
  const contenders: [Contender, () => Promise<number>][] = [];
  // COPY reads what the warm-up has written to the table, so it gets ready before others write there.
  for (const name of Object.keys(preparations) as Contender[]) {
    if (needed.has(name)) contenders.push([name, await preparations[name]()]);
  }
  const rates = await interleave(contenders, bench.rounds, bench.step);
  // The chart's first bar is ours.
  bench.findings.rates.set(DRAIN, rates(DRAIN));
  for (const [name] of contenders) bench.findings.rates.set(name, rates(name));
  return rowsOf(rates, wanted, bench);
}

async function inPartitions(bench: Workbench, name: string, partitions: number) {
  const { events } = bench.sizes;
  const backlog = await bench.fill(
    name,
    bench.with({ streams: { partitions } }),
    uniqueInserts(events),
    events,
  );
  return () => drained(bench, backlog, name);
}

async function changed(bench: Workbench, name: string, changes: () => Iterable<DraftEvent>) {
  const backlog = await bench.fill(name, bench.config, changes(), rowsAfter(changes()));
  return () => drained(bench, backlog, name);
}

function rowsOf(rates: Figures<Contender>, wanted: Set<number>, { sizes }: Workbench): Row[] {
  const count = (number: number) => number.toLocaleString("en");
  const events = count(sizes.events);
  const compared = (id: string, name: string, ours: Contender, base: Contender, goal: Goal) => {
    const note = `${perSecond(rates(ours))} / ${perSecond(rates(base))}`;
    return row(id, name, ratios(rates(ours), rates(base)), goal, note);
  };
  const copy = `drain of ${events} inserts / COPY of the same rows, one partition`;
  const original = "drain / the original's algorithm";
  const mixed = `mixed changes of ${count(sizes.mixedKeys)} keys / row 1's drain`;
  const hot = `${events} events of ${count(sizes.hotKeys)} hot keys / row 1's drain`;
  const bare = "drain / a drain without guarantees and metrics";
  const rows = new Map<number, () => Row[]>([
    [1, () => [
      compared("1", copy, DRAIN, COPY, { atLeast: 0.7 }),
      compared("1a", `${copy}: the least`, DRAIN, COPY, { atLeast: 0.5 }),
      row("1b", "events drained a second, one partition", rates(DRAIN), null),
    ]],
    [2, () => [bestOf(rates)]],
    [3, () => [
      // Both wait for disks and round trips, in shares that are the machine's.
      compared("3", original, DRAIN, ORIGINAL, null),
      compared("3a", `${original}: the least`, DRAIN, ORIGINAL, null),
    ]],
    [4, () => [compared("4", mixed, MIXED, DRAIN, { atLeast: 0.85 })]],
    [5, () => [compared("5", hot, HOT, DRAIN, { atLeast: 3 })]],
    [10, () => [compared("10", bare, DRAIN, BARE, { atLeast: 0.95 })]],
  ]);
  return [...rows].flatMap(([id, make]) => wanted.has(id) ? make() : []);
}

/** The partition count that suits the machine, against COPY. */
function bestOf(rates: Figures<Contender>): Row {
  const tried = ([DRAIN, ...IN_PARTITIONS] as const).map((name) => ({
    name: name === DRAIN ? "one partition" : name.replace("drain of ", ""),
    rates: rates(name),
    ratios: ratios(rates(name), rates(COPY)),
  }));
  const best = tried.reduce((a, b) => median(b.ratios) > median(a.ratios) ? b : a);
  const note = tried.map(({ name, ratios }) => `${name} ${median(ratios).toFixed(2)}`).join(", ");
  return row(
    "2",
    `the same with the best partition count: ${best.name}`,
    best.ratios,
    { atLeast: 1.05 },
    `${perSecond(best.rates)}; ${note}`,
  );
}

/**
 * Runs `work` and returns how long it took, in seconds.
 * @param cpuAs the name under which its CPU time is noted; a warm-up has none
 */
async function timed(
  bench: Workbench,
  events: number,
  work: () => Promise<unknown>,
  cpuAs?: string,
): Promise<number> {
  const before = cpuTimes(bench);
  const took = await seconds(work);
  const after = cpuTimes(bench);
  if (cpuAs && before && after) bench.findings.addCpu(cpuAs, cpuBetween(before, after, events));
  return took;
}

/** Drains a backlog, and returns events a second. */
export async function drained(
  bench: Workbench,
  backlog: Backlog,
  cpuAs?: string,
): Promise<number> {
  const { config, events, rows } = backlog;
  await bench.restore(backlog);
  const sink = new RedisWriteBehind(bench.redis, bench.pool, config, ENTITY);
  const took = await timed(bench, events, () => sink.drain(), cpuAs);
  if (sink.status.events !== events) {
    throw new Error(`drained ${sink.status.events} events of ${events}`);
  }
  await bench.checkRows(rows);
  return events / took;
}

async function barelyDrained(bench: Workbench, backlog: Backlog): Promise<number> {
  const { config, events, rows } = backlog;
  await bench.restore(backlog);
  const took = await timed(bench, events, () => bareDrain(bench.pool, config, ENTITY), BARE);
  await bench.checkRows(rows);
  return events / took;
}

/** Writes the table to a file that the server can read, and returns its path on the server. */
export async function copyOfTable({ pool, postgres }: Workbench): Promise<string> {
  const rights = "pg_read_server_files, pg_write_server_files";
  await asOwner(postgres, `GRANT ${rights} TO ${postgres.user}`);
  const { rows: [server] } = await pool.query<{ folder: string }>(
    "SELECT current_setting('data_directory') AS folder",
  );
  const path = `${server!.folder}/bench.copy`;
  await pool.query(`COPY sessions TO '${path}'`);
  return path;
}

/** Fills the table by COPY from such a file, and returns rows a second. */
export async function copied(bench: Workbench, path: string, rows: number): Promise<number> {
  await bench.settle();
  const took = await timed(
    bench,
    rows,
    () => bench.pool.query(`COPY sessions FROM '${path}'`),
    COPY,
  );
  await bench.checkRows(rows);
  return rows / took;
}

/** The first of the unique inserts, as the original's producer writes them; returns the stream's copy. */
async function produced({ redis, step }: Workbench, events: number): Promise<string> {
  step("filling: the original's");
  const copy = "bench:original";
  await redis.del("stream:session");
  for (const { docId, payload } of uniqueInserts(events)) {
    await produce(redis, docId, "insert", JSON.parse(payload));
  }
  await redis.copy("stream:session", copy);
  return copy;
}

async function consumed(bench: Workbench, stream: string, events: number): Promise<number> {
  const { redis, pool } = bench;
  await redis.del("stream:lastid:stream:session");
  await redis.copy(stream, "stream:session", "REPLACE");
  await bench.settle();
  const took = await seconds(() => consume(redis, pool, ORIGINAL_BATCH));
  await bench.checkRows(events);
  return events / took;
}
