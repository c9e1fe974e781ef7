/**
 * Reading documents by their ids.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { sameShape, type Shape, shapeOf } from "../config/shapes.ts";
import { connectionErrorKind, passes } from "../core/error_kinds.ts";
import { asError, ConnectionError, reasonOf, WriteBehindError } from "../core/errors.ts";
import type { JsonObject } from "../core/json/encode.ts";
import { parseJson } from "../core/json/parse.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { readTexts } from "../redis/documents.ts";
import { withAddress } from "../redis/explain.ts";
import { idsByPartition, keysOfDocument } from "../redis/keys.ts";
import { awaitShape, checkShape, otherShape, patienceEnds, type Recorded } from "../redis/shape.ts";
import type { Pool } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import { cacheOf } from "./cache.ts";
import { checkId } from "./ids.ts";
import { readThrough } from "./read_through.ts";

/** Options of {@linkcode readByIds}. */
export interface ReadOptions {
  /**
   * The target, from which documents are read that Redis does not have; of targets that have some of the partitions,
   * all of them. They are put back into Redis, unless one was written meanwhile, or the target has not applied the
   * document's delete yet. While the target is more than 1,000 events behind, such a document stays missing.
   * @default where the entity has a cache, the target that it names, however far that is behind; else none
   */
  through?: Target | Pool | readonly Target[];
}

/** The most documents that are asked for at a time: what comes after many others would not be answered in time. */
const IDS_AT_A_TIME = 5000;

/**
 * Reads documents: up to 5,000 in one round trip where one Redis has all of them.
 * @param docIds each of 1 to 512 bytes of UTF-8
 * @returns the documents in the order of `docIds`, `null` for one that is missing
 * @throws {DocumentError} `invalid` for an id that cannot be one
 * @throws {ConfigError} with `through`, where not all changes are forwarded to the target, or it does not have the
 * partition of a document that is missing
 * @throws {ConnectionError} where Redis, or a target that has to be asked, does not answer
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, readByIds } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const ids = ["app-42", "app-43"];
 * const [one, other] = await readByIds(redis, config, "session", ids, { through: target });
 * console.log(one?.user_id, other?.user_id);
 * ```
 */
export async function readByIds(
  redis: RedisConnection,
  config: Config,
  entity: string,
  docIds: readonly string[],
  options: ReadOptions = {},
): Promise<(JsonObject | null)[]> {
  checkArguments("readByIds", { redis, config, entity, docIds, options });
  const { through } = options;
  checkArguments("readByIds", { through });
  const { cache } = entityConfig(config, entity);
  docIds.forEach(checkId);
  const inRedis = (ids: readonly string[]) =>
    readByName(redis, config, entity, ids).catch((error) => {
      throw unanswered(error, entity, redis.address);
    });
  const readSome = async (ids: string[]) => {
    if (cache.enabled) return await cacheOf(redis, config).read(entity, ids, inRedis, through);
    const texts = await inRedis(ids);
    if (through) {
      const missing = ids.filter((_, index) => texts[index] === null);
      const found = await readThrough(redis, through, config, entity, missing);
      ids.forEach((id, index) => texts[index] ??= found.get(id) ?? null);
    }
    return texts;
  };
  const texts: (string | null)[] = [];
  for (let at = 0; at < docIds.length; at += IDS_AT_A_TIME) {
    texts.push(...await readSome(docIds.slice(at, at + IDS_AT_A_TIME)));
  }
  return texts.map((text) => text === null ? null : parseJson(text) as JsonObject);
}

/** The error to throw for one of Redis, or of the connection to it. */
function unanswered(error: unknown, entity: string, address: string): unknown {
  const refused = withAddress(asError(error), address);
  if (refused instanceof WriteBehindError || !passes(connectionErrorKind(error))) return refused;
  const why = refused.name === "MaxRetriesPerRequestError"
    ? "the connection was lost before the answer"
    : reasonOf(error);
  return new ConnectionError(
    `Cannot read documents of ${entity}: no answer from Redis at ${address} (${why})`,
    { cause: error },
  );
}

/** The documents' JSON texts, by the names that hold now: they change while the entity is repartitioned. */
async function readByName(
  redis: RedisConnection,
  config: Config,
  entity: string,
  docIds: readonly string[],
): Promise<(string | null)[]> {
  const deadline = patienceEnds(performance.now());
  for (;;) {
    const used = shapeOf(config, entity);
    const [texts, found] = await readAndLook(redis, config, entity, docIds, used);
    if (found === null) return texts;
    if (found.to === null) {
      const again = { used, waits: false, deadline };
      if (await awaitShape(redis, config, entity, again)) continue;
      await checkShape(redis, config, entity, { expects: used }); // says what is expected
      return texts;
    }
    // A document that is not at its old name any more is at the new one.
    const old = sameShape(used, found.shape)
      ? texts
      : await readBy(redis, config, entity, docIds, found.shape);
    const missing = docIds.filter((_, index) => old[index] === null);
    const moved = await readBy(redis, config, entity, missing, found.to);
    return old.map((text) => text ?? moved.shift() ?? null);
  }
}

/** Reads by the names that are known, and looks whether others hold. */
async function readAndLook(
  redis: RedisConnection,
  config: Config,
  entity: string,
  docIds: readonly string[],
  used: Shape,
): Promise<[(string | null)[], Recorded | null]> {
  const reading = readBy(redis, config, entity, docIds, used);
  if (config.redis.cluster === null) {
    return await Promise.all([reading, otherShape(redis, config, entity, used)]);
  }
  // The record is on another node, so only a later look tells. A document is never at an old name when it is not so any more.
  const texts = await reading;
  return [texts, texts.includes(null) ? await otherShape(redis, config, entity, used) : null];
}

async function readBy(
  redis: RedisConnection,
  config: Config,
  entity: string,
  docIds: readonly string[],
  shape: Shape,
): Promise<(string | null)[]> {
  if (docIds.length === 0) return [];
  if (config.redis.cluster !== null) {
    return await readByPartition(redis, config, entity, docIds, shape);
  }
  const keys = docIds.map((docId) =>
    keysOfDocument(config, entity, docId, shape).documentPrefix + docId
  );
  return await readTogether(redis, keys);
}

const readTogether = async (redis: RedisConnection, keys: string[]) =>
  await redis.call("JSON.MGET", [...keys, "."]) as (string | null)[];

/**
 * JSON.MGET answers null for what is on another node, also within a slot that moves: so each that it does not find is
 * asked for by itself, which leads to where it is.
 */
async function readByPartition(
  redis: RedisConnection,
  config: Config,
  entity: string,
  docIds: readonly string[],
  shape: Shape,
): Promise<(string | null)[]> {
  const found = new Map<string, string>();
  const groups = idsByPartition(config, entity, docIds, shape);
  await Promise.all(groups.map(async ([keys, ids]) => {
    const texts = await readTogether(redis, ids.map((id) => keys.documentPrefix + id));
    await Promise.all(ids.map(async (id, index) => {
      const text = texts[index] ?? (await readTexts(redis, keys, [id], 1))[0];
      if (text) found.set(id, text);
    }));
  }));
  return docIds.map((docId) => found.get(docId) ?? null);
}
