/**
 * Bringing documents in Redis to what their rows hold: for reads through, repairs and rebuilding. No event
 * is appended, since the target has it already.
 * @module
 */

import { DocumentError } from "../core/errors.ts";
import { encodeJson } from "../core/json/encode.ts";
import type { Addition, Spelled } from "../core/json/exact_numbers.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { restoreScript, runScript } from "../redis/scripts/mod.ts";
import type { Row } from "../targets/target.ts";

/** Events after the offset that are looked through at most, for one that names the document. */
export const MAX_LAG_EVENTS = 1000;
const MAX_LAG_BYTES = 16 * 2 ** 20;

/** What is to be added to a document's numbers, as the scripts take it. */
export function additionsArgument(additions: readonly Addition[]): string {
  if (additions.length === 0) return "";
  return JSON.stringify(additions.flatMap(({ path, delta }) => [path, delta]));
}

/**
 * A row as Redis takes it; `null` for none, or why Redis cannot hold it. `documents.max_bytes` does not count
 * here: the target may spell the same document with more bytes than it had.
 */
export function encoded(row: Row | null): Spelled | null | DocumentError {
  if (row === null) return null;
  try {
    return encodeJson(row.text, Infinity);
  } catch (error) {
    if (error instanceof DocumentError) return error;
    throw error;
  }
}

/** What is to become of a document. */
export interface Restoration {
  id: string;
  /** the JSON text that it must still have, `null` where it must still be missing */
  expected: string | null;
  /** what it is to be, as RedisJSON reads it; `null` removes it; `undefined` only asks */
  wanted: Spelled | null | undefined;
}

/** What became of it. */
export interface Restored {
  /**
   * - `restored`: it is as the row is (or may be made so, where that was only asked)
   * - `changed`: it is not as expected
   * - `pending`: an event that the row does not have names it
   * - `unknown`: the events that the rows do not have are too many, or are not all there any more
   */
  outcome: "restored" | "changed" | "pending" | "unknown";
  /** its JSON text now, `null` where it is missing */
  text: string | null;
}

/** Restores documents of one partition in one atomic step, each where it still is as expected. */
export async function restore(
  redis: RedisConnection,
  { documentPrefix, stream, settings }: PartitionKeys,
  offset: string,
  documents: Restoration[],
): Promise<Restored[]> {
  if (documents.length === 0) return [];
  const answers = await runScript(
    redis,
    restoreScript,
    [stream, settings, ...documents.map(({ id }) => documentPrefix + id)],
    [
      offset,
      String(MAX_LAG_EVENTS),
      String(MAX_LAG_BYTES),
      ...documents.flatMap(({ id, expected, wanted }) => [
        id,
        expected ?? "",
        wanted === undefined ? "-" : wanted?.spelled ?? "",
        additionsArgument(wanted?.additions ?? []),
      ]),
    ],
  ) as [Restored["outcome"], string][];
  return answers.map(([outcome, text]) => ({ outcome, text: text === "" ? null : text }));
}
