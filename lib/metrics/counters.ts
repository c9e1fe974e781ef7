/**
 * The original's five counters, as Redis holds them.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import type { Redis } from "../redis/client.ts";
import { COUNTER_NAMES, type CounterName } from "../redis/counters.ts";
import { valueOf } from "../redis/streams.ts";

/** What {@linkcode loadMetrics} returns: the original's keys with their counts, in events. */
export type Metrics = Record<`metrics:${CounterName}`, number>;

/**
 * The counters of all processes, as Redis holds them: events that processes have counted, each sending about once a
 * second. A process that is killed takes along what it has not sent: `readFigures` says what streams and target hold.
 * @returns the original's five keys, 0 where nothing was counted
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, loadMetrics } from "writebehind";
 *
 * await using redis = await connectRedis(await loadConfig());
 * const metrics = await loadMetrics(redis);
 * console.log(metrics["metrics:redis_success"], metrics["metrics:postgres_success"]);
 * ```
 */
export async function loadMetrics(redis: Redis): Promise<Metrics> {
  checkArguments("loadMetrics", { client: redis });
  const keys = COUNTER_NAMES.map((name) => `metrics:${name}` as const);
  const pipeline = redis.pipeline();
  for (const key of keys) pipeline.get(key); // in a cluster, each may be on another node
  const values = ((await pipeline.exec()) ?? []).map(valueOf);
  return Object.fromEntries(
    keys.map((key, index) => [key, Number(values[index] ?? 0)]),
  ) as Metrics;
}
