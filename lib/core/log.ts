/**
 * The library's log: every event, as a structured record of LogTape. It says nothing until the program that uses the
 * library configures LogTape for the category `writebehind`.
 * @module
 */

import type { Emitter, RedisEvents, SinkEvents } from "./events.ts";
import { reasonOf } from "./errors.ts";

type Level = "debug" | "info" | "warning" | "error";
type LogTape = typeof import("@logtape/logtape");

const SINK_LEVELS: Record<keyof SinkEvents, Level> = {
  claimed: "info",
  standby: "info",
  lost: "warning",
  released: "info",
  releaseFailed: "warning",
  leaseNotRenewed: "warning",
  applied: "debug",
  failed: "error",
  recovered: "info",
  halved: "info",
  parked: "warning",
  wentBack: "warning",
  rewound: "warning",
  trimFailed: "warning",
  defect: "error",
  listenerFailed: "error",
};
const REDIS_LEVELS: Record<keyof RedisEvents, Level> = {
  connectionLost: "warning",
  reconnected: "info",
  countersNotSent: "warning",
  listenerFailed: "error",
};

/** Logs what a sink reports, under `writebehind`, `sink`. */
export function logSink(events: Emitter<SinkEvents>): void {
  events.onAll((name, event) => log("sink", SINK_LEVELS[name], name, event));
}

/** Logs what a connection to Redis reports, under `writebehind`, `redis`. */
export function logRedis(events: Emitter<RedisEvents>): void {
  events.onAll((name, event) => log("redis", REDIS_LEVELS[name], name, event));
}

/** Loaded with the first event: many programs only read and write documents, and never log. */
let library: Promise<LogTape> | undefined;

async function log(category: string, level: Level, event: string, fields: object): Promise<void> {
  library ??= import("@logtape/logtape");
  const { getLogger } = await library;
  const record: Record<string, unknown> = { event, ...fields };
  if (record.error instanceof Error) {
    const { stack } = record.error;
    if (event === "defect" && stack) record.stack = redacted(stack);
    record.error = redacted(reasonOf(record.error));
  }
  getLogger(["writebehind", category])[level](sentenceOf(record), record);
}

/** What a line for people leaves out of a record. */
const SILENT = new Set(["event", "entity", "stream", "partition", "target", "process", "stack"]);

/** The record as one line for people: LogTape puts the fields in. */
function sentenceOf(record: Record<string, unknown>): string {
  const shown = Object.keys(record).filter((name) => !SILENT.has(name));
  const fields = shown.map((name) => `${name} {${name}}`).join(", ");
  return `${"stream" in record ? "{stream}: " : ""}{event}${fields === "" ? "" : `: ${fields}`}`;
}

/** An address in a message is shown without its password. */
export function redacted(text: string): string {
  return text.replaceAll(/(:\/\/[^:@/\s]*:)[^@\s]*@/g, "$1***@");
}
