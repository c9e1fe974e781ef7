/**
 * Works on several parts while the next one is fetched.
 * @module
 */

import { awaitedLater } from "../../core/promises.ts";

/**
 * Yields the results of `work` on each value, in order. The next value is always being fetched, and up to
 * `width` are worked on at a time. A failure is thrown in its turn. If the reader stops early, the work under
 * way is awaited.
 */
export async function* prefetch<T, R>(
  source: AsyncGenerator<T>,
  width: number,
  work: (value: T) => Promise<R>,
): AsyncGenerator<R> {
  const results: Promise<R>[] = [];
  let next = awaitedLater(source.next());
  try {
    for (;;) {
      const { done, value } = await next;
      if (done) break;
      next = awaitedLater(source.next());
      results.push(awaitedLater(work(value)));
      if (results.length === width) yield await results.shift()!;
    }
    while (results.length > 0) yield await results.shift()!;
  } finally {
    // Whoever iterates has the first error, or wants no more of them.
    await Promise.allSettled([...results, source.return(undefined)]);
  }
}
