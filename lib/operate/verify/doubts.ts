/**
 * What was in doubt when a comparison began, and is settled by it.
 * @module
 */

import type { Config } from "../../config/load.ts";
import { reasonOf } from "../../core/errors.ts";
import { allPartitions, partitionsOf } from "../../redis/keys.ts";
import type { Assessment } from "../../sink/belonging.ts";
import type { Doubt, Target } from "../../targets/target.ts";

/** A doubt that stood when a comparison began. */
export interface FoundDoubt extends Doubt {
  /** the key of the partition's events */
  stream: string;
  /** whether the comparison has settled it */
  settled: boolean;
  /** why that could not be noted; `null` where nothing went wrong */
  error: string | null;
}

/** The doubts that stand by what was found of the partitions that a target has, in order. */
export function doubtsIn(
  config: Config,
  entity: string,
  target: Target,
  assessments: readonly Assessment[],
): FoundDoubt[] {
  return partitionsOf(config, entity, target.describe().name).flatMap(({ stream }, index) => {
    const { doubt } = assessments[index]!.belonging;
    if (doubt === null || doubt.refused) return [];
    const { reason, at } = doubt;
    return [{ stream, reason, at, settled: false, error: null }];
  });
}

/** Ends the doubts that stand since before: all is equal, or was repaired. */
export async function settleDoubts(
  target: Target,
  config: Config,
  entity: string,
  doubts: FoundDoubt[],
): Promise<void> {
  const partitions = allPartitions(config, entity);
  for (const doubt of doubts) {
    const keys = partitions.find(({ stream }) => stream === doubt.stream)!;
    try {
      await target.identities.settle(keys, doubt);
      doubt.settled = true;
    } catch (error) {
      // The comparison itself is right all the same: the user may only read.
      doubt.error = reasonOf(error);
    }
  }
}
