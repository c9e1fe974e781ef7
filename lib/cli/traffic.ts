/** The command `traffic`. */

import type { Command } from "commander";
import { interruptible } from "../core/interrupt.ts";
import type { TrafficOptions } from "../demo/traffic.ts";
import { connectRedis } from "../redis/connect.ts";
import { CONFIG, configuredToWrite, ENTITY, number } from "./common.ts";
import { configureLog, type LogOptions, logOptions } from "./log.ts";

/** What is to be written. */
export interface WritingOptions {
  config?: string;
  entity: string;
  records?: number;
  rate?: number;
  duration?: number;
  concurrency?: number;
  seed?: number;
}

interface TrafficCommandOptions extends WritingOptions, LogOptions {
  url?: string;
}

/** Adds the options that say what is to be written. */
export function writingOptions(command: Command): Command {
  return command
    .option(...CONFIG)
    .option(...ENTITY)
    .option("--records <n>", "writes in all (default: dummy_data.num_records)", number)
    .option("--rate <n>", "writes a second; 0 is as fast as possible", number)
    .option("--duration <seconds>", "how long; 0 is until all records are written", number)
    .option("--concurrency <n>", "writes in flight", number)
    .option("--seed <n>", "of the random generator", number);
}

/** What to lay over `dummy_data`. */
export function trafficOf(
  { records, rate, duration, concurrency, seed }: WritingOptions,
): TrafficOptions {
  return {
    ...(records === undefined ? {} : { num_records: records }),
    ...(rate === undefined ? {} : { rate }),
    ...(duration === undefined ? {} : { duration_seconds: duration }),
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(seed === undefined ? {} : { seed }),
  };
}

async function runTraffic(options: TrafficCommandOptions, signal: AbortSignal) {
  const [{ dummyDataWorker }, { trafficProgress }] = await Promise.all([
    import("../demo/traffic.ts"),
    import("./traffic_progress.ts"),
  ]);
  await configureLog(options);
  const config = await configuredToWrite(options.config, options.url);
  await using redis = await connectRedis(config);
  const { num_records, duration_seconds } = { ...config.dummy_data, ...trafficOf(options) };
  const progress = trafficProgress(duration_seconds === 0 ? num_records : undefined);
  const report = await dummyDataWorker(redis, config, options.entity, {
    ...trafficOf(options),
    signal,
    onProgress: progress.update,
  });
  progress.end();
  console.log(report);
  if (report.failed > 0) Deno.exitCode = 1;
}

/** Adds it to the command line. */
export function addTraffic(program: Command): void {
  writingOptions(logOptions(program.command("traffic")))
    .description("write documents as an application would")
    .option("--url <address>", "the Redis to write to, such as redis://localhost:6379")
    .action((options: TrafficCommandOptions) =>
      interruptible((signal) => runTraffic(options, signal))
    );
}
