/**
 * Fills an empty Redis from the target: documents and search index.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { counted } from "../core/counted.ts";
import { DocumentError, WriteBehindError } from "../core/errors.ts";
import { cacheOf } from "../documents/cache.ts";
import { encoded, restore } from "../documents/restore.ts";
import { type Pool, rowsOf, targetOf } from "../targets/open.ts";
import type { Offsets, ScannedRow, Target } from "../targets/target.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, byPartition, type PartitionKeys, partitionsOf } from "../redis/keys.ts";
import { noteRebuilding } from "../redis/rebuilding.ts";
import { readRegistrations } from "../redis/registrations.ts";
import { checkShape } from "../redis/shape.ts";
import { createSearchIndex, type SearchIndexResult } from "../search/index.ts";
import { checkBelonging } from "../sink/belonging.ts";
import { forward, hasWitness } from "../sink/rewind.ts";

/** What a rebuild did, in documents. */
export interface RebuildReport {
  /** rows that were read */
  rows: number;
  /** documents that were written */
  restored: number;
  /** documents that were there already, or that a newer event names */
  kept: number;
  /** rows that Redis cannot hold, with the reason; at most 1,000 of them */
  refused: { id: string; reason: string }[];
  /** how many they are */
  refusedRows: number;
  /** what was done about the search index */
  index: SearchIndexResult["status"];
}

/** Options of {@linkcode rebuild}. */
export interface RebuildOptions {
  /** called after each chunk, with the rows done so far and about how many there are */
  onProgress?: ((done: number, about: number) => void) | undefined;
  /** stops it between two chunks, with its reason */
  signal?: AbortSignal | undefined;
  /** with a cache: documents at most, those that were written last. @default {Infinity} */
  limit?: number | undefined;
}

/** Why a rebuild does not begin, or does not go on. */
export class RebuildRefusedError extends WriteBehindError {}

const MAX_REFUSED = 1000;
/** A trim between reading rows and writing documents makes another attempt worthwhile. */
const ATTEMPTS = 10;

/**
 * Writes the documents of an entity that Redis does not have, from their rows, and makes the search index. Of a target
 * that has some of the partitions, those of its own: rebuild from each. Appends no events. In a cache, documents are
 * warmed: they may be evicted again. Writers and sinks may run: no document is overwritten, and none that was deleted
 * meanwhile is brought back. It can be stopped and run again.
 * @throws {RebuildRefusedError} where events wait that the target does not have, or are parked: their documents would be
 * older than what Redis held; or `limit` is given without a cache
 * @throws {WriteBehindError} where Redis was emptied meanwhile
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, rebuild } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { restored, kept, refused } = await rebuild(redis, target, config, "session");
 * console.log(restored, kept, refused);
 * ```
 */
export async function rebuild(
  redis: RedisConnection,
  target: Target | Pool,
  config: Config,
  entity: string,
  options: RebuildOptions = {},
): Promise<RebuildReport> {
  checkArguments("rebuild", { redis, target, config, entity, options });
  const { onProgress, signal, limit = Infinity } = options;
  checkArguments("rebuild", { onProgress, signal });
  entityConfig(config, entity);
  await checkShape(redis, config, entity);
  const opened = targetOf(target, config);
  await checkBelonging(redis, opened, config, entity);
  rowsOf(opened); // a target without them is refused at once
  const own = partitionsOf(config, entity, opened.describe().name);
  const isCached = own.some(({ cached }) => cached);
  if (limit !== Infinity && !isCached) {
    throw new RebuildRefusedError(
      `Cannot rebuild ${
        counted(limit, "document")
      } of ${entity}: it has no cache, so that the others would seem to be missing`,
    );
  }
  for (const keys of own) await prepare(redis, opened.offsets, keys);
  const report: RebuildReport = {
    rows: 0,
    restored: 0,
    kept: 0,
    refused: [],
    refusedRows: 0,
    index: "off",
  };
  // What a cache does not have, its readers ask the target for.
  const noted = isCached ? [] : own;
  const done = await noteRebuilding(redis, noted, opened.describe().name);
  if (isCached) await warm(redis, opened, config, entity, report, { limit, onProgress, signal });
  else await restoreAll(redis, opened, config, entity, report, { onProgress, signal });
  report.index = (await createSearchIndex(redis, config, entity)).status;
  await done();
  return report;
}

/** Writes the documents that Redis does not have, in the order of their ids. */
async function restoreAll(
  redis: RedisConnection,
  target: Target,
  config: Config,
  entity: string,
  report: RebuildReport,
  { onProgress, signal }: RebuildOptions,
): Promise<void> {
  const stored = rowsOf(target);
  const partitions = allPartitions(config, entity);
  const own = partitionsOf(config, entity, target.describe().name);
  const isOwn = new Set(own.map(({ partition }) => partition));
  const size = await stored.size(entity);
  let after = "";
  let attempt = 1;
  for (;;) {
    signal?.throwIfAborted();
    const page = await stored.scan(entity, partitions, after);
    if (page.length === 0) break;
    const outcomes = await Promise.all(
      byPartition(partitions, page, ({ id }) => id)
        .filter(([{ partition }]) => isOwn.has(partition))
        .map(([keys, rows]) => restorePage(redis, keys, rows)),
    );
    if (outcomes.some(({ unknown }) => unknown)) {
      if (attempt++ === ATTEMPTS) {
        throw new RebuildRefusedError(
          "Cannot go on: more events wait than can be looked through; wait until the sink has caught " +
            "up, then run it again",
        );
      }
      continue;
    }
    attempt = 1;
    for (const { restored, kept, refused } of outcomes) {
      report.restored += restored;
      report.kept += kept;
      report.refusedRows += refused.length;
      report.refused.push(...refused.slice(0, MAX_REFUSED - report.refused.length));
    }
    report.rows += page.length;
    after = page.at(-1)!.id;
    onProgress?.(report.rows, Math.max(report.rows, size));
  }
}

/** How many documents are warmed at a time. */
const WARMED = 500;

/** Brings rows into a cache, those that were written last first where they are limited. */
async function warm(
  redis: RedisConnection,
  target: Target,
  config: Config,
  entity: string,
  report: RebuildReport,
  { limit, onProgress, signal }: RebuildOptions & { limit: number },
): Promise<void> {
  const cache = cacheOf(redis, config);
  const stored = rowsOf(target);
  const partitions = allPartitions(config, entity);
  const about = Math.min(limit, await stored.size(entity));
  const newest = limit === Infinity ? undefined : await stored.newest?.(entity, limit);
  const pages = newest === undefined ? stored.ids(entity) : pagesOf(newest);
  for await (const page of pages) {
    signal?.throwIfAborted();
    for (const [keys, ids] of byPartition(partitions, page, (id) => id)) {
      for (const [id, { outcome, unfilled }] of await cache.source.fill(keys, ids, target)) {
        report.rows++;
        if (outcome === "filled") report.restored++;
        else if (outcome !== "unfilled") report.kept++;
        else {
          report.refusedRows++;
          if (report.refused.length < MAX_REFUSED) report.refused.push({ id, reason: unfilled });
        }
      }
    }
    onProgress?.(report.rows, Math.max(report.rows, about));
  }
}

function* pagesOf(ids: string[]): Generator<string[]> {
  for (let at = 0; at < ids.length; at += WARMED) yield ids.slice(at, at + WARMED);
}

/** Checks that no event is newer than the partition's rows, and makes new events get ids past the offset. */
async function prepare(
  redis: RedisConnection,
  offsets: Offsets,
  keys: PartitionKeys,
): Promise<void> {
  const { stream } = keys;
  const { offset, witness, parked } = await offsets.standing(keys);
  // What a cache is filled with is looked at one by one.
  if (keys.cached) {
    if (offset !== "0-0") await forward(redis, keys, offset);
    return;
  }
  const refuse = (reason: string) => new RebuildRefusedError(`Cannot rebuild ${stream}: ${reason}`);
  // What comes without an event, behind the walk of who fills it, would be missing there.
  const added = (await readRegistrations(redis, keys)).find(({ state }) => state === "filling");
  if (added) {
    const { name } = added;
    throw refuse(
      `the target ${name} is being added, or that was stopped half way; run deno task target add ${name} first, or ` +
        `deno task target remove ${name}`,
    );
  }
  if (parked > 0) {
    throw refuse(
      "events are parked that are newer than their rows; replay or discard them first, see dead-letter",
    );
  }
  const [waiting] = await redis.xrange(stream, `(${offset}`, "+", "COUNT", 1);
  if (waiting) {
    throw refuse("events wait that the target does not have; let a sink apply them first");
  }
  if (await redis.xlen(stream) > 0 && !await hasWitness(redis, keys, witness)) {
    throw refuse("the stream has gone back; start a sink, which rewinds it, and run this again");
  }
  if (offset !== "0-0") await forward(redis, keys, offset);
}

async function restorePage(
  redis: RedisConnection,
  keys: PartitionKeys,
  rows: ScannedRow[],
): Promise<
  { restored: number; kept: number; refused: RebuildReport["refused"]; unknown: boolean }
> {
  const refused: RebuildReport["refused"] = [];
  const wanted = rows.flatMap((row) => {
    if (row.parked) return [];
    const wanted = encoded(row);
    if (!(wanted instanceof DocumentError)) return [{ id: row.id, expected: null, wanted }];
    refused.push({ id: row.id, reason: wanted.message });
    return [];
  });
  const outcomes = await restore(redis, keys, rows[0]!.offset, wanted);
  const restored = outcomes.filter(({ outcome }) => outcome === "restored").length;
  return {
    restored,
    kept: rows.length - refused.length - restored,
    refused,
    unknown: outcomes.some(({ outcome }) => outcome === "unknown"),
  };
}
