/** The command `stage`. */

import type { Command } from "commander";
import { ConfigError } from "../core/errors.ts";
import { interruptible } from "../core/interrupt.ts";
import { CONFIG, configured, ENTITY, number, port } from "./common.ts";

interface StageCommandOptions {
  config?: string;
  entity: string;
  given?: boolean;
  control?: boolean;
  cluster?: boolean;
  port?: number;
  rate: number;
}

/** Traffic that a stage of its own begins with, in documents a second. */
const FIRST_RATE = 1000;

/** By what somebody else's servers are asked for; `undefined` where they are not. */
function whatGives({ given, control, config }: StageCommandOptions): string | undefined {
  if (given) return "--given";
  if (control) return "--control";
  if (config !== undefined) return "--config";
  return ["REDIS_URL", "DATABASE_URL"].find((name) => Deno.env.get(name));
}

async function runStage(options: StageCommandOptions, signal: AbortSignal): Promise<void> {
  const [{ ensureSetup }, { Stage }, { serveStage }] = await Promise.all([
    import("../dev/setup.ts"),
    import("../dev/stage/stage.ts"),
    import("../dev/stage/serve.ts"),
  ]);
  const { config: configPath, entity, control = false, cluster = false, rate } = options;
  const givenBy = whatGives(options);
  if (cluster && givenBy !== undefined) {
    throw new ConfigError(
      `--cluster is for servers of the stage's own, and ${givenBy} names others: leave out one of them`,
    );
  }
  const isGiven = givenBy !== undefined;
  if (!isGiven) await ensureSetup({ onProgress: console.log, signal });
  const given = isGiven ? { config: await configured(configPath), configPath } : undefined;
  if (!given) {
    const redis = cluster
      ? "Redis Cluster of three masters and their replicas"
      : "Redis with a replica";
    console.log(`starting a ${redis}, a PostgreSQL and two sinks …`);
  }
  await using stage = await Stage.start({
    given,
    control,
    cluster,
    entity,
    rate: given ? 0 : rate,
  });
  await using served = await serveStage(stage, options.port);
  if (given && !control) console.log("the servers are only read; --control lets the page write");
  console.log(`the stage is at ${served.url}`);
  console.log("Ctrl-C stops it and everything that it started");
  if (!signal.aborted) {
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
  }
  console.log("stopping …");
}

/** Adds it to the command line. */
export function addStage(program: Command): void {
  program.command("stage")
    .description("one page for talks and for operating, on servers of its own, until Ctrl-C")
    .option("--given", "watch the servers that the other commands use, and only read them")
    .option("--control", "as --given, and let the page write and replay there")
    .option("--cluster", "its own Redis is a cluster: three masters and their replicas")
    .option(CONFIG[0], "as --given, with this configuration file")
    .option(...ENTITY)
    .option("--port <port>", "of the page, on loopback (default: one that is free)", port)
    .option("--rate <n>", "documents a second at the beginning", number, FIRST_RATE)
    .action((options: StageCommandOptions) =>
      interruptible((signal) => runStage(options, signal), { cleansUp: true })
    );
}
