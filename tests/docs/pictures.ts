/**
 * Draws the README's pictures from a recorded run, so that they are the same wherever they are drawn.
 *
 *     deno task pictures [--record]
 *
 * `--record` first records another run on servers of its own, in which PostgreSQL is killed and started again.
 */

import { Command } from "commander";
import { join } from "node:path";
import {
  caughtUp,
  configWith,
  connectRedis,
  consumePeriodically,
  dummyDataWorker,
  openTarget,
  parseConfig,
  type Sample,
  Sampler,
  serverOverrides,
} from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { delay } from "writebehind/core/delay.ts";
import { ending } from "writebehind/core/ending.ts";
import { OwnServers } from "writebehind/dev/servers/own.ts";
import { flowChart, freshnessChart, outcomesChart } from "writebehind/notebook/charts/charts.ts";
import { standaloneSvg } from "./standalone_svg.ts";

const SERIES = join(import.meta.dirname!, "pictures_series.json");
/** In local time, so that the clock in the pictures does not depend on where they are drawn. */
const STARTED_AT = new Date(2026, 10, 23, 14, 37, 56).getTime();

const COLUMNS = [
  ...["redis_success", "redis_fail", "redis_retry", "postgres_success", "postgres_fail"] as const,
  ...["written", "applied", "parked"] as const,
  ...["writtenPerSecond", "appliedPerSecond", "lagEvents", "lagSeconds"] as const,
  ...["freshnessP50Ms", "freshnessP99Ms"] as const,
];

/** Milliseconds since the first sample, then the columns. */
type Row = (number | null)[];

/** The files of docs/ and what they hold. */
export async function pictures(): Promise<Record<string, string>> {
  const rows = JSON.parse(await Deno.readTextFile(SERIES)) as Row[];
  const samples = rows.map(sampleOf);
  const chart = outcomesChart(samples) + flowChart(samples) + freshnessChart(samples);
  return {
    "dashboard-light.svg": standaloneSvg(chart, "light"),
    "dashboard-dark.svg": standaloneSvg(chart, "dark"),
  };
}

function sampleOf([ms, ...values]: Row): Sample {
  const columns = COLUMNS.map((name, index) => [name, values[index]]);
  return { at: new Date(STARTED_AT + ms!), ...Object.fromEntries(columns) } as Sample;
}

function rowOf(sample: Sample, first: Sample): Row {
  const rounded = COLUMNS.map((name) => {
    const value = sample[name];
    return value === null ? null : Number(value.toFixed(2));
  });
  return [sample.at.getTime() - first.at.getTime(), ...rounded];
}

/** Traffic for 16 s, four of them without PostgreSQL, and the time until it has caught up. */
async function record(): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const own = stack.use(await OwnServers.start());
  const config = configWith(parseConfig("", "defaults"), {
    ...serverOverrides(own),
    metrics: { sample_interval_ms: 250 },
  });
  const redis = stack.use(await connectRedis(config));
  const target = stack.use(await openTarget(config));
  stack.use(consumePeriodically(redis, target, config, "session"));
  const sampler = stack.use(new Sampler(redis, target, config, { entity: "session" }));
  sampler.start();
  const traffic = dummyDataWorker(redis, config, "session", {
    rate: 1000,
    duration_seconds: 16,
    seed: 1,
  });
  await delay(6_000);
  await own.stopPostgres();
  await delay(4_000);
  await own.startPostgres();
  await traffic;
  await caughtUp(redis, target, config, "session", { deadlineMs: 30_000 });
  await delay(1_500);
  const rows = sampler.samples.map((sample) => rowOf(sample, sampler.samples[0]!));
  const lines = rows.map((row) => `  ${JSON.stringify(row).replaceAll(",", ", ")}`);
  await Deno.writeTextFile(SERIES, `[\n${lines.join(",\n")}\n]\n`);
}

if (import.meta.main) Deno.exit(await ending(run, console.error));

async function run(): Promise<void> {
  const { record: anew } = new Command("deno task pictures")
    .description("draw the README's pictures from a recorded run")
    .option("--record", "record another run first")
    .parse(Deno.args, { from: "user" })
    .opts<{ record?: true }>();
  if (anew) await record();
  for (const [name, svg] of Object.entries(await pictures())) {
    await Deno.writeTextFile(join(CHECKOUT, "docs", name), svg);
  }
}
