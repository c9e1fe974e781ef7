/**
 * Every speed claim, as a ratio measured in one run: `deno task bench`.
 * @module
 */

import { Command, InvalidArgumentError } from "commander";
import { ending } from "writebehind/core/ending.ts";
import { interruptible } from "writebehind/core/interrupt.ts";
import { ensureSetup } from "writebehind/dev/setup.ts";
import { clusterRows } from "./cluster.ts";
import { workerRows } from "./against_worker.ts";
import { backlogRows } from "./backlog.ts";
import { cacheRows } from "./cache.ts";
import { verifyRows } from "./comparing.ts";
import { fanOutRows } from "./fan_out.ts";
import { drainRows } from "./drain.ts";
import { freshnessRows } from "./freshness.ts";
import { growthTable, measureGrowth } from "./growth.ts";
import type { Row } from "./measure.ts";
import { writePage } from "./page.ts";
import { benchProgress } from "./progress.ts";
import { sizeRows } from "./sizes.ts";
import { spanRows } from "./spans.ts";
import { kafkaRows } from "./kafka.ts";
import { mysqlRows } from "./mysql.ts";
import { partitionRows } from "./partitions.ts";
import { sqliteRows } from "./sqlite.ts";
import { startRows } from "./start.ts";
import { json, machine, table } from "./table.ts";
import { Workbench } from "./workbench.ts";
import { FULL, QUICK } from "./workload.ts";
import { writeRows } from "./write.ts";

/** Rows that are measured together, since they share rounds. */
interface Group {
  name: string;
  rows: readonly number[];
  /** how long it takes on two cores with five rounds, about */
  seconds: number;
  measure(bench: Workbench, wanted: Set<number>): Promise<Row[]>;
}

const GROUPS: readonly Group[] = [
  { name: "drain", rows: [1, 2, 3, 4, 5, 10], seconds: 100, measure: drainRows },
  { name: "write", rows: [6, 7, 14], seconds: 90, measure: writeRows },
  { name: "freshness", rows: [8], seconds: 30, measure: freshnessRows },
  { name: "backlog", rows: [9], seconds: 105, measure: backlogRows },
  { name: "verify", rows: [11], seconds: 25, measure: verifyRows },
  { name: "start", rows: [12], seconds: 15, measure: startRows },
  { name: "worker", rows: [13], seconds: 120, measure: workerRows },
  { name: "SQLite", rows: [15], seconds: 25, measure: sqliteRows },
  { name: "MariaDB", rows: [17], seconds: 50, measure: mysqlRows },
  { name: "several targets", rows: [18], seconds: 60, measure: fanOutRows },
  { name: "Kafka", rows: [19], seconds: 60, measure: kafkaRows },
  { name: "partitions", rows: [20, 22], seconds: 140, measure: partitionRows },
  { name: "cluster", rows: [23], seconds: 40, measure: clusterRows },
  { name: "cache", rows: [24], seconds: 110, measure: cacheRows },
  { name: "sizes", rows: [21], seconds: 60, measure: sizeRows },
  { name: "spans", rows: [16], seconds: 6, measure: spanRows },
];
const ALL_ROWS = GROUPS.flatMap(({ rows }) => rows).sort((a, b) => a - b);
const ROUNDS = 5;
const GROWTH_SECONDS = 120;
/** What a round of small sizes takes of the time of a full one. */
const QUICK_SHARE = 0.1;

interface Options {
  json?: true;
  quick?: true;
  growth?: true;
  rows: number[];
  rounds?: number;
}

function rowNumbers(text: string): number[] {
  if (text === "none") return [];
  const rows = text.split(",").map(Number);
  if (rows.every((row) => ALL_ROWS.includes(row))) return rows;
  throw new InvalidArgumentError(`Expected numbers of ${ALL_ROWS.join(", ")}, or none.`);
}

function positive(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new InvalidArgumentError("Expected a whole number, 1 or more.");
}

function options(): Options {
  return new Command("deno task bench")
    .description(
      "measure every speed claim, on servers of its own; about 17 minutes for all rows. All of them " +
        "run with the default configuration. Writes out/bench.html.",
    )
    .option("--json", "print rows as JSON and nothing else")
    .option("--quick", "small sizes and one round: shows that it works, not how fast")
    .option(
      "--growth",
      "drain with more partitions and sinks as well: what grows, and what is busy",
    )
    .option("--rows <list>", "the rows to measure, such as 1,3 or none", rowNumbers, ALL_ROWS)
    .option("--rounds <n>", `rounds of each measure (default: ${ROUNDS}, 1 with --quick)`, positive)
    .parse(Deno.args, { from: "user" })
    .opts<Options>();
}

/** Measures the wanted rows, and prints them. */
async function bench(
  { json: asJson, quick, growth, rows: wanted, rounds }: Options,
  signal: AbortSignal,
): Promise<void> {
  const groups = GROUPS.filter(({ rows }) => rows.some((row) => wanted.includes(row)));
  const often = rounds ?? (quick ? 1 : ROUNDS);
  const share = (quick ? QUICK_SHARE : 1) * often / ROUNDS;
  const seconds = [...groups.map((group) => group.seconds), ...growth ? [GROWTH_SECONDS] : []];
  const progress = benchProgress(seconds.map((full) => share * full));
  await using workbench = await Workbench.open({
    sizes: quick ? QUICK : FULL,
    rounds: often,
    step: progress.step,
    signal,
  });
  const rows: Row[] = [];
  try {
    for (const [index, group] of groups.entries()) {
      progress.group(index, group.name);
      rows.push(...await group.measure(workbench, new Set(wanted)));
    }
    if (growth) {
      progress.group(groups.length, "growth");
      await measureGrowth(workbench);
    }
  } finally {
    progress.end();
  }
  const order = ({ id }: Row) => Number.parseInt(id);
  rows.sort((a, b) => order(a) - order(b));
  const { findings } = workbench;
  const measuredOn = await machine(workbench);
  const page = await writePage({ rows, findings, machine: measuredOn, quick: quick === true });
  if (asJson) return console.log(json(rows));
  const tables = [
    ...(rows.length > 0 ? [table(rows)] : []),
    ...(growth ? [growthTable(findings.growth)] : []),
  ];
  console.log([measuredOn, ...tables, `charts: ${page}`].join("\n\n"));
}

const status = await ending(async () => {
  const wanted = options();
  // What is said on the way goes to standard error: --json has standard output for itself.
  await ensureSetup({ onProgress: (line) => console.error(line) });
  await interruptible((signal) =>
    new Promise<void>((resolve, reject) => {
      // The servers end with this process: see TestFolder in servers.ts.
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      bench(wanted, signal).then(resolve, reject);
    })
  );
}, console.error);
if (status !== 0) Deno.exit(status);
