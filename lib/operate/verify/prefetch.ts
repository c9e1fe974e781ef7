/**
 * Working on several parts while the next one is fetched.
 * @module
 */

import { awaitedLater } from "../../core/promises.ts";

/**
 * What `work` makes of each value, in order. The next value is always being fetched, and up to `width` are
 * worked on at a time. A failure comes when its turn comes. When the reader breaks off, what is under way is
 * waited for.
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
    await Promise.allSettled([...results, source.return(undefined)]);
  }
}
