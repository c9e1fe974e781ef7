/** What the conformance suite needs of a target, besides the port; and batches for it. */

import type { Config } from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import type {
  Batch,
  Claim,
  DeadLetters,
  Parked,
  Removal,
  Rows,
  Target,
  Upsert,
} from "writebehind/targets";

/** A row with what the port does not give of it. */
export interface StoredRow {
  /** JSON text */
  payload: string;
  created: Date;
  updated: Date;
  version: string;
}

/** An empty place for the tables of one case; gone at the end of its scope. */
export interface Place extends AsyncDisposable {
  readonly config: Config;
  /** opens the target, as another process would */
  open(): Promise<Target>;
  /** the path of a configuration file that leads here */
  file(): Promise<string>;
  row(id: string): Promise<StoredRow | null>;
  /** runs a statement on the tables, by another program; gives its rows */
  query(sql: string): Promise<Record<string, unknown>[]>;
  /** the table refuses documents that have a key `bad`, from now on */
  refuseBad(): Promise<void>;
  /** such a document. @default `{"bad":1}` */
  readonly bad?: string;
  /** the table refuses, at the commit only, documents that have a key `late`, from now on */
  refuseLate(): Promise<void>;
  /** the table refuses everything, from now on */
  refuseAll(): Promise<void>;
  /** a newer version has changed the tables, and this one cannot work with them */
  outdate(): Promise<void>;
}

/** A document that the table refuses once it refuses those. */
export const badOf = ({ bad = '{"bad":1}' }: Place): string => bad;

/** A case of the suite: what it is called, and what it does with a place. */
export type Cases = Record<string, (place: Place) => Promise<void>>;

/** A target that can do all that there is. */
export type WholeTarget = Target & { readonly rows: Rows; readonly deadLetters: DeadLetters };

export async function openWhole(place: Place): Promise<WholeTarget> {
  return await place.open() as WholeTarget;
}

/** The partitions of the entity. */
export function partitionsOf({ config }: Place) {
  return allPartitions(config, "session");
}

/** Opens the target and claims its first partition. */
export async function claimed(place: Place, owner = "a") {
  const target = await openWhole(place);
  const [keys] = partitionsOf(place);
  const claim = await target.ownership.claim(keys!, owner, LEASE_SECONDS);
  if (claim === null) throw new Error("the partition is not free");
  return { target, keys: keys!, claim, [Symbol.asyncDispose]: () => target.close() };
}

export const LEASE_SECONDS = 30;
/** The time of the first event, in ms. */
export const BEGIN = 1_764_000_000_000;

/** A document to be written, `ms` after {@linkcode BEGIN}. */
export function upsert(
  id: string,
  payload: string | Buffer,
  ms: number,
  more: Partial<Upsert> = {},
) {
  return {
    id: Buffer.from(id),
    key: Buffer.from(id).toString("latin1"),
    payload: Buffer.from(payload),
    ms: BEGIN + ms,
    seq: 0,
    updated: BEGIN + ms,
    created: null,
    fresh: false,
    ...more,
  } satisfies Upsert;
}

/** A document that is new. */
export function insert(id: string, payload: string | Buffer, ms: number): Upsert {
  return upsert(id, payload, ms, { created: BEGIN + ms, fresh: true });
}

/** A document to be removed. */
export function removal(id: string, ms: number): Removal {
  const bytes = Buffer.from(id);
  return { id: bytes, key: bytes.toString("latin1"), ms: BEGIN + ms, seq: 0 };
}

/** An event for the dead letter. */
export function parked(id: string | null, ms: number, more: Partial<Parked> = {}): Parked {
  return {
    streamId: streamId(ms),
    id: id === null ? null : Buffer.from(id),
    type: id === null ? "" : "update",
    ts: id === null ? null : BEGIN + ms,
    payload: id === null ? null : Buffer.from(`{"n":${ms}}`),
    fields: id === null ? [Buffer.from("what"), Buffer.from("is this")] : null,
    sqlstate: id === null ? "" : "00001",
    reason: "refused",
    ...more,
  };
}

export function streamId(ms: number): string {
  return `${BEGIN + ms}-0`;
}

/** A batch that moves the offset to `ms`. */
export function batch(ms: number, parts: Partial<Batch> = {}): Batch {
  const { upserts = [], removals = [], parked = [] } = parts;
  const byKey = (a: { key: string }, b: { key: string }) => a.key < b.key ? -1 : 1;
  return {
    lastId: streamId(ms),
    events: upserts.length + removals.length + parked.length,
    noops: 0,
    times: [],
    ...parts,
    upserts: upserts.toSorted(byKey),
    removals: removals.toSorted(byKey),
    parked,
  };
}

/** A claim as it is now: `apply` changes the one it is given. */
export function copyOf(claim: Claim): Claim {
  return { ...claim };
}

/** The rows of documents by their ids, as the port gives them. */
export async function textsOf(target: WholeTarget, place: Place, ids: string[]) {
  const [keys] = partitionsOf(place);
  const { rows } = await target.rows.at(keys!, ids);
  return rows.map((row) => row?.text ?? null);
}

/** All items of an async iterable. */
export async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  return await Array.fromAsync(items);
}
