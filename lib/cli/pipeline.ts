/** The command `pipeline`. */

import { type Command, Option } from "commander";
import { WriteBehindError } from "../core/errors.ts";
import { configureLog, hideSecrets, type LogOptions, logOptions } from "./log.ts";
import { trafficOf, type WritingOptions, writingOptions } from "./traffic.ts";

interface PipelineCommandOptions extends WritingOptions, LogOptions {
  target?: "postgresql" | "sqlite";
  path?: string;
}

/** The SQLite file where no other is named. */
const FILE = "out/pipeline.db";

async function runPipeline(options: PipelineCommandOptions) {
  const { target: kind, path } = options;
  if (path !== undefined && kind !== "sqlite") {
    throw new WriteBehindError("--path goes with --target sqlite: it names the file");
  }
  const target = kind === "sqlite"
    ? { name: kind, kind, path: path ?? FILE }
    : kind && { name: kind, kind };
  const { main } = await import("../pipeline.ts");
  await configureLog(options);
  Deno.exitCode = await main({
    config: options.config,
    entity: options.entity,
    ...(target ? { targets: [target] } : {}),
    traffic: trafficOf(options),
    onServers: hideSecrets,
  });
}

/** Adds it to the command line. */
export function addPipeline(program: Command): void {
  writingOptions(logOptions(program.command("pipeline"), "warning"))
    .description("the whole flow: traffic, a sink beside it, at the end counters and a comparison")
    .addOption(
      new Option("--target <kind>", "where to (default: as the configuration says)")
        .choices(["postgresql", "sqlite"]),
    )
    .option("--path <file>", `the SQLite file (default: ${FILE})`)
    .action(runPipeline);
}
