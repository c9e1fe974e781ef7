/**
 * What Redis holds of a repartition that is under way: how far it is, and that somebody is at it. Each step notes what the
 * next one needs before it begins, so that whoever comes after a crash goes on.
 * @module
 */

import type { Config } from "../../config/load.ts";
import { type Shape, textOf } from "../../config/shapes.ts";
import { delay } from "../../core/delay.ts";
import { reasonOf, WriteBehindError } from "../../core/errors.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { allPartitions } from "../../redis/keys.ts";
import type { TargetState } from "../../redis/registrations.ts";
import { keepScript, markScript, runScript } from "../../redis/scripts/mod.ts";
import { recordedIn, recordOf, textOfRecord } from "../../redis/shape.ts";

/**
 * What is done next:
 * - `draining`: writers wait, and sinks carry on what is in the streams
 * - `stopping`: sinks give their partitions back; from behind it on there is no way back
 * - `documents`, `requests`, `targets`: these move
 * - `index`: writers go on; the search index is made anew
 */
export type Step = "draining" | "stopping" | "documents" | "requests" | "targets" | "index";

/** What a target was in a stream before it was paused; `null` where nobody had registered it. */
export interface Paused {
  stream: string;
  target: string;
  state: TargetState | null;
}

/** What is noted of a repartition. */
export interface RepartitionState {
  step: Step;
  from: Shape;
  to: Shape;
  /** documents, when it began */
  documents: number;
  /** what is to be put back, or to be taken over */
  paused: Paused[];
  /** the id behind which new streams begin */
  base: string;
  /** the identity of the data */
  identity: string;
  /** the last ids of the old streams */
  ends: Record<string, string>;
  /** why rows may be missing, by target */
  doubts: Record<string, string>;
  /** documents that another program has written meanwhile */
  resend: string[];
}

/** The hash that it is kept in. */
export const stateKey = (config: Config, entity: string): string =>
  `${recordOf(config, entity)}:repartition`;

/** Reads it; `null` where none is under way. */
export async function readState(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<RepartitionState | null> {
  const { step, json } = await redis.hgetall(stateKey(config, entity));
  return step === undefined ? null : { ...JSON.parse(json!), step: step as Step };
}

/** Names and values of it, in turn. */
export function fieldsOf({ step, ...rest }: RepartitionState): string[] {
  return ["step", step, "json", JSON.stringify(rest)];
}

/** Notes it, with the mark that writers find, in one step. */
export async function noteState(
  redis: RedisConnection,
  config: Config,
  entity: string,
  state: RepartitionState,
): Promise<void> {
  const { step, from, to } = state;
  const moving = step !== "draining" && step !== "stopping";
  const mark = textOfRecord({ shape: from, to, moving });
  await runScript(redis, markScript, keysOf(config, entity, from), [
    mark,
    "0",
    "0",
    ...fieldsOf(state),
  ]);
}

/** Ends it before anything has moved: writers go on as before. */
export async function forgetState(
  redis: RedisConnection,
  config: Config,
  entity: string,
  { from }: RepartitionState,
): Promise<void> {
  await runScript(redis, markScript, keysOf(config, entity, from), [textOf(from), "1", "1"]);
}

function keysOf(config: Config, entity: string, from: Shape): string[] {
  const settings = allPartitions(config, entity, from).map((keys) => keys.settings);
  return [recordOf(config, entity), stateKey(config, entity), ...settings];
}

/** What is to be said of a repartition that is under way, for people; `null` where none is. */
export async function repartitionUnderWay(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<string | null> {
  const record = recordedIn(await redis.hget(recordOf(config, entity), "partitions") ?? "");
  const state = await readState(redis, config, entity).catch((error) => {
    // Whoever only looks on may not have the right to look at how far it is.
    if (reasonOf(error).startsWith("NOPERM")) return null;
    throw error;
  });
  const of = state ?? (record?.to ? { from: record.shape, to: record.to, step: null } : null);
  if (of === null) return null;
  const { step, from, to } = of;
  const who = record?.to ? "writers wait" : "writers go on";
  return `a repartition from ${textOf(from)} to ${textOf(to)} is under way (${
    step === null ? who : `${step}; ${who}`
  }); if none runs, deno task repartition --entity ${entity} --to ${to.partitions} goes on with it`;
}

/** How long a lock lasts that is not kept, in ms: so long it takes until another run may follow a crash. */
const LOCK_MS = 5000;
const KEEP_MS = 1000;

/**
 * Works while nobody else repartitions the entity.
 * @param work gets a signal that is raised when the lock is lost, or `signal` is
 * @throws {WriteBehindError} where another process does
 */
export async function alone<T>(
  redis: RedisConnection,
  config: Config,
  entity: string,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const key = `${stateKey(config, entity)}:lock`;
  const token = crypto.randomUUID();
  const deadline = performance.now() + LOCK_MS + KEEP_MS;
  while (await redis.set(key, token, "PX", LOCK_MS, "NX") === null) {
    if (performance.now() >= deadline) {
      throw new WriteBehindError(
        `${entity} is being repartitioned by another process; wait until it has ended`,
      );
    }
    await delay(100, signal);
    signal?.throwIfAborted();
  }
  const lost = new AbortController();
  const keep = async () => {
    try {
      if (await runScript(redis, keepScript, [key], [token, String(LOCK_MS)]) === 1) return;
      lost.abort(new WriteBehindError(`another process has begun to repartition ${entity}`));
    } catch {
      // Redis is away: what is done next says so.
    }
  };
  const timer = setInterval(() => void keep(), KEEP_MS);
  try {
    return await work(signal ? AbortSignal.any([signal, lost.signal]) : lost.signal);
  } finally {
    clearInterval(timer);
    await runScript(redis, keepScript, [key], [token, "0"]).catch(() => {}); // it ends by itself
  }
}
