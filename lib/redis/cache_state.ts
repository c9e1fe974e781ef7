/**
 * What Redis says of the cache that an entity has.
 * @module
 */

import type { Config } from "../config/load.ts";
import { ConfigError } from "../core/errors.ts";
import type { RedisConnection } from "./connection.ts";
import { allPartitions, looksOf, type PartitionKeys } from "./keys.ts";

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
  return await Promise.all(partitions.map(async ({ cached, settings, stream, notes }) => {
    const [[state, foreign, written], length, pending] = await Promise.all([
      redis.hmget(settings, "cache", "foreign", "partitions"),
      redis.xlen(stream),
      // A user for an entity without a cache need not have the right.
      cached ? redis.hlen(notes) : 0,
    ]);
    // Where Redis was emptied, all is read from the target.
    const isEmpty = written === null && length === 0;
    return {
      state: state as CacheState | null ?? (cached && isEmpty ? "on" : null),
      foreign: foreign ?? null,
      pending,
    };
  }));
}

/** How often a step of turning the caches of partitions on or off was taken, in order. */
export async function readTurns(
  redis: RedisConnection,
  partitions: readonly PartitionKeys[],
): Promise<number[]> {
  return await Promise.all(
    partitions.map(async ({ settings }) => Number(await redis.hget(settings, "turned"))),
  );
}

const ORDER = [null, "noting", "leaving", "on"] as const satisfies readonly (CacheState | null)[];

/** The caches of an entity's partitions as one: the state is that of the one which is the furthest from being on. */
export function inAll(caches: readonly PartitionCache[]): PartitionCache {
  const states = caches.map(({ state }) => ORDER.indexOf(state));
  return {
    state: ORDER[Math.min(...states)]!,
    foreign: caches.find(({ foreign }) => foreign !== null)?.foreign ?? null,
    pending: caches.reduce((sum, { pending }) => sum + pending, 0),
  };
}

/** Those of a partition's documents of which no event is noted: where they are missing, their rows are current. */
export async function withoutNote(
  redis: RedisConnection,
  { notes }: PartitionKeys,
  docIds: readonly string[],
): Promise<string[]> {
  const noted = docIds.length === 0 ? [] : await redis.hmget(notes, ...docIds);
  return docIds.filter((_, index) => noted[index] === null);
}

/** How often documents were looked for in an entity's cache. */
export interface CacheLooks {
  /** documents that readers have found in Redis, as their processes have counted them */
  hits: number;
  /** those that they did not find there, also where there is no such document */
  misses: number;
}

/** What has gone from Redis by itself. */
export interface KeysGone {
  /** keys that it has evicted since it started, of whatever kind */
  evictedKeys: number;
  /** keys whose time was over, the same */
  expiredKeys: number;
}

/** How an entity's cache does, for people; what has gone is of all nodes together. */
export interface CacheFigures extends CacheLooks, KeysGone {}

/** Reads how a cache does. */
export async function readCacheFigures(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<CacheFigures> {
  const [looks, nodes] = await Promise.all([
    readLooks(redis, config, entity),
    readNodes(redis, config, entity),
  ]);
  const sum = (name: keyof KeysGone) => nodes.reduce((all, node) => all + node[name], 0);
  return { ...looks, evictedKeys: sum("evictedKeys"), expiredKeys: sum("expiredKeys") };
}

/** Reads how often documents were looked for. */
export async function readLooks(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<CacheLooks> {
  const keys = looksOf(config, entity);
  const [hits, misses] = await Promise.all([redis.get(keys.hits), redis.get(keys.misses)]);
  return { hits: Number(hits), misses: Number(misses) };
}

/** What a node of Redis holds, and may, and what has gone from it. */
export interface NodeFigures extends KeysGone {
  /** its address */
  node: string;
  /** memory that it uses, and from which on it evicts or refuses writes; 0 for no limit */
  bytes: number;
  limitBytes: number;
  /** keys of whatever kind, and those that it may evict */
  keys: number;
  evictableKeys: number;
}

/** Reads what the nodes say that have an entity's partitions. */
export async function readNodes(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<NodeFigures[]> {
  return await Promise.all(
    nodesOf(redis, config, entity).map(async (node) => {
      const sections = ["memory", "keyspace", "stats"].map((section) => node.info(section));
      const [memory, keyspace, stats] = await Promise.all(sections) as [string, string, string];
      const databases = [...keyspace.matchAll(/^db\d+:keys=(\d+),expires=(\d+)/gm)];
      const sum = (index: 1 | 2) => databases.reduce((all, one) => all + Number(one[index]), 0);
      const isEvicting = !/^maxmemory_policy:noeviction/m.test(memory);
      return {
        node: node.address,
        bytes: numberIn(memory, "used_memory"),
        limitBytes: numberIn(memory, "maxmemory"),
        keys: sum(1),
        // Only what has a time may go: `allkeys-*` is refused.
        evictableKeys: isEvicting ? sum(2) : 0,
        evictedKeys: numberIn(stats, "evicted_keys"),
        expiredKeys: numberIn(stats, "expired_keys"),
      };
    }),
  );
}

/** The nodes that have an entity's partitions: one, or some of a cluster. */
function nodesOf(redis: RedisConnection, config: Config, entity: string): RedisConnection[] {
  const nodes = allPartitions(config, entity).map(({ stream }) => redis.at(stream));
  return [...new Map(nodes.map((node) => [node.address, node])).values()];
}

const numberIn = (info: string, name: string) =>
  Number(RegExp(`^${name}:(\\d+)`, "m").exec(info)?.[1] ?? 0);

/** A share of hits, for people; with no look yet there is none. */
export function hitRate({ hits, misses }: CacheFigures): string {
  const looks = hits + misses;
  return looks === 0 ? "no looks yet" : `${(100 * hits / looks).toFixed(1)} % of ${looks} looks`;
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
