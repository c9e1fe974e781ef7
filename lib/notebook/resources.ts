/**
 * What cells keep between runs. Running a cell again must not leave the connection, the sink or the timer
 * of its first run behind.
 * @module
 */

const kept = new Map<string, AsyncDisposable>();

/**
 * Keeps a thing under a name, after ending the one that was kept there before.
 * @param make makes the thing once the one before has ended
 * @returns the new thing
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig } from "writebehind";
 * import { endAll, keep } from "writebehind/notebook";
 *
 * const config = await loadConfig();
 * const redis = await keep("redis", () => connectRedis(config));
 * console.log(await redis.ping());
 * await endAll();
 * ```
 */
export async function keep<Thing extends AsyncDisposable>(
  name: string,
  make: () => Thing | Promise<Thing>,
): Promise<Thing> {
  await end(name);
  const thing = await make();
  kept.set(name, thing);
  return thing;
}

/** Ends everything that is kept, the newest first. Safe to call again. */
export async function endAll(): Promise<void> {
  for (const name of [...kept.keys()].reverse()) await end(name);
}

async function end(name: string): Promise<void> {
  const thing = kept.get(name);
  kept.delete(name);
  await thing?.[Symbol.asyncDispose]();
}
