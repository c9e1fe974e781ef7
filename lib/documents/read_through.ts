/**
 * Reading through to the target: a document that Redis does not have is put back from its row.
 * @module
 */

import { type Config, isForwarded } from "../config/load.ts";
import { passes } from "../core/error_kinds.ts";
import { ConfigError, ConnectionError, DocumentError, reasonOf } from "../core/errors.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { idsByPartition, type PartitionKeys } from "../redis/keys.ts";
import { rowsOf, targetFor, type Through } from "../targets/open.ts";
import type { RowsAt, Target } from "../targets/target.ts";
import { encoded, restore, type Restored } from "./restore.ts";

/** A trim between reading the rows and asking the stream makes another attempt worthwhile. */
const ATTEMPTS = 3;

/**
 * Reads documents that Redis does not have from their rows, and puts them back. A document stays missing if an event
 * that the target has not applied, or a parked one, names it, since that may be its delete; also if there are too many
 * such events to look through.
 * @param target several, where each has some of the partitions
 * @returns JSON texts by id; an id without a document has none
 * @throws {ConfigError} where changes are not forwarded, so that the row may hold what was deleted; or where no target
 * has a document's partition
 * @throws {ConnectionError} where the target cannot be asked
 */
export async function readThrough(
  redis: RedisConnection,
  target: Through,
  config: Config,
  entity: string,
  docIds: string[],
): Promise<Map<string, string>> {
  if (!isForwarded(config, entity)) {
    throw new ConfigError(
      "Cannot read through to the target: with a dummy_data.perform_write_behind that is false, a row may " +
        "hold what was changed or deleted in Redis; set all three to true, or read without it",
    );
  }
  const found = new Map<string, string>();
  for (const [keys, ids] of idsByPartition(config, entity, docIds)) {
    const one = targetFor(target, config, keys, ids[0]!);
    rowsOf(one); // a target without them is a mistake, and no fault of it
    let left = ids;
    for (let attempt = 0; attempt < ATTEMPTS && left.length > 0; attempt++) {
      left = await readPartition(redis, one, keys, left, found);
    }
  }
  return found;
}

/**
 * Asks a target for rows of documents that Redis does not have.
 * @param target it, or what opens it
 * @throws {ConnectionError} where it cannot be asked, with what to do where it is not prepared
 */
export async function askRows(
  target: Target | Promise<Target>,
  keys: PartitionKeys,
  docIds: string[],
): Promise<RowsAt> {
  let opened: Target | undefined;
  try {
    opened = await target;
    return await rowsOf(opened).at(keys, docIds);
  } catch (error) {
    const checked = opened === undefined || passes(opened.kindOf(error))
      ? Promise.resolve() // it is away, and says no more
      : opened.check(keys.entity);
    const why = await checked.then(() => error, (told) => told);
    throw new ConnectionError(
      `Redis does not have ${docIds[0]} of ${keys.entity}, and its target cannot be asked: ${
        reasonOf(why)
      }`,
      { cause: error },
    );
  }
}

/** @returns the ids for which the stream could not answer whether they may be put back */
async function readPartition(
  redis: RedisConnection,
  target: Target,
  keys: PartitionKeys,
  docIds: string[],
  found: Map<string, string>,
): Promise<string[]> {
  const unknown: string[] = [];
  let left = docIds;
  while (left.length > 0) {
    const { offset, rows: read, parked } = await askRows(target, keys, left);
    const there = read.flatMap((row, index) =>
      row === null || !row.text.startsWith("{") || parked[index] ? [] : [{ id: left[index]!, row }]
    );
    const wanted = there.map(({ id, row }) => {
      const restored = encoded(row);
      // A row by another writer may hold what Redis cannot; it is returned, but not put back.
      return {
        id,
        expected: null,
        wanted: restored instanceof DocumentError ? undefined : restored,
      };
    });
    const answers = await restore(redis, keys, offset, wanted);
    there.forEach(({ id, row }, index) => {
      const text = textOf(answers[index]!, row.text);
      if (text !== null) found.set(id, text);
      else if (answers[index]!.outcome === "unknown") unknown.push(id);
    });
    left = left.slice(read.length);
  }
  return unknown;
}

function textOf({ outcome, text }: Restored, row: string): string | null {
  return text ?? (outcome === "restored" ? row : null);
}
