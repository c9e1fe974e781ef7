/**
 * Whether a target holds what a stream had when it was asked: an end to wait for, also over a rewind.
 * @module
 */

import { compareStreamIds } from "../core/stream_ids.ts";
import type { Redis } from "../redis/client.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { lastEntryId, lastGeneratedId } from "../redis/streams.ts";
import type { Offsets, Standing } from "../targets/target.ts";
import { hasWitness } from "./rewind.ts";

/** The end of a stream, as it was. */
export interface Goal {
  /** the last entry; `0-0` for none */
  id: string;
  /** how often the stream had gone back by then: what is resent afterwards lies past it */
  wentBack: number;
}

/** Reads the end of a stream. */
export async function goalOf(
  redis: Redis,
  offsets: Offsets,
  keys: PartitionKeys,
): Promise<Goal> {
  // First the target, so that a rewind which ends in between makes the goal an old one, not one reached too early.
  const { wentBack } = await offsets.standing(keys, { waits: false });
  return { id: await lastEntryId(redis, keys.stream), wentBack };
}

/**
 * Whether the target holds all up to the goal. An offset counts only where it is of the stream as it is now: one that
 * has gone back has entries at or below the offset that the target lacks, until a sink has resent them, and that lies
 * past the goal.
 * @returns `old` where the stream has gone back, or went back since: another goal is needed
 */
export async function isReached(
  redis: Redis,
  offsets: Offsets,
  keys: PartitionKeys,
  goal: Goal,
): Promise<{ is: "reached" | "behind" | "old"; offset: string }> {
  const standing = await offsets.standing(keys, { waits: false });
  const { offset } = standing;
  if (compareStreamIds(offset, goal.id) < 0) {
    // An event that only a primary had goes with it: nobody applies it, and the stream may end before it.
    const isOld = standing.wentBack !== goal.wentBack ||
      compareStreamIds(await lastGeneratedId(redis, keys.stream), goal.id) < 0;
    return { is: isOld ? "old" : "behind", offset };
  }
  // In this order, since a sink may rewind meanwhile.
  const isOld = await hasGoneBack(redis, offsets, keys, standing) ||
    (await offsets.standing(keys, { waits: false })).wentBack !== goal.wentBack;
  return { is: isOld ? "old" : "reached", offset };
}

/** Whether a stream does not hold the last event that the target applied, and no sink has rewound it yet. */
export async function hasGoneBack(
  redis: Redis,
  offsets: Offsets,
  keys: PartitionKeys,
  { witness, offset }: Pick<Standing, "witness" | "offset">,
): Promise<boolean> {
  for (;;) {
    if (await hasWitness(redis, keys, witness)) {
      // With no witness to look for, the last id may still tell.
      return compareStreamIds(await lastGeneratedId(redis, keys.stream), offset) < 0;
    }
    // Since the target was read, a sink may have applied more and trimmed.
    const again = await offsets.standing(keys, { waits: false });
    if (again.witness === witness) return true;
    ({ witness, offset } = again);
  }
}
