/**
 * What Redis alone knows of an entity, as metrics.
 * @module
 */

import { type Config, entityConfig } from "../config/load.ts";
import { type CacheState, readCaches, readLooks, readNodes } from "../redis/cache_state.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { readRegistration, type TargetState } from "../redis/registrations.ts";
import { valueOf } from "../redis/streams.ts";
import { loadMetrics } from "./counters.ts";
import { type Families, OF_STREAM, OF_TARGET, type Watched } from "./prometheus_families.ts";

// The types tell when one is missing.
const TARGET_STATES = Object.keys(
  { active: 0, paused: 0, filling: 0, detached: 0, removed: 0 } satisfies Record<TargetState, 0>,
);

const CACHE_STATES = Object.keys(
  { noting: 0, on: 0, leaving: 0 } satisfies Record<CacheState, 0>,
);

/**
 * Registers the metrics.
 * @returns reads them anew; what that returns shows what was read
 */
export function redisMetrics(
  families: Families,
  { redis, config, entity, target }: Watched,
): (partitions: PartitionKeys[]) => Promise<() => void> {
  const { name } = target.describe();
  const targetState = families.gauge(
    "target_state",
    "1 for what the target may do with the stream, 0 for the others.",
    [...OF_TARGET, "state"],
  );
  const streamEvents = families.gauge(
    "stream_events",
    "Entries of the stream, without those that are kept though all targets hold them.",
    OF_STREAM,
  );
  const streamBytes = families.gauge(
    "stream_bytes",
    "Memory of these entries in Redis.",
    OF_STREAM,
  );
  const limitEvents = families.gauge(
    "stream_limit_events",
    "Entries from which on writers are told to stop.",
    OF_STREAM,
  );
  const limitBytes = families.gauge(
    "stream_limit_bytes",
    "Memory from which on writers are told to stop.",
    OF_STREAM,
  );
  const backpressure = families.gauge(
    "backpressure",
    "1 where the stream is full and writers are told to stop, else 0.",
    OF_STREAM,
  );
  const counted = families.lasting(
    "events_total",
    "The five counters, as processes have counted them, by side (redis, postgres) and outcome.",
    ["side", "outcome"],
  );
  const cacheState = families.gauge(
    "cache_state",
    "1 for how far the partition's cache is, 0 for the others; none without a cache.",
    [...OF_STREAM, "state"],
  );
  const cachePending = families.gauge(
    "cache_pending_documents",
    "Documents that are not evicted, since the cache's target does not have their last event.",
    OF_STREAM,
  );
  const cacheReads = families.lasting(
    "cache_reads_total",
    "Documents that readers have found in Redis (hit) or not (miss), as their processes have counted them.",
    ["entity", "outcome"],
  );
  const keysGone = families.counter(
    "redis_keys_gone_total",
    "Keys of whatever kind that the node of Redis has evicted, or whose time was over, since it started.",
    ["how", "node"],
  );
  const memory = families.gauge("redis_memory_bytes", "Memory that the node of Redis uses.", [
    "node",
  ]);
  const memoryLimit = families.gauge(
    "redis_memory_limit_bytes",
    "Memory from which on it evicts, or refuses writes; none without a limit.",
    ["node"],
  );
  const allKeys = families.gauge("redis_keys", "Keys of the node, of whatever kind.", ["node"]);
  const evictable = families.gauge("redis_evictable_keys", "Those of them that it may evict.", [
    "node",
  ]);

  return async (partitions) => {
    const { cache } = entityConfig(config, entity);
    const [streams, counters, registrations, caches, looks, nodes] = await Promise.all([
      readStreams(redis, config, partitions),
      loadMetrics(redis),
      Promise.all(partitions.map((keys) => readRegistration(redis, keys, name))),
      cache.enabled ? readCaches(redis, partitions) : null,
      cache.enabled ? readLooks(redis, config, entity) : null,
      cache.enabled ? readNodes(redis, config, entity) : [],
    ]);
    return () => {
      partitions.forEach((keys, index) => {
        const stream = streams[index]!;
        const labels = { entity, partition: String(keys.partition) };
        streamEvents.set(labels, stream.events);
        streamBytes.set(labels, stream.bytes);
        limitEvents.set(labels, stream.maxEvents);
        limitBytes.set(labels, stream.maxBytes);
        const full = stream.events >= stream.maxEvents || stream.bytes >= stream.maxBytes;
        backpressure.set(labels, full ? 1 : 0);
        const is = registrations[index]?.state ?? "active"; // as its sink will register it
        for (const state of TARGET_STATES) {
          targetState.set({ ...labels, target: name, state }, state === is ? 1 : 0);
        }
        const { state, pending } = caches?.[index] ?? { state: null, pending: 0 };
        if (state === null) return;
        cachePending.set(labels, pending);
        for (const one of CACHE_STATES) {
          cacheState.set({ ...labels, state: one }, one === state ? 1 : 0);
        }
      });
      if (looks !== null) {
        cacheReads.tell({ entity, outcome: "hit" }, looks.hits);
        cacheReads.tell({ entity, outcome: "miss" }, looks.misses);
      }
      for (const { node, ...holds } of nodes) {
        memory.set({ node }, holds.bytes);
        if (holds.limitBytes > 0) memoryLimit.set({ node }, holds.limitBytes);
        allKeys.set({ node }, holds.keys);
        evictable.set({ node }, holds.evictableKeys);
        keysGone.inc({ how: "evicted", node }, holds.evictedKeys);
        keysGone.inc({ how: "expired", node }, holds.expiredKeys);
      }
      for (const [key, value] of Object.entries(counters)) {
        const [side, outcome] = key.replace("metrics:", "").split("_") as [string, string];
        counted.tell({ side, outcome }, value);
      }
    };
  };
}

/** How full a stream is. Its limits are those that its first writer has stored. */
interface Fill {
  events: number;
  bytes: number;
  maxEvents: number;
  maxBytes: number;
}

async function readStreams(
  redis: RedisConnection,
  config: Config,
  partitions: PartitionKeys[],
): Promise<Fill[]> {
  const pipeline = redis.pipeline();
  for (const { stream, settings } of partitions) {
    pipeline.xlen(stream).memory("USAGE", stream).hmget(
      settings,
      "max_events",
      "max_bytes",
      "kept",
    );
  }
  const replies = ((await pipeline.exec()) ?? []).map(valueOf);
  const { max_events, max_bytes } = config.streams;
  return partitions.map((_, index) => {
    const [length, memory, limits] = replies.slice(index * 3) as [number, number | null, unknown[]];
    // As writers reckon.
    const events = Math.max(0, length - Number(limits[2] ?? 0));
    return {
      events,
      bytes: length === 0 ? memory ?? 0 : Math.floor((memory ?? 0) * events / length),
      maxEvents: Number(limits[0] ?? max_events),
      maxBytes: Number(limits[1] ?? max_bytes),
    };
  });
}
