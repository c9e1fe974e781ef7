/**
 * How much a sink holds at once. It is shared by the partitions that have their turn and by the targets, so that neither
 * does memory grow with their number, nor do batches become small by it. And how often partitions look around that have
 * nothing to do.
 * @module
 */

import { Semaphore } from "async-mutex";
import type { Config } from "../config/load.ts";
import { partitionsAtMost } from "../config/shapes.ts";
import type { PartitionKeys } from "../redis/keys.ts";

/** Events that a partition's batches may have, for all targets together, where `write_behind.batch_size` names no number. */
const BATCH_EVENTS = 10_000;
/** As {@linkcode BATCH_EVENTS}, of all partitions together. */
const ALL_EVENTS = 20_000;

/** The most that a partition's batch may have. */
export interface BatchLimits {
  events: number;
  /** bytes of events; one document more may come, two where not even one fits */
  bytes: number;
}

/** The limits of one of an entity's partitions, for each target; a `batch_size` in the file is that of each. */
export function batchLimits(config: Config): BatchLimits {
  const { targets, write_behind: { batch_size, batch_bytes } } = config;
  const share = (all: number) => Math.max(1, Math.floor(all / targets.length));
  const atWork = partitionsAtWork(config);
  const events = batch_size ?? share(Math.min(BATCH_EVENTS, ALL_EVENTS / atWork));
  return { events, bytes: share(batch_bytes / atWork) };
}

/**
 * Places for the batches of an entity's partitions in memory, which they get in the order in which they ask: for each that
 * has its turn, the batch that is applied and the one that is read meanwhile.
 */
export const batchSlots = (config: Config): Semaphore =>
  new Semaphore(2 * partitionsAtWork(config));

/** More at a time would only wait for a connection. */
const partitionsAtWork = (config: Config): number =>
  Math.min(partitionsAtMost(config), config.write_behind.connections);

/** So many ms lie between two looks of all partitions together. */
const LOOK_MS = 100;

/** How often each idle partition looks around at most, in ms: what it costs does not grow with their number. */
export const lookEachMs = ({ shape }: PartitionKeys): number => LOOK_MS * shape.partitions;
