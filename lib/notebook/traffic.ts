/**
 * Traffic in the background of a notebook.
 * @module
 */

import type { Config } from "../config/load.ts";
import type { TrafficReport } from "../demo/tally.ts";
import { dummyDataWorker, UNTIL_STOPPED_SECONDS } from "../demo/traffic.ts";
import type { RedisConnection } from "../redis/connection.ts";

/** Traffic that runs until it is stopped. */
export interface BackgroundTraffic extends AsyncDisposable {
  /** documents a second; may be set at any time, and 0 is as fast as possible */
  rate: number;
  /** what was written so far */
  readonly report: TrafficReport;
  /** Waits for the writes in flight, and ends; calling it again does nothing. */
  stop(): Promise<TrafficReport>;
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
  const end = new AbortController();
  let wanted = rate;
  const first = Promise.withResolvers<void>();
  let newest: TrafficReport | undefined;
  const running = dummyDataWorker(redis, config, entity, {
    currentRate: () => wanted,
    duration_seconds: UNTIL_STOPPED_SECONDS,
    seed: Date.now(),
    signal: end.signal,
    onProgress: (report) => {
      newest = report;
      first.resolve();
    },
  });
  const stop = () => {
    end.abort();
    return running;
  };
  await Promise.race([first.promise, running]);
  return {
    get rate() {
      return wanted;
    },
    set rate(perSecond) {
      wanted = perSecond;
    },
    get report() {
      return newest!;
    },
    stop,
    [Symbol.asyncDispose]: async () => void await stop(),
  };
}
