/**
 * What could not be stored: the part of the port that keeps it, lists it and applies it again.
 * @module
 */

import type { EventType } from "../core/stream_ids.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import type { BatchRows, Refusal, Tried } from "./batch.ts";

/**
 * The states of an event in the dead letter.
 * - `parked`: it waits, and later events of its document queue behind it
 * - `replayed`: it was applied
 * - `superseded`: a newer event of its document was applied instead
 * - `discarded`: an operator discarded it
 */
export type DeadLetterState = "parked" | "replayed" | "superseded" | "discarded";

/** The events of one document in one state, shown by the newest of them. */
export interface DeadLetter {
  /** the newest event's number, to read it by */
  id: number;
  /** whose document it is */
  entity: string;
  /** the key of the stream that it came from */
  stream: string;
  /** the newest event's stream id */
  streamId: string;
  /** `null` where the entry could not be decoded; it is listed by itself */
  docId: string | null;
  /** the entry's event type: `insert`, `update`, `delete`, or any text where it could not be decoded */
  eventType: string;
  /** their state */
  state: DeadLetterState;
  /** older events of this document in the same state */
  waiting: number;
  /** the target's code, "" where it was not the target that refused; of the newest event that was tried */
  sqlstate: string;
  /** why that one was refused */
  reason: string;
  /** how often that one was tried */
  attempts: number;
  /** when the first of them was parked */
  firstAt: Date;
  /** when the last of them was parked or changed */
  lastAt: Date;
}

/** One event of the dead letter, unchanged. */
export interface DeadLetterEvent extends Omit<DeadLetter, "waiting"> {
  /** `ts` of the event, in ms; `null` where the entry could not be decoded */
  ts: number | null;
  /** the document after the change, as bytes; `null` where there is none */
  payload: Buffer | null;
  /** names and values in turn, where the entry could not be decoded */
  fields: Buffer[] | null;
}

/** Where events were parked, whatever partitions the entity has by now. */
export type LetterStream = Pick<PartitionKeys, "entity" | "stream">;

/** Which parked events a command is about. */
export type DeadLetterSelection = { all: true } | { docId: string } | { streamId: string };

/** A document with parked events, or an entry that could not be decoded. */
export interface ParkedDocument {
  /** the number of its newest event */
  id: string;
  /** UTF-8 of the document id; `null` where the entry could not be decoded */
  docId: Buffer | null;
}

/** A parked event without its payload. */
export interface ParkedEvent {
  /** its number in the dead letter */
  id: string;
  /** its place in the stream */
  streamId: string;
  /** UTF-8 of the document id */
  docId: Buffer;
  /** what happened to the document */
  type: EventType;
  /** when it was written, in ms since 1970 */
  ts: number;
}

/** The result of a replay, by the ids of parked events. */
export interface Settled {
  /** those that were applied */
  replayed: string[];
  /** older ones, which those replace */
  superseded: string[];
  /** those that were tried and refused: they stay parked */
  refused: (Refusal & { id: string })[];
}

/** A partition's dead letter inside a transaction that holds the partition as a batch does. */
export interface HeldDeadLetters {
  /** Entries that could not be decoded and are parked, by their ids. */
  entries(ids: string[]): Promise<{ id: string; streamId: string; fields: Buffer[] }[]>;
  /** The parked events of documents. */
  events(docIds: Buffer[]): Promise<ParkedEvent[]>;
  /** The payloads of parked events, by their ids. */
  payloads(ids: string[]): Promise<Map<string, Buffer | null>>;
  /** Whether the document has a row. */
  hasRow(docId: Buffer): Promise<boolean>;
  /**
   * Writes and removes rows as a batch does. If they are refused, none is written, and the transaction goes on.
   * @param keep whether they stay; else they are taken back
   * @returns `null` where they were not refused
   * @throws what says nothing of the rows: a lost connection, a full disk
   */
  attempt(rows: BatchRows, keep: boolean): Promise<Tried | null>;
  /** The ids of rows that were written or removed, and are not as they should be: the table swallows them. */
  swallowed(rows: BatchRows): Promise<string[]>;
  /** A row of the table; `null` where there is none, or none can be read. */
  anyRow(): Promise<{ id: string; payload: string } | null>;
  /** Notes the outcome for parked events. */
  settle(settled: Settled): Promise<void>;
}

/** What could not be stored. */
export interface DeadLetters {
  /** One a document, the ones parked first at the top, in constant memory. */
  list(entity: string, state: DeadLetterState | "all"): AsyncGenerator<DeadLetter>;
  /** Reads one event; `null` where there is none. */
  read(id: number): Promise<DeadLetterEvent | null>;
  /** The selected documents of a partition, so many at a time that their payloads fit `maxBytes`. */
  documents(
    keys: PartitionKeys,
    selection: DeadLetterSelection,
    maxBytes: number,
  ): AsyncGenerator<ParkedDocument[]>;
  /** The streams of whose events some are parked. */
  streams(entity: string): Promise<string[]>;
  /** Discards parked events; returns how many. `dryRun` changes nothing. */
  discard(of: LetterStream, selection: DeadLetterSelection, dryRun: boolean): Promise<number>;
  /** Which of these events of a partition were discarded, by their stream ids. */
  discardedAmong(keys: PartitionKeys, streamIds: string[]): Promise<string[]>;
  /**
   * Moves all that is kept of a stream to the streams in which its documents are from now on; what was no event goes to the
   * first. An event whose id is taken there gets the next one that is free. It may be stopped, and run again. Without it,
   * an entity is repartitioned only where nothing is parked.
   */
  move?(from: PartitionKeys, to: readonly PartitionKeys[]): Promise<void>;
  /**
   * Runs a transaction that holds a partition: the sink's next batch waits for it, finds that what is parked has
   * changed, and reads it again.
   * @param work returns whether to keep what it did
   */
  hold(keys: PartitionKeys, work: (held: HeldDeadLetters) => Promise<boolean>): Promise<void>;
}
