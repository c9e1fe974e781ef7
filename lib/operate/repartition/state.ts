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
import { isAway } from "../../redis/explain.ts";
import { allPartitions } from "../../redis/keys.ts";
import type { TargetState } from "../../redis/registrations.ts";
import { keepScript, runScript } from "../../redis/scripts/mod.ts";
import { recordedIn, recordOf, textOfRecord } from "../../redis/shape.ts";
import { change, type Scope } from "./changes.ts";

/**
 * What is done next:
 * - `draining`: writers wait, and sinks carry on what is in the streams
 * - `stopping`: sinks give their partitions back; from behind it on there is no way back
 * - `documents`, `requests`, `targets`: these move; the last one ends with new streams in the place of the old ones
 * - `accepting`: in a cluster, the new partitions begin to take writes, one after the other
 * - `index`: writers go on; the search index is made anew
 */
export type Step =
  | "draining"
  | "stopping"
  | "documents"
  | "requests"
  | "targets"
  | "accepting"
  | "index";

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
  /** what the new settings take over from the old ones: names and values, in turn; `null` until that was read */
  inherited: string[] | null;
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

/**
 * Notes it, with the mark that writers find. In a cluster the state comes first: what it says may be done before the marks
 * are there, so that they are made again after a crash.
 */
export async function noteState(scope: Scope, state: RepartitionState): Promise<void> {
  const { config, entity } = scope;
  const { step, from, to } = state;
  const moving = step !== "draining" && step !== "stopping";
  const mark = textOfRecord({ shape: from, to, moving });
  const settings = settingsOf(config, entity, from);
  // Who writes there by the new number waits as well, and keys may move there only as long as it says so.
  if (moving) settings.push(...settingsOf(config, entity, to));
  await change(scope, [
    [["HSET", stateKey(config, entity), ...fieldsOf(state)]],
    [["HSET", recordOf(config, entity), "partitions", mark]],
    [...new Set(settings)].map((one) => ["HSET", one, "partitions", mark]),
  ], "marking");
}

/** Ends it before anything has moved: writers go on as before. */
export async function forgetState(scope: Scope, { from }: RepartitionState): Promise<void> {
  const { config, entity } = scope;
  const record = recordOf(config, entity);
  const settings = settingsOf(config, entity, from);
  await change(scope, [
    settings.map((one) => ["UNMARK", one, textOf(from)]),
    // Of one partition without a tag, the settings are the record.
    settings.includes(record) ? [] : [["HSET", record, "partitions", textOf(from)]],
    [["DEL", stateKey(config, entity)]],
  ], "unmarking");
}

const settingsOf = (config: Config, entity: string, shape: Shape): string[] =>
  allPartitions(config, entity, shape).map(({ settings }) => settings);

/** What is to be said of a repartition that is under way, for people; `null` where none is. */
export async function repartitionUnderWay(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<string | null> {
  const record = recordedIn(await redis.hget(recordOf(config, entity), "partitions") ?? "");
  const state = await readState(redis, config, entity).catch((error) => {
    // Whoever only looks on may not have the right to look at how far it is; in a cluster another node knows it.
    if (reasonOf(error).startsWith("NOPERM") || isAway(error)) return null;
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

/** Why a process stops that was away for so long that others may have done its work. */
export const overtaken = (entity: string): WriteBehindError =>
  new WriteBehindError(
    `another process may have begun to repartition ${entity}, since this one was without its lock: run it again`,
  );

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
      lost.abort(overtaken(entity));
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
