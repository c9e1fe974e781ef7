/**
 * How far the target is behind Redis.
 * @module
 */

import type { Redis } from "ioredis";
import type { Pool } from "pg";
import type { Config } from "../config.ts";
import { allPartitions, compareStreamIds } from "../events.ts";
import { WriteBehindError } from "../errors.ts";
import { offsetOf } from "../targets/schema.ts";
import { delay } from "./retry.ts";

/** The flat pairs of a reply, such as that of XINFO, by name. */
export function pairsOf(reply: unknown): Map<string, unknown> {
  const flat = reply as unknown[];
  const map = new Map<string, unknown>();
  for (let index = 0; index + 1 < flat.length; index += 2) {
    map.set(String(flat[index]), flat[index + 1]);
  }
  return map;
}

/** The id of the last event that a stream ever got; `0-0` where there is no stream. */
export async function lastGeneratedId(redis: Redis, stream: string): Promise<string> {
  try {
    return String(pairsOf(await redis.xinfo("STREAM", stream)).get("last-generated-id"));
  } catch (error) {
    if (/no such key/.test((error as Error).message)) return "0-0";
    throw error;
  }
}

const LOOK_AGAIN_MS = 20;

/**
 * Waits until the target holds every event that is in the streams now.
 * @param deadlineMs how long to wait, in ms
 * @throws {WriteBehindError} after the deadline, with how far it got
 */
export async function caughtUp(
  redis: Redis,
  pool: Pool,
  config: Config,
  entity: string,
  { deadlineMs = 60_000, signal = new AbortController().signal }: {
    deadlineMs?: number;
    signal?: AbortSignal;
  } = {},
): Promise<void> {
  const deadline = Date.now() + deadlineMs;
  for (const { stream } of allPartitions(config, entity)) {
    const goal = await lastGeneratedId(redis, stream);
    for (;;) {
      signal.throwIfAborted();
      const offset = await offsetOf(pool, stream);
      // An offset past the last id tells of a stream that has gone back: there is something to mend first.
      const reached = compareStreamIds(offset, goal) >= 0;
      if (reached && compareStreamIds(await lastGeneratedId(redis, stream), offset) >= 0) break;
      if (Date.now() >= deadline) {
        throw new WriteBehindError(
          `the target is behind after ${deadlineMs} ms: ${stream} is at ${offset}, not at ${goal}; ` +
            "see whether a sink runs, and its last error",
        );
      }
      await delay(LOOK_AGAIN_MS, signal);
    }
  }
}
