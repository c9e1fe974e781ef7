/**
 * Waiting for a time, and how long to wait before the next attempt.
 * @module
 */

/**
 * Exponential backoff with full jitter: a random time up to `base · 2^attempt`, capped.
 * Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
 * @param attempt failures so far, from 1
 * @param base ms
 * @param max ms
 * @returns ms, at least a tenth of the bound, so that retries never become a tight loop
 */
export function backoff(attempt: number, base: number, max: number, random = Math.random): number {
  const bound = Math.min(max, base * 2 ** Math.min(attempt - 1, 30));
  return bound * (0.1 + 0.9 * random());
}

/** Waits `ms` milliseconds; ends early, without an error, when the signal is aborted. */
export function delay(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener("abort", end, { once: true });
  });
}
