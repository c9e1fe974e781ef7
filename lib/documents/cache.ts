/**
 * Reading documents that Redis may have evicted: calls that miss the same one share a look at the target.
 *
 * A document that is missing, and of which no event is noted, is in the target as it is. Its row is given back where nothing
 * that was settled by then is newer than the offset that was read with it: so it was true at one moment of the call. Putting
 * it back takes another round trip, for which no reader waits; meanwhile the document may be written, applied, settled and
 * evicted again, and then its row is read again.
 * @module
 */

import { type Config, entityConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { ConnectionError } from "../core/errors.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { documentKey, idsByPartition, looksOf, type PartitionKeys } from "../redis/keys.ts";
import { askScript } from "../redis/scripts/mod.ts";
import type { Through } from "../targets/open.ts";
import {
  CacheSource,
  type Filled,
  type Landed,
  LOOK_AGAIN_MS,
  PATIENCE_MS,
  runTogether,
} from "./cache_source.ts";

/** For how long one who asks the target keeps the others waiting, in ms. */
const ASKING_MS = 250;
/** Documents that one script or one query looks for, so that Redis answers others in between. */
const CHUNK = 500;
/** How often a read makes a document stay for longer, in ms, and of how many it is known. */
const RENEW_MS = 60_000;
const RENEWED = 100_000;
/** Reads expect to miss where more than this part of about so many reads before them did. */
const MISSES_OFTEN = 0.25;
const LAST_READS = 32;

/** A look at the target for a document, which is shared by all calls that miss it meanwhile. */
interface Flight {
  landed: Promise<Landed>;
  filled: Promise<Filled>;
  /** when it began, by `performance.now()`; after a while no more calls share it */
  since: number;
  /** when it has taken so long that others look for themselves; only where others share it, since a timer costs */
  late?: { timer: ReturnType<typeof setTimeout>; promise: Promise<null> };
}

/** A flight as one that waits for it sees it: `null` where it is late, and one had better look again. */
interface Look {
  landed(): Promise<Landed | null>;
  filled(): Promise<Filled | null>;
}

/** What Redis says of a document, see `ask.lua`. */
type Answer = [what: "there" | "ask" | "wait" | "missing" | "off", text?: string];

/** The cache that a connection to Redis reads and writes. */
export class Cache {
  readonly source: CacheSource;
  #redis: RedisConnection;
  #config: Config;
  #flights = new Map<string, Flight>();
  /** the part of the last reads that missed, by entity */
  #misses = new Map<string, number>();
  #renewed = new Set<string>();
  #renewedAt = 0;

  constructor(redis: RedisConnection, config: Config) {
    this.#redis = redis;
    this.#config = config;
    this.source = new CacheSource(redis, config);
  }

  /**
   * Reads documents, from Redis or else from the target. Calls that miss the same document share one look at the target.
   * @param inRedis reads their JSON texts from Redis alone, in order, `null` for one that is missing
   * @param through the target, in place of the configured one
   * @returns their JSON texts in order, `null` for one that is missing
   * @throws {ConnectionError} where the target cannot be asked
   */
  async read(
    entity: string,
    docIds: readonly string[],
    inRedis: (docIds: readonly string[]) => Promise<(string | null)[]>,
    through?: Through,
  ): Promise<(string | null)[]> {
    // To ask for a document costs a little more than to look whether it is there, and spares a miss that look. In a cluster it
    // would have to wait while its slot moves.
    const asksAtOnce = this.#config.redis.cluster === null &&
      (this.#misses.get(entity) ?? 0) > MISSES_OFTEN;
    const texts = asksAtOnce ? docIds.map(() => null) : await inRedis(docIds);
    const missed = new Set<string>();
    if (texts.includes(null)) {
      const left = docIds.filter((_, index) => texts[index] === null);
      const found = new Map<string, string>();
      const off = await this.#readFurther(entity, left, found, missed, through);
      // A cache is turned off before its documents are moved to other names.
      if (asksAtOnce && off.length > 0) {
        (await inRedis(off)).forEach((text, index) =>
          text !== null && found.set(off[index]!, text)
        );
      }
      docIds.forEach((id, index) => texts[index] ??= found.get(id) ?? null);
    }
    this.#count(entity, docIds, missed);
    return texts;
  }

  /**
   * Reads documents where they are now.
   * @param found the texts of those that there are
   * @param missed those that Redis did not have
   * @returns those of which the cache does not know, since it is off
   */
  async #readFurther(
    entity: string,
    docIds: string[],
    found: Map<string, string>,
    missed: Set<string>,
    through: Through | undefined,
  ): Promise<string[]> {
    const off: string[] = [];
    const chunks = idsByPartition(this.#config, entity, docIds).flatMap(([keys, own]) => {
      const starts = Array.from({ length: Math.ceil(own.length / CHUNK) }, (_, n) => n * CHUNK);
      return starts.map((at) => [keys, own.slice(at, at + CHUNK)] as const);
    });
    await Promise.all(
      chunks.map(([keys, some]) =>
        this.#ask(keys, some, through, async (id, [what, text], look, settled) => {
          if (what === "there") {
            found.set(id, text!);
            return true;
          }
          missed.add(id);
          if (what === "off") off.push(id);
          if (look === undefined) return what !== "wait";
          const landed = await look.landed();
          if (landed === null) return false;
          // The target is behind, or the look was from before what the caller may know of.
          if (settled !== "" && compareStreamIds(landed.offset, settled) < 0) return false;
          if (landed.text !== null) found.set(id, landed.text);
          return true;
        })
      ),
    );
    return off;
  }

  /**
   * Brings a document into Redis that was missing a moment ago. Calls for the same one share a look at the target.
   * @returns what has become of it
   * @throws {ConnectionError} where the target cannot be asked
   */
  async bringBack(keys: PartitionKeys, docId: string): Promise<Filled> {
    let result: Filled | null = null;
    await this.#ask(keys, [docId], undefined, async (_, [what, text], look) => {
      if (what === "there") result = { outcome: "there", text: text!, unfilled: "" };
      else if (look !== undefined) result = await look.filled();
      else if (what !== "wait") result = { outcome: "missing", text: null, unfilled: "" };
      return result !== null;
    });
    return result!;
  }

  /** Counts the documents that a read has found in Redis, which stay for longer, and those that it has not. */
  #count(entity: string, docIds: readonly string[], missed: Set<string>): void {
    const looks = looksOf(this.#config, entity);
    const hits = missed.size === 0 ? docIds : docIds.filter((id) => !missed.has(id));
    if (hits.length > 0) {
      this.#redis.counters.tally(looks.hits, hits.length);
      this.#renew(entity, hits);
    }
    const misses = docIds.length - hits.length;
    if (misses > 0) this.#redis.counters.tally(looks.misses, misses);
    const before = this.#misses.get(entity) ?? 0;
    this.#misses.set(entity, before + (misses / docIds.length - before) / LAST_READS);
  }

  /** Makes documents that were just read stay for longer, once a minute. */
  #renew(entity: string, docIds: readonly string[]): void {
    const now = performance.now();
    if (now - this.#renewedAt >= RENEW_MS || this.#renewed.size >= RENEWED) {
      this.#renewed.clear();
      this.#renewedAt = now;
    }
    const { keep_seconds } = entityConfig(this.#config, entity).cache;
    for (const id of docIds) {
      const name = `${entity} ${id}`;
      if (this.#renewed.has(name)) continue;
      this.#renewed.add(name);
      const key = documentKey(this.#config, entity, id);
      // Only where it has a time: one without may not be in the target. Nothing depends on it.
      this.#redis.call("EXPIRE", key, String(keep_seconds), "XX").catch(() => {});
    }
  }

  /**
   * Asks what is to be done about documents of one partition, and looks at the target for those that nobody asks it for.
   * @param take is given each document, what Redis says of it, the look at the target that it can share, and the newest of
   * what was settled when Redis said so, or ""; whether it is done, or to be asked for again in a while
   */
  async #ask(
    keys: PartitionKeys,
    docIds: string[],
    through: Through | undefined,
    take: (
      id: string,
      answer: Answer,
      look: Look | undefined,
      settled: string,
    ) => Promise<boolean>,
  ): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    for (let left = docIds;;) {
      const [settled, ...answers] = await runTogether(this.#redis, this.#config, askScript, [
        keys.stream,
        keys.settings,
        keys.notes,
        ...left.flatMap((id) => [keys.documentPrefix + id, keys.askedPrefix + id]),
      ], [String(ASKING_MS), ...left]) as [string, ...Answer[]];
      // By one moment: of a flight that was too late only for the second look at it, nobody would wait for the document.
      const now = performance.now();
      const flightOf = (id: string) => this.#flightOf(`${keys.entity} ${id}`, now);
      const own = new Set(left.filter((id, n) => answers[n]![0] === "ask" && !flightOf(id)));
      if (own.size > 0) this.#takeOff(keys, [...own], through);
      const lookOf = (id: string): Look | undefined => {
        const flight = flightOf(id);
        if (flight === undefined) return undefined;
        const soon = <T>(one: Promise<T>) => own.has(id) ? one : Promise.race([one, late(flight)]);
        return { landed: () => soon(flight.landed), filled: () => soon(flight.filled) };
      };
      const done = await Promise.all(left.map((id, index) => {
        const answer = answers[index]!;
        const waits = answer[0] === "ask" || answer[0] === "wait";
        return take(id, answer, waits ? lookOf(id) : undefined, settled);
      }));
      left = left.filter((_, index) => !done[index]);
      if (left.length === 0) return;
      if (performance.now() > deadline) {
        throw new ConnectionError(
          `Cannot read ${
            left[0]
          } of ${keys.entity}: others have asked the target for it, or it is behind, for ` +
            `${PATIENCE_MS / 1000} s; try again`,
        );
      }
      await delay(LOOK_AGAIN_MS);
    }
  }

  /** Begins a look at the target, which others may share until all is put back, or it is late. */
  #takeOff(keys: PartitionKeys, docIds: string[], through: Through | undefined): void {
    const landing = new Map(docIds.map((id) => [id, Promise.withResolvers<Landed>()]));
    const filling = this.source.fill(
      keys,
      docIds,
      through,
      (id, row) => landing.get(id)!.resolve(row),
    );
    const since = performance.now();
    const begun = new Map<string, Flight>();
    for (const [id, { promise: landed, reject }] of landing) {
      const filled = filling.then((all) => all.get(id)!);
      filled.catch(reject); // who has its row by then does not mind
      landed.catch(() => {}); // each that waits for it has the error
      begun.set(`${keys.entity} ${id}`, { landed, filled, since });
    }
    for (const [name, flight] of begun) this.#flights.set(name, flight);
    const over = () => {
      for (const [name, flight] of begun) {
        clearTimeout(flight.late?.timer);
        if (this.#flights.get(name) === flight) this.#flights.delete(name);
      }
    };
    filling.then(over, over);
  }

  /** The look at the target for a document that may be shared. */
  #flightOf(name: string, now: number): Flight | undefined {
    const flight = this.#flights.get(name);
    if (flight === undefined || now - flight.since < ASKING_MS) return flight;
    this.#flights.delete(name);
    return undefined;
  }
}

/** When a flight is late, for all that share it. */
function late(flight: Flight): Promise<null> {
  if (flight.late !== undefined) return flight.late.promise;
  const { promise, resolve } = Promise.withResolvers<null>();
  const left = Math.max(0, flight.since + ASKING_MS - performance.now());
  flight.late = { timer: setTimeout(() => resolve(null), left), promise };
  return promise;
}

const caches = new WeakMap<RedisConnection, Map<Config, Cache>>();

/** The cache of a connection, made when it is first needed. */
export function cacheOf(redis: RedisConnection, config: Config): Cache {
  return caches.getOrInsertComputed(redis, () => new Map())
    .getOrInsertComputed(config, () => new Cache(redis, config));
}
