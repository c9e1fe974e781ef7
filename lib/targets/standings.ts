/**
 * Where a target stands and what the streams hold behind that, read together: so that the two make one figure.
 * @module
 */

import type { Redis } from "../redis/client.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { type Lag, readLag } from "../redis/lag.ts";
import type { Offsets, Standing } from "./target.ts";

/** A partition in the target, and how far it is behind its stream. */
export interface StandingAndLag {
  /** as the target has it */
  standing: Standing;
  /** entries behind its offset */
  lag: Lag;
}

/** After so many looks the newest one is taken. */
const MOST_LOOKS = 20;

/**
 * Reads where partitions stand, and the lag behind just those offsets: the target first, so that no entry is counted
 * twice, and again where the stream was trimmed past its offset meanwhile, so that none is missing.
 * @returns in the order of `partitions`
 * @throws the error of a server that does not answer
 */
export async function readStandings(
  redis: Redis,
  offsets: Offsets,
  partitions: readonly PartitionKeys[],
): Promise<StandingAndLag[]> {
  const standings = await Promise.all(partitions.map((keys) => offsets.standing(keys)));
  const lags = await readLag(
    redis,
    partitions.map(({ stream }, index) => ({ stream, offset: standings[index]!.offset })),
  );
  return await Promise.all(partitions.map(async (keys, index) => {
    let standing = standings[index]!;
    let lag = lags[index]!;
    for (let looks = 1; !lag.certain && looks < MOST_LOOKS; looks++) {
      const again = await offsets.standing(keys);
      const { offset } = again;
      // The stream has lost what was before the offset, or never had it.
      if (offset === standing.offset) break;
      [standing, lag] = [again, (await readLag(redis, [{ stream: keys.stream, offset }]))[0]!];
    }
    return { standing, lag };
  }));
}
