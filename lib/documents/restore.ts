/**
 * Makes documents in Redis equal to their rows, for read-through, repair and rebuild. No event is appended,
 * since the target has the state already.
 * @module
 */

import { DocumentError } from "../core/errors.ts";
import { encodeJson } from "../core/json/encode.ts";
import type { Addition, Spelled } from "../core/json/exact_numbers.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { restoreScript, runScript } from "../redis/scripts/mod.ts";
import type { Row } from "../targets/target.ts";

/** The most events after the offset that are searched for one that names the document. */
const MAX_LAG_EVENTS = 1000;
const MAX_LAG_BYTES = 16 * 2 ** 20;

/** The additions to a document's numbers, as the scripts take them. */
export function additionsArgument(additions: readonly Addition[]): string {
  if (additions.length === 0) return "";
  return JSON.stringify(additions.flatMap(({ path, delta }) => [path, delta]));
}

/**
 * A row as Redis takes it: `null` for no row, an error if Redis cannot hold it. `documents.max_bytes` does not
 * apply: the target may spell the same document with more bytes.
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

/** What is to be done with a document. */
export interface Restoration {
  id: string;
  /** the JSON text that it must still have, `null` where it must still be missing */
  expected: string | null;
  /** the new text, as RedisJSON reads it; `null` removes the document; `undefined` changes nothing */
  wanted: Spelled | null | undefined;
}

/** The outcome. */
export interface Restored {
  /**
   * - `restored`: it equals the row (or could be made so, if `wanted` is `undefined`)
   * - `changed`: it is not as expected
   * - `pending`: an event that the target has not applied names it
   * - `unknown`: the target has too many events to apply, or some are gone from the stream
   */
  outcome: "restored" | "changed" | "pending" | "unknown";
  /** its JSON text afterwards, `null` where it is missing */
  text: string | null;
}

/** Restores documents of one partition in one atomic step, each only if it is still as expected. */
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
