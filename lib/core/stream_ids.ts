/**
 * Stream ids and the versions made from them, in one place; and what else of an event every room knows.
 * @module
 */

import { checkArguments } from "./arguments.ts";

/** What happened to a document. */
export type EventType = "insert" | "update" | "delete";

/** The most bytes of UTF-8 that a document id has. */
export const MAX_ID_BYTES = 512;

const SEQUENCE_BITS = 20;
const SHIFT = BigInt(SEQUENCE_BITS);

/** The largest sequence that a version holds. `append.lua` moves the stream on before it is reached. */
export const MAX_SEQUENCE = 2 ** SEQUENCE_BITS - 1;
/** The latest time that a version holds, in ms since 1970: in the year 2248. */
export const MAX_MS = 2 ** (63 - SEQUENCE_BITS) - 1;

/** The last stream id that a version holds. */
export const LAST_STREAM_ID: string = `${MAX_MS}-${MAX_SEQUENCE}`;

/**
 * A stream id in one signed 64-bit integer: milliseconds · 2^20 + sequence, so that versions compare as
 * stream ids do.
 * @param streamId such as `1764000000000-0`
 * @returns the version, or `null` where the id does not fit: a sequence of 2^20 or more, or a time past
 * 2^43 - 1 ms, in the year 2248
 *
 * @example
 * ```ts
 * import { equal } from "node:assert/strict";
 * import { versionOf } from "writebehind";
 *
 * equal(versionOf("1764000000000-3"), 1764000000000n * 2n ** 20n + 3n);
 * equal(versionOf("1764000000000-1048576"), null);
 * ```
 */
export function versionOf(streamId: string): bigint | null {
  if (typeof streamId !== "string") checkArguments("versionOf", { streamId });
  const dash = streamId.indexOf("-");
  if (dash < 1) return null;
  const milliseconds = BigInt(streamId.slice(0, dash));
  const sequence = BigInt(streamId.slice(dash + 1));
  if (sequence > MAX_SEQUENCE || milliseconds > MAX_MS) return null;
  return (milliseconds << SHIFT) | sequence;
}

/** The version of a stream id that is given in its two parts, and fits. */
export const versionAt = ({ ms, seq }: { ms: number; seq: number }): bigint =>
  BigInt(ms) << SHIFT | BigInt(seq);

const SEQUENCES = 2 ** SEQUENCE_BITS;
const LOW_TIMES = 2 ** (32 - SEQUENCE_BITS);

/** The upper 32 bits of a version, for where a bigint for each event would cost too much. */
export function versionHigh(ms: number): number {
  return Math.floor(ms / LOW_TIMES);
}

/** The lower 32 bits of a version. */
export function versionLow(ms: number, seq: number): number {
  return (ms % LOW_TIMES) * SEQUENCES + seq;
}

/**
 * The stream id that a version was made from.
 * @param version such as the column `version` of a table holds
 * @returns such as `1764000000000-3`
 *
 * @example
 * ```ts
 * import { equal } from "node:assert/strict";
 * import { streamIdOf } from "writebehind";
 *
 * equal(streamIdOf(1764000000000n * 2n ** 20n + 3n), "1764000000000-3");
 * ```
 */
export function streamIdOf(version: bigint): string {
  if (typeof version !== "bigint") checkArguments("streamIdOf", { version });
  return `${version >> BigInt(SEQUENCE_BITS)}-${version & BigInt(MAX_SEQUENCE)}`;
}

/** The parts of a stream id: the time in ms since 1970, and its place among the ids of that millisecond. */
export function partsOf(streamId: string): { ms: number; seq: number } {
  const [ms, seq = "0"] = streamId.split("-");
  return { ms: Number(ms), seq: Number(seq) };
}

/** The first stream id of the millisecond after an id's. */
export function nextMillisecond(streamId: string): string {
  return `${partsOf(streamId).ms + 1}-0`;
}

/** Orders two stream ids as Redis does: negative where `a` comes first, 0 where they are equal. */
export function compareStreamIds(a: string, b: string): number {
  if (a === b) return 0;
  const [aMs = "0", aSeq = "0"] = a.split("-");
  const [bMs = "0", bSeq = "0"] = b.split("-");
  return compareDecimals(aMs, bMs) || compareDecimals(aSeq, bSeq);
}

/** Neither has leading zeros, so the longer one is larger, and equal lengths compare as text. */
function compareDecimals(a: string, b: string): number {
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
}

/** Whether an id is past what a version can hold: then no event of ours can have it, or come after it. */
export function isFar(id: string): boolean {
  return compareStreamIds(id, LAST_STREAM_ID) > 0;
}
