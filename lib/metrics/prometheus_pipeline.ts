/**
 * What the streams and the target say, as metrics: the same of whichever process it is asked.
 * @module
 */

import prometheus from "prom-client";
import { type Config, entityConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { asError, ConfigError, WriteBehindError } from "../core/errors.ts";
import { awaitedLater } from "../core/promises.ts";
import { type CacheState, readCacheFigures, readCaches, readRoom } from "../redis/cache_state.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { type PartitionKeys, partitionsOf } from "../redis/keys.ts";
import { readRegistration, type TargetState } from "../redis/registrations.ts";
import { valueOf } from "../redis/streams.ts";
import { readStandings, type StandingAndLag, type View, viewOf } from "../targets/standings.ts";
import type { Standing, Target } from "../targets/target.ts";
import { loadMetrics } from "./counters.ts";
import { sumsOf } from "./figures.ts";

/** What is watched. */
export interface Watched {
  redis: RedisConnection;
  target: Target;
  config: Config;
  /** its name */
  entity: string;
}

/** A server that has not answered by then counts as away, in ms: Prometheus waits for 10 s by default. */
const DEADLINE_MS = 2000;

// The types tell when one is missing.
const TARGET_STATES = Object.keys(
  { active: 0, paused: 0, filling: 0, detached: 0, removed: 0 } satisfies Record<TargetState, 0>,
);

const CACHE_STATES = Object.keys(
  { noting: 0, on: 0, leaving: 0 } satisfies Record<CacheState, 0>,
);

/** Takes why a server said nothing to a scrape, or null where it did. */
export type ReportSilence = (server: "redis" | "target", error: Error | null) => void;

/**
 * Registers the metrics.
 * @returns reads them anew; never rejects
 */
export function pipelineMetrics(
  registry: prometheus.Registry,
  watched: Watched,
  report: ReportSilence,
): () => Promise<void> {
  const { config, entity, target } = watched;
  const { name } = target.describe();
  /** as they were seen last */
  let known = partitionsOf(config, entity, name);
  const registers = [registry];
  const ofTarget = ["entity", "partition", "target"];
  const ofStream = ["entity", "partition"];
  // Of several targets, what is not the target's own is said once: where one has read it, and the others have not.
  const options = (name: string, help: string, labelNames: string[]) => ({
    ...{ name: `writebehind_${name}`, help, labelNames, registers },
    aggregator: labelNames === ofTarget ? "sum" as const : "max" as const,
  });
  const gauge = (...of: Parameters<typeof options>) => new prometheus.Gauge(options(...of));
  const counter = (...of: Parameters<typeof options>) => new prometheus.Counter(options(...of));

  const written = counter("written_events_total", "Events written: applied and waiting.", ofTarget);
  const applied = counter("applied_events_total", "Events that the target holds.", ofTarget);
  const lagEvents = gauge("lag_events", "Events that the target does not have.", ofTarget);
  const lagSeconds = gauge("lag_seconds", "Age of the oldest of them; 0 with none.", ofTarget);
  const parked = gauge("parked_events", "Events in the dead letter.", ofTarget);
  const wentBack = counter("went_back_total", "Times that the stream went back.", ofTarget);
  const owned = gauge("owned", "1 where a sink has the partition, else 0.", ofTarget);
  const lease = gauge(
    "lease_remaining_seconds",
    "Time until the owner's lease ends unless it is renewed; none for a lease that ends with its process.",
    ofTarget,
  );
  const targetState = gauge(
    "target_state",
    "1 for what the target may do with the stream, 0 for the others.",
    [...ofTarget, "state"],
  );
  const columnsDiffer = gauge(
    "columns_differ",
    "1 where the table's typed columns are not as configured, else 0.",
    ["entity", "target"],
  );
  const streamEvents = gauge(
    "stream_events",
    "Entries of the stream, without those that are kept though all targets hold them.",
    ofStream,
  );
  const streamBytes = gauge("stream_bytes", "Memory of these entries in Redis.", ofStream);
  const limitEvents = gauge(
    "stream_limit_events",
    "Entries from which on writers are told to stop.",
    ofStream,
  );
  const limitBytes = gauge(
    "stream_limit_bytes",
    "Memory from which on writers are told to stop.",
    ofStream,
  );
  const backpressure = gauge(
    "backpressure",
    "1 where the stream is full and writers are told to stop, else 0.",
    ofStream,
  );
  const counted = counter(
    "events_total",
    "The five counters, as processes have counted them, by side (redis, postgres) and outcome.",
    ["side", "outcome"],
  );
  const cacheState = gauge(
    "cache_state",
    "1 for how far the partition's cache is, 0 for the others; none without a cache.",
    [...ofStream, "state"],
  );
  const cachePending = gauge(
    "cache_pending_documents",
    "Documents that are not evicted, since the cache's target does not have their last event.",
    ofStream,
  );
  const cacheReads = counter(
    "cache_reads_total",
    "Documents that readers have found in Redis (hit) or not (miss), as their processes have counted them.",
    ["entity", "outcome"],
  );
  const keysGone = counter(
    "redis_keys_gone_total",
    "Keys of whatever kind that all of Redis has evicted, or whose time was over, since it started.",
    ["how"],
  );
  const memory = gauge("redis_memory_bytes", "Memory that the node of Redis uses.", ["node"]);
  const memoryLimit = gauge(
    "redis_memory_limit_bytes",
    "Memory from which on it evicts, or refuses writes; none without a limit.",
    ["node"],
  );
  const allKeys = gauge("redis_keys", "Keys of the node, of whatever kind.", ["node"]);
  const evictable = gauge("redis_evictable_keys", "Those of them that it may evict.", ["node"]);
  const up = new prometheus.Gauge({
    ...options("server_up", "1 where the server, or each target, answered this scrape, else 0.", [
      "server",
    ]),
    aggregator: "min",
  });

  const labelsOf = ({ partition }: PartitionKeys) => ({ entity, partition: String(partition) });

  /** What only Redis knows. */
  const readRedis = async ({ partitions }: View) => {
    const { cache } = entityConfig(config, entity);
    const [streams, counters, registrations, caches, looks, rooms] = await Promise.all([
      readStreams(watched.redis, config, partitions),
      loadMetrics(watched.redis),
      Promise.all(partitions.map((keys) => readRegistration(watched.redis, keys, name))),
      cache.enabled ? readCaches(watched.redis, partitions) : null,
      cache.enabled ? readCacheFigures(watched.redis, config, entity) : null,
      cache.enabled ? readRoom(watched.redis, config, entity) : [],
    ]);
    return () => {
      partitions.forEach((keys, index) => {
        const stream = streams[index]!;
        const labels = labelsOf(keys);
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
        cacheReads.inc({ entity, outcome: "hit" }, looks.hits);
        cacheReads.inc({ entity, outcome: "miss" }, looks.misses);
        keysGone.inc({ how: "evicted" }, looks.evictedKeys);
        keysGone.inc({ how: "expired" }, looks.expiredKeys);
      }
      for (const { node, ...room } of rooms) {
        memory.set({ node }, room.bytes);
        if (room.limitBytes > 0) memoryLimit.set({ node }, room.limitBytes);
        allKeys.set({ node }, room.keys);
        evictable.set({ node }, room.evictableKeys);
      }
      for (const [key, value] of Object.entries(counters)) {
        const [side, outcome] = key.replace("metrics:", "").split("_") as [string, string];
        counted.inc({ side, outcome }, value);
      }
    };
  };
  const showStanding = (keys: PartitionKeys, standing: Standing) => {
    const labels = { ...labelsOf(keys), target: name };
    wentBack.inc(labels, standing.wentBack);
    parked.set(labels, standing.parked);
    owned.set(labels, standing.live ? 1 : 0);
    if (standing.live && standing.leaseSeconds !== null) lease.set(labels, standing.leaseSeconds);
  };
  const showFigures = (keys: PartitionKeys, both: StandingAndLag) => {
    const labels = { ...labelsOf(keys), target: name };
    const sums = sumsOf(both);
    applied.inc(labels, sums.applied);
    written.inc(labels, sums.written);
    lagEvents.set(labels, sums.lag);
    lagSeconds.set(labels, sums.lagSeconds);
    showStanding(keys, both.standing);
  };

  const all = [
    ...[
      written,
      applied,
      lagEvents,
      lagSeconds,
      parked,
      wentBack,
      owned,
      lease,
      targetState,
      columnsDiffer,
    ],
    ...[streamEvents, streamBytes, limitEvents, limitBytes, backpressure, counted],
    ...[cacheState, cachePending, cacheReads, keysGone, memory, memoryLimit, allKeys, evictable],
  ];
  return async () => {
    const partitions = known;
    const ended = new AbortController();
    const late = delay(DEADLINE_MS, ended.signal)
      .then(() => new WriteBehindError(`no answer within ${DEADLINE_MS} ms`));
    const inTime = <Read>(reading: Promise<Read>) => Promise.race([reading.catch(asError), late]);
    // Read once: where both servers answer, all that the target says is of one moment.
    const standings = new Map(
      partitions.map((keys) => [keys.stream, target.offsets.standing(keys, { waits: false })]),
    );
    const standing: Target["offsets"]["standing"] = (keys, options) => {
      const first = standings.get(keys.stream);
      standings.delete(keys.stream);
      // Asked again where the stream was trimmed meanwhile.
      return first ?? target.offsets.standing(keys, options);
    };
    const viewing = awaitedLater(viewOf(watched.redis, config, entity, name));
    void viewing.then((view) => known = view.partitions, () => {}); // others, once it was repartitioned
    const readBoth = async () => {
      const view = await viewing;
      const read = await readStandings(watched.redis, { standing }, view, { waits: false });
      return () => view.partitions.forEach((keys, index) => showFigures(keys, read[index]!));
    };
    const [ofTheTarget, ofRedis, ofBoth, differences] = await Promise.all([
      inTime(Promise.all(standings.values())),
      inTime(viewing.then(readRedis)),
      inTime(readBoth()),
      inTime(Promise.resolve(target.columns?.differences(entity))),
    ]);
    ended.abort();
    report("target", failureOf(ofTheTarget));
    // Where the target is silent, nothing can be read of both.
    report(
      "redis",
      failureOf(ofRedis) ?? (ofTheTarget instanceof Error ? null : failureOf(ofBoth)),
    );
    // Of a server that is away nothing is known: no old value may stand for it.
    for (const metric of all) metric.reset();
    if (!(ofRedis instanceof Error)) ofRedis();
    // There are others than the configuration says: they answer, and are not known.
    const isMisfit = ofRedis instanceof ConfigError;
    if (!(ofBoth instanceof Error)) ofBoth();
    else if (!(ofTheTarget instanceof Error) && !isMisfit) {
      partitions.forEach((keys, index) => showStanding(keys, ofTheTarget[index]!));
    }
    if (Array.isArray(differences)) {
      columnsDiffer.set({ entity, target: name }, differences.length > 0 ? 1 : 0);
    }
    up.set({ server: "target" }, ofTheTarget instanceof Error ? 0 : 1);
    up.set({ server: "redis" }, ofRedis instanceof Error && !isMisfit ? 0 : 1);
  };
}

const failureOf = (read: unknown) => read instanceof Error ? read : null;

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
