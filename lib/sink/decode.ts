/**
 * From stream entries to events.
 * @module
 */

import { isUtf8 } from "node:buffer";
import { type EventType, MAX_ID_BYTES, MAX_MS, MAX_SEQUENCE, partsOf } from "../core/stream_ids.ts";
import type { Parked, Refusal } from "../targets/batch.ts";

/** A stream entry as it came: id, then field names and values in turn. */
export type Entry = [id: Buffer, fields: Buffer[]];

/** What a stream entry decodes to: an event, or what is parked instead. */
export type Item = Event | Parked;

/** Whether an item is an event. */
export const isEvent = (item: Item): item is Event => item instanceof Event;

/**
 * A decoded event, in the bytes of the reply that brought it. A batch leaves out nearly all events of a hot document, so
 * a view of a value is made only when it is asked for. Nor is the id made a string to find its document by: V8 would keep
 * it in its table of all strings, which takes longer than to decode the entry.
 */
export class Event {
  #bytes: Buffer;
  #id: number;
  #idEnd: number;
  #payload: number;
  #payloadEnd: number;

  /**
   * @param ms the first part of its stream id
   * @param seq the second part
   * @param hash of the id's bytes: 32 bits, in this process
   * @param ts ms since 1970
   * @param bytes in which the id and the payload begin and end at the places behind
   * @param payload below 0 for none
   */
  constructor(
    readonly ms: number,
    readonly seq: number,
    readonly hash: number,
    readonly type: EventType,
    readonly ts: number,
    bytes: Buffer,
    id: number,
    idEnd: number,
    payload: number,
    payloadEnd: number,
  ) {
    this.#bytes = bytes;
    this.#id = id;
    this.#idEnd = idEnd;
    this.#payload = payload;
    this.#payloadEnd = payloadEnd;
  }

  get streamId(): string {
    return `${this.ms}-${this.seq}`;
  }
  get docId(): Buffer {
    return this.#bytes.subarray(this.#id, this.#idEnd);
  }
  /** the bytes of `docId` as text of one character a byte */
  get key(): string {
    return this.#bytes.toString("latin1", this.#id, this.#idEnd);
  }
  /** `null` for a delete, and if the producer sends none */
  get payload(): Buffer | null {
    return this.#payload < 0 ? null : this.#bytes.subarray(this.#payload, this.#payloadEnd);
  }

  /**
   * How many of the first bytes of both events' ids are the same.
   * @param known so many are known to be
   */
  sameIdBytes(other: Event, known = 0): number {
    const most = Math.min(this.#idEnd - this.#id, other.#idEnd - other.#id);
    let at = known;
    while (at < most && this.#bytes[this.#id + at] === other.#bytes[other.#id + at]) at++;
    return at;
  }

  /**
   * Compares the bytes of ids: below 0 where this event's come first, 0 where both events are of one document.
   * @param known so many of the first ones are known to be the same
   */
  compareId(other: Event, known = 0): number {
    const length = this.#idEnd - this.#id;
    const othersLength = other.#idEnd - other.#id;
    const at = this.sameIdBytes(other, known);
    return at < length && at < othersLength
      ? this.#bytes[this.#id + at]! - other.#bytes[other.#id + at]!
      : length - othersLength;
  }
}

/** An event whose values are apart, such as one that was parked. */
export function eventOf(
  { streamId, docId, type, ts }: Pick<Event, "streamId" | "docId" | "type" | "ts">,
  payload: Buffer | null = null,
): Event {
  const { ms, seq } = partsOf(streamId);
  const bytes = payload === null ? docId : Buffer.concat([docId, payload]);
  const idEnd = docId.length;
  const hash = hashOfText(docId, 0, idEnd) ?? 0;
  const payloadAt = payload === null ? -1 : idEnd;
  return new Event(ms, seq, hash, type, ts, bytes, 0, idEnd, payloadAt, bytes.length);
}

/**
 * Decodes an entry in place. What is no event is parked unchanged. The payload is not parsed.
 * @param spans where its values begin and end in `bytes`: the id, then field names and values in turn
 */
export function decode(bytes: Buffer, spans: readonly number[]): Item {
  let dash = spans[0]!;
  while (dash < spans[1]! && bytes[dash] !== DASH) dash++;
  const ms = decimal(bytes, spans[0]!, dash);
  const seq = decimal(bytes, dash + 1, spans[1]!);
  let id = -1, idEnd = 0, type = -1, typeEnd = 0, ts = -1, tsEnd = 0, payload = -1, payloadEnd = 0;
  for (let at = 2; at + 3 < spans.length; at += 4) {
    const from = spans[at]!;
    const to = spans[at + 1]!;
    const value = spans[at + 2]!;
    const valueEnd = spans[at + 3]!;
    // Other fields belong to other programs.
    if (same(bytes, from, to, TS)) ts = value, tsEnd = valueEnd;
    else if (same(bytes, from, to, DOC_ID)) id = value, idEnd = valueEnd;
    else if (same(bytes, from, to, EVENT_TYPE)) type = value, typeEnd = valueEnd;
    else if (same(bytes, from, to, PAYLOAD)) payload = value, payloadEnd = valueEnd;
  }
  const fail = (reason: string) => undecodable(bytes, spans, reason);
  if (!(ms <= MAX_MS && seq <= MAX_SEQUENCE)) return fail("its id does not fit a version");
  if (id < 0) return fail("it has no doc_id");
  if (type < 0) return fail("it has no event_type");
  const known = TYPES.find(([name]) => same(bytes, type, typeEnd, name))?.[1];
  if (known === undefined) {
    const shown = JSON.stringify(bytes.toString("utf8", type, Math.min(typeEnd, type + 40)));
    return fail(`its event_type is ${shown}`);
  }
  if (idEnd === id || idEnd - id > MAX_ID_BYTES) {
    return fail(`its doc_id has ${idEnd - id} bytes, and 1 to ${MAX_ID_BYTES} are allowed`);
  }
  const hash = hashOfText(bytes, id, idEnd);
  if (hash === undefined) return fail("its doc_id is not UTF-8 without U+0000");
  const time = ts < 0 ? ms : timeOf(bytes, ts, tsEnd);
  if (!(Math.abs(time) <= MAX_MS)) return fail("its ts is not a time in ms");
  if (known === "delete") payload = -1;
  return new Event(ms, seq, hash, known, time, bytes, id, idEnd, payload, payloadEnd);
}

/** Decodes an entry whose values are separate buffers. */
export function decodeEntry([id, fields]: Entry): Item {
  const spans: number[] = [];
  let end = 0;
  for (const { length } of [id, ...fields]) spans.push(end, end += length);
  return decode(Buffer.concat([id, ...fields]), spans);
}

function undecodable(bytes: Buffer, spans: readonly number[], reason: string): Parked {
  const streamId = bytes.toString("latin1", spans[0], spans[1]);
  const fields: Buffer[] = [];
  for (let at = 2; at < spans.length; at += 2) {
    fields.push(bytes.subarray(spans[at], spans[at + 1]));
  }
  return {
    streamId,
    id: null,
    type: "",
    ts: null,
    payload: null,
    fields,
    sqlstate: "",
    reason: `the entry ${streamId} is not an event: ${reason}`,
  };
}

// This runs for every event, so bytes are compared and parsed in place: making strings of them would cost
// more than everything else.

const DASH = 0x2d;
const [TS, DOC_ID, EVENT_TYPE, PAYLOAD] = ["ts", "doc_id", "event_type", "payload"].map((name) =>
  Buffer.from(name)
) as [Buffer, Buffer, Buffer, Buffer];
const TYPES = (["insert", "update", "delete"] as const).map((type) =>
  [Buffer.from(type), type] as const
);

function same(bytes: Buffer, from: number, to: number, name: Buffer): boolean {
  if (to - from !== name.length) return false;
  for (let index = 0; index < name.length; index++) {
    if (bytes[from + index] !== name[index]) return false;
  }
  return true;
}

/** The number that the digits spell; NaN for anything else. Not exact beyond 2^53. */
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
function timeOf(bytes: Buffer, from: number, to: number): number {
  const plain = decimal(bytes, from, to);
  return Number.isNaN(plain)
    ? Math.trunc(Number(bytes.toString("latin1", from, to) || "NaN"))
    : plain;
}

/**
 * FNV-1a of 32 bits (draft-eastlake-fnv), begun with another number in each process, so that nobody knows which ids have the
 * same hash. Its low bits depend on the low ones of the bytes alone, so all are mixed in the end (MurmurHash3, fmix32).
 */
const HASH_SEED = crypto.getRandomValues(new Int32Array(1))[0]!;
const HASH_PRIME = 0x01000193;

/** A hash of a text's bytes; `undefined` where they are not UTF-8, or one is U+0000. */
function hashOfText(bytes: Buffer, from: number, to: number): number | undefined {
  let hash = HASH_SEED;
  let all = 0;
  for (let index = from; index < to; index++) {
    const byte = bytes[index]!;
    if (byte === 0) return undefined;
    all |= byte;
    hash = Math.imul(hash ^ byte, HASH_PRIME);
  }
  if (all > 0x7f && !isUtf8(bytes.subarray(from, to))) return undefined;
  hash = Math.imul(hash ^ hash >>> 16, 0x85ebca6b);
  hash = Math.imul(hash ^ hash >>> 13, 0xc2b2ae35);
  return hash ^ hash >>> 16;
}

/**
 * Turns an event into one to be parked.
 * @param payload for an event without one, the document that was read for it
 */
export function park(event: Event, refusal: Refusal, payload = event.payload): Parked {
  const { streamId, docId: id, type, ts } = event;
  return { streamId, id, type, ts, payload, fields: null, ...refusal };
}
