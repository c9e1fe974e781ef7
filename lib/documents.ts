/**
 * Documents in Redis, and the events of their changes: each call is one atomic script.
 * @module
 */

import { createHash, randomBytes } from "node:crypto";
import type { Pool } from "pg";
import { type Config, entityConfig } from "./config.ts";
import type { RedisConnection } from "./connections.ts";
import { type Durability, durabilityOf, type Wait } from "./durability.ts";
import {
  BackpressureError,
  ConnectionError,
  DocumentError,
  type DocumentErrorCode,
  DurabilityError,
  reasonOf,
  RedisRefusedError,
  UnknownOutcomeError,
  WriteBehindError,
} from "./errors.ts";
import {
  documentKey,
  type EventType,
  MAX_ID_BYTES,
  type PartitionKeys,
  partitionKeys,
  partitionOf,
  versionOf,
} from "./events.ts";
import { encodeJson, type JsonObject } from "./json.ts";
import { readThrough } from "./read_through.ts";
import {
  deleteScript,
  insertScript,
  runScript,
  type Script,
  settingsScript,
  updateScript,
} from "./scripts/mod.ts";

/** What a write returns: what was written, and where its event is. */
export interface Receipt {
  documentId: string;
  /** the event's id in the stream; `null` where `perform_write_behind` forwards no such event */
  streamId: string | null;
  /** the stream id as one integer, as the target's `version` column holds it */
  version: bigint | null;
  /** true where the same `requestId` was already done, and this is its first receipt */
  repeated: boolean;
}

/** What every write may ask for. */
export interface WriteOptions {
  /** what to wait for; by default what `zero_data_loss` asks */
  durability?: Durability;
  /**
   * A name for this one request. Calling again with it, such as after an {@linkcode UnknownOutcomeError},
   * returns the first receipt and writes no second event, for `documents.request_id_ttl_seconds`.
   */
  requestId?: string;
}

/** Options of {@linkcode insertDocument}. */
export interface InsertOptions extends WriteOptions {
  /** replace a document that exists instead of refusing */
  overwrite?: boolean;
}

/**
 * Stores a new document and appends its `insert` event, in one step.
 * @param entity an entity's name from the configuration, such as `session`
 * @param document an object, or its JSON text (which keeps integers above 2^53 as they are)
 * @param docId 1 to 512 bytes of UTF-8
 * @returns the receipt
 * @throws {DocumentError} nothing was written: `exists`, `invalid`, `too_large`, `wrong_type` …
 * @throws {BackpressureError} nothing was written: too much is waiting
 * @throws {RedisRefusedError} nothing was written: Redis takes no writes now
 * @throws {UnknownOutcomeError} the reply was lost
 * @throws {DurabilityError} written, but not confirmed as asked
 */
export function insertDocument(
  redis: RedisConnection,
  config: Config,
  entity: string,
  document: JsonObject | string,
  docId: string = generateDocId(entity),
  options: InsertOptions = {},
): Promise<Receipt> {
  return write(redis, config, { verb: "insert", entity, docId, options }, () => {
    const { text, spelled } = encodeJson(document, config.documents.max_bytes);
    return [spelled, options.overwrite ? "1" : "0", spelled === text ? "" : text];
  });
}

/**
 * Merges a patch into a document by RFC 7386 (`null` removes a key) and appends its `update` event,
 * which carries the whole document after the change.
 * @throws as {@linkcode insertDocument}, with `missing` where there is no such document
 */
export function updateDocument(
  redis: RedisConnection,
  config: Config,
  entity: string,
  docId: string,
  patch: JsonObject | string,
  options: WriteOptions = {},
): Promise<Receipt> {
  return write(redis, config, { verb: "update", entity, docId, options }, () => [
    encodeJson(patch, config.documents.max_bytes).spelled,
    String(config.documents.max_bytes),
  ]);
}

/**
 * Removes a document and appends its `delete` event.
 * @throws as {@linkcode insertDocument}, with `missing` where there is no such document
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

/** Options of {@linkcode readByIds}. */
export interface ReadOptions {
  /**
   * The target, to read documents from that Redis does not have. They are put back into Redis, but never an
   * older document than one written meanwhile, nor one whose delete the target has not applied yet. With
   * more than 1,000 events that it has not applied, such a document stays missing.
   */
  through?: Pool;
}

/**
 * Reads documents in one round trip.
 * @returns the documents in the order of `docIds`, `null` for one that is missing
 * @throws {DocumentError} `invalid` for an id that cannot be one
 * @throws {ConfigError} with `through`, where not all changes are forwarded to the target
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
  const texts = await redis.call("JSON.MGET", ...keys, ".") as (string | null)[];
  if (through) {
    const missing = docIds.filter((_, index) => texts[index] === null);
    const found = await readThrough(redis, through, config, entity, missing);
    docIds.forEach((docId, index) => texts[index] ??= found.get(docId) ?? null);
  }
  return texts.map((text) => text === null ? null : JSON.parse(text) as JsonObject);
}

/**
 * A new document id: readable, ordered by time, unique without asking anyone.
 * @param appId what writes the document, such as `app`
 * @param machineId where; by default this machine's host name is not told
 * @returns such as `app-m1-1764000000000-9f2c4a1be07d`
 */
export function generateDocId(appId = "app", machineId = "m1"): string {
  return `${appId}-${machineId}-${Date.now()}-${randomBytes(6).toString("hex")}`;
}

interface Call {
  verb: EventType;
  entity: string;
  docId: string;
  options: WriteOptions;
}

const SCRIPTS: Record<EventType, Script> = {
  insert: insertScript,
  update: updateScript,
  delete: deleteScript,
};

async function write(
  redis: RedisConnection,
  config: Config,
  call: Call,
  verbArgs: () => string[],
): Promise<Receipt> {
  const { verb, entity, docId } = call;
  try {
    entityConfig(config, entity);
    checkId(docId);
    const receipt = await send(redis, config, call, verbArgs());
    redis.counters.count("redis_success", 1, `${verb} ${entity}`);
    return receipt;
  } catch (error) {
    const unconfirmed = error instanceof DurabilityError;
    // An id in the reason would make each failure a line of its own in the log stream.
    const reason = reasonOf(error).replaceAll(docId, "<id>");
    redis.counters.count(
      unconfirmed ? "redis_success" : "redis_fail",
      1,
      `${verb} ${entity}: ${reason}`,
    );
    throw error;
  }
}

async function send(
  redis: RedisConnection,
  config: Config,
  { verb, entity, docId, options }: Call,
  verbArgs: string[],
): Promise<Receipt> {
  const { partitions } = config.streams;
  const names = partitionKeys(config, entity, partitionOf(docId, partitions));
  const forward = config.dummy_data.perform_write_behind[verb];
  const keys = [names.documentPrefix + docId, names.stream, names.settings];
  const args = [docId, String(Date.now()), forward ? String(partitions) : "0", ...verbArgs];
  const { requestId } = options;
  if (requestId !== undefined) {
    keys.push(names.requestPrefix + requestId);
    args.push(hashOf([verb, docId, ...verbArgs]), String(config.documents.request_id_ttl_seconds));
  }

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
    const script = SCRIPTS[verb];
    let outcome = await run(redis, script, keys, args, wait);
    if (statusOf(outcome.reply) === "settings") {
      const { max_events, max_bytes } = config.streams;
      const settings = [partitions, max_events, max_bytes].map(String);
      await runScript(redis, settingsScript, [names.settings], settings);
      outcome = await run(redis, script, keys, args, wait);
    }
    const receipt = receiptOf(outcome.reply, docId, verb, names);
    if (outcome.unconfirmed === null) return receipt;
    throw new DurabilityError(
      receipt,
      `${verb} of ${docId} is written, not confirmed: ${outcome.unconfirmed}`,
    );
  } catch (error) {
    throw explain(error, verb, docId);
  } finally {
    redis.callsInFlight--;
  }
}

/** Runs a script where its durability can be had. */
async function run(
  redis: RedisConnection,
  script: Script,
  keys: string[],
  args: string[],
  wait: Wait,
): Promise<{ reply: unknown; unconfirmed: string | null }> {
  if (wait.replicas > 0 || wait.fsync) {
    const lane = await redis.durableLane();
    const outcome = await lane.run(script, keys, args, wait);
    if (outcome.error) throw outcome.error;
    return outcome;
  }
  if (redis.status !== "ready") {
    throw new ConnectionError("Not connected to Redis: nothing was sent");
  }
  const evalsha = () => redis.evalshaTogether(script.sha, keys, args);
  return { reply: await runScript(redis, script, keys, args, evalsha), unconfirmed: null };
}

/** What a verb answered: "ok" for a plain stream id. */
function statusOf(reply: unknown): string {
  return typeof reply === "string" ? "ok" : (reply as [string, string])[0];
}

function receiptOf(reply: unknown, docId: string, verb: EventType, keys: PartitionKeys): Receipt {
  const status = statusOf(reply);
  const detail = typeof reply === "string" ? reply : (reply as [string, string])[1];
  if (status !== "ok" && status !== "repeated") throw refusal(status, detail, docId, verb, keys);
  return {
    documentId: docId,
    streamId: detail === "" ? null : detail,
    version: detail === "" ? null : versionOf(detail),
    repeated: status === "repeated",
  };
}

function refusal(code: string, detail: string, docId: string, verb: string, keys: PartitionKeys) {
  const cannot = `Cannot ${verb} ${docId}`;
  if (code === "max_events" || code === "max_bytes") {
    const unit = code === "max_events" ? "events" : "bytes";
    return new BackpressureError(
      code,
      Number(detail),
      `${cannot}: ${keys.stream} holds ${detail} ${unit}, its ${code}; the sink is behind: ` +
        "see that it runs, write slower, or raise the limit",
    );
  }
  const reasons: Record<string, string> = {
    exists: "the id exists; use overwrite, or updateDocument",
    missing: "there is no such document; insert it first",
    wrong_type: `the key ${detail} holds another type of value; it is not ours`,
    too_large: `the document would have ${detail} bytes, more than documents.max_bytes`,
    request_conflict: "its requestId was used for another call; use a new one",
    partitions: `${keys.stream} was first written with streams.partitions: ${detail}; use that`,
    invalid: `RedisJSON refuses it (${detail})`,
    permission: `the Redis user may not run ${detail}; grant it by ACL SETUSER`,
  };
  return new DocumentError(code as DocumentErrorCode, `${cannot}: ${reasons[code] ?? code}`);
}

/** Errors of Redis that say that it did nothing, and may do it later. */
const REFUSALS = new Map([
  ["OOM", "its memory is full"],
  ["MISCONF", "it cannot save to disk"],
  ["LOADING", "it is still loading its data"],
  ["READONLY", "it is a replica, which takes no writes"],
  ["NOREPLICAS", "too few replicas are connected"],
  ["BUSY", "a script keeps it busy"],
  ["CLUSTERDOWN", "its cluster is down"],
  ["MASTERDOWN", "its master is down"],
  ["TRYAGAIN", "its cluster is moving keys"],
]);

function explain(error: unknown, verb: string, docId: string): unknown {
  if (error instanceof WriteBehindError) return error;
  const reason = reasonOf(error);
  const cannot = `Cannot ${verb} ${docId}`;
  const code = reason.replace(/^-/, "").split(" ", 1)[0]!;
  const refused = REFUSALS.get(code);
  if (refused !== undefined) {
    return new RedisRefusedError(code, `${cannot}: Redis refuses, ${refused} (${reason})`, {
      cause: error,
    });
  }
  // Within a script, what may be written is asked for first, so only a read can have been refused.
  if (code === "NOPERM" || /ACL failure in script/.test(reason)) {
    return new DocumentError("permission", `${cannot}: ${reason}`, { cause: error });
  }
  // RedisJSON refuses a text before it changes anything; of any other answer we do not know.
  if ((error as Error).name === "ReplyError" && / at line \d+ column \d+/.test(reason)) {
    return new DocumentError("invalid", `${cannot}: ${reason}`, { cause: error });
  }
  return new UnknownOutcomeError(
    `${verb} of ${docId}: the outcome is unknown, it may be written or not (${reason}); ` +
      "call again with the same requestId, or read the document",
    { cause: error },
  );
}

const hashOf = (parts: string[]) =>
  createHash("sha256").update(JSON.stringify(parts)).digest("base64url");

function checkId(docId: string): void {
  const why = typeof docId !== "string"
    ? `expected text, got ${typeof docId}`
    : docId === ""
    ? "it is empty"
    : docId.length * 3 > MAX_ID_BYTES && Buffer.byteLength(docId) > MAX_ID_BYTES
    ? `it has ${Buffer.byteLength(docId)} bytes, more than ${MAX_ID_BYTES}`
    : docId.includes("\0")
    ? "it has U+0000"
    : docId.isWellFormed()
    ? null
    : "it has a lone surrogate";
  if (why === null) return;
  const shown = typeof docId === "string" ? JSON.stringify(docId.slice(0, 60)) : String(docId);
  throw new DocumentError("invalid", `Cannot use the document id ${shown}: ${why}`);
}
