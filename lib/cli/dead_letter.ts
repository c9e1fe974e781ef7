/** `deno task dead-letter`: lists, shows, replays and discards parked events. */

import { isUtf8 } from "node:buffer";
import { WriteBehindError } from "../core/errors.ts";
import { replayDeadLetters, type ReplayOutcome } from "../operate/replay.ts";
import { connectRedis } from "../redis/connect.ts";
import { discardDeadLetters, listDeadLetters } from "../operate/dead_letters.ts";
import { openTarget, readDeadLetter } from "../targets/open.ts";
import type { DeadLetterSelection, DeadLetterState } from "../targets/dead_letters.ts";
import type { Config } from "../config/load.ts";
import type { Target } from "../targets/target.ts";
import { configured, oneLine, quoted, sayFor } from "./common.ts";
import { progressOf } from "./progress.ts";

interface CommonOptions {
  config?: string;
  entity: string;
  /** by default the first */
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

async function opened({ config: path, entity, target: name, ...options }: CommonOptions) {
  const config = await configured(path, sayFor(options));
  const target = await openTarget(config, name);
  await target.check(entity);
  return { config, target };
}

export async function runList(
  options: CommonOptions & { state: DeadLetterState | "all" },
  signal: AbortSignal,
): Promise<void> {
  const { config, target } = await opened(options);
  await using _closed = target;
  let count = 0;
  for await (
    const letter of listDeadLetters(target, config, options.entity, { state: options.state })
  ) {
    signal.throwIfAborted();
    count++;
    // A line each, so that any number of them can be piped.
    if (options.json) console.log(JSON.stringify(letter));
    else {
      const { id, docId, streamId, eventType, waiting, attempts, state } = letter;
      const what = docId === null ? "an entry that is no event" : `${eventType} ${quoted(docId)}`;
      const times = attempts === 1 ? "once" : `${attempts} times`;
      console.log(
        `${id} | ${state} | ${letter.entity} | ${
          oneLine(what)
        } | ${streamId} | ${waiting} behind | ` +
          `tried ${times}, ${letter.firstAt.toISOString()} to ${letter.lastAt.toISOString()} | ` +
          `${letter.sqlstate || "-"} ${oneLine(letter.reason)}`,
      );
    }
  }
  if (!options.json) {
    console.log(count === 0 ? "none" : `${count} documents; \`show <number>\` shows an event`);
  }
}

/** Valid text as text, anything else as hexadecimal digits. */
function readable(bytes: Buffer): { text: string } | { hex: string } {
  return isUtf8(bytes) ? { text: bytes.toString() } : { hex: bytes.toString("hex") };
}

export async function runShow(id: number, options: CommonOptions): Promise<void> {
  const { target } = await opened(options);
  await using _closed = target;
  const event = await readDeadLetter(target, id);
  if (event === null) throw new WriteBehindError(`there is no dead letter ${id}; see list`);
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
  const { config, target } = await opened(options);
  await using _closed = target;
  await using redis = await connectRedis(config);
  signal.throwIfAborted();
  const { dryRun = false, json } = options;
  const progress = await replayProgress(target, config, options, selection);
  const onOutcome = (outcome: ReplayOutcome) => {
    progress?.update(outcome.superseded + 1);
    if (json) return console.log(JSON.stringify(outcome));
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
  const report = await replayDeadLetters(redis, target, config, options.entity, selection, {
    dryRun,
    onOutcome,
    signal,
  }).finally(() => progress?.end());
  const { applied, gone, superseded, failed } = report;
  sayFor(options)(
    `${dryRun ? "would be: " : ""}${applied} applied, ${gone} gone, ${superseded} superseded, ` +
      `${failed} stay parked`,
  );
  if (failed > 0) Deno.exitCode = 1;
  if (!options.all && applied + gone + failed === 0) {
    throw new WriteBehindError("nothing of the kind is parked; see list");
  }
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
  const { config, target } = await opened(options);
  await using _closed = target;
  const dryRun = options.dryRun === true || options.yes !== true;
  const events = await discardDeadLetters(target, config, options.entity, selection, { dryRun });
  if (options.json) {
    console.log(JSON.stringify({ discarded: dryRun ? 0 : events, selected: events }));
  } else console.log(dryRun ? `${events} events would be discarded` : `${events} events discarded`);
  if (events === 0 && !options.all) {
    throw new WriteBehindError("nothing of the kind is parked; see list");
  }
  if (dryRun && options.dryRun !== true) {
    throw new WriteBehindError("nothing was changed; --yes does it");
  }
}
