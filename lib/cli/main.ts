/**
 * The command line. Each command loads only what it needs.
 * @module
 */

import { Command } from "commander";
import { loadConfig } from "../config/load.ts";
import { requireDeno } from "../core/deno_version.ts";
import { ending } from "../core/ending.ts";
import { logFailure } from "./log.ts";
import { addClients } from "./clients.ts";
import { addOperatorCommands } from "./operator.ts";
import { addPipeline } from "./pipeline.ts";
import { addReset } from "./reset.ts";
import { addServices } from "./services.ts";
import { addSink } from "./sink.ts";
import { addStage } from "./stage.ts";
import { addTraffic } from "./traffic.ts";

function program(): Command {
  const command = new Command("deno task")
    .description("Redis as a fast write buffer in front of a database")
    .showHelpAfterError()
    .enablePositionalOptions();

  command.command("demo")
    .description("run the notebooks headless on embedded servers, and write pages under out/")
    .action(async () => {
      const { runDemo } = await import("../dev/jupyter/demo.ts");
      await runDemo({ config: await loadConfig() });
    });

  command.command("lab")
    .description("open the notebooks in JupyterLab with everything running, until Ctrl-C")
    .option("--no-browser", "print the address instead of opening it")
    .option("--present", "for an audience: large type, one document, no sidebar")
    .action(async ({ browser, present }: { browser: boolean; present?: true }) => {
      const { runLab } = await import("../dev/jupyter/lab.ts");
      const shown = browser ? {} : { browser: false };
      await runLab({ config: await loadConfig(), present, ...shown });
    });

  addServices(command);
  addStage(command);
  addSink(command);
  addTraffic(command);
  addPipeline(command);
  addOperatorCommands(command);
  addReset(command);
  addClients(command);
  return command;
}

/**
 * Runs one command of the command line.
 * @param args such as `["sink", "--entity", "session"]`
 * @returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted
 */
export async function cli(args: string[] = Deno.args): Promise<number> {
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
  return await ending(async () => {
    requireDeno();
    try {
      await command.parseAsync(args, { from: "user" });
    } catch (error) {
      if (usage === undefined) throw error;
    }
    return usage;
  }, (text) => logFailure(text));
}

if (import.meta.main) {
  const status = await cli();
  Deno.exit(status || Deno.exitCode);
}
