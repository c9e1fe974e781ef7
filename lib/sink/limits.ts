/**
 * How much one partition reads at once for a target. What a sink holds is shared by its partitions and by its targets,
 * so that its memory does not grow with their number.
 * @module
 */

import type { Config } from "../config/load.ts";

/** Events in the batches of all partitions and targets together, where `write_behind.batch_size` names no number. */
const MAX_EVENTS = 10_000;

/** The most that a partition's batch may have. */
export interface BatchLimits {
  events: number;
  /** bytes of events; one document more may come */
  bytes: number;
}

/** The limits of one of an entity's partitions, for each target; a `batch_size` in the file is that of each. */
export function batchLimits({ streams, targets, write_behind }: Config): BatchLimits {
  const { batch_size, batch_bytes } = write_behind;
  const share = (all: number) =>
    Math.max(1, Math.floor(all / (streams.partitions * targets.length)));
  return { events: batch_size ?? share(MAX_EVENTS), bytes: share(batch_bytes) };
}
