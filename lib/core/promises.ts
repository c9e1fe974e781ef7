/** Promises that are waited for later, or not for ever. */

/**
 * A promise that is started early and awaited later, or never, if its result is no longer needed. Without this,
 * a failure before anybody awaits it would end the process.
 */
export function awaitedLater<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {}); // whoever awaits it gets the error
  return promise;
}

/**
 * The result of work that may take so long, in ms.
 * @param late is called when it has, and gives the error to fail with
 */
export async function within<T>(ms: number, work: Promise<T>, late: () => Error): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(late()), ms);
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}
