/** Promises that are waited for later. */

/**
 * A promise whose failure is for whoever awaits it, now or later. Nobody may: it was begun ahead of its time, and
 * what it was for may be over. Without this its failure would end the process.
 */
export function awaitedLater<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {}); // whoever awaits it has the error
  return promise;
}
