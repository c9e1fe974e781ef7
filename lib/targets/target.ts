/**
 * The port: what the pipeline needs of a place that events are written to, in small interfaces, each with one
 * reason. Only a target's own folder knows its server, its driver and its SQL.
 *
 * **How long a buffer lives.** The ids and payloads of a {@linkcode Batch} are views of memory that stays as it is until
 * the batch was applied, and is written over then; where `apply` has failed, it is never used again, since a driver may
 * still hold it. `prepare` may keep such views until the `apply` of that batch has ended, and no longer. The next batch is
 * prepared while the one before is applied, so memory of the target's own is used again only after an `apply` that has
 * ended well, of the same batch.
 * @module
 */

import type { ErrorKind } from "../core/error_kinds.ts";
import { WriteBehindError } from "../core/errors.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import type { Columns } from "./columns.ts";
import type { Batch, BatchRows, Refusal, Tried, Upsert } from "./batch.ts";
import type { DeadLetters } from "./dead_letters.ts";

/** The right to write one partition, until a successor raises the epoch. */
export interface Claim {
  /** the partition */
  keys: PartitionKeys;
  /** the name of the sink that holds it */
  owner: string;
  /** the lease's number: a higher one fences off a lower */
  epoch: string;
  /** the last stream id that the target holds; `0-0` for none */
  offset: string;
  /** the entry that must still be in the stream, if the stream has not gone back; `0-0` for none */
  witness: string;
  /** whether any document of the partition is parked */
  hasParked: boolean;
  /** changes when a replay or a discard has changed what is parked */
  parkedVersion: string;
  /** tables of ours that were gone, and were made anew for this claim */
  madeAnew: string[];
}

/** Another sink has taken the partition, so this one may not write any more. */
export class OwnershipLostError extends WriteBehindError {}

/** What is parked, or the offset, has changed under this claim: claim again and read it again. */
export class ParkedChangedError extends WriteBehindError {}

/** How often an owner renews a lease while it lasts. */
export const HEARTBEATS = 3;

/** The processes that share an entity's partitions, and who has them. */
export interface Shares {
  /** the names of those that live */
  members: readonly string[];
  /** by the partition's stream; those that nobody has now are missing */
  owners: ReadonlyMap<string, string>;
}

/** Who may write a partition. */
export interface Ownership {
  /** Takes a partition that nobody owns; `null` while another sink holds it. */
  claim(keys: PartitionKeys, owner: string, leaseSeconds: number): Promise<Claim | null>;
  /**
   * Keeps the lease, and checks that the server still works on a batch that is under way: if its connection
   * has died silently, the batch is abandoned.
   * @throws {OwnershipLostError} where another sink has taken the partition
   */
  renew(claim: Claim, leaseSeconds: number): Promise<void>;
  /** Stops waiting for the batches under way: they fail with `reason`, and may have been applied or not. */
  abandon(claim: Claim, reason: Error): void;
  /**
   * Gives the partition back, so that the next owner need not wait for the lease to end, and closes what
   * claiming it opened.
   * @param claim the newest one; `null` where the partition was never taken
   */
  release(keys: PartitionKeys, claim: Claim | null): Promise<void>;
  /** Notes that the stream went back and its documents were resent: no witness is expected any more. */
  wentBack(claim: Claim): Promise<void>;
  /**
   * Tells that a process shares these partitions, or shares them no more, and who else does. It decides nothing: a claim
   * does. Without it, whoever is first has them all.
   * @param options.leaseSeconds how long it counts as there without telling it again, unless its end is noticed before
   */
  share?(
    partitions: PartitionKeys[],
    process: string,
    options: { leaseSeconds: number; isMember: boolean },
  ): Promise<Shares>;
  /**
   * Moves a partition's offset, whoever owns it: the running claim looks anew. For a target that was filled up to there,
   * and for a stream that was mended, where the offset stood at an id that no version can hold.
   * @param witness the entry that must still be in the stream from now on; `0-0` for none
   */
  moveOffset(keys: PartitionKeys, offset: string, witness: string): Promise<void>;
}

/** Writing batches, each in one transaction with the offset. */
export interface Batches {
  /**
   * Whether a batch has each event, in stream order, not only the last one of a document. What a refused event parks
   * is the event and those of its document behind it, and a replay applies each of them in order.
   * @default {false}
   */
  readonly everyEvent?: boolean;
  /** Does what can be done for a batch without the server, while the batch before commits. */
  prepare(keys: PartitionKeys, batch: Batch): void;
  /**
   * Sends a batch that was prepared while the one before is under way, so that the server goes on with it at once. Where the
   * one before is not applied as it was sent, neither is this one, and its `apply` may never come; where that comes, it waits
   * for the outcome, and sends the batch again if nothing was done.
   * @returns whether it was sent
   */
  sendAhead?(claim: Claim, batch: Batch, before: Batch): boolean;
  /**
   * Applies a batch (rows, removals, what is parked) and moves the offset, in one durable transaction, and sets
   * `claim.offset`. An older version never replaces a newer one. If it fails, the batch may still have been applied
   * (the connection may have been lost after the commit): claiming the partition again shows it by the offset.
   * @returns the rows of which fewer were written or removed than given; mostly none
   * @throws {OwnershipLostError} nothing was applied
   * @throws {ParkedChangedError} nothing was applied
   */
  apply(claim: Claim, batch: Batch): Promise<BatchRows>;
  /**
   * Which of these rows of the batch that was applied last are older, missing, or still there, though no error was
   * raised: a trigger has swallowed them. A newer row is none, nor is one that was removed before.
   * @param ahead a batch that was sent behind that one: what it does to a document is not swallowed
   * @returns the documents' ids
   */
  swallowed(claim: Claim, rows: BatchRows, ahead?: Batch): Promise<string[]>;
  /** Which of these documents are parked, by the key of their rows. */
  parkedAmong(claim: Claim, ids: Buffer[]): Promise<Set<string>>;
  /** Which documents have a payload that is no JSON that the target can hold, by the key of their rows. */
  invalidPayloads(claim: Claim, upserts: Upsert[]): Promise<Map<string, Refusal>>;
  /**
   * Tries rows without changing anything.
   * @param deep whether to try also what is checked only at the commit, which takes longer
   * @returns why they cannot be stored together, `null` where they can
   * @throws any error that says nothing about these rows, such as a lost connection or a full disk
   */
  probe(claim: Claim, rows: BatchRows, deep: boolean): Promise<Tried | null>;
  /**
   * Whether harmless rows go through: written, a new one of `{}`, or an existing one, unchanged; removed, one that is
   * not there. If none does, no document is to blame for being refused.
   * @returns `null` where the new one does not, and none is there yet
   */
  works(claim: Claim, rows: keyof BatchRows): Promise<boolean | null>;
}

/** The state of a partition in the target. */
export interface Standing {
  /** the last stream id that the target holds; `0-0` for none */
  offset: string;
  /** events applied since the partition began */
  events: number;
  /** the entry that must still be in the stream; `0-0` for none */
  witness: string;
  /** how often the stream went back */
  wentBack: number;
  /** when it last did */
  wentBackAt: Date | null;
  /** who holds the lease, or held it last */
  owner: string | null;
  /** whether the lease holds now */
  live: boolean;
  /**
   * seconds until the lease ends, 0 where it has ended before its time, since its owner is gone, and negative after
   * it; `null` where it was given back, or ends with its process, not
   * with time
   */
  leaseSeconds: number | null;
  /** events that are parked now */
  parked: number;
  /** who holds a lock that the owner's batch waits for, for people; `null` where nobody does, or it is not known */
  waitsFor: string | null;
}

/** The state of partitions. Reads only; before any sink has run, every partition is at its beginning. */
export interface Offsets {
  /** The last stream id that the target holds, whoever owns the partition; `0-0` for none. */
  offset(keys: Pick<PartitionKeys, "stream">): Promise<string>;
  /**
   * The state of a partition.
   * @param options.waits whether to look who holds up its batch, which a server should not be asked again and again.
   * @default {true}
   */
  standing(keys: PartitionKeys, options?: { waits?: boolean }): Promise<Standing>;
}

/** Why rows may be missing or old, until a verify has looked. */
export interface Doubt {
  /** for people */
  reason: string;
  /** since when */
  at: Date;
}

/** What a partition's offset belongs to, and whether the rows can be what it says. */
export interface Belonging {
  /** the last stream id that the target holds; `0-0` for none */
  offset: string;
  /** the identity of the data in Redis whose events it counts; `null` where none was noted yet */
  source: string | null;
  /** whether the table is noted as it is now */
  noted: boolean;
  /** whether any partition of the entity has an offset past `0-0` */
  begun: boolean;
  /** why offset and table do not belong together, for people; `null` where they do */
  problem: string | null;
  /** other partitions whose rows are in the same table, though the configuration does not name them now */
  others: { stream: string; offset: string }[];
  /**
   * what the rows of the table were written from: events of ours, or nothing of ours (`original`: they have version 0);
   * `null` where that was not asked, since a source is noted
   */
  rows: "none" | "original" | "ours" | null;
  /** tables of ours that are gone, though they were made */
  gone: string[];
  /** whether the offset's own event is in the dead letter, in whatever state, so that it may have no row */
  parkedLast: boolean;
  /** what stands of earlier; `refused`: the sink does not go on before it is adopted */
  doubt: (Doubt & { refused: boolean }) | null;
}

/** How a partition goes on that was refused. */
export interface Adoption {
  /** the identity of the data in Redis; `null`: the sink notes one */
  source: string | null;
  /** the offset, and the entry that the stream must hold */
  offset: string;
  /** the entry that the stream must hold; `0-0` for none */
  witness: string;
  /** streams whose offsets do not belong to the table any more */
  others: string[];
  /** what is said until a verify has looked */
  doubt: string;
}

/**
 * What offsets belong to: the data in Redis whose events they count, and the table that holds their rows. It is noted
 * beside the offset, so that neither is taken for another.
 */
export interface Identities {
  /** Reads what is noted, and what is there. Changes nothing, and works before our tables are there. */
  read(keys: PartitionKeys, streams: string[]): Promise<Belonging>;
  /** Notes the identity of the data in Redis, and the table as it is now. */
  note(claim: Claim, source: string): Promise<void>;
  /**
   * A quick look while a claim runs: whether the table is still the one that was noted. What it finds stays noted.
   * @returns why it is not, for people; `null` where it is
   * @throws {ParkedChangedError} where the target has lost commits: its server may be another now
   */
  look(claim: Claim): Promise<string | null>;
  /** Notes a doubt, behind those that stand. Where the witness is missing since the target has lost it, none is left. */
  doubt(claim: Claim, reason: string, options: { keepWitness: boolean }): Promise<void>;
  /** Ends a doubt, if it is still the same. */
  settle(keys: PartitionKeys, doubt: Doubt): Promise<void>;
  /** Lets a partition go on; the running claim looks anew. */
  adopt(keys: PartitionKeys, adoption: Adoption): Promise<void>;
}

/** A row's document. */
export interface Row {
  /** JSON text, in the target's spelling; `null` the value for a row that has none */
  text: string;
  /** the stream id of its last event as one integer, in decimal */
  version: string;
}

/** A row in a walk over all of them. */
export interface ScannedRow extends Row {
  /** the document's id */
  id: string;
  /** the offset of its partition, read in the same statement */
  offset: string;
  /** whether an event of it is parked, so that the row is not the newest */
  parked: boolean;
}

/** Rows of one partition's documents, read together with its offset. */
export interface RowsAt {
  /** the partition's offset when they were read */
  offset: string;
  /** in the order of the ids that were asked for, `null` for one that is missing; fewer where they are many bytes */
  rows: (Row | null)[];
  /** whether an event is parked that is newer than the row */
  parked: boolean[];
}

/** Reading rows: for verify, repair, rebuild and read-through. */
export interface Rows {
  /** About how many rows there are, for showing progress. */
  size(entity: string): Promise<number>;
  /** The ids of all rows, in the target's order of keys, at most {@linkcode PAGE_ROWS} at a time. */
  ids(entity: string): AsyncGenerator<string[]>;
  /** The ids of the rows with the highest versions, at most so many: without it, nothing is known of their age. */
  newest?(entity: string, limit: number): Promise<string[]>;
  /**
   * Which of these documents are not certainly equal to their rows, as JSON values: those that differ, those
   * without a row, those without a text, and any that the target cannot compare.
   * @param texts JSON texts in the order of `ids`; `null` for a document that is missing
   */
  notSurelyEqual(entity: string, ids: Buffer[], texts: (Buffer | null)[]): Promise<string[]>;
  /** Rows of one partition's documents, at most {@linkcode READ_BYTES} of them, plus one. */
  at(keys: PartitionKeys, ids: string[]): Promise<RowsAt>;
  /**
   * The rows after an id (`""` for the first), in the target's order of keys: at most {@linkcode PAGE_ROWS} and
   * {@linkcode READ_BYTES}, plus one; empty at the end.
   */
  scan(entity: string, partitions: PartitionKeys[], after: string): Promise<ScannedRow[]>;
  /** Which of these documents have a parked event. */
  parkedAmong(partitions: PartitionKeys[], ids: string[]): Promise<Set<string>>;
}

/** How many bytes of documents or rows are read at a time, plus one document or row. */
export const READ_BYTES: number = 8 * 2 ** 20;
/** Rows that are read at a time. */
export const PAGE_ROWS = 1000;

/** A target, for people. */
export interface TargetDescription {
  /** its name in the configuration, such as `postgresql` */
  name: string;
  /** what it is, such as `postgresql` */
  kind: string;
  /** without secrets */
  address: string;
}

/** A place that events are written to. An optional part that it cannot offer is absent. */
export interface Target extends AsyncDisposable {
  /** who may write a partition */
  readonly ownership: Ownership;
  /** writing events */
  readonly batches: Batches;
  /** the state of partitions */
  readonly offsets: Offsets;
  /** what offsets belong to */
  readonly identities: Identities;
  /** reading rows: without it no verify, repair, rebuild or read-through */
  readonly rows?: Rows;
  /** what could not be stored: without it no list, replay or discard */
  readonly deadLetters?: DeadLetters;
  /** typed columns beside the documents: without it `columns` of an entity are not made */
  readonly columns?: Columns;
  /** What it is, for people. */
  describe(): TargetDescription;
  /** What an error of its driver or server means for the sink. */
  kindOf(error: unknown): ErrorKind;
  /**
   * Creates an entity's table and ours if they are missing, and brings them up to date. A sink does it when it
   * claims; commands that only read never do it.
   * @throws where the user may not, with what to run; or where the schema is newer than this version can work with
   */
  migrate(entity: string): Promise<void>;
  /**
   * Checks that a command that only reads, or that works on what exists, can work with an entity's tables as they are.
   * @throws where they are missing, older than this version needs, or newer than it can work with: with what to do
   */
  check(entity: string): Promise<void>;
  /** Closes the connections that this target opened. Whatever is asked of it afterwards fails with a `ConnectionError`. */
  close(): Promise<void>;
}
