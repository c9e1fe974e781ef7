/**
 * Reading documents by their ids.
 * @module
 */

import { type Config, entityConfig } from "../config/load.ts";
import type { JsonObject } from "../core/json/encode.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { documentKey } from "../redis/keys.ts";
import type { Pool } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import { checkId } from "./ids.ts";
import { readThrough } from "./read_through.ts";

/** Options of {@linkcode readByIds}. */
export interface ReadOptions {
  /**
   * The target, from which documents are read that Redis does not have. They are put back into Redis, unless
   * one was written meanwhile, or the target has not applied the document's delete yet. While the target is
   * more than 1,000 events behind, such a document stays missing.
   */
  through?: Target | Pool;
}

/** The most keys that one command names. */
const KEYS_AT_A_TIME = 5000;

/**
 * Reads documents, all of them in one round trip.
 * @returns the documents in the order of `docIds`, `null` for one that is missing
 * @throws {DocumentError} `invalid` for an id that cannot be one
 * @throws {ConfigError} with `through`, where not all changes are forwarded to the target
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
  docIds: string[],
  { through }: ReadOptions = {},
): Promise<(JsonObject | null)[]> {
  entityConfig(config, entity);
  if (docIds.length === 0) return [];
  docIds.forEach(checkId);
  const keys = docIds.map((docId) => documentKey(config, entity, docId));
  const replies: Promise<unknown>[] = [];
  for (let at = 0; at < keys.length; at += KEYS_AT_A_TIME) {
    replies.push(redis.call("JSON.MGET", [...keys.slice(at, at + KEYS_AT_A_TIME), "."]));
  }
  const texts = (await Promise.all(replies)).flat() as (string | null)[];
  if (through) {
    const missing = docIds.filter((_, index) => texts[index] === null);
    const found = await readThrough(redis, through, config, entity, missing);
    docIds.forEach((docId, index) => texts[index] ??= found.get(docId) ?? null);
  }
  return texts.map((text) => text === null ? null : JSON.parse(text) as JsonObject);
}
