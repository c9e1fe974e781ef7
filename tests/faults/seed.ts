/** Seeds of random tests: chosen anew each run, told where a run fails, and given again by the environment. */

import { type Random, seededRandom } from "writebehind";

/** Names the seed that a run is to use, so that one that failed can be run again. */
export const SEED_VARIABLE = "WRITEBEHIND_SEED";

/** The seed that the environment gives, or a new one. */
export function chooseSeed(): number {
  const given = Deno.env.get(SEED_VARIABLE);
  return given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given);
}

/** Runs a test with a seed; where it fails, the error says which seed makes it fail again. */
export async function withSeed(
  run: (random: Random, seed: number) => Promise<void>,
): Promise<void> {
  const seed = chooseSeed();
  try {
    await run(seededRandom(seed), seed);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new Error(`with ${SEED_VARIABLE}=${seed}: ${reason}`, { cause });
  }
}
