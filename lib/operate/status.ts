/**
 * How each partition is, as any process can see it: from the target, the stream, and what the sink tells.
 * @module
 */

import type { Pool } from "pg";
import { type Config, entityConfig } from "../config/load.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, CONSUMER_GROUP, type PartitionKeys } from "../redis/keys.ts";
import { pairsOf } from "../redis/streams.ts";
import { hasWitness } from "../sink/rewind.ts";

/** One partition. What could not be asked, since a server is away, is `null`. */
export interface PartitionStatus {
  entity: string;
  stream: string;
  /** the last stream id that the target holds; `0-0` for none */
  offset: string | null;
  /** events that the target does not have, and how long the oldest of them waits, in seconds */
  lagEvents: number | null;
  lagSeconds: number | null;
  /** the sink that holds a live lease */
  owner: string | null;
  /** until its lease ends, in seconds */
  leaseSeconds: number | null;
  /** events in the dead-letter table that wait there */
  parked: number | null;
  /** how often the stream had gone back and was mended, and when last */
  wentBack: number | null;
  wentBackAt: Date | null;
  /** what the sink said last: its state, failures in a row, and the last of them */
  state: string | null;
  failures: number | null;
  lastError: string | null;
  /** why it does not go on; empty where it does */
  stuck: string[];
}

interface TargetRow {
  last_id: string;
  witness: string;
  went_back: number;
  went_back_at: Date | null;
  owner: string | null;
  live: boolean;
  /** until the lease ends, in seconds, negative after it; `null` where it was given back */
  lease: number | null;
  parked: number;
}

const NOTHING: TargetRow = {
  last_id: "0-0",
  witness: "0-0",
  went_back: 0,
  went_back_at: null,
  owner: null,
  live: false,
  lease: null,
  parked: 0,
};

/**
 * Reads how the partitions of an entity are. Changes nothing.
 * @param redis `null` where it is away; `pool` likewise
 * @throws what a server answers that is there
 */
export async function readStatus(
  redis: RedisConnection | null,
  pool: Pool | null,
  config: Config,
  entity: string,
): Promise<PartitionStatus[]> {
  entityConfig(config, entity);
  return await Promise.all(
    allPartitions(config, entity).map((keys) => partitionStatus(redis, pool, config, keys)),
  );
}

async function partitionStatus(
  redis: RedisConnection | null,
  pool: Pool | null,
  config: Config,
  keys: PartitionKeys,
): Promise<PartitionStatus> {
  const target = pool && await readTarget(pool, keys.stream);
  const told = redis && pairsOf(Object.entries(await redis.hgetall(keys.gauges)).flat());
  const stuck: string[] = [];

  let lag: { events: number; seconds: number } | null = null;
  if (redis && pool && target) {
    lag = await lagOf(redis, keys, target.last_id);
    if (await hasGoneBack(redis, pool, keys, target)) {
      stuck.push("the stream has gone back, and no sink has mended it");
    }
    const { lease_seconds } = config.write_behind;
    const unowned = Math.min(lag.seconds, target.lease === null ? Infinity : -target.lease);
    if (lag.events > 0 && !target.live && unowned > lease_seconds) {
      stuck.push("events wait, and no sink owns the partition; start one");
    }
  }
  // What a sink said that waits behind the owner, or is gone, is not how the partition is.
  const heard = told !== null && told.size > 0 &&
    (!target?.live || told.get("owner") === target.owner);
  const failures = heard ? Number(told.get("failures") ?? 0) : told && 0;
  const { max_retry_attempts } = config.write_behind;
  if (failures !== null && failures > 0 && failures >= max_retry_attempts) {
    stuck.push(`${failures} failures in a row`);
  }
  return {
    entity: keys.entity,
    stream: keys.stream,
    offset: target && target.last_id,
    lagEvents: lag && lag.events,
    lagSeconds: lag && lag.seconds,
    owner: target?.live ? target.owner : null,
    leaseSeconds: target?.live ? target.lease : null,
    parked: target && target.parked,
    wentBack: target && target.went_back,
    wentBackAt: target && target.went_back_at,
    state: heard ? String(told.get("state") ?? "") || null : null,
    failures,
    lastError: heard ? String(told.get("last_error") ?? "") || null : null,
    stuck,
  };
}

async function readTarget(pool: Pool, stream: string): Promise<TargetRow> {
  const { rows: [tables] } = await pool.query<{ there: boolean }>(
    `SELECT to_regclass('writebehind_offset') IS NOT NULL
        AND to_regclass('writebehind_lease') IS NOT NULL
        AND to_regclass('writebehind_dead_letter') IS NOT NULL AS there`,
  );
  // No sink has ever run here.
  if (!tables!.there) return NOTHING;
  const { rows: [row] } = await pool.query<TargetRow>(
    `SELECT coalesce(o.last_id, '0-0') AS last_id, coalesce(o.witness, '0-0') AS witness,
            coalesce(o.went_back, 0) AS went_back, o.went_back_at, l.owner,
            coalesce(l.lease_until > clock_timestamp(), false) AS live,
            CASE WHEN isfinite(l.lease_until)
                 THEN extract(epoch FROM l.lease_until - clock_timestamp())::float8 END AS lease,
            (SELECT count(*)::int FROM writebehind_dead_letter d
              WHERE d.stream = s.stream AND d.state = 'parked') AS parked
       FROM (SELECT $1::text AS stream) s
       LEFT JOIN writebehind_offset o USING (stream)
       LEFT JOIN writebehind_lease l USING (stream)`,
    [stream],
  );
  return row!;
}

/** How far the target is behind, by the clock of Redis, which the stream's times are of. */
async function lagOf(
  redis: RedisConnection,
  { stream }: PartitionKeys,
  offset: string,
): Promise<{ events: number; seconds: number }> {
  const [waiting] = await redis.xrange(stream, `(${offset}`, "+", "COUNT", 1);
  if (waiting === undefined) return { events: 0, seconds: 0 };
  const [length, [seconds, microseconds], groups, passed] = await Promise.all([
    redis.xlen(stream),
    redis.time(),
    redis.xinfo("GROUPS", stream) as Promise<unknown[]>,
    redis.xrange(stream, "-", offset, "COUNT", 2),
  ]);
  const group = groups.map(pairsOf).find((group) => group.get("name") === CONSUMER_GROUP);
  const told = group?.get("last-delivered-id") === offset ? group.get("lag") : null;
  // Between a commit and its trim, the entries in between are counted in.
  const events = typeof told === "number" ? told : Math.max(1, length - passed.length);
  const now = Number(seconds) * 1000 + Number(microseconds) / 1000;
  return { events, seconds: Math.max(0, (now - Number(waiting[0].split("-")[0])) / 1000) };
}

/** Whether what the target has applied last is missing in the stream, and nobody has mended it yet. */
async function hasGoneBack(
  redis: RedisConnection,
  pool: Pool,
  keys: PartitionKeys,
  { witness }: TargetRow,
): Promise<boolean> {
  for (;;) {
    if (await hasWitness(redis, keys, witness)) return false;
    // A sink may have gone on, and trimmed, since the target was read.
    const again = await readTarget(pool, keys.stream);
    if (again.witness === witness) return true;
    witness = again.witness;
  }
}
