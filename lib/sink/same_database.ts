/**
 * Two names for one database: its partitions have one owner, so the second target would wait for ever, and hold up the
 * trimming.
 * @module
 */

import type { Config } from "../config/load.ts";
import type { Redis } from "../redis/client.ts";
import { gaugesOf, type PartitionKeys } from "../redis/keys.ts";
import type { Standing } from "../targets/target.ts";

/**
 * Whether a partition's owner is the sink of another target of the configuration.
 * @param name the target's name
 * @returns why it cannot go on, for people; `null` where it is a sink of the target itself, or of nobody known
 */
export async function sameDatabase(
  redis: Redis,
  { targets }: Config,
  keys: PartitionKeys,
  name: string,
  { owner, live }: Pick<Standing, "owner" | "live">,
): Promise<string | null> {
  if (!live || owner === null) return null;
  for (const other of targets) {
    if (other.name === name || await redis.hget(gaugesOf(keys, other.name), "owner") !== owner) {
      continue;
    }
    return `the targets ${other.name} and ${name} are the same database: take one of them from the configuration`;
  }
  return null;
}
