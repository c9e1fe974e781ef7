/**
 * Traffic in the background of a notebook.
 * @module
 */

import type { Config } from "../config/load.ts";
import type { TrafficReport } from "../demo/tally.ts";
import { dummyDataWorker } from "../demo/traffic.ts";
import type { RedisConnection } from "../redis/connection.ts";

/** Longer than any presentation, in seconds. */
const A_DAY = 86_400;

/** Traffic that runs until it is disposed of. */
export interface BackgroundTraffic extends AsyncDisposable {
  /** what was written so far */
  readonly report: TrafficReport;
}

/**
 * Starts traffic that runs on while other cells do.
 * @param rate documents a second
 * @returns once the first documents are written
 */
export async function startTraffic(
  redis: RedisConnection,
  config: Config,
  entity: string,
  rate: number,
): Promise<BackgroundTraffic> {
  const stop = new AbortController();
  const first = Promise.withResolvers<void>();
  let newest: TrafficReport | undefined;
  const running = dummyDataWorker(redis, config, entity, {
    rate,
    duration_seconds: A_DAY,
    seed: Date.now(),
    signal: stop.signal,
    onProgress: (report) => {
      newest = report;
      first.resolve();
    },
  });
  await Promise.race([first.promise, running]);
  return {
    get report() {
      return newest!;
    },
    [Symbol.asyncDispose]: async () => {
      stop.abort();
      newest = await running;
    },
  };
}
