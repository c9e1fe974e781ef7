/** The command `sink`. */

import type { Command } from "commander";
import type { Config } from "../config/load.ts";
import { interruptible } from "../core/interrupt.ts";
import { connectRedis, type RedisConnection } from "../redis/connection.ts";
import { openTarget } from "../targets/open.ts";
import { CONFIG, configured, ENTITY, port } from "./common.ts";
import { configureLog, type LogOptions, logOptions } from "./log.ts";

/** Reports at most this often, in ms. */
const REPORT_MS = 1000;

interface SinkOptions extends LogOptions {
  config?: string;
  entity: string;
  metrics?: number;
  untilEof?: boolean;
}

async function runSink(
  { config: path, entity, metrics, untilEof, ...logging }: SinkOptions,
  stopped: AbortSignal,
) {
  const { consumePeriodically } = await import("../sink/sink.ts");
  const signal = untilEof ? AbortSignal.any([stopped, endOfInput()]) : stopped;
  await configureLog(logging);
  const config = await configured(path);
  await using redis = await connectRedis(config);
  await using target = await openTarget(config);
  await using served = metrics === undefined ? null : await serve(redis, config, metrics);
  const sink = consumePeriodically(redis, target, config, entity);
  if (served) console.log(`metrics for Prometheus at ${served.url}`);
  const { name } = target.describe();
  console.log(`carrying ${entity} events on to ${name}; Ctrl-C stops after the running batch`);
  let reported = "";
  const report = () => {
    const { events, rows } = sink.status;
    const line = `${events} events applied, ${rows} rows`;
    if (line === reported) return;
    reported = line;
    try {
      console.log(line);
    } catch {
      // Standard output is full: events are carried on all the same.
    }
  };
  const timer = setInterval(report, REPORT_MS);
  if (!signal.aborted) {
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  }
  clearInterval(timer);
  await sink.stop();
  report();
}

/** Raised when standard input closes, as it does when the process at its other end dies. */
function endOfInput(): AbortSignal {
  const controller = new AbortController();
  const ended = () => controller.abort();
  Deno.stdin.readable.pipeTo(new WritableStream()).then(ended, ended);
  return controller.signal;
}

async function serve(redis: RedisConnection, config: Config, port: number) {
  const [{ serveMetrics }, { Sampler }] = await Promise.all([
    import("../metrics/prometheus.ts"),
    import("../metrics/sampler.ts"),
  ]);
  return serveMetrics(redis, new Sampler(redis, config), port);
}

/** Adds it to the command line. */
export function addSink(program: Command): void {
  logOptions(program.command("sink"))
    .description("carry events on to the target, until Ctrl-C")
    .option(...CONFIG)
    .option(...ENTITY)
    .option("--until-eof", "stop when standard input closes, too")
    .option("--metrics <port>", "serve /metrics for Prometheus on loopback", port)
    .action((options: SinkOptions) => interruptible((signal) => runSink(options, signal)));
}
