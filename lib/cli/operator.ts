/** The commands of an operator: status, verify, dead-letter, rebuild, mend. Each loads only what it needs. */

import { type Command, InvalidArgumentError, Option } from "commander";
import { interruptible } from "../core/interrupt.ts";
import { CONFIG, ENTITY, JSON_OUTPUT, number } from "./common.ts";
import type { SelectionOptions } from "./dead_letter.ts";
import type { AdoptOptions } from "./adopt.ts";
import type { MendOptions } from "./mend.ts";
import type { RebuildCommandOptions } from "./rebuild.ts";
import type { StatusOptions } from "./status.ts";
import type { VerifyCommandOptions } from "./verify.ts";

const SETTLE_SECONDS = 10;

function wholeNumber(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError("Expected a number from `list`.");
  return Number(text);
}

function seconds(text: string): number {
  const value = number(text);
  if (value < 0.1) throw new InvalidArgumentError("Expected 0.1 seconds or more.");
  return value;
}

/** Adds them to the command line. */
export function addOperatorCommands(program: Command): void {
  program.command("status")
    .description("a line a partition: offset, lag, owner, last error; exit status 1 when stuck")
    .option(...CONFIG)
    .option("--entity <name>", "only this entity")
    .option("--watch [seconds]", "look again and again, every so often (default: 2)", seconds)
    .option(...JSON_OUTPUT)
    .action(async (options: StatusOptions) => (await import("./status.ts")).runStatus(options));

  program.command("verify")
    .description("compare Redis with the target; exit status 1 when they differ for good")
    .option(...CONFIG)
    .option(...ENTITY)
    .option(
      "--settle <seconds>",
      "how long the target may take to catch up with what was seen",
      number,
      SETTLE_SECONDS,
    )
    .addOption(
      new Option("--repair <side>", "repair this side; prints the plan")
        .choices(["target", "redis"]),
    )
    .option("--yes", "do what the plan says")
    .option(...JSON_OUTPUT)
    .action((options: VerifyCommandOptions) =>
      interruptible(async (signal) => (await import("./verify.ts")).runVerify(options, signal))
    );

  program.command("rebuild")
    .description("fill an empty Redis from the target: documents and search index")
    .option(...CONFIG)
    .option(...ENTITY)
    .option(...JSON_OUTPUT)
    .action((options: RebuildCommandOptions) =>
      interruptible(async (signal) => (await import("./rebuild.ts")).runRebuild(options, signal))
    );

  program.command("mend")
    .description(
      "remove entries whose ids no version can hold, which block a stream; prints the plan",
    )
    .option(...CONFIG)
    .option(...ENTITY)
    .option("--yes", "do it")
    .option(...JSON_OUTPUT)
    .action(async (options: MendOptions) => (await import("./mend.ts")).runMend(options));

  program.command("adopt")
    .description(
      "let a partition go on whose Redis, target or table is another one now; prints the plan",
    )
    .option(...CONFIG)
    .option(...ENTITY)
    .option("--yes", "do it")
    .option(...JSON_OUTPUT)
    .action(async (options: AdoptOptions) => (await import("./adopt.ts")).runAdopt(options));

  addDeadLetter(program);
}

function addDeadLetter(program: Command): void {
  const letters = program.command("dead-letter")
    .description("events that could not be stored, and those behind them");
  const load = () => import("./dead_letter.ts");
  letters.command("list")
    .description("list them, a line a document")
    .option(...CONFIG)
    .option(...ENTITY)
    .addOption(
      new Option("--state <state>", "which ones")
        .choices(["parked", "replayed", "superseded", "discarded", "all"]).default("parked"),
    )
    .option(...JSON_OUTPUT)
    .action((options) => interruptible(async (signal) => (await load()).runList(options, signal)));
  letters.command("show").argument("<number>", "from list", wholeNumber)
    .description("show an event as it came")
    .option(...CONFIG)
    .option(...ENTITY)
    .option(...JSON_OUTPUT)
    .action(async (id: number, options) => (await load()).runShow(id, options));
  const selecting = (command: Command) =>
    command
      .option(...CONFIG)
      .option(...ENTITY)
      .option("--all", "all that are parked")
      .option("--doc <id>", "those of this document")
      .option("--stream-id <id>", "the one with this stream id")
      .option("--dry-run", "show what would happen, and change nothing")
      .option(...JSON_OUTPUT);
  selecting(letters.command("replay"))
    .description("apply the newest event of each document; the older ones are superseded")
    .action((options: SelectionOptions) =>
      interruptible(async (signal) => (await load()).runReplay(options, signal))
    );
  selecting(letters.command("discard"))
    .description("give them up; they stay in the table")
    .option("--yes", "do it")
    .action(async (options: SelectionOptions) => (await load()).runDiscard(options));
}
