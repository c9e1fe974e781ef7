/**
 * How each partition is, as any process can see it: from the target, the stream, and what the sink tells.
 * @module
 */

import { type Config, entityConfig } from "../config/load.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, type PartitionKeys } from "../redis/keys.ts";
import { checkShape } from "../redis/shape.ts";
import { type Lag, readLag } from "../redis/streams.ts";
import { hasWitness } from "../sink/rewind.ts";
import { type Pool, targetOf } from "../targets/open.ts";
import type { Offsets, Standing, Target } from "../targets/target.ts";

/** One partition. What could not be asked, since a server is away, is `null`. */
export interface PartitionStatus {
  /** whose partition it is */
  entity: string;
  /** the key of its events, such as `stream:session` */
  stream: string;
  /** the last stream id that the target holds; `0-0` for none */
  offset: string | null;
  /** events that the target does not have */
  lagEvents: number | null;
  /** how long the oldest of them waits, in seconds */
  lagSeconds: number | null;
  /** the sink that holds a live lease */
  owner: string | null;
  /** until its lease ends, in seconds */
  leaseSeconds: number | null;
  /** events in the dead-letter table that wait there */
  parked: number | null;
  /** how often the stream had gone back and was mended */
  wentBack: number | null;
  /** when it last had */
  wentBackAt: Date | null;
  /** what the sink said of itself last */
  state: string | null;
  /** its failures in a row */
  failures: number | null;
  /** the last of them */
  lastError: string | null;
  /** why it does not go on; empty where it does */
  stuck: string[];
}

/**
 * Reads how the partitions of an entity are. Changes nothing.
 * @param redis `null` where it is away
 * @param target `null` where it is away
 * @returns one a partition, in order
 * @throws what a server answers that is there
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, readStatus } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * for (const { stream, lagEvents, stuck } of await readStatus(redis, target, config, "session")) {
 *   console.log(stream, lagEvents, stuck.join("; "));
 * }
 * ```
 */
export async function readStatus(
  redis: RedisConnection | null,
  target: Target | Pool | null,
  config: Config,
  entity: string,
): Promise<PartitionStatus[]> {
  entityConfig(config, entity);
  if (redis) await checkShape(redis, config, entity);
  const offsets = target && targetOf(target, config).offsets;
  return await Promise.all(
    allPartitions(config, entity).map((keys) => partitionStatus(redis, offsets, config, keys)),
  );
}

async function partitionStatus(
  redis: RedisConnection | null,
  offsets: Offsets | null,
  config: Config,
  keys: PartitionKeys,
): Promise<PartitionStatus> {
  const standing = offsets && await offsets.standing(keys);
  const told = redis && new Map(Object.entries(await redis.hgetall(keys.gauges)));
  const stuck: string[] = [];

  let lag: Lag | null = null;
  if (redis && offsets && standing) {
    const { stream } = keys;
    [lag] = await readLag(redis, [{ stream, offset: standing.offset }]) as [Lag];
    if (await hasGoneBack(redis, offsets, keys, standing)) {
      stuck.push("the stream has gone back, and no sink has mended it");
    }
    const { lease_seconds } = config.write_behind;
    const unowned = Math.min(
      lag.seconds,
      standing.leaseSeconds === null ? Infinity : -standing.leaseSeconds,
    );
    if (lag.events > 0 && !standing.live && unowned > lease_seconds) {
      stuck.push("events wait, and no sink owns the partition; start one");
    }
  }
  // What a sink said that waits behind the owner, or is gone, is not how the partition is.
  const heard = told !== null && told.size > 0 &&
    (!standing?.live || told.get("owner") === standing.owner);
  const failures = heard ? Number(told.get("failures") ?? 0) : told && 0;
  const { max_retry_attempts } = config.write_behind;
  if (failures !== null && failures > 0 && failures >= max_retry_attempts) {
    stuck.push(`${failures} failures in a row`);
  }
  return {
    entity: keys.entity,
    stream: keys.stream,
    offset: standing && standing.offset,
    lagEvents: lag && lag.events,
    lagSeconds: lag && lag.seconds,
    owner: standing?.live ? standing.owner : null,
    leaseSeconds: standing?.live ? standing.leaseSeconds : null,
    parked: standing && standing.parked,
    wentBack: standing && standing.wentBack,
    wentBackAt: standing && standing.wentBackAt,
    state: heard ? String(told.get("state") ?? "") || null : null,
    failures,
    lastError: heard ? String(told.get("last_error") ?? "") || null : null,
    stuck,
  };
}

/** Whether what the target has applied last is missing in the stream, and nobody has mended it yet. */
async function hasGoneBack(
  redis: RedisConnection,
  offsets: Offsets,
  keys: PartitionKeys,
  { witness }: Standing,
): Promise<boolean> {
  for (;;) {
    if (await hasWitness(redis, keys, witness)) return false;
    // A sink may have gone on, and trimmed, since the target was read.
    const again = await offsets.standing(keys);
    if (again.witness === witness) return true;
    witness = again.witness;
  }
}
