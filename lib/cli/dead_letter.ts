/** `deno task dead-letter`: lists, shows, replays and discards parked events. */

import { isUtf8 } from "node:buffer";
import { counted } from "../core/counted.ts";
import { ConfigError, WriteBehindError } from "../core/errors.ts";
import { replayDeadLetters, type ReplayOutcome, type ReplayReport } from "../operate/replay.ts";
import { connectRedis } from "../redis/connect.ts";
import { discardDeadLetters, listDeadLetters } from "../operate/dead_letters.ts";
import { openTarget, readDeadLetter } from "../targets/open.ts";
import type { DeadLetterSelection, DeadLetterState } from "../targets/dead_letters.ts";
import type { Config } from "../config/load.ts";
import type { Target } from "../targets/target.ts";
import { configured, oneLine, quoted, sayFor, targetNames } from "./common.ts";
import { progressOf } from "./progress.ts";

interface CommonOptions {
  config?: string;
  entity: string;
  /** by default the first, or all that have some of the partitions */
  target?: string;
  json?: boolean;
}

export interface SelectionOptions extends CommonOptions {
  all?: boolean;
  doc?: string;
  streamId?: string;
  dryRun?: boolean;
  yes?: boolean;
}

/** A target that a command works with. */
interface Opened {
  config: Config;
  target: Target;
  /** its name, where there are several of them */
  of?: string;
}

async function forEachTarget<Result>(
  { config: path, entity, target: named, ...options }: CommonOptions,
  work: (opened: Opened) => Promise<Result>,
): Promise<Result[]> {
  const config = await configured(path, sayFor(options));
  const names = targetNames(config, named);
  const results: Result[] = [];
  for (const name of names) {
    await using target = await openTarget(config, name);
    await target.check(entity);
    results.push(await work({ config, target, ...names.length > 1 ? { of: name } : {} }));
  }
  return results;
}

const sum = (numbers: number[]) => numbers.reduce((total, one) => total + one, 0);

export async function runList(
  options: CommonOptions & { state: DeadLetterState | "all" },
  signal: AbortSignal,
): Promise<void> {
  const count = sum(await forEachTarget(options, (opened) => list(opened, options, signal)));
  if (!options.json) {
    console.log(
      count === 0 ? "none" : `${counted(count, "document")}; \`show <number>\` shows an event`,
    );
  }
}

async function list(
  { config, target, of }: Opened,
  { entity, state: wanted, json }: Parameters<typeof runList>[0],
  signal: AbortSignal,
): Promise<number> {
  let count = 0;
  for await (const letter of listDeadLetters(target, config, entity, { state: wanted })) {
    signal.throwIfAborted();
    count++;
    // A line each, so that any number of them can be piped.
    if (json) console.log(JSON.stringify(of === undefined ? letter : { target: of, ...letter }));
    else {
      const { id, docId, streamId, eventType, waiting, attempts, state } = letter;
      const what = docId === null ? "an entry that is no event" : `${eventType} ${quoted(docId)}`;
      const times = attempts === 1 ? "once" : `${attempts} times`;
      console.log(
        `${of === undefined ? "" : `${of} | `}${id} | ${state} | ${letter.entity} | ${
          oneLine(what)
        } | ${streamId} | ${waiting} behind | ` +
          `tried ${times}, ${letter.firstAt.toISOString()} to ${letter.lastAt.toISOString()} | ` +
          `${letter.sqlstate || "-"} ${oneLine(letter.reason)}`,
      );
    }
  }
  return count;
}

/** Valid text as text, anything else as hexadecimal digits. */
function readable(bytes: Buffer): { text: string } | { hex: string } {
  return isUtf8(bytes) ? { text: bytes.toString() } : { hex: bytes.toString("hex") };
}

export async function runShow(id: number, options: CommonOptions): Promise<void> {
  const [event] = await forEachTarget(options, ({ target, of }) => {
    if (of === undefined) return readDeadLetter(target, id);
    throw new ConfigError("name the target, whose number that is, by --target: see list");
  });
  if (!event) throw new WriteBehindError(`there is no dead letter ${id}; see list`);
  const { payload, fields, ...rest } = event;
  const shown = {
    ...rest,
    payload: payload && readable(payload),
    fields: fields &&
      fields.flatMap((name, index) =>
        index % 2 === 0
          ? [{ name: readable(name), value: readable(fields[index + 1] ?? Buffer.alloc(0)) }]
          : []
      ),
  };
  if (options.json) return console.log(JSON.stringify(shown, null, 2));
  const line = (part: { text: string } | { hex: string }) =>
    "text" in part ? quoted(part.text) : `hex ${part.hex}`;
  for (const [name, value] of Object.entries(rest)) {
    const text = value instanceof Date
      ? value.toISOString()
      : name === "docId" && typeof value === "string"
      ? quoted(value)
      : oneLine(String(value));
    console.log(`${name}: ${text}`);
  }
  console.log(`payload: ${shown.payload ? line(shown.payload) : "none"}`);
  for (const { name, value } of shown.fields ?? []) {
    console.log(`field ${line(name)}: ${line(value)}`);
  }
}

function selectionOf({ all, doc, streamId }: SelectionOptions): DeadLetterSelection {
  const given = [all, doc, streamId].filter((option) => option !== undefined).length;
  if (given !== 1) {
    throw new WriteBehindError("Say which: give one of --all, --doc <id> and --stream-id <id>");
  }
  return doc !== undefined ? { docId: doc } : streamId !== undefined ? { streamId } : { all: true };
}

export async function runReplay(options: SelectionOptions, signal: AbortSignal): Promise<void> {
  const selection = selectionOf(options);
  const run = (opened: Opened) => replay(opened, selection, options, signal);
  const reports = await forEachTarget(options, run);
  const of = (name: keyof ReplayReport) => sum(reports.map((report) => report[name]));
  const [applied, gone, failed] = [of("applied"), of("gone"), of("failed")];
  const says = `${applied} applied, ${gone} gone, ${
    of("superseded")
  } superseded, ${failed} stay parked`;
  sayFor(options)(options.dryRun ? `would be: ${says}` : says);
  if (failed > 0) Deno.exitCode = 1;
  if (!options.all && applied + gone + failed === 0) {
    throw new WriteBehindError("nothing of the kind is parked; see list");
  }
}

async function replay(
  { config, target, of }: Opened,
  selection: DeadLetterSelection,
  options: SelectionOptions,
  signal: AbortSignal,
): Promise<ReplayReport> {
  await using redis = await connectRedis(config, { rights: "operator" });
  signal.throwIfAborted();
  const { dryRun = false, json } = options;
  const progress = await replayProgress(target, config, options, selection);
  const onOutcome = (outcome: ReplayOutcome) => {
    progress?.update(outcome.superseded + 1);
    if (json) {
      return console.log(JSON.stringify(of === undefined ? outcome : { target: of, ...outcome }));
    }
    // A bar stands for those that went well.
    if (progress && outcome.outcome !== "failed") return;
    const { docId, streamId, outcome: what, superseded, sqlstate, reason } = outcome;
    const which = docId === null ? "an entry that is no event" : quoted(docId);
    const done = {
      applied: dryRun ? "would be applied" : "applied",
      gone: "nothing to write, the document is gone",
      failed: `stays parked: ${sqlstate || "-"} ${oneLine(reason)}`,
    }[what];
    const older = superseded > 0 ? ` (${superseded} older superseded)` : "";
    const line = `${streamId} ${which}: ${done}${older}`;
    if (progress) progress.above(() => console.log(line));
    else console.log(line);
  };
  return await replayDeadLetters(redis, target, config, options.entity, selection, {
    dryRun,
    onOutcome,
    signal,
  }).finally(() => progress?.end());
}

/** On a terminal, a bar for a replay of all; `undefined` where a line for each document says as much. */
async function replayProgress(
  target: Target,
  config: Config,
  { all, entity, json }: SelectionOptions,
  selection: DeadLetterSelection,
) {
  if (!all || json || !Deno.stdout.isTerminal() || !Deno.stderr.isTerminal()) return undefined;
  const about = await discardDeadLetters(target, config, entity, selection, { dryRun: true });
  const bar = progressOf("events replayed");
  let done = 0;
  return { ...bar, update: (events: number) => bar.update(done += events, about) };
}

export async function runDiscard(options: SelectionOptions): Promise<void> {
  const selection = selectionOf(options);
  const dryRun = options.dryRun === true || options.yes !== true;
  const discard = ({ config, target }: Opened) =>
    discardDeadLetters(target, config, options.entity, selection, { dryRun });
  const events = sum(await forEachTarget(options, discard));
  if (options.json) {
    console.log(JSON.stringify({ discarded: dryRun ? 0 : events, selected: events }));
  } else console.log(`${counted(events, "event")} ${dryRun ? "would be discarded" : "discarded"}`);
  if (events === 0 && !options.all) {
    throw new WriteBehindError("nothing of the kind is parked; see list");
  }
  if (events > 0 && dryRun && options.dryRun !== true) {
    throw new WriteBehindError("nothing was changed; --yes does it");
  }
}
