/** The command `sink`. */

import type { Command } from "commander";
import { type Config, entityConfig, targetConfig } from "../config/load.ts";
import { counted } from "../core/counted.ts";
import { reasonOf, WriteBehindError } from "../core/errors.ts";
import { interruptible } from "../core/interrupt.ts";
import { connectRedis } from "../redis/connect.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { Carried } from "../sink/sinks.ts";
import type { Target } from "../targets/target.ts";
import { type Address, address, answered, CONFIG, configured, oneLine } from "./common.ts";
import { configureLog, type LogOptions, logOptions } from "./log.ts";

/** Reports at most this often, in ms. */
const REPORT_MS = 1000;
/** How long a stopped sink asks what is left, in ms. */
const LEFT_MS = 1000;

interface SinkOptions extends LogOptions {
  config?: string;
  /** one of the entities; all where it is left out */
  entity?: string;
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
  await using redis = await connectRedis(config, { rights: "operator" });
  const targets = only === undefined
    ? config.targets.map(({ name }) => name)
    : [targetConfig(config, only).name];
  const entities = entity === undefined
    ? config.entities.map(({ name }) => name)
    : [entityConfig(config, entity).name];
  await using served = metrics === undefined
    ? null
    : (await import("../metrics/prometheus.ts")).serveMetrics(metrics, targets);
  await using sinks = new Sinks(redis, config, { entities, targets });
  if (served) {
    sinks.onOpened(({ entity, target, sink }) =>
      served.watch({ redis, target, config, entity }, sink)
    );
  }
  // Beside others a target is waited for.
  if (targets.length === 1) await sinks.open(targets[0]!);
  else sinks.start();
  if (served) console.log(`metrics for Prometheus at ${served.url}`);
  console.log(
    `carrying ${entities.join(", ")} events on to ${
      targets.join(", ")
    }; Ctrl-C stops after the running batch`,
  );
  /** Which of several sinks says something. */
  const of = ({ entity, name }: Carried) =>
    [entities.length > 1 ? `${entity} ` : "", targets.length > 1 ? `${name} ` : ""].join("").trim();
  const named = (carried: Carried, text: string) => of(carried) ? `${of(carried)}: ${text}` : text;
  const inOrder = () =>
    entities.flatMap((entity) =>
      targets.flatMap((name) =>
        sinks.carried.filter((one) => one.entity === entity && one.name === name)
      )
    );
  const done = () =>
    inOrder().map((carried) => {
      const { events, rows } = carried.sink.status;
      return named(carried, `${counted(events, "event")} applied, ${counted(rows, "row")}`);
    }).join("; ") || "0 events applied, 0 rows";
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
  const left = inOrder().map(async (carried) =>
    named(carried, await leftBehind(redis, carried.target, config, carried.entity))
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
    const unknown = partitions.find(({ lagEvents }) => lagEvents === null);
    if (unknown) throw new WriteBehindError(unknown.stuck.join("; "));
    const events = partitions.reduce((sum, { lagEvents }) => sum + lagEvents!, 0);
    return `${counted(events, "event")} left for the next sink`;
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
    .option("--entity <name>", "only this entity (default: all that the configuration has)")
    .option("--target <name>", "only this target (default: all that the configuration has)")
    .option("--until-eof", "stop when standard input closes, too")
    .option(
      "--metrics <[address:]port>",
      "serve /metrics for Prometheus, on loopback unless an address is given",
      address,
    )
    .action((options: SinkOptions) => interruptible((signal) => runSink(options, signal)));
}
