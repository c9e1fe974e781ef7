/**
 * What a sink needs of a target: ownership of a partition, and batches that move the offset in the
 * transaction of their rows.
 * @module
 */

import type { PartitionKeys } from "../events.ts";

/** A document to be written: its last event in the batch. */
export interface Upsert {
  /** UTF-8 of the document id */
  id: Buffer;
  /** the id's bytes as text of one character a byte: the order of rows */
  key: string;
  /** JSON text, as it stands in the event */
  payload: Buffer;
  /** the event's stream id, in its two parts */
  ms: number;
  seq: number;
  /** `ts` of the last event, in ms */
  updated: number;
  /** `ts` of the last insert event in the batch, in ms; `null` where there was none */
  created: number | null;
}

/** A document to be removed: its last event in the batch is a delete. */
export type Removal = Pick<Upsert, "id" | "key" | "ms" | "seq">;

/** Events of one partition, coalesced to the last one a document; rows are sorted by key. */
export interface Batch {
  /** the offset that this batch moves to */
  lastId: string;
  /** events read, also those that coalescing left out */
  events: number;
  /** bytes of the payloads held */
  bytes: number;
  upserts: Upsert[];
  removals: Removal[];
  /** events without payload whose document is gone: nothing to write */
  noops: number;
  /** `ts` of some of the events, in ms, for freshness */
  times: number[];
}

/** The right to write one partition, until a successor raises the epoch. */
export interface Claim {
  keys: PartitionKeys;
  owner: string;
  epoch: string;
  /** the last stream id that the target holds; `0-0` for none */
  offset: string;
}

/** Another sink has taken the partition, so this one may not write any more. */
export class OwnershipLostError extends Error {
  override name = "OwnershipLostError";
}

/** A place that events are written to. */
export interface Target {
  /** Takes a partition that nobody owns; `null` while another sink holds it. */
  claim(keys: PartitionKeys, owner: string, leaseSeconds: number): Promise<Claim | null>;
  /** The last stream id that the target holds, whoever owns the partition; `0-0` for none. */
  offset(keys: PartitionKeys): Promise<string>;
  /** Keeps the lease. @throws {OwnershipLostError} */
  renew(claim: Claim, leaseSeconds: number): Promise<void>;
  /** Gives the partition back, so that a successor need not wait for the lease to end. */
  release(claim: Claim): Promise<void>;
  /**
   * Applies a batch and moves the offset, in one transaction, and sets `claim.offset`. Where it fails,
   * the batch may still be in (the connection may have been lost after the commit): claim the partition
   * again, and its offset says.
   * @throws {OwnershipLostError} nothing was applied
   */
  apply(claim: Claim, batch: Batch): Promise<void>;
  /** Closes the connections that this target opened. */
  close(): Promise<void>;
}
