/**
 * The note in a stream's settings that documents are brought back from a target: while it is there, Redis does not have all
 * of them, and its lack of one means nothing.
 * @module
 */

import { WriteBehindError } from "../core/errors.ts";
import type { RedisConnection } from "./connection.ts";
import type { PartitionKeys } from "./keys.ts";

const FIELD = "rebuilding";

/** Notes that documents are brought back. @returns what ends that, once all of them are here */
export async function noteRebuilding(
  redis: RedisConnection,
  partitions: readonly PartitionKeys[],
  target: string,
): Promise<() => Promise<void>> {
  const own = `${target} ${crypto.randomUUID()}`;
  for (const { settings } of partitions) await redis.hset(settings, FIELD, own);
  return async () => {
    for (const { settings, stream } of partitions) {
      const noted = await redis.hget(settings, FIELD);
      if (noted === null) {
        throw new WriteBehindError(
          `Redis was emptied while the documents of ${stream} were brought back; run this again`,
        );
      }
      // Another rebuild ends its own.
      if (noted === own) await redis.hset(settings, FIELD, "");
    }
  };
}

/** The target from which a partition's documents are brought back, or were until that was stopped; `null` where none are. */
export async function readRebuilding(
  redis: RedisConnection,
  { settings }: PartitionKeys,
): Promise<string | null> {
  const noted = await redis.hget(settings, FIELD);
  return noted ? noted.slice(0, noted.lastIndexOf(" ")) : null;
}

/**
 * Sees that a document which is missing means something.
 * @param cannot what cannot be done else, such as `Cannot repartition session`
 * @throws {WriteBehindError} where a rebuild has not come to its end
 */
export async function checkRebuilt(
  redis: RedisConnection,
  partitions: readonly PartitionKeys[],
  cannot: string,
): Promise<void> {
  for (const keys of partitions) {
    const from = await readRebuilding(redis, keys);
    if (from === null) continue;
    throw new WriteBehindError(
      `${cannot}: the documents of ${keys.stream} are brought back from ${from}, or were until that was stopped; run ` +
        `deno task rebuild --entity ${keys.entity} --target ${from} first`,
    );
  }
}
