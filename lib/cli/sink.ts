/** The command `sink`. */

import type { Command } from "commander";
import { type Config, targetConfig } from "../config/load.ts";
import { reasonOf } from "../core/errors.ts";
import { interruptible } from "../core/interrupt.ts";
import { connectRedis, type RedisConnection } from "../redis/connection.ts";
import type { Target } from "../targets/target.ts";
import { type Address, address, answered, CONFIG, configured, ENTITY, oneLine } from "./common.ts";
import { configureLog, type LogOptions, logOptions } from "./log.ts";

/** Reports at most this often, in ms. */
const REPORT_MS = 1000;
/** How long a stopped sink asks what is left, in ms. */
const LEFT_MS = 1000;

interface SinkOptions extends LogOptions {
  config?: string;
  entity: string;
  /** one of the targets; all where it is left out */
  target?: string;
  metrics?: Address;
  untilEof?: boolean;
}

async function runSink(
  { config: path, entity, target: only, metrics, untilEof, ...logging }: SinkOptions,
  stopped: AbortSignal,
) {
  const { Sinks } = await import("../sink/sinks.ts");
  const signal = untilEof ? AbortSignal.any([stopped, endOfInput()]) : stopped;
  await configureLog(logging);
  const config = await configured(path);
  await using redis = await connectRedis(config);
  const names = only === undefined
    ? config.targets.map(({ name }) => name)
    : [targetConfig(config, only).name];
  await using served = metrics === undefined
    ? null
    : (await import("../metrics/prometheus.ts")).serveMetrics(metrics);
  await using sinks = new Sinks(redis, config, entity, names);
  if (served) {
    sinks.onOpened(({ target, sink }) => served.watch({ redis, target, config, entity }, sink));
  }
  // Beside others a target is waited for.
  if (names.length === 1) await sinks.open(names[0]!);
  else sinks.start();
  if (served) console.log(`metrics for Prometheus at ${served.url}`);
  console.log(
    `carrying ${entity} events on to ${names.join(", ")}; Ctrl-C stops after the running batch`,
  );
  const done = () =>
    names.flatMap((name) => sinks.carried.filter((one) => one.name === name)).map((
      { name, sink: { status } },
    ) =>
      `${names.length > 1 ? `${name}: ` : ""}${status.events} events applied, ${status.rows} rows`
    ).join("; ") || "0 events applied, 0 rows";
  let reported = "";
  const report = () => {
    const line = done();
    if (line !== reported) say(line);
    reported = line;
  };
  const timer = setInterval(report, REPORT_MS);
  if (!signal.aborted) {
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  }
  clearInterval(timer);
  say("stopping once the running batch is done; a second Ctrl-C ends it at once");
  await sinks.stop();
  const left = sinks.carried.map(async ({ name, target }) =>
    `${names.length > 1 ? `${name}: ` : ""}${await leftBehind(redis, target, config, entity)}`
  );
  say(`stopped: ${done()}; ${(await Promise.all(left)).join("; ")}`);
}

/** Standard output may be full or closed: events are carried on all the same. */
function say(line: string): void {
  try {
    console.log(line);
  } catch {
    // Nobody reads it.
  }
}

/** What the next sink finds; a server that is away keeps nobody waiting. */
async function leftBehind(redis: RedisConnection, target: Target, config: Config, entity: string) {
  const { readStatus } = await import("../operate/status.ts");
  try {
    const partitions = await answered(readStatus(redis, target, config, entity), LEFT_MS);
    const events = partitions.reduce((sum, { lagEvents }) => sum + (lagEvents ?? NaN), 0);
    return `${events} events are left for the next sink`;
  } catch (error) {
    return `how many events are left is unknown (${oneLine(reasonOf(error))})`;
  }
}

/** Raised when standard input closes, as it does when the process at its other end dies. */
function endOfInput(): AbortSignal {
  const controller = new AbortController();
  const ended = () => controller.abort();
  Deno.stdin.readable.pipeTo(new WritableStream()).then(ended, ended);
  return controller.signal;
}

/** Adds it to the command line. */
export function addSink(program: Command): void {
  logOptions(program.command("sink"))
    .description("carry events on to the targets, until Ctrl-C")
    .option(...CONFIG)
    .option(...ENTITY)
    .option("--target <name>", "only this target (default: all that the configuration has)")
    .option("--until-eof", "stop when standard input closes, too")
    .option(
      "--metrics <[address:]port>",
      "serve /metrics for Prometheus, on loopback unless an address is given",
      address,
    )
    .action((options: SinkOptions) => interruptible((signal) => runSink(options, signal)));
}
