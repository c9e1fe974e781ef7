/** What the tests of searching share: fields, a document, and how a search fails. */

import assert from "node:assert/strict";
import {
  type Config,
  type DeepPartial,
  insertDocument,
  type JsonObject,
  type RedisConnection,
  SearchError,
  type SearchErrorCode,
} from "writebehind";
import { emptyRedis } from "./own_redis.ts";

export const FIELDS = [
  { name: "user_id", type: "TEXT", path: "$.user_id", sortable: false },
  { name: "device_type", type: "TAG", path: "$.device_type", sortable: false },
  { name: "device_model", type: "TAG", path: "$.device_model", sortable: false },
  { name: "seconds", type: "NUMERIC", path: "$.seconds", sortable: true },
  { name: "odd-na.me", type: "TAG", path: "$.odd", sortable: false },
  { name: "title", type: "TEXT", path: "$.title", sortable: true },
] as const;

/** An empty Redis, whose index is to have these fields. */
export function emptyWithFields(changes: DeepPartial<Config> = {}) {
  return emptyRedis({ search_index: { fields: FIELDS } }, changes);
}

export async function insertAll(
  redis: RedisConnection,
  config: Config,
  documents: Record<string, JsonObject>,
): Promise<void> {
  for (const [id, document] of Object.entries(documents)) {
    await insertDocument(redis, config, "session", document, id);
  }
}

export async function failsWith(
  call: () => Promise<unknown>,
  code: SearchErrorCode,
): Promise<void> {
  await assert.rejects(call, (error) => {
    assert(error instanceof SearchError, `not a SearchError: ${error}`);
    assert.equal(error.code, code, error.message);
    return true;
  });
}

export const SESSION = {
  user_id: "user_4554",
  session_id: "s1",
  device_type: "android",
  device_model: "Pixel-4",
  seconds: 60,
  device: { os: { name: "a", versions: [1, 2] } },
};
