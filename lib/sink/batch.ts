/**
 * From stream entries to a batch: decode, keep the last event of each document, sort.
 * @module
 */

import { isUtf8 } from "node:buffer";
import type { EventType } from "../events.ts";
import type { Batch, Parked, Refusal, Upsert } from "../targets/target.ts";

/** A stream entry as it came: id, then field names and values in turn. */
export type Entry = [id: Buffer, fields: Buffer[]];

/** An event that was understood. */
export interface Event {
  streamId: string;
  ms: number;
  seq: number;
  docId: Buffer;
  type: EventType;
  /** ms since 1970 */
  ts: number;
  /** `null` for a delete, and where the producer sends none */
  payload: Buffer | null;
}

/** Why an entry is no event of ours. */
export class UndecodableEventError extends Error {
  override name = "UndecodableEventError";
  constructor(readonly entry: Entry, readonly streamId: string, reason: string) {
    super(`the entry ${streamId} is not an event: ${reason}`);
  }
}

const MAX_ID_BYTES = 512;
const MAX_SEQ = 2 ** 20 - 1;
const MAX_MS = 2 ** 43 - 1;

/**
 * Reads an entry. The payload is not looked into.
 * @throws {UndecodableEventError} with what is missing or wrong
 */
export function decode(entry: Entry): Event {
  const [id, fields] = entry;
  const streamId = id.toString("latin1");
  const fail = (reason: string) => new UndecodableEventError(entry, streamId, reason);
  const dash = id.indexOf(0x2d);
  const ms = decimal(id, 0, dash);
  const seq = decimal(id, dash + 1, id.length);
  if (!(ms <= MAX_MS && seq <= MAX_SEQ)) throw fail("its id does not fit a version");

  let docId: Buffer | undefined, type: Buffer | undefined, ts: Buffer | undefined;
  let payload: Buffer | null = null;
  for (let index = 0; index + 1 < fields.length; index += 2) {
    const name = fields[index]!;
    const value = fields[index + 1]!;
    // Other fields are other people's.
    if (same(name, TS)) ts = value;
    else if (same(name, DOC_ID)) docId = value;
    else if (same(name, EVENT_TYPE)) type = value;
    else if (same(name, PAYLOAD)) payload = value;
  }
  if (docId === undefined) throw fail("it has no doc_id");
  if (type === undefined) throw fail("it has no event_type");
  const known = TYPES.find(([bytes]) => same(type, bytes))?.[1];
  if (known === undefined) {
    throw fail(`its event_type is ${JSON.stringify(type.toString("utf8", 0, 40))}`);
  }
  if (docId.length === 0 || docId.length > MAX_ID_BYTES) {
    throw fail(`its doc_id has ${docId.length} bytes, and 1 to ${MAX_ID_BYTES} are allowed`);
  }
  if (!isPlainText(docId)) throw fail("its doc_id is not UTF-8 without U+0000");
  const time = ts === undefined ? ms : timeOf(ts);
  if (!(Math.abs(time) <= MAX_MS)) throw fail("its ts is not a time in ms");
  return {
    streamId,
    ms,
    seq,
    docId,
    type: known,
    ts: time,
    payload: known === "delete" ? null : payload,
  };
}

// This runs for every event, so bytes are compared and counted in place: a string of each would cost more
// than all the rest.

const [TS, DOC_ID, EVENT_TYPE, PAYLOAD] = ["ts", "doc_id", "event_type", "payload"].map((name) =>
  Buffer.from(name)
) as [Buffer, Buffer, Buffer, Buffer];
const TYPES = (["insert", "update", "delete"] as const).map((type) =>
  [Buffer.from(type), type] as const
);

function same(a: Buffer, b: Buffer): boolean {
  if (a.length !== b.length) return false;
  for (let index = 0; index < a.length; index++) if (a[index] !== b[index]) return false;
  return true;
}

/** The number that digits make; NaN for anything else. Beyond 2^53 it is only near. */
function decimal(bytes: Buffer, from: number, to: number): number {
  if (from >= to) return NaN;
  let value = 0;
  for (let index = from; index < to; index++) {
    const digit = bytes[index]! - 0x30;
    if (digit < 0 || digit > 9) return NaN;
    value = value * 10 + digit;
  }
  return value;
}

/** A time in ms; other producers may write it with a sign or a fraction. */
function timeOf(text: Buffer): number {
  const plain = decimal(text, 0, text.length);
  return Number.isNaN(plain) ? Math.trunc(Number(text.toString("latin1") || "NaN")) : plain;
}

function isPlainText(text: Buffer): boolean {
  for (let index = 0; index < text.length; index++) {
    const byte = text[index]!;
    if (byte === 0) return false;
    if (byte > 0x7f) return isUtf8(text) && !text.includes(0);
  }
  return true;
}

/** A stream entry in its place: an event, or what is to be parked in its stead. */
export interface Item {
  streamId: string;
  event: Event | null;
  parked: Parked | null;
}

/** Decodes entries; what is no event is to be parked as it came. */
export function decodeAll(entries: Entry[]): Item[] {
  return entries.map((entry) => {
    try {
      const event = decode(entry);
      return { streamId: event.streamId, event, parked: null };
    } catch (error) {
      if (!(error instanceof UndecodableEventError)) throw error;
      const { streamId, message: reason } = error;
      const parked = { ...NOTHING, streamId, fields: entry[1], reason };
      return { streamId, event: null, parked };
    }
  });
}

const NOTHING = {
  id: null,
  type: "",
  ts: null,
  payload: null,
  fields: null,
  sqlstate: "",
} satisfies Omit<Parked, "streamId" | "reason">;

/**
 * Turns an event into one to be parked.
 * @param payload where the event carries none, the document as it was read for it
 */
export function park(event: Event, refusal: Refusal, payload = event.payload): Item {
  const { streamId, docId: id, type, ts } = event;
  return {
    streamId,
    event: null,
    parked: { streamId, id, type, ts, payload, fields: null, ...refusal },
  };
}

/** The key of an event's row. */
export function keyOf(event: Event): string {
  return event.docId.toString("latin1");
}

interface Latest {
  event: Event;
  created: number | null;
}

/** How many events of a batch are looked at for freshness. */
const TIMES_PER_BATCH = 64;

/**
 * Keeps the last event of each document.
 * @param items in stream order, not empty
 * @param readDocuments gives the present state of documents (ids in, JSON text or `null` out) whose last
 * event has no payload. It may answer fewer than asked, where they would be too many bytes: the batch then
 * ends before the first event of a document that was not read.
 */
export async function coalesce(
  items: Item[],
  readDocuments: (docIds: Buffer[]) => Promise<(Buffer | null)[]>,
): Promise<Batch> {
  const latest = new Map<string, Latest>();
  const parked: Parked[] = [];
  for (const item of items) {
    if (item.parked !== null) parked.push(item.parked);
    if (item.event === null) continue;
    const { event } = item;
    const key = keyOf(event);
    const known = latest.get(key);
    const created = event.type === "insert"
      ? event.ts
      : event.type === "delete"
      ? null
      : known?.created ?? null;
    if (known === undefined) latest.set(key, { event, created });
    else {
      known.event = event;
      known.created = created;
    }
  }
  const batch: Batch = {
    lastId: items.at(-1)!.streamId,
    events: items.length,
    bytes: 0,
    upserts: [],
    removals: [],
    parked,
    noops: 0,
    times: sample(items),
  };
  const unread: Upsert[] = [];
  for (const [key, { event, created }] of latest) {
    const { docId: id, ms, seq, payload, ts: updated } = event;
    if (event.type === "delete") batch.removals.push({ id, key, ms, seq });
    else {
      const upsert = { id, key, payload: payload ?? EMPTY, ms, seq, updated, created };
      if (payload === null) unread.push(upsert);
      else {
        batch.bytes += payload.length;
        batch.upserts.push(upsert);
      }
    }
  }
  if (unread.length > 0) {
    const texts = await readDocuments(unread.map(({ id }) => id));
    const left = unread[texts.length];
    if (left !== undefined) {
      const cut = items.findIndex(({ event }) => event?.docId.equals(left.id));
      return coalesce(items.slice(0, cut), readDocuments);
    }
    texts.forEach((text, index) => {
      if (text === null) batch.noops++;
      else {
        batch.bytes += text.length;
        batch.upserts.push({ ...unread[index]!, payload: text });
      }
    });
  }
  // Every sink takes row locks in the same order, so two of them cannot deadlock.
  batch.upserts.sort(byKey);
  batch.removals.sort(byKey);
  return batch;
}

const EMPTY = Buffer.alloc(0);
const byKey = (a: { key: string }, b: { key: string }) =>
  a.key < b.key ? -1 : a.key > b.key ? 1 : 0;

function sample(items: Item[]): number[] {
  const step = Math.max(1, Math.floor(items.length / TIMES_PER_BATCH));
  const times: number[] = [];
  for (let index = 0; index < items.length; index += step) {
    const { event } = items[index]!;
    if (event !== null) times.push(event.ts);
  }
  return times;
}
