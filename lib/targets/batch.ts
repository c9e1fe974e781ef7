/**
 * What a batch carries to a target, and what the target says of its rows.
 * @module
 */

import type { ErrorKind } from "../core/error_kinds.ts";

/** A document to be written: its last event in the batch. */
export interface Upsert {
  /** UTF-8 of the document id */
  id: Buffer;
  /** the id's bytes as text of one character a byte: the order of rows */
  key: string;
  /** JSON text, as it is in the event */
  payload: Buffer;
  /** the first part of the event's stream id, in ms */
  ms: number;
  /** its second part */
  seq: number;
  /** `ts` of the last event, in ms */
  updated: number;
  /** `ts` of the last insert event in the batch, in ms; `null` where there was none */
  created: number | null;
  /** whether its first event in the batch is an insert, so that it should have no row yet */
  fresh: boolean;
}

/** A document to be removed: its last event in the batch is a delete. */
export type Removal = Pick<Upsert, "id" | "key" | "ms" | "seq">;

/** Sorts events, or their rows, by their places in the stream. */
export const byPlace = (a: Place, b: Place): number => a.ms - b.ms || a.seq - b.seq;
type Place = Pick<Upsert, "ms" | "seq">;

/** An event for the dead letter: one that cannot be stored, or one behind such an event. */
export interface Parked {
  /** its place in the stream */
  streamId: string;
  /** UTF-8 of the document id; `null` where the entry could not be decoded */
  id: Buffer | null;
  /** the entry's event type; "" where it has none */
  type: string;
  /** ms since 1970, or `null` */
  ts: number | null;
  /** the event's JSON text, unchanged; `null` for a delete, or where the event has none */
  payload: Buffer | null;
  /** all fields, unchanged, where the entry could not be decoded */
  fields: Buffer[] | null;
  /** the target's code for the refusal; "" where it was not the target that refused */
  sqlstate: string;
  /** why, for people */
  reason: string;
}

/** Rows to be written and removed, in the order of their keys. */
export interface BatchRows {
  /** documents to be written */
  upserts: Upsert[];
  /** documents to be removed */
  removals: Removal[];
}

/**
 * Events of one partition, coalesced to the last one a document; rows are sorted by key. For a target that wants every
 * event, each has a row of its own: both lists are in stream order then, which {@linkcode byPlace} brings together.
 */
export interface Batch extends BatchRows {
  /** the offset that this batch moves to */
  lastId: string;
  /** events read, also those that coalescing left out */
  events: number;
  /** events for the dead letter, in stream order */
  parked: Parked[];
  /** events without payload whose document is gone: nothing to write */
  noops: number;
  /** `ts` of some of the events, in ms, for freshness */
  times: number[];
}

/** Why a row cannot be stored. */
export interface Refusal {
  /** the target's code, such as PostgreSQL's five characters; "" where it has none */
  sqlstate: string;
  /** why, for people */
  reason: string;
}

/** A refusal, and its kind of error when it comes alone. */
export interface Tried extends Refusal {
  /** the kind of the target's error */
  kind: ErrorKind;
}
