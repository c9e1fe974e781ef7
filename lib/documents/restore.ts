/**
 * Bringing documents in Redis to what their rows hold: for reads through, repairs and rebuilding. No event
 * is appended, since the target has it already.
 * @module
 */

import type { Pool } from "pg";
import { type Config, entityConfig } from "../config/load.ts";
import { DocumentError } from "../core/errors.ts";
import { encodeJson } from "../core/json/encode.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { restoreScript, runScript } from "../redis/scripts/mod.ts";

/** Documents and rows are read so many bytes at a time, plus one. */
export const READ_BYTES = 8 * 2 ** 20;
/** Events after the offset that are looked through at most, for one that names the document. */
export const MAX_LAG_EVENTS = 1000;
const MAX_LAG_BYTES = 16 * 2 ** 20;

/** A row of the target. */
export interface Row {
  /** JSON text, in PostgreSQL's spelling; `null` the value for a row that has none */
  text: string;
  version: string;
}

/** A condition: an event of the document `id` is parked, so its row is not the newest. */
export const IS_PARKED = (id: string, streams: string) =>
  `EXISTS (SELECT FROM writebehind_dead_letter d
            WHERE d.stream = ANY(${streams}) AND d.fingerprint = sha256(convert_to(${id}, 'UTF8'))
              AND d.state = 'parked')`;

/**
 * Rows of one partition's documents, and the offset that they are at: read in one statement, so that they
 * belong together.
 * @returns rows in the order of `ids`, `null` for one that is missing, and whether an event is parked that
 * is newer than the row; fewer where they are too many bytes
 */
export async function rowsAt(
  pool: Pool,
  config: Config,
  { entity, stream }: PartitionKeys,
  ids: string[],
): Promise<{ offset: string; rows: (Row | null)[]; parked: boolean[] }> {
  const { table } = entityConfig(config, entity);
  const { rows } = await pool.query<[string, string | null, string | null, boolean]>({
    name: `rows at ${entity}`,
    text: `
WITH found AS MATERIALIZED (
  SELECT e.n, e.id, t.version::text AS version,
         CASE WHEN t.id IS NOT NULL THEN coalesce(t.payload::text, 'null') END AS text
    FROM unnest($1::text[]) WITH ORDINALITY AS e (id, n) LEFT JOIN "${table}" AS t ON t.id = e.id
), measured AS (
  SELECT *, sum(coalesce(octet_length(text), 0)) OVER (ORDER BY n) AS bytes FROM found
)
SELECT coalesce((SELECT last_id FROM writebehind_offset WHERE stream = $2), '0-0'), text, version,
       ${IS_PARKED("measured.id", "ARRAY[$2]")}
  FROM measured WHERE bytes - coalesce(octet_length(text), 0) < $3 ORDER BY n`,
    values: [ids, stream, READ_BYTES],
    rowMode: "array",
  });
  return {
    offset: rows[0]?.[0] ?? "0-0",
    rows: rows.map(([, text, version]) => text === null ? null : { text, version: version! }),
    parked: rows.map(([, , , parked]) => parked),
  };
}

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
