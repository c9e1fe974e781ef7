/**
 * What a sink needs of a target: ownership of a partition, and batches that move the offset in the
 * transaction of their rows.
 * @module
 */

import type { PartitionKeys } from "../redis/keys.ts";

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
  /** whether its first event in the batch is an insert, so that no row of it is expected */
  fresh: boolean;
}

/** A document to be removed: its last event in the batch is a delete. */
export type Removal = Pick<Upsert, "id" | "key" | "ms" | "seq">;

/** An event for the dead-letter table: one that cannot be stored, or that stands behind such a one. */
export interface Parked {
  streamId: string;
  /** UTF-8 of the document id; `null` where the entry could not be decoded */
  id: Buffer | null;
  /** what the entry says it is; "" where it says nothing */
  type: string;
  /** ms since 1970, or `null` */
  ts: number | null;
  /** JSON text as it came; `null` for a delete, or where the event has none */
  payload: Buffer | null;
  /** all fields as they came, where the entry could not be decoded */
  fields: Buffer[] | null;
  /** PostgreSQL's error code; "" where it was not PostgreSQL that refused */
  sqlstate: string;
  reason: string;
}

/** Events of one partition, coalesced to the last one a document; rows are sorted by key. */
export interface Batch {
  /** the offset that this batch moves to */
  lastId: string;
  /** events read, also those that coalescing left out */
  events: number;
  upserts: Upsert[];
  removals: Removal[];
  /** events for the dead-letter table, in stream order */
  parked: Parked[];
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
  /** the entry that must still be in the stream, if the stream has not gone back; `0-0` for none */
  witness: string;
  /** whether any document of the partition is parked */
  hasParked: boolean;
  /** changes when a replay or a discard has changed what is parked */
  parkedVersion: string;
}

/** Another sink has taken the partition, so this one may not write any more. */
export class OwnershipLostError extends Error {
  override name = "OwnershipLostError";
}

/** What was parked has changed under this claim: claim again, and look anew. */
export class ParkedChangedError extends Error {
  override name = "ParkedChangedError";
}

/** Why a row cannot be stored. */
export interface Refusal {
  sqlstate: string;
  reason: string;
}

/** A place that events are written to. */
export interface Target {
  /** Takes a partition that nobody owns; `null` while another sink holds it. */
  claim(keys: PartitionKeys, owner: string, leaseSeconds: number): Promise<Claim | null>;
  /** The last stream id that the target holds, whoever owns the partition; `0-0` for none. */
  offset(keys: PartitionKeys): Promise<string>;
  /**
   * Keeps the lease, and looks whether the server still works on a batch that is under way: if its
   * connection has died without a word, the batch is abandoned.
   * @throws {OwnershipLostError}
   */
  renew(claim: Claim, leaseSeconds: number): Promise<void>;
  /** Stops waiting for the batch under way: it fails with `reason`, and may be in or not. */
  abandon(claim: Claim, reason: Error): void;
  /** Gives the partition back, so that a successor need not wait for the lease to end. */
  release(claim: Claim): Promise<void>;
  /** Does what can be done for a batch without the database, while the batch before commits. */
  prepare(keys: PartitionKeys, batch: Batch): void;
  /**
   * Applies a batch and moves the offset, in one transaction, and sets `claim.offset`. Where it fails,
   * the batch may still be in (the connection may have been lost after the commit): claim the partition
   * again, and its offset says.
   * @throws {OwnershipLostError} nothing was applied
   */
  apply(claim: Claim, batch: Batch): Promise<void>;
  /** Which of these documents are parked, by the key of their rows. */
  parkedAmong(claim: Claim, ids: Buffer[]): Promise<Set<string>>;
  /** Which payloads are no JSON that the target can hold, by the key of their rows: one statement. */
  invalidPayloads(claim: Claim, upserts: Upsert[]): Promise<Map<string, Refusal>>;
  /**
   * Tries rows without changing anything.
   * @returns why they cannot be stored together, `null` where they can
   * @throws any error that does not say so
   */
  probe(claim: Claim, upserts: Upsert[], removals: Removal[]): Promise<Refusal | null>;
  /** Notes that the stream has gone back and that its documents were sent again: no witness is expected. */
  wentBack(claim: Claim): Promise<void>;
  /** Closes the connections that this target opened. */
  close(): Promise<void>;
}
