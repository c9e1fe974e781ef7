/**
 * The command line. Each command loads only what it needs.
 * @module
 */

import { Command } from "commander";
import { type Config, loadConfig } from "../config/load.ts";
import { describeServers } from "../config/servers.ts";
import { reasonOf, WriteBehindError } from "../core/errors.ts";
import { InterruptedError, interruptible } from "../core/interrupt.ts";
import { connectRedis, type RedisConnection } from "../redis/connection.ts";
import { openTarget } from "../targets/open.ts";
import { CONFIG, configured, ENTITY, number } from "./common.ts";
import { configureLog, type LogOptions, logOptions } from "./log.ts";
import { addOperatorCommands } from "./operator.ts";

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
  const config = await configured(path);
  await configureLog(logging, config);
  await using redis = await connectRedis(config);
  await using target = await openTarget(config);
  const sink = consumePeriodically(redis, target, config, entity);
  await using served = metrics === undefined ? null : await serve(redis, config, metrics);
  if (served) console.log(`metrics for Prometheus at ${served.url}`);
  console.log(`carrying ${entity} events on to PostgreSQL; Ctrl-C stops after the running batch`);
  let reported = "";
  const report = () => {
    const { events, rows } = sink.status;
    const problem = sink.lastError ? `; ${sink.lastError.message}` : "";
    const line = `${events} events applied, ${rows} rows${problem}`;
    if (line !== reported) console.log(reported = line);
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

interface TrafficOptions extends LogOptions {
  config?: string;
  entity: string;
  records?: number;
  rate?: number;
  duration?: number;
  concurrency?: number;
  seed?: number;
}

async function runTraffic(options: TrafficOptions, signal: AbortSignal) {
  const [{ dummyDataWorker }, { trafficProgress }] = await Promise.all([
    import("../demo/traffic.ts"),
    import("./traffic_progress.ts"),
  ]);
  const config = await configured(options.config);
  await configureLog(options, config);
  await using redis = await connectRedis(config);
  const { records, rate, duration, concurrency, seed } = options;
  const total = records ?? config.dummy_data.num_records;
  const progress = trafficProgress(
    (duration ?? config.dummy_data.duration_seconds) === 0 ? total : undefined,
  );
  const report = await dummyDataWorker(redis, config, options.entity, {
    ...(records === undefined ? {} : { num_records: records }),
    ...(rate === undefined ? {} : { rate }),
    ...(duration === undefined ? {} : { duration_seconds: duration }),
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(seed === undefined ? {} : { seed }),
    signal,
    onProgress: progress.update,
  });
  progress.end();
  console.log(report);
  if (report.failed > 0) Deno.exitCode = 1;
}

async function keepServices(signal: AbortSignal) {
  const [{ ensureSetup }, { runServices }] = await Promise.all([
    import("../dev/setup.ts"),
    import("../dev/servers/services.ts"),
  ]);
  await ensureSetup({ onProgress: console.log, signal });
  const { stopped, heldBy } = await runServices({
    config: await loadConfig(),
    onProgress: console.log,
    signal,
    onReady: (servers) => {
      console.log(describeServers(servers));
      console.log("running; Ctrl-C stops them");
    },
  });
  if (stopped.length > 0) console.log(`stopped: ${stopped.join(", ")}`);
  if (heldBy.length > 0) console.log(`left running: process ${heldBy.join(", ")} uses them`);
}

function program(): Command {
  const command = new Command("deno task")
    .description("Redis as a fast write buffer in front of PostgreSQL")
    .showHelpAfterError();

  command.command("demo")
    .description("run the notebooks headless on embedded servers, and write pages under out/")
    .action(async () => {
      const { runDemo } = await import("../dev/jupyter/demo.ts");
      await runDemo({ config: await loadConfig() });
    });

  command.command("lab")
    .description("open the notebook in JupyterLab with everything running, until Ctrl-C")
    .option("--no-browser", "print the address instead of opening it")
    .action(async ({ browser }: { browser: boolean }) => {
      const { runLab } = await import("../dev/jupyter/lab.ts");
      await runLab({ config: await loadConfig(), ...(browser ? {} : { browser: false }) });
    });

  const services = command.command("services")
    .description("the embedded Redis Stack (a primary and a replica) and PostgreSQL");
  services.command("start", { isDefault: true })
    .description("start them, and keep them until Ctrl-C or `services stop`")
    .action(() => interruptible(keepServices, { cleansUp: true }));
  services.command("stop").description("stop those that this checkout started").action(async () => {
    const { stopServices } = await import("../dev/servers/services.ts");
    const stopped = await stopServices({ onProgress: console.log });
    console.log(stopped.length > 0 ? `stopped: ${stopped.join(", ")}` : "none were running");
  });

  logOptions(command.command("sink"))
    .description("carry events on to PostgreSQL, until Ctrl-C")
    .option(...CONFIG)
    .option(...ENTITY)
    .option("--until-eof", "stop when standard input closes, too")
    .option("--metrics <port>", "serve /metrics for Prometheus on loopback", number)
    .action((options: SinkOptions) => interruptible((signal) => runSink(options, signal)));

  logOptions(command.command("traffic"))
    .description("write documents as an application would")
    .option(...CONFIG)
    .option(...ENTITY)
    .option("--records <n>", "writes in all (default: dummy_data.num_records)", number)
    .option("--rate <n>", "writes a second; 0 is as fast as possible", number)
    .option("--duration <seconds>", "how long; 0 is until all records are written", number)
    .option("--concurrency <n>", "writes in flight", number)
    .option("--seed <n>", "of the random generator", number)
    .action((options: TrafficOptions) => interruptible((signal) => runTraffic(options, signal)));

  addOperatorCommands(command);
  return command;
}

/**
 * Runs one command of the command line.
 * @param args such as `["sink", "--entity", "session"]`
 * @returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted
 */
export async function main(args: string[] = Deno.args): Promise<number> {
  const command = program();
  let usage: number | undefined;
  const strict = (one: Command) => {
    one.exitOverride((error) => {
      usage = error.exitCode === 0 ? 0 : 2;
      throw error;
    });
    one.commands.forEach(strict);
  };
  strict(command);
  try {
    await command.parseAsync(args, { from: "user" });
    return 0;
  } catch (error) {
    if (usage !== undefined) return usage;
    // An error thrown on purpose says what to do; of any other, the stack is the best there is.
    const known = error instanceof WriteBehindError || !(error instanceof Error);
    console.error(known ? reasonOf(error) : error.stack);
    return error instanceof InterruptedError ? 130 : 1;
  }
}

if (import.meta.main) {
  const status = await main();
  Deno.exit(status || Deno.exitCode);
}
