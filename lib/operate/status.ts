/**
 * The state of each partition, as any process can see it: from the target, the stream, and what the sink reports.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { counted } from "../core/counted.ts";
import { isFar, partsOf } from "../core/stream_ids.ts";
import { type PartitionCache, readCaches } from "../redis/cache_state.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { gaugesOf, type PartitionKeys, partitionsOf, targetsWith } from "../redis/keys.ts";
import {
  hasPlace,
  readRegistrations,
  type Registration,
  type TargetState,
} from "../redis/registrations.ts";
import type { Lag } from "../redis/lag.ts";
import { readRebuilding } from "../redis/rebuilding.ts";
import { lastGeneratedId } from "../redis/streams.ts";
import { mostUnindexed } from "../search/index.ts";
import { assess } from "../sink/belonging.ts";
import { hasGoneBack } from "../sink/goal.ts";
import { sameDatabase } from "../sink/same_database.ts";
import { isSource } from "../sink/settler.ts";
import { type Pool, targetOf } from "../targets/open.ts";
import { readStandings, type View, viewOf } from "../targets/standings.ts";
import type { Target } from "../targets/target.ts";
import { repartitionUnderWay } from "./repartition/state.ts";
import { columnsProblem } from "./migrate_columns.ts";

/** One partition. What is unknown because a server is down is `null`. */
export interface PartitionStatus {
  /** whose partition it is */
  entity: string;
  /** the key of its events, such as `stream:session` */
  stream: string;
  /** the Redis that has it: its address, and behind one that sentinels have named, their name for it */
  node: string | null;
  /** the target's name */
  target: string | null;
  /** the last stream id that the target holds; `0-0` for none */
  offset: string | null;
  /** events that the target holds: applied, or parked */
  applied: number | null;
  /** events that were written: applied and behind */
  written: number | null;
  /** events that the target does not have */
  lagEvents: number | null;
  /** age of the oldest of them, in seconds */
  lagSeconds: number | null;
  /** the sink that holds a live lease */
  owner: string | null;
  /** time until its lease ends, in seconds */
  leaseSeconds: number | null;
  /** events that are parked now */
  parked: number | null;
  /** how often the stream went back and was rewound */
  wentBack: number | null;
  /** when it last did */
  wentBackAt: Date | null;
  /** the state that its sink reported last; not `owner` where nobody owns it */
  state: string | null;
  /** its failures in a row */
  failures: number | null;
  /** the error of the last one */
  lastError: string | null;
  /** its cache; `null` where it has none */
  cache: PartitionCache | null;
  /** why the partition makes no progress; empty where it does */
  stuck: string[];
  /** why rows may be missing or old, until a verify has looked; empty where nothing says so */
  doubts: string[];
  /** what else somebody should see to, though the partition goes on; empty where there is nothing */
  warnings: string[];
}

/**
 * Reads the state of those of an entity's partitions that a target has. Changes nothing.
 * @param redis `null` where it is down
 * @param target `null` where it is down
 * @param options.name the name of a target that is down. @default {that of the first}
 * @returns one a partition, in order
 * @throws the error of a server that is not down
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
  options: { name?: string | undefined } = {},
): Promise<PartitionStatus[]> {
  checkArguments("readStatus", { config, entity, options });
  if (redis !== null) checkArguments("readStatus", { redis });
  if (target !== null) checkArguments("readStatus", { target });
  const { name: away = config.targets[0]!.name } = options;
  entityConfig(config, entity);
  const opened = target && targetOf(target, config);
  const name = opened?.describe().name ?? away;
  const view = redis
    ? await viewOf(redis, config, entity, name)
    : { partitions: partitionsOf(config, entity, name), others: [], isMoving: false };
  const partitions = await Promise.all(
    view.partitions.map((keys, index) => {
      const others = index === 0 ? view.others : [];
      return partitionStatus(redis, opened, config, { ...view, partitions: [keys], others }, name);
    }),
  );
  // The index and the table are of the whole entity: told once.
  if (redis) {
    const { warnings } = partitions[0]!;
    const underWay = await repartitionUnderWay(redis, config, entity);
    if (underWay !== null) warnings.push(underWay);
    warnings.push(...await lookAtIndex(redis, config, entity));
    const columns = opened && await columnsProblem(opened, entity);
    if (columns !== null) warnings.push(columns);
  }
  return partitions;
}

async function partitionStatus(
  redis: RedisConnection | null,
  target: Target | null,
  config: Config,
  view: View,
  name: string,
): Promise<PartitionStatus> {
  const keys = view.partitions[0]!;
  const offsets = target && target.offsets;
  const together = redis && offsets &&
    (await readStandings(redis, offsets, view, { waits: true }))[0];
  const standing = together ? together.standing : offsets && await offsets.standing(keys);
  const lag: Lag | null = together ? together.lag : null;
  const gauges = redis && new Map(Object.entries(await redis.hgetall(gaugesOf(keys, name))));
  const [cache = null] = redis ? await readCaches(redis, [keys]) : [];
  const stuck: string[] = [];

  const doubts: string[] = [];
  const warnings: string[] = [];
  if (redis && target && offsets && standing && lag) {
    // While documents and parked events move, neither are all here nor there.
    if (!view.isMoving) await lookAtBelonging(redis, target, config, keys, stuck, doubts);
    const known = await readRegistrations(redis, keys);
    const state = known.find((one) => one.name === name)?.state ?? "active";
    // For one that has no place any more, nothing is kept.
    if (hasPlace(state) && await hasGoneBack(redis, offsets, keys, standing)) {
      stuck.push("the stream has gone back, and no sink has rewound it; start one");
    }
    const { lease_seconds } = config.write_behind;
    const unowned = Math.min(
      lag.seconds,
      standing.leaseSeconds === null ? Infinity : -standing.leaseSeconds,
    );
    const { warn_lag_seconds } = config.write_behind;
    if (lag.seconds >= warn_lag_seconds) {
      warnings.push(
        `the lag is ${
          lag.seconds.toFixed(0)
        } s, from write_behind.warn_lag_seconds (${warn_lag_seconds}) on`,
      );
    }
    if (lag.events > 0 && standing.waitsFor !== null) {
      warnings.push(`the batch waits for a lock of ${standing.waitsFor}; end its transaction`);
    }
    await lookAtIds(redis, keys, stuck, warnings);
    const other = await sameDatabase(redis, config, keys, name, standing);
    if (state === "paused" && view.isMoving) {
      // By the repartition, which lets it go on: nobody else may.
    } else if (state !== "active") {
      (state === "paused" ? warnings : stuck).push(
        `the target is ${state}: ${NEXT[state]} ${name}`,
      );
    } else if (other !== null) stuck.push(other);
    else if (lag.events > 0 && !standing.live && unowned > lease_seconds) {
      stuck.push("events wait, and no sink owns the partition; start one");
    }
    warnings.push(...strangers(known, config, keys));
    const from = await readRebuilding(redis, keys);
    if (from !== null) {
      warnings.push(
        `documents are brought back from ${from}; if that was stopped, Redis lacks some: run deno task rebuild ` +
          `--entity ${keys.entity} --target ${from}`,
      );
    }
  }
  if (cache && isSource(config, keys.entity, name)) warnings.push(...cacheWarnings(cache, keys));
  // Reports of a standby, or of a sink that is gone while another owns the partition, do not count.
  const heard = gauges !== null && gauges.size > 0 &&
    (!standing?.live || gauges.get("owner") === standing.owner);
  const failures = heard ? Number(gauges.get("failures") ?? 0) : gauges && 0;
  const reported = gauges && (String(gauges.get("state") ?? "") || null);
  const { max_retry_attempts } = config.write_behind;
  if (failures !== null && failures > 0 && failures >= max_retry_attempts) {
    stuck.push(`${counted(failures, "failure")} in a row`);
  }
  return {
    entity: keys.entity,
    stream: keys.stream,
    node: redis && redis.at(keys.stream).address,
    target: target && name,
    offset: standing && standing.offset,
    applied: standing && standing.events,
    written: standing && lag && standing.events + lag.events,
    lagEvents: lag && lag.events,
    lagSeconds: lag && lag.seconds,
    owner: standing?.live ? standing.owner : null,
    leaseSeconds: standing?.live ? standing.leaseSeconds : null,
    parked: standing && standing.parked,
    wentBack: standing && standing.wentBack,
    wentBackAt: standing && standing.wentBackAt,
    // One that failed may have given its lease up since, and says why; that one owns it is not so then.
    state: heard && !(reported === "owner" && standing?.live === false) ? reported : null,
    failures,
    lastError: heard ? String(gauges.get("last_error") ?? "") || null : null,
    cache: cache?.state == null ? null : cache,
    stuck,
    doubts,
    warnings,
  };
}

/** Whether the target is that of the stream, and may lack rows. */
async function lookAtBelonging(
  redis: RedisConnection,
  target: Target,
  config: Config,
  keys: PartitionKeys,
  stuck: string[],
  doubts: string[],
): Promise<void> {
  const { mismatches, belonging, doubts: found } = await assess(redis, target, config, keys);
  stuck.push(...mismatches.map(({ reason }) => reason));
  const { doubt } = belonging;
  if (doubt && !doubt.refused) doubts.push(`${doubt.reason} (since ${doubt.at.toISOString()})`);
  doubts.push(...found.filter((reason) => !doubt?.reason.includes(reason)));
}

/** How a target goes on that is not active, before its name. */
const NEXT: Record<Exclude<TargetState, "active">, string> = {
  paused: "run deno task target resume",
  filling: "if that was stopped, run deno task target add",
  detached: "run deno task target add",
  removed: "run deno task target add",
};

/** Why a cache does not evict what it could. */
function cacheWarnings({ state, foreign }: PartitionCache, { entity }: PartitionKeys): string[] {
  const on = `run deno task cache on --entity ${entity}`;
  if (state === "on") return [];
  if (state === null) {
    return [`the configuration has a cache, and Redis has none, so nothing is evicted: ${on}`];
  }
  if (state === "noting") {
    return [`the cache is being turned on; if that was stopped, ${on} again`];
  }
  return [
    foreign === null
      ? `the cache is being turned on or off; if that was stopped, ${on}, or off, again`
      : `the event ${foreign} was written by a program that knows of no cache, so nothing is evicted any more: stop ` +
        `it, then ${on}`,
  ];
}

/** Targets for which the stream is kept, though no sink of this configuration carries it on to them. */
function strangers(known: Registration[], config: Config, keys: PartitionKeys): string[] {
  const here = targetsWith(config, keys);
  return known.filter(({ name, state }) =>
    hasPlace(state) && here.every((target) => target.name !== name)
  ).map(({ name }) => {
    const isKnown = config.targets.some((target) => target.name === name);
    return `the stream is kept for the target ${name}, ` +
      (isKnown
        ? `whose range does not have this partition: give it back, or run deno task target remove ${name}, then ` +
          `deno task target add ${name}`
        : `which is not in the configuration: see that its sink runs, or run deno task target remove ${name}`);
  });
}

/** A stream's ids may run ahead of the clock of Redis by so much, in ms, before it is told. */
const AHEAD_MS = 60_000;

/** Redis gives each event a higher id than the one before, so a wrong clock, or another program's id, stays. */
async function lookAtIds(
  redis: RedisConnection,
  { stream, entity }: PartitionKeys,
  stuck: string[],
  warnings: string[],
): Promise<void> {
  const last = await lastGeneratedId(redis, stream);
  const [seconds] = await redis.at(stream).time();
  const ahead = partsOf(last).ms - Number(seconds) * 1000;
  if (isFar(last)) {
    stuck.push(
      `the last id of the stream, ${last}, is past the year 2248, so events are parked; ` +
        `run deno task mend --entity ${entity}`,
    );
  } else if (ahead > AHEAD_MS) {
    warnings.push(
      `the stream's ids are ${
        Math.round(ahead / 1000)
      } s ahead of the clock of Redis: it was set back, or another ` +
        "program has written the id; events go on in their order",
    );
  }
}

/** Documents that no search finds. */
async function lookAtIndex(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<string[]> {
  if (!config.search_index.create_index) return [];
  const most = await mostUnindexed(redis, config, entity);
  return most === null ? [] : [
    `${most.name} could not index ${counted(most.unindexed, "document")}, which no search finds; ` +
    `FT.INFO ${most.name} has the last error`,
  ];
}
