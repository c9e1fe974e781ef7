/**
 * Documents that Redis has evicted, since the target holds them: they are read from there, and put back.
 *
 * A document that is missing, and of which no event is noted, is in the target as it is. While its row is read, it may be
 * written, applied, settled and evicted again: then more is settled than the offset that was read with the row, and the
 * row is read again. So what is given back was true at one moment of the call.
 * @module
 */

import { type Config, entityConfig, sourceConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { ConnectionError, DocumentError, reasonOf } from "../core/errors.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, byPartition, looksOf, type PartitionKeys } from "../redis/keys.ts";
import { askScript, fillScript, runScript } from "../redis/scripts/mod.ts";
import { openTarget, rowsOf, targetFor, type Through } from "../targets/open.ts";
import type { Row, RowsAt, Target } from "../targets/target.ts";
import { additionsArgument, encoded } from "./restore.ts";

/** For how long one who asks the target keeps the others waiting, in ms; they look every so often, in ms. */
const ASKING_MS = 250;
const LOOK_AGAIN_MS = 5;
/** Documents that one script or one query looks for, so that Redis answers others in between. */
const CHUNK = 500;
/** For how long it is remembered that there is no such document, in ms. */
const MISSING_MS = 1000;
/** How long a read goes on whose rows keep changing, in ms. */
const PATIENCE_MS = 10_000;
/** How often a read makes a document stay for longer, in ms, and of how many it is known. */
const RENEW_MS = 60_000;
const RENEWED = 100_000;

/** A document that was found. */
interface Found {
  text: string;
  /** why it was not put back, or "": it is in Redis, or was */
  unfilled: string;
}

/** What has become of a document that was to be brought into Redis. */
export interface Filled {
  /**
   * - `there`: Redis has it, meanwhile
   * - `filled`: it was missing
   * - `unfilled`: Redis has no memory for it, or cannot hold it as its row is
   * - `missing`: there is none
   */
  outcome: "there" | "filled" | "unfilled" | "missing";
  /** its JSON text; `null` where there is none */
  text: string | null;
  /** as {@linkcode Found} has it */
  unfilled: string;
}

/** A read of a document from the target that is under way. */
interface Flight {
  /** in ms, of `performance.now()` */
  began: number;
  found: Promise<Found | null>;
}

/** The cache that a connection to Redis reads and writes. */
export class Cache {
  #redis: RedisConnection;
  #config: Config;
  #flights = new Map<string, Flight>();
  #sources = new Map<string, Promise<Target>>();
  #renewed = new Set<string>();
  #renewedAt = 0;

  constructor(redis: RedisConnection, config: Config) {
    this.#redis = redis;
    this.#config = config;
    redis.once("end", () => {
      for (const source of this.#sources.values()) {
        source.then((target) => target.close()).catch(() => {}); // whoever asked for it has the error
      }
      this.#sources.clear();
    });
  }

  /** The target that has all documents of an entity; it is closed with the connection to Redis. */
  source(entity: string): Promise<Target> {
    const { name } = sourceConfig(this.#config, entity);
    const known = this.#sources.get(name);
    if (known !== undefined) return known;
    const opening = openTarget(this.#config, name);
    this.#sources.set(name, opening);
    // The next call tries again.
    opening.catch(() => this.#sources.delete(name));
    return opening;
  }

  /**
   * Reads documents that Redis did not have a moment ago. Calls for the same document share one look at the target.
   * @param since when the call began, in ms of `performance.now()`: what was under way before may be older than what the
   * caller has written since
   * @param through the target, in place of the configured one
   * @returns documents by id; an id without one has none
   * @throws {ConnectionError} where the target cannot be asked
   */
  async read(
    entity: string,
    docIds: readonly string[],
    since: number,
    through?: Through,
  ): Promise<Map<string, Found>> {
    const partitions = allPartitions(this.#config, entity);
    const ids = [...new Set(docIds)];
    const flightOf = (id: string) => `${entity} ${id}`;
    const joins = (id: string) => (this.#flights.get(flightOf(id))?.began ?? -Infinity) >= since;
    const asked = byPartition(partitions, ids.filter((id) => !joins(id)), (id) => id);
    for (const [keys, own] of asked) {
      const began = performance.now();
      for (let at = 0; at < own.length; at += CHUNK) {
        const some = own.slice(at, at + CHUNK);
        const reading = this.#readPartition(keys, some, through);
        for (const id of some) {
          const flight = { began, found: reading.then((found) => found.get(id) ?? null) };
          const end = () => {
            if (this.#flights.get(flightOf(id)) === flight) this.#flights.delete(flightOf(id));
          };
          flight.found.then(end, end);
          this.#flights.set(flightOf(id), flight);
        }
      }
    }
    const flights = ids.map(async (id) =>
      [id, await this.#flights.get(flightOf(id))!.found] as const
    );
    const found = new Map<string, Found>();
    for (const [id, one] of await Promise.all(flights)) if (one !== null) found.set(id, one);
    return found;
  }

  /**
   * Asks the target whether it has a document that Redis does not have.
   * @returns the offset at which it had none; `null` where it has it
   */
  async missingAt(keys: PartitionKeys, docId: string): Promise<string | null> {
    const { offset, rows: [row] } = await this.#rowsAt(keys, [docId]);
    return row === null ? offset : null;
  }

  /** Counts the documents that a read has found in Redis, and those that it has not. */
  count(entity: string, hits: number, misses: number): void {
    const looks = looksOf(this.#config, entity);
    if (hits > 0) this.#redis.counters.tally(looks.hits, hits);
    if (misses > 0) this.#redis.counters.tally(looks.misses, misses);
  }

  /** Makes documents that were just read stay for longer, once a minute. */
  renew(entity: string, keys: readonly string[]): void {
    const now = performance.now();
    if (now - this.#renewedAt >= RENEW_MS || this.#renewed.size >= RENEWED) {
      this.#renewed.clear();
      this.#renewedAt = now;
    }
    const { keep_seconds } = entityConfig(this.#config, entity).cache;
    for (const key of keys) {
      if (this.#renewed.has(key)) continue;
      this.#renewed.add(key);
      // Only where it has a time: one without may not be in the target. Nothing depends on it.
      this.#redis.call("EXPIRE", key, String(keep_seconds), "XX").catch(() => {});
    }
  }

  async #readPartition(
    keys: PartitionKeys,
    docIds: string[],
    through: Through | undefined,
  ): Promise<Map<string, Found>> {
    const found = new Map<string, Found>();
    const deadline = performance.now() + PATIENCE_MS;
    for (let left = docIds; left.length > 0;) {
      const answers = await runScript(this.#redis, askScript, [
        keys.stream,
        keys.settings,
        keys.notes,
        ...left.flatMap((id) => [keys.documentPrefix + id, keys.askedPrefix + id]),
      ], [String(ASKING_MS), ...left]) as [string, ...[string, string?][]];
      const asking: string[] = [];
      const waiting: string[] = [];
      left.forEach((id, index) => {
        const [what, text] = answers[index + 1] as [string, string?];
        if (what === "there") found.set(id, { text: text!, unfilled: "" });
        else if (what === "ask") asking.push(id);
        else if (what === "wait") waiting.push(id);
      });
      for (const [id, { text, unfilled }] of await this.fill(keys, asking, through)) {
        if (text !== null) found.set(id, { text, unfilled });
      }
      left = waiting;
      if (left.length === 0) break;
      if (performance.now() > deadline) {
        throw new ConnectionError(
          `Cannot read ${left[0]} of ${keys.entity}: others have asked the target for it for ` +
            `${PATIENCE_MS / 1000} s; try again`,
        );
      }
      await delay(LOOK_AGAIN_MS);
    }
    return found;
  }

  /**
   * Brings documents of one partition that Redis does not have into it, from their rows. The caller sees to it that not too
   * many ask for the same.
   * @returns what has become of each
   * @throws {ConnectionError} where the target cannot be asked, or has applied new events at each of many looks
   */
  async fill(
    keys: PartitionKeys,
    docIds: string[],
    through?: Through,
  ): Promise<Map<string, Filled>> {
    const filled = new Map<string, Filled>();
    const deadline = performance.now() + PATIENCE_MS;
    for (let left = docIds; left.length > 0;) {
      left = await this.#fillOnce(keys, left, filled, through);
      if (left.length === 0) break;
      if (performance.now() > deadline) {
        throw new ConnectionError(
          `Cannot read ${
            left[0]
          } of ${keys.entity}: events were applied each time that its row was read, for ` +
            `${PATIENCE_MS / 1000} s; try again`,
        );
      }
      await delay(LOOK_AGAIN_MS);
    }
    return filled;
  }

  /** @returns the ids whose rows are to be read again */
  async #fillOnce(
    keys: PartitionKeys,
    docIds: string[],
    filled: Map<string, Filled>,
    through: Through | undefined,
  ): Promise<string[]> {
    const { keep_seconds } = entityConfig(this.#config, keys.entity).cache;
    const again: string[] = [];
    for (let left = docIds; left.length > 0;) {
      const { offset, rows, parked } = await this.#rowsAt(keys, left, through);
      const ids = left.slice(0, rows.length);
      const answers = await runScript(this.#redis, fillScript, [
        keys.stream,
        keys.settings,
        keys.notes,
        ...ids.flatMap((id) => [keys.documentPrefix + id, keys.askedPrefix + id]),
      ], [
        offset,
        String(1000 * keep_seconds),
        String(MISSING_MS),
        ...ids.flatMap((id, index) => [id, ...fillArguments(rows[index]!, parked[index]!)]),
      ]) as [Filled["outcome"] | "again", string][];
      ids.forEach((id, index) => {
        const [outcome, says] = answers[index]!;
        if (outcome === "again") return again.push(id);
        const row = outcome === "missing" ? null : rows[index]?.text ?? null;
        const text = outcome === "there" ? says : row;
        filled.set(id, { outcome, text, unfilled: outcome === "unfilled" ? says : "" });
      });
      left = left.slice(rows.length);
    }
    return again;
  }

  /** Rows, as documents: `null` also for one that is none. */
  async #rowsAt(
    keys: PartitionKeys,
    docIds: string[],
    through?: Through,
  ): Promise<RowsAt> {
    const given = through && targetFor(through, this.#config, keys, docIds[0]!);
    try {
      const target = given ?? await this.source(keys.entity);
      const { rows, ...at } = await rowsOf(target).at(keys, docIds);
      return { ...at, rows: rows.map((row) => row?.text.startsWith("{") ? row : null) };
    } catch (error) {
      throw new ConnectionError(
        `Redis does not have ${docIds[0]} of ${keys.entity}, and its target cannot be asked: ${
          reasonOf(error)
        }`,
        { cause: error },
      );
    }
  }
}

/**
 * A row as `fill.lua` takes it.
 * @param isParked whether an event of it is parked: Redis has lost its document, and a replay changes the row
 */
function fillArguments(row: Row | null, isParked: boolean): [text: string, additions: string] {
  const spelled = encoded(row);
  if (spelled === null) return ["", ""];
  // A row by another writer may hold what Redis cannot; it is returned, but not put back.
  if (spelled instanceof DocumentError || isParked) return ["-", ""];
  return [spelled.spelled, additionsArgument(spelled.additions)];
}

const caches = new WeakMap<RedisConnection, Map<Config, Cache>>();

/** The cache of a connection, made when it is first needed. */
export function cacheOf(redis: RedisConnection, config: Config): Cache {
  const known = caches.get(redis) ?? new Map<Config, Cache>();
  caches.set(redis, known);
  const cache = known.get(config) ?? new Cache(redis, config);
  known.set(config, cache);
  return cache;
}
