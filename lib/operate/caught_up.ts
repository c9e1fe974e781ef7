/**
 * Waiting until the target holds every event.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import type { Redis } from "../redis/client.ts";
import type { Config } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { passes } from "../core/error_kinds.ts";
import { reasonOf, WriteBehindError } from "../core/errors.ts";
import { partitionsOf } from "../redis/keys.ts";
import { type Goal, goalOf, isReached } from "../sink/goal.ts";
import { type Pool, targetOf } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";

const LOOK_AGAIN_MS = 20;

/**
 * Waits until the target holds every event that is now in the streams of its partitions. A connection that is lost
 * meanwhile is waited for.
 * @param options.deadlineMs how long to wait, in ms. @default {60000}
 * @param options.signal ends the waiting with its reason
 * @throws {WriteBehindError} after the deadline, with how far it got
 *
 * @example
 * ```ts
 * import { caughtUp, connectRedis, loadConfig, openTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * await caughtUp(redis, target, config, "session", { deadlineMs: 5000 });
 * ```
 */
export async function caughtUp(
  redis: Redis,
  target: Target | Pool,
  config: Config,
  entity: string,
  options: {
    deadlineMs?: number;
    signal?: AbortSignal;
  } = {},
): Promise<void> {
  checkArguments("caughtUp", { client: redis, target, config, entity, options });
  const { deadlineMs = 60_000, signal = new AbortController().signal } = options;
  checkArguments("caughtUp", { deadlineMs, signal });
  const deadline = performance.now() + deadlineMs;
  const one = targetOf(target, config);
  for (const keys of partitionsOf(config, entity, one.describe().name)) {
    const { stream } = keys;
    let goal: Goal | undefined;
    for (;;) {
      signal.throwIfAborted();
      let behind: string;
      try {
        goal ??= await goalOf(redis, one.offsets, keys);
        const { is, offset } = await isReached(redis, one.offsets, keys, goal);
        if (is === "reached") break;
        behind = is === "old"
          ? `${stream} has gone back, and is to be rewound`
          : `${stream} is at ${offset}, not at ${goal.id}`;
        if (is === "old") goal = undefined;
      } catch (error) {
        // A connection that was lost comes back by itself.
        if (!passes(one.kindOf(error))) throw error;
        behind = reasonOf(error);
      }
      if (performance.now() >= deadline) {
        throw new WriteBehindError(
          `the target is behind after ${deadlineMs} ms: ${behind}; see whether a sink runs, and its last error`,
        );
      }
      await delay(LOOK_AGAIN_MS, signal);
    }
  }
}
