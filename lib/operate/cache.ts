/**
 * Turning the cache of an entity on, for data that stands, and off again. Writers, readers and sinks go on meanwhile; each
 * step may be stopped, and the command run again.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { ConfigError, WriteBehindError } from "../core/errors.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import { cacheOf } from "../documents/cache.ts";
import { documentIds } from "../redis/documents.ts";
import { type CacheState, inAll, readCaches, withoutNote } from "../redis/cache_state.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, byPartition, type PartitionKeys } from "../redis/keys.ts";
import { cachedScript, keepingScript, noteScript, runScript } from "../redis/scripts/mod.ts";
import { checkShape } from "../redis/shape.ts";
import { decodeEntry, type Entry, isEvent } from "../sink/decode.ts";
import { type Pool, rowsOf, targetOf } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import { Comparison } from "./verify/compare.ts";

/** What Redis says of the cache of an entity. */
export interface CacheStatus {
  /** of the partition that is the furthest from being on */
  state: CacheState | "off";
  /** documents with an event that the source has not applied, or that was not settled since */
  pending: number;
  /** the first event that was written by a program that knows of no cache; `null` where there was none */
  foreign: string | null;
}

/** What turning on or off has done, in documents. */
export interface CacheReport extends CacheStatus {
  /** documents that may be evicted now, and could not before; or that were brought back into Redis */
  changed: number;
  /** documents that are not as their rows, and stay in Redis; at most 1,000 of them. Run verify. */
  different: string[];
}

/** Options of {@linkcode turnCacheOn} and {@linkcode turnCacheOff}. */
export interface CacheOptions {
  /** called with what is done next, for people */
  onStep?: (what: string) => void;
  /** called after each chunk, with the documents done so far and about how many there are */
  onProgress?: (done: number, about: number) => void;
  /** stops it between two chunks, with its reason */
  signal?: AbortSignal;
}

/** How long the source may apply nothing of what is waited for, in ms, and how often that is looked at. */
const PATIENCE_MS = 30_000;
const LOOK_AGAIN_MS = 100;
const MAX_LISTED = 1000;
/** Documents that one script changes. */
const CHUNK = 500;

/**
 * Tells the state of the cache of an entity.
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, readCache } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * const { state, pending } = await readCache(redis, config, "session");
 * console.log(state, pending);
 * ```
 */
export async function readCache(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<CacheStatus> {
  checkArguments("readCache", { redis, config, entity });
  const { state, ...rest } = inAll(await readCaches(redis, allPartitions(config, entity)));
  return { state: state ?? "off", ...rest };
}

/**
 * Lets Redis evict the documents of an entity that its source holds as they are. Sinks must run: it waits until they have
 * carried on what was written before. It may be stopped, and run again.
 * @param target the cache's source
 * @throws {ConfigError} where the configuration has no cache of it, or events of before are parked
 * @throws {WriteBehindError} where the source does not apply what was written before
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, turnCacheOn } from "writebehind";
 *
 * const config = await loadConfig(); // with cache.enabled of the entity
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { state, changed, different } = await turnCacheOn(redis, target, config, "session", {
 *   onStep: (what) => console.log(what),
 * });
 * console.log(state, changed, different);
 * ```
 */
export async function turnCacheOn(
  redis: RedisConnection,
  target: Target | Pool,
  config: Config,
  entity: string,
  options: CacheOptions = {},
): Promise<CacheReport> {
  checkArguments("turnCacheOn", { redis, target, config, entity, options });
  const { onStep, onProgress, signal } = options;
  checkArguments("turnCacheOn", { onStep, onProgress, signal });
  await checkConfigured(redis, config, entity);
  const source = targetOf(target, config);
  const partitions = allPartitions(config, entity);
  for (const keys of partitions) {
    const { parked } = await source.offsets.standing(keys);
    if (parked === 0) continue;
    throw new ConfigError(
      `Cannot turn the cache of ${entity} on: events of ${keys.stream} are parked, which their rows lack; replay or ` +
        "discard them first, see deno task dead-letter",
    );
  }
  const begun = await step(redis, partitions, "note");
  for (const [index, keys] of partitions.entries()) {
    await noteUnapplied(redis, keys, begun[index]!.notedFrom, signal);
  }
  onStep?.("waiting until the target holds what was written before");
  for (const [index, keys] of partitions.entries()) {
    await reached(redis, source, keys, begun[index]!.notedFrom, signal);
  }
  await step(redis, partitions, "on", begun);
  const status = await readCache(redis, config, entity);
  const report: CacheReport = { ...status, changed: 0, different: [] };
  if (report.state !== "on") return report;
  onStep?.("comparing documents with their rows");
  const comparison = new Comparison(redis, source, config, entity);
  const { keep_seconds } = entityConfig(config, entity).cache;
  const about = await redis.countKeys();
  let done = 0;
  for (const keys of partitions) {
    for await (const chunk of chunksOf(redis, config, keys)) {
      signal?.throwIfAborted();
      const differ = new Set((await comparison.compare(chunk)).map(({ id }) => id));
      const equal = chunk.filter((id) => !differ.has(id));
      report.changed += await keep(redis, keys, equal, String(1000 * keep_seconds));
      const different = await withoutNote(redis, keys, [...differ]);
      report.different.push(...different.slice(0, MAX_LISTED - report.different.length));
      onProgress?.(done += chunk.length, Math.max(done, about));
    }
  }
  return report;
}

/**
 * Brings all documents of an entity back into Redis, which evicts none any more. It may be stopped, and run again.
 * @param target the cache's source
 * @throws {ConfigError} where the configuration has no cache of it
 * @throws {WriteBehindError} where Redis has no memory for all
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, turnCacheOff } from "writebehind";
 *
 * const config = await loadConfig(); // still with cache.enabled of the entity
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { state, changed } = await turnCacheOff(redis, target, config, "session");
 * console.log(state, changed);
 * ```
 */
export async function turnCacheOff(
  redis: RedisConnection,
  target: Target | Pool,
  config: Config,
  entity: string,
  options: CacheOptions = {},
): Promise<CacheReport> {
  checkArguments("turnCacheOff", { redis, target, config, entity, options });
  const { onStep, onProgress, signal } = options;
  checkArguments("turnCacheOff", { onStep, onProgress, signal });
  await checkConfigured(redis, config, entity);
  const source = targetOf(target, config);
  const partitions = allPartitions(config, entity);
  const begun = await step(redis, partitions, "leave");
  onStep?.("keeping what is in Redis");
  for (const keys of partitions) {
    for await (const chunk of chunksOf(redis, config, keys)) {
      signal?.throwIfAborted();
      await keep(redis, keys, chunk, "");
    }
  }
  onStep?.("bringing back what is only in the target");
  const stored = rowsOf(source);
  const cache = cacheOf(redis, config);
  let changed = 0;
  const about = await stored.size(entity);
  let done = 0;
  for await (const page of stored.ids(entity)) {
    signal?.throwIfAborted();
    for (const [keys, ids] of byPartition(partitions, page, (id) => id)) {
      const missing = await missingAmong(redis, keys, ids);
      for (const [id, { outcome, unfilled }] of await cache.source.fill(keys, missing, source)) {
        if (outcome === "filled") changed++;
        else if (outcome === "unfilled") {
          throw new WriteBehindError(
            `Cannot turn the cache of ${entity} off: ${id} cannot be brought back (${unfilled}); ${changed} were. Mend ` +
              "that, such as by more memory for Redis, and run this again: until then the others are read from the target",
          );
        }
      }
    }
    onProgress?.(done += page.length, Math.max(done, about));
  }
  await step(redis, partitions, "off", begun);
  return { ...await readCache(redis, config, entity), changed, different: [] };
}

async function checkConfigured(redis: RedisConnection, config: Config, entity: string) {
  await checkShape(redis, config, entity);
  if (entityConfig(config, entity).cache.enabled) return;
  throw new ConfigError(
    `entities: expected cache.enabled for ${entity}, got none; set it for all writers, readers and sinks first, and take ` +
      "it away only after deno task cache off",
  );
}

/** What a partition says of its cache after a step. */
interface Turned {
  /** the last event of before writers noted theirs */
  notedFrom: string;
  /** how often the cache was turned on or off */
  turned: string;
}

/**
 * Takes a step in all partitions.
 * @param begun what the first step has said, for the last one
 * @throws {WriteBehindError} where somebody else has taken one since
 */
async function step(
  redis: RedisConnection,
  partitions: readonly PartitionKeys[],
  what: "note" | "on" | "leave" | "off",
  begun: Turned[] = [],
): Promise<Turned[]> {
  return await Promise.all(
    partitions.map(async ({ entity, settings, stream, notes }, index) => {
      const args = [what, begun[index]?.turned ?? ""];
      const reply = await runScript(redis, cachedScript, [settings, stream, notes], args);
      const [notedFrom, turned] = reply as [string, string];
      if (turned !== "") return { notedFrom, turned };
      throw new WriteBehindError(
        `Cannot turn the cache of ${entity} ${what}: somebody else has turned it on or off meanwhile (${stream}); see ` +
          "deno task cache status, then run this again",
      );
    }),
  );
}

/**
 * Notes what a program that knows of no cache has written and the source does not have: a document that it has deleted would
 * else be read as its old row until then.
 * @param notedFrom the last event of before writers noted theirs
 */
async function noteUnapplied(
  redis: RedisConnection,
  { stream, settings, notes, documentPrefix }: PartitionKeys,
  notedFrom: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const [state, settled] = await redis.hmget(settings, "cache", "settled");
  if (state !== "leaving") return;
  const after = settled ? `(${settled}` : "-";
  for (let from = notedFrom;;) {
    signal?.throwIfAborted();
    const entries = await redis.xrevrangeBuffer(stream, from, after, "COUNT", CHUNK) as Entry[];
    const events = entries.map(decodeEntry).filter(isEvent)
      .map(({ docId, streamId, type }) => ({ id: docId.toString(), streamId, type }));
    const names = [settings, notes, ...events.map(({ id }) => documentPrefix + id)];
    const args = events.flatMap(({ id, streamId, type }) => [
      id,
      streamId,
      type === "delete" ? "-" : "",
    ]);
    await runScript(redis, noteScript, names, args);
    if (entries.length < CHUNK) return;
    from = `(${entries.at(-1)![0].toString("latin1")}`;
  }
}

/** Waits until a target holds all entries up to an id, which need be none of them: it may have been moved up. */
async function reached(
  redis: RedisConnection,
  target: Target,
  keys: PartitionKeys,
  streamId: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  let [last, since] = ["", performance.now()];
  for (;;) {
    signal?.throwIfAborted();
    const offset = await target.offsets.offset(keys);
    if (compareStreamIds(offset, streamId) >= 0) return;
    const next = await redis.xrange(keys.stream, `(${offset}`, streamId, "COUNT", 1);
    if (next.length === 0) return;
    if (offset !== last) [last, since] = [offset, performance.now()];
    if (performance.now() - since > PATIENCE_MS) {
      throw new WriteBehindError(
        `${keys.stream} is not applied up to ${streamId} (${offset} for ${
          PATIENCE_MS / 1000
        } s): see that a sink runs, ` +
          "and run this again",
      );
    }
    await delay(LOOK_AGAIN_MS, signal);
  }
}

/** The ids of a partition's documents. */
async function* chunksOf(
  redis: RedisConnection,
  config: Config,
  keys: PartitionKeys,
): AsyncGenerator<string[]> {
  const partitions = allPartitions(config, keys.entity);
  let chunk: string[] = [];
  for await (const { ids } of documentIds(redis, partitions, [keys])) {
    for (const id of ids) chunk.push(id.toString());
    while (chunk.length >= CHUNK) {
      yield chunk.slice(0, CHUNK);
      chunk = chunk.slice(CHUNK);
    }
  }
  if (chunk.length > 0) yield chunk;
}

/** Lets documents be evicted after a time, or keeps them for ever. @returns how many that changes */
async function keep(
  redis: RedisConnection,
  { settings, notes, documentPrefix }: PartitionKeys,
  ids: string[],
  ms: string,
): Promise<number> {
  if (ids.length === 0) return 0;
  const names = [settings, notes, ...ids.map((id) => documentPrefix + id)];
  return Number(await runScript(redis, keepingScript, names, [ms, ...ids]));
}

async function missingAmong(
  redis: RedisConnection,
  { documentPrefix }: PartitionKeys,
  ids: string[],
): Promise<string[]> {
  const there = await Promise.all(ids.map((id) => redis.call("EXISTS", documentPrefix + id)));
  return ids.filter((_, index) => there[index] === 0);
}
