/**
 * Bringing documents in Redis to what their rows hold: for reads through, repairs and rebuilding. No event
 * is appended, since the target has it already.
 * @module
 */

import type { Config } from "../config/load.ts";
import { DocumentError } from "../core/errors.ts";
import { encodeJson } from "../core/json/encode.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { restoreScript, runScript } from "../redis/scripts/mod.ts";
import type { Row } from "../targets/target.ts";

/** Events after the offset that are looked through at most, for one that names the document. */
export const MAX_LAG_EVENTS = 1000;
const MAX_LAG_BYTES = 16 * 2 ** 20;

/** A row as Redis takes it; `null` for none, or why Redis cannot hold it. */
export function encoded(row: Row | null, config: Config): string | null | DocumentError {
  if (row === null) return null;
  try {
    return encodeJson(row.text, config.documents.max_bytes).spelled;
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
  /** the JSON text that it is to have, spelled for RedisJSON; `null` removes it; `undefined` only asks */
  text: string | null | undefined;
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
      ...documents.flatMap(({ id, expected, text }) => [
        id,
        expected ?? "",
        text === undefined ? "-" : text ?? "",
      ]),
    ],
  ) as [Restored["outcome"], string][];
  return answers.map(([outcome, text]) => ({ outcome, text: text === "" ? null : text }));
}
