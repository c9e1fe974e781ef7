/**
 * The script of a write, sent to Redis: by the names that hold now, again where they have changed, and on the connection that
 * can give its durability.
 * @module
 */

import { createHash } from "node:crypto";
import { type Config, isForwarded } from "../config/load.ts";
import { textOf } from "../config/shapes.ts";
import { delay } from "../core/delay.ts";
import {
  BackpressureError,
  ConfigError,
  ConnectionError,
  DocumentError,
  DurabilityError,
  RepartitioningError,
} from "../core/errors.ts";
import type { Receipt } from "../core/receipt.ts";
import { type EventType, versionOf } from "../core/stream_ids.ts";
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
import type { UpdateOptions } from "./options.ts";
import { explain, refusal } from "./refusals.ts";

/** A write that was asked for. */
export interface Call {
  verb: EventType;
  entity: string;
  docId: string;
  options: UpdateOptions;
  /** whether an insert need not look whether a cache's target has the document */
  fresh?: boolean;
}

/** The pause before another look for what was evicted before it could be changed, in ms. */
const LOOK_AGAIN_MS = 20;
/** The status of a call to a partition that nobody has written yet, while the entity is repartitioned. */
const REPARTITIONING = "repartitioning";

const SCRIPTS: Record<EventType, Script> = {
  insert: insertScript,
  update: updateScript,
  delete: deleteScript,
};

/**
 * Writes, and waits for the durability that was asked for.
 * @param call checked
 * @param verbArgs what the verb's script takes beside what all take
 */
export async function send(
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
  return await redis.inFlight(() => sendCounted(redis, config, call, verbArgs, wait));
}

/** Of a call that counts as in flight. */
async function sendCounted(
  redis: RedisConnection,
  config: Config,
  call: Call,
  verbArgs: string[],
  wait: Wait,
): Promise<Receipt> {
  const { verb, docId } = call;
  try {
    const began = performance.now();
    let missingAt = call.fresh ? "fresh" : "";
    let sent = await sendOnce(redis, config, call, verbArgs, missingAt, wait);
    for (let looks = 0;;) {
      if (sent.outcome.answer.status === "evicted") {
        // Where Redis is full, looking again at once would only load the target.
        if (looks++ > 0) await delay(LOOK_AGAIN_MS);
        missingAt = await look(redis, config, call, sent.names, patienceEnds(began));
        // The number of partitions may have changed, or be about to: with the new one, the keys are others.
      } else if (!await isToBeMadeAgain(redis, config, call, sent, patienceEnds(began))) break;
      sent = await sendOnce(redis, config, call, verbArgs, missingAt, wait);
    }
    const { outcome, names } = sent;
    const receipt = receiptOf(outcome.answer, docId, verb, names);
    if (outcome.unconfirmed === null) return receipt;
    throw new DurabilityError(
      receipt,
      `${verb} of ${docId} is written, not confirmed: ${outcome.unconfirmed}`,
    );
  } catch (error) {
    throw explain(error, verb, docId, redis.address);
  }
}

/** What a verb's script answers. */
interface Answer {
  /** "ok" and "repeated": it is done; else why not */
  status: string;
  /** the event's stream id, "" where there is none; else what the status speaks of */
  detail: string;
  /** of a full stream, the target that is the furthest behind */
  slowest: string;
}

interface Outcome {
  answer: Answer;
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
  if (names.cached || ttl !== "" || mayBeDue(redis).has(entity)) {
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
  const { status } = outcome.answer;
  if (status === "due") {
    mayBeDue(redis).add(entity);
    return await sendOnce(redis, config, call, verbArgs, missingAt, wait);
  }
  if (status !== "settings") return { names, outcome };
  const { max_events, max_bytes } = config.streams;
  try {
    await recordShape(redis, config, entity);
  } catch (error) {
    if (error instanceof RepartitioningError) {
      const answer = answerOf([REPARTITIONING, ""]);
      return { names, outcome: { answer, unconfirmed: null } };
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
    const missingAt = await cache.source.missingAt(names, docId);
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

/** Whether a call was refused since the entity has, or is about to have, other partitions: waits for those. */
async function isToBeMadeAgain(
  redis: RedisConnection,
  config: Config,
  { entity }: Call,
  { names, outcome: { answer: { status, detail } } }: { names: PartitionKeys; outcome: Outcome },
  deadline: number,
): Promise<boolean> {
  if (status !== "partitions" && status !== REPARTITIONING) return false;
  const waits = status === REPARTITIONING || isUnderWay(detail);
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
    const { error, reply, unconfirmed } = await redis.runDurably(script, keys, args, wait);
    if (error) throw error;
    return { answer: answerOf(reply), unconfirmed };
  }
  if (!redis.sends) {
    throw new ConnectionError("Not connected to Redis: nothing was sent");
  }
  const evalsha = () => redis.evalshaTogether(script.sha, keys, args);
  const reply = await runScript(redis, script, keys, args, evalsha);
  return { answer: answerOf(reply), unconfirmed: null };
}

/** A plain stream id says "ok". */
function answerOf(reply: unknown): Answer {
  if (typeof reply === "string") return { status: "ok", detail: reply, slowest: "" };
  const [status, detail, slowest = ""] = reply as [string, string, string?];
  return { status, detail, slowest };
}

function receiptOf(answer: Answer, docId: string, verb: EventType, keys: PartitionKeys): Receipt {
  const { status, detail } = answer;
  if (status !== "ok" && status !== "repeated") throw refusal(status, answer, docId, verb, keys);
  return {
    documentId: docId,
    streamId: detail === "" ? null : detail,
    version: detail === "" ? null : versionOf(detail),
    repeated: status === "repeated",
  };
}

/** Entities of which documents, or receipts of requests, may be due, as a connection has learned. */
const due = new WeakMap<RedisConnection, Set<string>>();

function mayBeDue(redis: RedisConnection): Set<string> {
  return due.getOrInsertComputed(redis, () => new Set());
}

const hashOf = (parts: string[]) =>
  createHash("sha256").update(JSON.stringify(parts)).digest("base64url");
