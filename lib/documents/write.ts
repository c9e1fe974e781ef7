/**
 * Documents in Redis, and the events of their changes: each call is one atomic script.
 * @module
 */

import { type Config, entityConfig } from "../config/load.ts";
import { DurabilityError, reasonOf } from "../core/errors.ts";
import { encodeJson, type JsonObject } from "../core/json/encode.ts";
import type { Receipt } from "../core/receipt.ts";
import { MAX_ID_BYTES } from "../core/stream_ids.ts";
import { checkArguments } from "../core/arguments.ts";
import { traced } from "../core/tracing.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { checkId, generateDocId } from "./ids.ts";
import {
  checkOptions,
  type InsertOptions,
  type UpdateOptions,
  type WriteOptions,
} from "./options.ts";
import { additionsArgument } from "./restore.ts";
import { type Call, send } from "./send.ts";

/**
 * Stores a new document and appends its `insert` event, in one step.
 * @param entity an entity's name from the configuration, such as `session`
 * @param document an object, or its JSON text (which keeps integers above 2^53 as they are)
 * @param docId 1 to 512 bytes of UTF-8; left out, a new one
 * @returns the receipt
 * @throws {ConfigError} nothing was written: there is no such entity, or `ttlSeconds` where changes are not forwarded
 * @throws {DocumentError} nothing was written: `exists`, `invalid`, `too_large`, `wrong_type` …
 * @throws {BackpressureError} nothing was written: too much is waiting
 * @throws {ConnectionError} nothing was written: Redis, or a cache's target that has to be asked, does not answer
 * @throws {RedisRefusedError} nothing was written: Redis takes no writes now
 * @throws {RepartitioningError} nothing was written: for a minute the entity was being repartitioned
 * @throws {UnknownOutcomeError} the reply was lost
 * @throws {DurabilityError} written, but not confirmed as asked
 *
 * @example
 * ```ts
 * import { connectRedis, insertDocument, loadConfig } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * const session = { user_id: "user_42", device_type: "ios" };
 * const { documentId, streamId } = await insertDocument(redis, config, "session", session);
 * console.log(documentId, streamId);
 * ```
 *
 * @example Safe to repeat, and on a replica before it returns
 * ```ts
 * import { connectRedis, insertDocument, loadConfig, UnknownOutcomeError } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * const options = { requestId: crypto.randomUUID(), durability: "replicas" } as const;
 * const insert = () =>
 *   insertDocument(redis, config, "session", { user_id: "user_42" }, "app-42", options);
 * const receipt = await insert().catch((error) => {
 *   if (error instanceof UnknownOutcomeError) return insert();
 *   throw error;
 * });
 * console.log(receipt.repeated);
 * ```
 */
export function insertDocument(
  redis: RedisConnection,
  config: Config,
  entity: string,
  document: JsonObject | string,
  docId?: string,
  options: InsertOptions = {},
): Promise<Receipt> {
  const fresh = options?.fresh ?? docId === undefined;
  if (docId === undefined) docId = generateDocId(String(entity));
  return write(redis, config, { verb: "insert", entity, docId, options, fresh }, () => {
    const { text, spelled, additions } = encodeJson(document, config.documents.max_bytes);
    const payload = spelled === text ? "" : text;
    return [spelled, options.overwrite ? "1" : "0", payload, additionsArgument(additions)];
  });
}

/**
 * Merges a patch into a document by RFC 7386 (`null` removes a key) and appends its `update` event,
 * which carries the whole document after the change.
 * @param entity an entity's name from the configuration, such as `session`
 * @param docId the document's
 * @param patch an object, or its JSON text
 * @returns the receipt
 * @throws as {@linkcode insertDocument}, with `missing` where there is no such document
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, updateDocument } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await updateDocument(redis, config, "session", "app-42", { device_type: "web", city: null });
 * ```
 */
export function updateDocument(
  redis: RedisConnection,
  config: Config,
  entity: string,
  docId: string,
  patch: JsonObject | string,
  options: UpdateOptions = {},
): Promise<Receipt> {
  return write(redis, config, { verb: "update", entity, docId, options }, () => {
    const { max_bytes } = config.documents;
    const { spelled, additions } = encodeJson(patch, max_bytes);
    return [spelled, String(max_bytes), additionsArgument(additions)];
  });
}

/**
 * Removes a document and appends its `delete` event.
 * @param entity an entity's name from the configuration, such as `session`
 * @param docId the document's
 * @returns the receipt
 * @throws as {@linkcode insertDocument}, with `missing` where there is no such document
 *
 * @example
 * ```ts
 * import { connectRedis, deleteDocument, DocumentError, loadConfig } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * try {
 *   await deleteDocument(redis, config, "session", "app-42");
 * } catch (error) {
 *   if (!(error instanceof DocumentError && error.code === "missing")) throw error;
 * }
 * ```
 */
export function deleteDocument(
  redis: RedisConnection,
  config: Config,
  entity: string,
  docId: string,
  options: WriteOptions = {},
): Promise<Receipt> {
  return write(redis, config, { verb: "delete", entity, docId, options }, () => []);
}

function write(
  redis: RedisConnection,
  config: Config,
  call: Call,
  verbArgs: () => string[],
): Promise<Receipt> {
  return traced(`${call.verb} ${String(call.entity)}`, {
    kind: "producer",
    before: () => ({ "writebehind.entity": call.entity, "writebehind.verb": call.verb }),
    after: ({ streamId, repeated }) => ({
      ...(streamId === null ? {} : { "messaging.message.id": streamId }),
      "writebehind.repeated": repeated,
    }),
  }, () => counted(redis, config, call, verbArgs));
}

/** Writes, and counts how it went. */
async function counted(
  redis: RedisConnection,
  config: Config,
  call: Call,
  verbArgs: () => string[],
): Promise<Receipt> {
  const { verb, entity, docId, options } = call;
  checkArguments(`${verb}Document`, { redis, config, entity, options });
  try {
    entityConfig(config, entity);
    checkId(docId);
    checkOptions(config, call);
    const receipt = await send(redis, config, call, verbArgs());
    redis.counters.count("redis_success", 1, `${verb} ${entity}`);
    return receipt;
  } catch (error) {
    const unconfirmed = error instanceof DurabilityError;
    const reason = withoutId(reasonOf(error), docId);
    redis.counters.count(
      unconfirmed ? "redis_success" : "redis_fail",
      1,
      `${verb} ${entity}: ${reason}`,
    );
    throw error;
  }
}

/** With the id in the reason, each failure would be a line of its own in the log stream. */
function withoutId(reason: string, docId: unknown): string {
  // One that was refused as an id may be anything.
  if (typeof docId !== "string" || docId === "" || docId.length > MAX_ID_BYTES) return reason;
  const word = new RegExp(`(?<![^ :"])${RegExp.escape(docId)}(?![^ :"])`, "g");
  return reason.replaceAll(word, "<id>");
}
