/** The command `pipeline`. */

import type { Command } from "commander";
import { configureLog, hideSecrets, type LogOptions, logOptions } from "./log.ts";
import { trafficOf, type WritingOptions, writingOptions } from "./traffic.ts";

async function runPipeline(options: WritingOptions & LogOptions) {
  const { main } = await import("../pipeline.ts");
  await configureLog(options);
  Deno.exitCode = await main({
    config: options.config,
    entity: options.entity,
    traffic: trafficOf(options),
    onServers: hideSecrets,
  });
}

/** Adds it to the command line. */
export function addPipeline(program: Command): void {
  writingOptions(logOptions(program.command("pipeline"), "warning"))
    .description("the whole flow: traffic, a sink beside it, at the end counters and a comparison")
    .action(runPipeline);
}
