/** Promises that are waited for later. */

/**
 * A promise that is started early and awaited later, or never, if its result is no longer needed. Without this,
 * a failure before anybody awaits it would end the process.
 */
export function awaitedLater<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {}); // whoever awaits it gets the error
  return promise;
}
