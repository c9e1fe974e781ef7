/**
 * The original's whole flow in a terminal: from writes to verified rows.
 * @module
 */

import {
  type Config,
  configWith,
  type DeepPartial,
  entityConfig,
  loadConfig,
} from "./config/load.ts";
import { describeServers, serverOverrides, usesPostgres } from "./config/servers.ts";
import { counted } from "./core/counted.ts";
import { delay } from "./core/delay.ts";
import { reasonOf, WriteBehindError } from "./core/errors.ts";
import { InterruptedError, interruptible } from "./core/interrupt.ts";
import type { TrafficReport } from "./demo/tally.ts";
import { dummyDataWorker, type TrafficOptions } from "./demo/traffic.ts";
import { loadMetrics } from "./metrics/counters.ts";
import { readFigures } from "./metrics/figures.ts";
import { Sampler } from "./metrics/sampler.ts";
import { caughtUp } from "./operate/caught_up.ts";
import { countsOf, verify } from "./operate/verify/verify.ts";
import { connectRedis } from "./redis/connect.ts";
import type { RedisConnection } from "./redis/connection.ts";
import { createSearchIndex } from "./search/index.ts";
import { consumePeriodically, type RedisWriteBehind } from "./sink/sink.ts";
import { createTable, openTarget } from "./targets/open.ts";
import type { Target } from "./targets/target.ts";

/** Options of {@linkcode main}. */
export interface PipelineOptions {
  /** the path of the configuration file. @default {"config/config.yaml"} */
  config?: string | undefined;
  /** an entity of the configuration. @default {"session"} */
  entity?: string;
  /** where to, in place of the configuration's `targets` */
  targets?: DeepPartial<Config>["targets"];
  /** what to write, in place of the configuration's `dummy_data` */
  traffic?: Omit<TrafficOptions, "signal" | "onProgress">;
  /** called once the configuration names the servers that are used */
  onServers?: (config: Config) => void | Promise<void>;
}

/** How often the line on a terminal moves, and how often a line is printed elsewhere, in ms. */
const REDRAW_MS = 250;
const LINE_MS = 1000;
/** How long the target may take to catch up with the traffic, in ms, besides the sink's interval. */
const CATCH_UP_MS = 60_000;

/**
 * Runs the whole pipeline: connects, makes the table and the search index, writes dummy documents while a sink
 * carries them on, shows how far both are, and at the end prints the counters and compares Redis with the target.
 * Servers that the environment does not name are started, and stopped at the end.
 *
 * Ctrl-C ends it cleanly: calls and the running batch finish.
 * @returns the exit status: 0 all is equal, 1 writes failed or Redis and the target differ, 130 interrupted
 * @throws {ConfigError} where the configuration cannot be used
 * @throws {ConnectionError} where a server cannot be reached or used
 * @throws {WriteBehindError} where the target does not catch up, with the sink's last error
 *
 * @example
 * ```ts
 * import { main } from "writebehind";
 *
 * Deno.exit(await main({ traffic: { num_records: 500 } }));
 * ```
 */
export function main(options: PipelineOptions = {}): Promise<number> {
  return interruptible(async (signal) => {
    try {
      return await run(options, signal);
    } catch (error) {
      if (!(error instanceof InterruptedError)) throw error;
      console.log("stopped");
      return 130;
    }
  }, { cleansUp: true });
}

/** A pipeline that runs. */
interface Pipeline {
  redis: RedisConnection;
  target: Target;
  config: Config;
  entity: string;
  sink: RedisWriteBehind;
}

async function run(options: PipelineOptions, signal: AbortSignal): Promise<number> {
  const { entity = "session", targets, traffic, onServers } = options;
  const loaded = configWith(await loadConfig(options.config), targets ? { targets } : {});
  const { table } = entityConfig(loaded, entity);
  await using servers = await openServers(loaded, signal);
  const { config } = servers;
  await onServers?.(config);
  await using redis = await connectRedis(config);
  await using target = await openTarget(config);
  signal.throwIfAborted();
  await createTable(target, config, entity);
  const index = await createSearchIndex(redis, config, entity);
  console.log(`table ${table} is there; search index: ${index.status}`);
  for (const difference of index.differences) console.log(`  ${difference}`);

  await using sink = consumePeriodically(redis, target, config, entity);
  const pipeline: Pipeline = { redis, target, config, entity, sink };
  const report = await writeAndWatch(pipeline, traffic, signal);
  if (signal.aborted) await sink.stop();
  await printOutcome(pipeline, report);
  if (signal.aborted) {
    const { lag } = await readFigures(redis, target, config, entity);
    console.log(`stopped; ${counted(lag, "event")} left for the next sink`);
    return 130;
  }
  const equal = await compare(pipeline, signal);
  return equal && report.failed === 0 ? 0 : 1;
}

/** The servers that the environment names; else embedded ones, which are let go of at the end. */
async function openServers(loaded: Config, signal: AbortSignal) {
  const [{ ensureSetup }, { startServices }, { leaveServices }] = await Promise.all([
    import("./dev/setup.ts"),
    import("./dev/servers/services.ts"),
    import("./dev/servers/leave.ts"),
  ]);
  const environment = (name: string) => Deno.env.get(name);
  if (!environment("REDIS_URL") || usesPostgres(loaded) && !environment("DATABASE_URL")) {
    await ensureSetup({ onProgress: console.log, signal });
  }
  const servers = await startServices({ config: loaded, onProgress: console.log });
  console.log(describeServers(servers));
  return {
    config: configWith(loaded, serverOverrides(servers)),
    [Symbol.asyncDispose]: leaveServices,
  };
}

/**
 * Writes, and shows how far both sides are, until the target has all that was written, or until the signal.
 * @returns what was written
 */
async function writeAndWatch(
  pipeline: Pipeline,
  traffic: PipelineOptions["traffic"],
  signal: AbortSignal,
): Promise<TrafficReport> {
  const { redis, config, entity } = pipeline;
  const done = new AbortController();
  const watching = watch(await flowOf(pipeline), done.signal);
  try {
    const report = await dummyDataWorker(redis, config, entity, { ...traffic, signal });
    await catchUp(pipeline, signal);
    return report;
  } finally {
    done.abort();
    await watching;
  }
}

/** Waits until the target has all events, or until the signal. */
async function catchUp({ redis, target, config, entity, sink }: Pipeline, signal: AbortSignal) {
  const deadlineMs = CATCH_UP_MS + 1000 * config.write_behind.interval_seconds;
  try {
    await caughtUp(redis, target, config, entity, { signal, deadlineMs });
  } catch (error) {
    if (signal.aborted) return;
    if (sink.lastError === null) throw error;
    throw new WriteBehindError(`${reasonOf(error)}: ${reasonOf(sink.lastError)}`, { cause: error });
  }
}

/** Shows how far both sides are, again and again: in place on a terminal, elsewhere a line each time. */
async function watch(
  flow: () => Promise<string>,
  done: AbortSignal,
): Promise<void> {
  const began = performance.now();
  const terminal = Deno.stdout.isTerminal();
  const show = async () => {
    const seconds = (performance.now() - began) / 1000;
    const line = `${seconds.toFixed(1).padStart(5)} s  ${await flow()}`;
    if (terminal) redraw(line);
    else console.log(line);
  };
  for (;;) {
    await delay(terminal ? REDRAW_MS : LINE_MS, done);
    if (done.aborted) break;
    await show();
  }
  await show();
  if (terminal) console.log();
}

/** Writes over the line before; cut where the terminal ends, since a second line would stay. */
function redraw(line: string): void {
  const columns = Deno.consoleSize().columns || 80; // Some terminals report 0.
  Deno.stdout.writeSync(new TextEncoder().encode(`\r\x1b[2K${line.slice(0, columns - 1)}`));
}

/**
 * One line, of what the streams and the target say since now; what cannot be read is said in it, since the sink and
 * the traffic go on.
 */
async function flowOf({ redis, target, config, entity, sink }: Pipeline) {
  const sampler = new Sampler(redis, target, config, { entity });
  const { applied: before } = await sampler.sample();
  return async (): Promise<string> => {
    const trouble = sink.lastError ? `; ${reasonOf(sink.lastError)}` : "";
    try {
      const { written, applied, lagEvents } = await sampler.sample();
      return `${written - before} written, ${
        applied - before
      } applied, ${lagEvents} behind${trouble}`;
    } catch (error) {
      return reasonOf(error);
    }
  };
}

/** Prints what was written, and the counters of all processes. */
async function printOutcome({ redis }: Pipeline, report: TrafficReport): Promise<void> {
  const { inserted, updated, deleted, failed, seconds, reasons } = report;
  console.log(
    `${inserted} inserted, ${updated} updated, ${deleted} deleted, ${failed} failed ` +
      `in ${seconds.toFixed(1)} s`,
  );
  for (const [reason, times] of Object.entries(reasons)) {
    console.log(`  ${reason} (${counted(times, "time")})`);
  }
  await redis.counters.flush();
  console.log("counted by processes, in events:");
  for (const [name, count] of Object.entries(await loadMetrics(redis))) {
    console.log(`  ${name.padEnd(26)} ${count}`);
  }
}

/** Compares Redis with the target. @returns whether they are equal */
async function compare(
  { redis, target, config, entity }: Pipeline,
  signal: AbortSignal,
): Promise<boolean> {
  const report = await verify(redis, target, config, entity, { signal });
  console.log(countsOf(report));
  const same = report.counts.mismatches + report.counts.behind === 0;
  if (!same) console.log("Redis and the target differ: `deno task verify` lists where");
  return same;
}
