/**
 * Documents in Redis, and the events of their changes: each call is one atomic script.
 * @module
 */

import { createHash } from "node:crypto";
import { type Config, entityConfig, isForwarded } from "../config/load.ts";
import {
  BackpressureError,
  ConfigError,
  ConnectionError,
  DocumentError,
  DurabilityError,
  reasonOf,
  RepartitioningError,
} from "../core/errors.ts";
import { delay } from "../core/delay.ts";
import { textOf } from "../config/shapes.ts";
import { encodeJson, type JsonObject } from "../core/json/encode.ts";
import { additionsArgument } from "./restore.ts";
import type { Receipt } from "../core/receipt.ts";
import { type EventType, MAX_ID_BYTES, versionOf } from "../core/stream_ids.ts";
import { traced } from "../core/tracing.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { durabilityOf, type Wait } from "../redis/durability.ts";
import { keysOfDocument, type PartitionKeys } from "../redis/keys.ts";
import {
  deleteScript,
  insertScript,
  runScript,
  type Script,
  settingsScript,
  updateScript,
} from "../redis/scripts/mod.ts";
import { awaitShape, isUnderWay, patienceEnds, recordShape } from "../redis/shape.ts";
import { cacheOf } from "./cache.ts";
import { checkId, generateDocId } from "./ids.ts";
import {
  checkOptions,
  type InsertOptions,
  type UpdateOptions,
  type WriteOptions,
} from "./options.ts";
import { explain, refusal } from "./refusals.ts";

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
  const { fresh = docId === undefined } = options;
  if (docId === undefined) docId = generateDocId(entity);
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
  const { max_bytes } = config.documents;
  return write(redis, config, { verb: "update", entity, docId, options }, () => {
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

interface Call {
  verb: EventType;
  entity: string;
  docId: string;
  options: UpdateOptions;
  /** whether an insert need not look whether a cache's target has the document */
  fresh?: boolean;
}

const SCRIPTS: Record<EventType, Script> = {
  insert: insertScript,
  update: updateScript,
  delete: deleteScript,
};

function write(
  redis: RedisConnection,
  config: Config,
  call: Call,
  verbArgs: () => string[],
): Promise<Receipt> {
  return traced(`${call.verb} ${call.entity}`, {
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
  const { verb, entity, docId } = call;
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

async function send(
  redis: RedisConnection,
  config: Config,
  call: Call,
  verbArgs: string[],
): Promise<Receipt> {
  const { verb, docId, options } = call;
  const { max_in_flight } = config.redis;
  if (redis.callsInFlight >= max_in_flight) {
    throw new BackpressureError(
      "max_in_flight",
      redis.callsInFlight,
      `Cannot ${verb} ${docId}: ${max_in_flight} calls are in flight already; ` +
        "wait for some of them, or raise redis.max_in_flight",
    );
  }
  const wait = durabilityOf(config, options.durability);
  redis.callsInFlight++;
  try {
    const began = performance.now();
    let missingAt = call.fresh ? "fresh" : "";
    let sent = await sendOnce(redis, config, call, verbArgs, missingAt, wait);
    for (let looks = 0;;) {
      if (statusOf(sent.outcome.reply) === "evicted") {
        // Where Redis is full, looking again at once would only load the target.
        if (looks++ > 0) await delay(LOOK_AGAIN_MS);
        missingAt = await look(redis, config, call, sent.names, patienceEnds(began));
        // The number of partitions may have changed, or be about to: with the new one, the keys are others.
      } else if (!await isToBeMadeAgain(redis, config, call, sent, patienceEnds(began))) break;
      sent = await sendOnce(redis, config, call, verbArgs, missingAt, wait);
    }
    const { outcome, names } = sent;
    const receipt = receiptOf(outcome.reply, docId, verb, names);
    if (outcome.unconfirmed === null) return receipt;
    throw new DurabilityError(
      receipt,
      `${verb} of ${docId} is written, not confirmed: ${outcome.unconfirmed}`,
    );
  } catch (error) {
    throw explain(error, verb, docId, redis.address);
  } finally {
    redis.callsInFlight--;
  }
}

interface Outcome {
  reply: unknown;
  unconfirmed: string | null;
}

/** Runs the call's script with the names that hold now, writing the settings of the stream where there are none. */
async function sendOnce(
  redis: RedisConnection,
  config: Config,
  call: Call,
  verbArgs: string[],
  missingAt: string,
  wait: Wait,
): Promise<{ names: PartitionKeys; outcome: Outcome }> {
  const { verb, entity, docId, options } = call;
  const names = keysOfDocument(config, entity, docId);
  const shape = textOf(names.shape);
  const forward = isForwarded(config, entity, verb);
  const keys = [names.documentPrefix + docId, names.stream, names.settings];
  const args = [docId, String(Date.now()), forward ? shape : `-${shape}`, ...verbArgs];
  const { requestId, ttlSeconds } = options;
  const ttl = ttlSeconds === undefined ? "" : String(Math.ceil(1000 * ttlSeconds));
  const receiptIsEvictable = requestId !== undefined && redis.evicts;
  if (names.cached || ttl !== "" || receiptIsEvictable || mayBeDue(redis).has(entity)) {
    keys.push(names.due, names.notes, names.askedPrefix + docId);
    if (verb === "insert") args.push(missingAt);
    args.push(ttl);
  }
  if (requestId !== undefined) {
    keys.push(names.requestPrefix + requestId);
    const parts = [verb, docId, ...verbArgs, ...ttl === "" ? [] : [ttl]];
    args.push(hashOf(parts), String(config.documents.request_id_ttl_seconds));
  }
  const script = SCRIPTS[verb];
  const outcome = await run(redis, script, keys, args, wait);
  if (statusOf(outcome.reply) === "due") {
    mayBeDue(redis).add(entity);
    return await sendOnce(redis, config, call, verbArgs, missingAt, wait);
  }
  if (statusOf(outcome.reply) !== "settings") return { names, outcome };
  const { max_events, max_bytes } = config.streams;
  try {
    await recordShape(redis, config, entity);
  } catch (error) {
    if (error instanceof RepartitioningError) {
      return { names, outcome: { reply: [REPARTITIONING, ""], unconfirmed: null } };
    }
    if (!(error instanceof ConfigError)) throw error;
    throw new DocumentError("partitions", `Cannot ${verb} ${docId}: ${error.message}`);
  }
  const settings = [shape, max_events, max_bytes, ...names.cached ? [1] : []].map(String);
  const settingsKeys = [names.settings, ...names.cached ? [names.stream] : []];
  await runScript(redis, settingsScript, settingsKeys, settings);
  return { names, outcome: await run(redis, script, keys, args, wait) };
}

/**
 * Looks what the target of a cache has of a document that Redis does not have.
 * @param deadline in ms, of `performance.now()`
 * @returns for an insert, the offset at which there was none; else "", and Redis has it
 * @throws {DocumentError} where it has it, for an insert; where it does not, else
 */
async function look(
  redis: RedisConnection,
  config: Config,
  { verb, docId }: Call,
  names: PartitionKeys,
  deadline: number,
): Promise<string> {
  const refuse = (code: string, detail = "") =>
    refusal(code, { detail, slowest: "" }, docId, verb, names);
  const cache = cacheOf(redis, config);
  if (verb === "insert") {
    const missingAt = await cache.missingAt(names, docId);
    if (missingAt === null) throw refuse("exists");
    return missingAt;
  }
  const { outcome, unfilled } = await cache.bringBack(names, docId);
  if (outcome === "missing") throw refuse("missing");
  if (unfilled.startsWith("OOM ")) throw refuse("evicted");
  if (unfilled !== "") throw refuse("invalid", unfilled);
  // It is evicted again at once where Redis has no memory for it.
  if (performance.now() > deadline) throw refuse("evicted");
  return "";
}

/** The pause before another look for what was evicted before it could be changed, in ms. */
const LOOK_AGAIN_MS = 20;
/** The status of a call to a partition that nobody has written yet, while the entity is repartitioned. */
const REPARTITIONING = "repartitioning";

/** Whether a call was refused since the entity has, or is about to have, other partitions: waits for those. */
async function isToBeMadeAgain(
  redis: RedisConnection,
  config: Config,
  { entity }: Call,
  { names, outcome: { reply } }: { names: PartitionKeys; outcome: Outcome },
  deadline: number,
): Promise<boolean> {
  const status = statusOf(reply);
  if (status !== "partitions" && status !== REPARTITIONING) return false;
  const waits = status === REPARTITIONING || isUnderWay((reply as string[])[1]!);
  return await awaitShape(redis, config, entity, { used: names.shape, waits, deadline });
}

/** Runs a script on the connection that can give the durability. */
async function run(
  redis: RedisConnection,
  script: Script,
  keys: string[],
  args: string[],
  wait: Wait,
): Promise<Outcome> {
  if (wait.replicas > 0 || wait.fsync) {
    const outcome = await redis.runDurably(script, keys, args, wait);
    if (outcome.error) throw outcome.error;
    return outcome;
  }
  if (!redis.sends) {
    throw new ConnectionError("Not connected to Redis: nothing was sent");
  }
  const evalsha = () => redis.evalshaTogether(script.sha, keys, args);
  return { reply: await runScript(redis, script, keys, args, evalsha), unconfirmed: null };
}

/** The status in a verb's answer: "ok" for a plain stream id. */
function statusOf(reply: unknown): string {
  return typeof reply === "string" ? "ok" : (reply as [string, string])[0];
}

function receiptOf(reply: unknown, docId: string, verb: EventType, keys: PartitionKeys): Receipt {
  const status = statusOf(reply);
  const [, detail, slowest = ""] = typeof reply === "string" ? ["ok", reply] : reply as string[];
  if (status !== "ok" && status !== "repeated") {
    throw refusal(status, { detail: detail!, slowest }, docId, verb, keys);
  }
  return {
    documentId: docId,
    streamId: detail === "" ? null : detail!,
    version: detail === "" ? null : versionOf(detail!),
    repeated: status === "repeated",
  };
}

/** Entities of which documents may be due, as a connection has learned. */
const due = new WeakMap<RedisConnection, Set<string>>();

function mayBeDue(redis: RedisConnection): Set<string> {
  const known = due.get(redis) ?? new Set();
  due.set(redis, known);
  return known;
}

const hashOf = (parts: string[]) =>
  createHash("sha256").update(JSON.stringify(parts)).digest("base64url");
