/**
 * What Redis says of the cache that an entity has.
 * @module
 */

import type { Config } from "../config/load.ts";
import { ConfigError } from "../core/errors.ts";
import type { RedisConnection } from "./connection.ts";
import { allPartitions, type PartitionKeys } from "./keys.ts";
import { valueOf } from "./streams.ts";

/**
 * How far a partition's cache is: `noting`: it is being turned on, and nothing is evicted yet; `on`; `leaving`: nothing is
 * evicted any more, and what was is read from the target.
 */
export type CacheState = "noting" | "on" | "leaving";

/** The cache of one partition. */
export interface PartitionCache {
  /** its state; `null` where it has none */
  state: CacheState | null;
  /** the event of a program that knows of no cache, which was why it is `leaving`; `null` where there was none */
  foreign: string | null;
  /** documents with an event that the source has not applied, which are not evicted */
  pending: number;
}

/** Reads the caches of partitions, in order. */
export async function readCaches(
  redis: RedisConnection,
  partitions: readonly PartitionKeys[],
): Promise<PartitionCache[]> {
  const pipeline = redis.pipeline();
  for (const { settings, stream, notes } of partitions) {
    pipeline.hmget(settings, "cache", "foreign", "partitions").xlen(stream).hlen(notes);
  }
  const replies = ((await pipeline.exec()) ?? []).map(valueOf);
  return partitions.map(({ cached }, index) => {
    const [fields, length, pending] = replies.slice(3 * index, 3 * index + 3) as [
      (string | null)[],
      number,
      number,
    ];
    const [state, foreign, written] = fields as [CacheState | null, string | null, string | null];
    // Where Redis was emptied, all is read from the target.
    const isEmpty = written === null && length === 0;
    return { state: state ?? (cached && isEmpty ? "on" : null), foreign, pending };
  });
}

/**
 * Sees that no document of an entity can be evicted.
 * @param cannot what cannot be done else, such as `Cannot repartition session`
 * @throws {ConfigError} where one can
 */
export async function checkUncached(
  redis: RedisConnection,
  config: Config,
  entity: string,
  cannot: string,
): Promise<void> {
  const caches = await readCaches(redis, allPartitions(config, entity));
  if (caches.every(({ state }) => state === null)) return;
  throw new ConfigError(
    `${cannot}: its cache may have evicted documents; turn it off first: deno task cache off --entity ${entity}`,
  );
}
