/**
 * The library's log: every event, as a structured record of LogTape. It says nothing until the program that uses the
 * library configures LogTape for the category `writebehind`.
 * @module
 */

import type { Logger } from "@logtape/logtape";
import { passes } from "./error_kinds.ts";
import { reasonOf } from "./errors.ts";
import type { Emitter, RedisEvents, SinkEvents, TargetEvents } from "./events.ts";

type Level = "debug" | "info" | "warning" | "error";
type AllEvents = SinkEvents & RedisEvents & TargetEvents;

/** How loud each event is, and its line for people: LogTape puts the fields in. */
export const LINES: {
  [Name in keyof AllEvents]: [Level | ((event: AllEvents[Name]) => Level), string];
} = {
  claimed: [
    ({ again }) => again ? "debug" : "info",
    "{stream} claimed, epoch {epoch}, at offset {offset}",
  ],
  standby: ["info", "{stream} is owned by another sink: waiting for it"],
  lost: ["warning", "{stream} lost: {error}"],
  released: ["info", "{stream} given back"],
  paused: ["info", "{stream} is not carried on to {target}: an operator has paused it"],
  detached: [
    "error",
    "{target} has lost its place in {stream}, which was full of events that it did not have; add it anew",
  ],
  releaseFailed: [
    "warning",
    "{stream} was not given back, so a successor waits until the lease ends: {error}",
  ],
  indexNotKept: [
    "warning",
    "{stream} has moved to another node of the cluster, where its search index was not made: {error}",
  ],
  leaseNotRenewed: ["warning", "the lease of {stream} was not renewed: {error}"],
  applied: ["debug", "{events} events of {stream} applied, {rows} rows"],
  failed: [
    ({ kind }) => passes(kind) ? "warning" : "error",
    "{stream}: failure {failures} in a row ({kind}): {error}",
  ],
  recovered: ["info", "{stream} is well again after {failures} failures"],
  halved: ["info", "batches of {stream} have at most {batchSize} events from now on"],
  parked: ["warning", "{stream}: event {streamId} of document {documentId} parked: {reason}"],
  wentBack: [
    "warning",
    "{stream} has gone back: the entry {witness}, which was applied last, is not in it any more",
  ],
  rewound: [
    "warning",
    "{stream}: {documents} documents were resent; run verify for what else was lost",
  ],
  offsetWentBack: [
    "warning",
    "{stream}: the target has lost what it had committed after {offset}, up to {told}: {reason}",
  ],
  doubted: ["error", "{stream}: rows may be missing or old: {reason}; run verify"],
  swallowed: [
    "warning",
    "{stream}: {rows} rows were neither written nor refused, such as those of {documentIds}: a trigger of the table " +
    "swallows them",
  ],
  madeAnew: ["warning", "{stream}: {tables} were gone, and were made anew"],
  columnsDiffer: [
    "warning",
    "{stream}: the table is not as its columns are configured ({differences}): deno task target migrate shows the SQL",
  ],
  trimFailed: ["warning", "{stream} could not be trimmed, and grows: {error}"],
  settleFailed: [
    "warning",
    "{stream}: what was applied could not be settled, and stays in Redis: {error}",
  ],
  dueFailed: ["warning", "{stream}: what is due could not be deleted, and stays: {error}"],
  notNoted: [
    "error",
    "{stream}: the event {streamId} was written by a program that knows of no cache; documents are evicted no more: stop it, " +
    "then run deno task cache on",
  ],
  resent: [
    "warning",
    "{stream}: {documents} documents were sent again, whose events no row shows: they were removed from the stream, or a " +
    "trigger of the table has swallowed them",
  ],
  notOpened: [
    "warning",
    "nothing is carried on to {target}, which cannot be opened; trying again: {error}",
  ],
  scrapeFailed: ["warning", "/metrics goes without what {server} would say of {entity}: {error}"],
  connectionLost: ["warning", "connection to Redis at {address} lost, trying again: {error}"],
  reconnected: ["info", "connected to Redis at {address} again"],
  countersNotSent: ["warning", "counters not sent to Redis at {address}, kept for later: {error}"],
  replayed: ["info", "{stream}: parked event {streamId} of document {documentId}: {outcome}"],
  listenerFailed: ["error", "a listener of {listensTo} failed: {error}"],
};

/**
 * Logs every event of a source, under `writebehind` and a category of its own.
 * @param of what it is of, such as one of several targets: a category below that
 */
export function logEvents(
  source: "sink" | "redis",
  events: Emitter<SinkEvents> | Emitter<RedisEvents> | Emitter<TargetEvents>,
  of?: string,
): void {
  const category = of === undefined ? [source] : [source, of];
  (events as Emitter<AllEvents>).onAll((name, event) => {
    const [level, line] = LINES[name];
    return withLogger(category, (logger) => {
      const loud = typeof level === "string" ? level : level(event);
      if (logger.isEnabledFor(loud)) {
        logger[loud](line, { event: name, ...logged(event) });
      }
    });
  });
}

/** Logs what harms nobody and is no event of a sink, connection or target. Never rejects. */
export async function logWarning(category: string, line: string, error: unknown): Promise<void> {
  try {
    await withLogger([category], (logger) => logger.warning(line, logged({ error })));
  } catch {
    // Without a log there is nobody to tell.
  }
}

const loggers = new Map<string, Logger>();

/** LogTape is loaded with the first event: many programs only read and write documents, and never log. */
function withLogger(category: string[], use: (logger: Logger) => void): void | Promise<void> {
  const name = category.join(".");
  const logger = loggers.get(name);
  if (logger) return use(logger);
  return import("@logtape/logtape").then(({ getLogger }) => {
    loggers.set(name, getLogger(["writebehind", ...category]));
    use(loggers.get(name)!);
  });
}

/** An event's fields as they are logged: errors as texts, without passwords. */
function logged(event: object): Record<string, unknown> {
  // Freshness is many numbers a batch: for metrics, not for a log.
  const { error, reason, freshnessMs: _, ...fields } = event as Record<string, unknown>;
  return {
    ...fields,
    ...(reason === undefined ? {} : { reason: redacted(String(reason)) }),
    ...(error === undefined ? {} : { error: redacted(reasonOf(error)) }),
    // Such errors are defects of ours or of a library: their messages say too little.
    ...(error instanceof TypeError || error instanceof RangeError
      ? { stack: redacted(String(error.stack)) }
      : {}),
  };
}

/** An address in a message is shown without its password. */
export function redacted(text: string): string {
  // Piece by piece: one pattern over all of it would take the square of its length.
  const pieces = text.split("@");
  const last = pieces.pop()!;
  return [...pieces.map(withoutPassword), last].join("@");
}

/** What comes before an `@`: the password of an address at its end is hidden. */
function withoutPassword(text: string): string {
  const word = text.split(/\s/).at(-1)!;
  const user = /:\/\/[^:/]*:/.exec(word);
  if (user === null) return text;
  return `${text.slice(0, text.length - word.length + user.index)}${user[0]}***`;
}
