/**
 * Documents that a cache has evicted, for those who need all of them.
 * @module
 */

import { Buffer } from "node:buffer";
import { type Config, sourceConfig } from "../config/load.ts";
import { ConfigError } from "../core/errors.ts";
import { type PartitionCache, readCaches, readTurns, withoutNote } from "../redis/cache_state.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, type PartitionKeys } from "../redis/keys.ts";
import { isSource } from "../sink/settler.ts";
import { openTarget, rowsOf } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";

/** Where documents are that a cache has evicted. */
export interface Evicted extends AsyncDisposable {
  /** the target that has them, opened; `null` where all are in Redis */
  source: Target | null;
  /** how often the cache of each partition had been turned on or off, by its stream */
  turned: Map<string, number>;
}

/**
 * Tells where documents are that a cache has evicted.
 * @param added the name of the target that is added
 * @throws {ConfigError} where it is that one, or cannot tell just now what was evicted
 */
export async function evictedSource(
  redis: RedisConnection,
  config: Config,
  entity: string,
  added: string,
): Promise<Evicted> {
  const partitions = allPartitions(config, entity);
  const turns = await readTurns(redis, partitions);
  const turned = new Map(partitions.map(({ stream }, index) => [stream, turns[index]!]));
  const caches = await readCaches(redis, partitions);
  const evicted = (source: Target | null): Evicted => ({
    source,
    turned,
    [Symbol.asyncDispose]: async () => await source?.close(),
  });
  if (caches.every(({ state }) => state === null)) return evicted(null);
  const says = (why: string) =>
    new ConfigError(`Cannot add the target ${added} for ${entity}: ${why}`);
  if (isSource(config, entity, added)) {
    throw says(`the cache reads from it; run deno task cache off --entity ${entity} first`);
  }
  if (!caches.every(notesAll)) {
    throw says(
      `the cache is just being turned on or off, or another program has written beside it; run deno task cache on ` +
        `--entity ${entity} first`,
    );
  }
  return evicted(await openTarget(config, sourceConfig(config, entity).name));
}

/** Only what is noted tells a document that was deleted from one that was evicted. */
const notesAll = ({ state, foreign }: PartitionCache) => state === "on" && foreign === null;

/**
 * Whether it still holds which documents of a partition may have been evicted. While the cache is off, nothing is noted, so
 * one that is on again is not as it was.
 * @param before what {@linkcode evictedSource} has said
 */
export async function isAsBefore(
  redis: RedisConnection,
  keys: PartitionKeys,
  before: Evicted,
): Promise<boolean> {
  const [cache] = await readCaches(redis, [keys]);
  const [turned] = await readTurns(redis, [keys]);
  if (turned !== before.turned.get(keys.stream)) return false;
  const { state } = cache!;
  return before.source === null ? state === null || state === "noting" : notesAll(cache!);
}

/**
 * The rows of those among missing documents that were evicted; the others are deleted. A document that is missing and of
 * which no event is noted is in its row as it is.
 */
export async function evictedRows(
  redis: RedisConnection,
  source: Target,
  keys: PartitionKeys,
  missing: readonly string[],
): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  if (missing.length === 0) return found;
  for (let left = await withoutNote(redis, keys, missing); left.length > 0;) {
    const { rows } = await rowsOf(source).at(keys, left);
    rows.forEach((row, index) => {
      if (row?.text.startsWith("{")) found.set(left[index]!, Buffer.from(row.text));
    });
    left = left.slice(rows.length);
  }
  return found;
}
