/**
 * How much one partition reads at once. What a sink holds is shared by its partitions, so that its memory does not
 * grow with their number.
 * @module
 */

import type { Config } from "../config/load.ts";

/** Events in the batches of all partitions together, where `write_behind.batch_size` names no number. */
const MAX_EVENTS = 10_000;

/** The most that a partition's batch may have. */
export interface BatchLimits {
  events: number;
  /** bytes of events; one document more may come */
  bytes: number;
}

/** The limits of one of an entity's partitions; a `batch_size` in the file is that of each partition. */
export function batchLimits({ streams, write_behind }: Config): BatchLimits {
  const { batch_size, batch_bytes } = write_behind;
  const share = (all: number) => Math.max(1, Math.floor(all / streams.partitions));
  return { events: batch_size ?? share(MAX_EVENTS), bytes: share(batch_bytes) };
}
