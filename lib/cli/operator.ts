/** The commands of an operator, from status to dead-letter. Each loads only what it needs. */

import { type Command, InvalidArgumentError, Option } from "commander";
import { interruptible } from "../core/interrupt.ts";
import { CONFIG, ENTITY, JSON_OUTPUT, number } from "./common.ts";
import type { SelectionOptions } from "./dead_letter.ts";
import type { AdoptOptions } from "./adopt.ts";
import type { CacheOptions } from "./cache.ts";
import type { MendOptions } from "./mend.ts";
import type { RebuildCommandOptions } from "./rebuild.ts";
import type { RepartitionCommandOptions } from "./repartition.ts";
import type { TargetOptions } from "./target.ts";
import type { StatusOptions } from "./status.ts";
import type { TargetMigrateOptions } from "./target_migrate.ts";
import type { VerifyCommandOptions } from "./verify.ts";

const TARGET = [
  "--target <name>",
  "a target of the configuration (default: the first, or all that have some of the partitions)",
] as const;
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
    .description(
      "a line a partition: offset, lag, owner, last error; exit status 1 where somebody has to act",
    )
    .option(...CONFIG)
    .option("--entity <name>", "only this entity")
    .option("--target <name>", "only this target")
    .option("--watch [seconds]", "look again and again, every so often (default: 2)", seconds)
    .option(...JSON_OUTPUT)
    .action(async (options: StatusOptions) => (await import("./status.ts")).runStatus(options));

  program.command("verify")
    .description("compare Redis with the target; exit status 1 when they differ for good")
    .option(...CONFIG)
    .option(...ENTITY)
    .option(...TARGET)
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
    .option(...TARGET)
    .option("--limit <documents>", "with a cache: only those that were written last", wholeNumber)
    .option(...JSON_OUTPUT)
    .action((options: RebuildCommandOptions) =>
      interruptible(async (signal) => (await import("./rebuild.ts")).runRebuild(options, signal))
    );

  program.command("repartition")
    .description("give an entity another number of partitions; writers wait meanwhile")
    .option(...CONFIG)
    .option(...ENTITY)
    .option("--to <partitions>", "how many there are to be, 1 to 256", number)
    .option("--tagged", "with --to 1: give its names a tag, which a Redis Cluster needs")
    .option("--back", "take back one that was stopped before documents have moved")
    .option(...JSON_OUTPUT)
    .action((options: RepartitionCommandOptions) =>
      interruptible(
        async (signal) => (await import("./repartition.ts")).runRepartition(options, signal),
        { cleansUp: true },
      )
    );

  const caches = program.command("cache").description("which documents Redis may evict");
  for (
    const [verb, what] of [
      ["on", "let Redis evict what the target holds; goes on where it was stopped"],
      ["off", "bring all documents back into Redis, and evict none any more"],
      ["status", "tell the state of the cache"],
    ] as const
  ) {
    caches.command(verb).description(what)
      .option(...CONFIG)
      .option(...ENTITY)
      .option(...JSON_OUTPUT)
      .action((options: CacheOptions) =>
        interruptible(async (signal) =>
          (await import("./cache.ts")).runCache(verb, options, signal)
        )
      );
  }

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
    .option(...TARGET)
    .option("--yes", "do it")
    .option(...JSON_OUTPUT)
    .action(async (options: AdoptOptions) => (await import("./adopt.ts")).runAdopt(options));

  addTargets(program);
  addDeadLetter(program);
}

function addTargets(program: Command): void {
  const targets = program.command("target").description("the targets of a pipeline that runs");
  const load = () => import("./target.ts");
  const command = (name: string, what: string) =>
    targets.command(name).description(what)
      .option(...CONFIG)
      .option("--entity <name>", "only this entity")
      .option(...JSON_OUTPUT);
  command("list", "list them, a line a stream, by what the streams say")
    .action(async (options: TargetOptions) => (await load()).runTargetList(options));
  const NAME = ["<name>", "its name in the configuration"] as const;
  command("add", "fill a target with what Redis holds, and let sinks carry events on to it")
    .argument(...NAME)
    .action((name: string, options: TargetOptions) =>
      interruptible(async (signal) => (await load()).runTargetAdd(name, options, signal))
    );
  for (
    const [verb, what] of [
      ["pause", "stop carrying events on to a target; they are kept"],
      ["resume", "carry them on again"],
    ] as const
  ) {
    command(verb, what).argument(...NAME)
      .action(async (name: string, options: TargetOptions) =>
        (await load()).runTargetState(name, options, verb)
      );
  }
  command("remove", "give a target up, with the events that wait for it")
    .argument(...NAME)
    .option("--yes", "do it")
    .action(async (name: string, options) => (await load()).runTargetRemove(name, options));
  command("migrate", "make the typed columns of tables as configured; prints the SQL")
    .option("--target <name>", "only this target")
    .option("--yes", "run it")
    .action(async (options: TargetMigrateOptions) =>
      (await import("./target_migrate.ts")).runTargetMigrate(options)
    );
}

function addDeadLetter(program: Command): void {
  const letters = program.command("dead-letter")
    .description("events that could not be stored, and those behind them");
  const load = () => import("./dead_letter.ts");
  letters.command("list")
    .description("list them, a line a document")
    .option(...CONFIG)
    .option(...ENTITY)
    .option(...TARGET)
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
    .option(...TARGET)
    .option(...JSON_OUTPUT)
    .action(async (id: number, options) => (await load()).runShow(id, options));
  const selecting = (command: Command) =>
    command
      .option(...CONFIG)
      .option(...ENTITY)
      .option(...TARGET)
      .option("--all", "all that are parked")
      .option("--doc <id>", "those of this document")
      .option("--stream-id <id>", "the one with this stream id")
      .option("--dry-run", "show what would happen, and change nothing")
      .option(...JSON_OUTPUT);
  selecting(letters.command("replay"))
    .description(
      "apply the newest event of each document, the older ones are superseded; with every_event, each",
    )
    .action((options: SelectionOptions) =>
      interruptible(async (signal) => (await load()).runReplay(options, signal))
    );
  selecting(letters.command("discard"))
    .description("give them up; they stay in the table")
    .option("--yes", "do it")
    .action(async (options: SelectionOptions) => (await load()).runDiscard(options));
}
