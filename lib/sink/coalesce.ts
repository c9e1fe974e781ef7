/**
 * From events to a batch: keep the last event of each document, or each one, and sort.
 * @module
 */

import { type Batch, byPlace, type Upsert } from "../targets/batch.ts";
import { type Event, isEvent, type Item } from "./decode.ts";

/** A document's row, by its last event so far; a removal, where that is a delete. */
class Latest implements Upsert {
  event: Event;
  created: number | null;
  readonly fresh: boolean;
  /** the document's text, where the event has none */
  text: Buffer | null = null;

  constructor(event: Event) {
    this.event = event;
    this.fresh = event.type === "insert";
    this.created = this.fresh ? event.ts : null;
  }

  /** Takes a later event. */
  take(event: Event): void {
    this.event = event;
    if (event.type === "insert") this.created = event.ts;
    else if (event.type === "delete") this.created = null;
  }

  get key(): string {
    return this.event.key;
  }
  get ms(): number {
    return this.event.ms;
  }
  get seq(): number {
    return this.event.seq;
  }
  get id(): Buffer {
    return this.event.docId;
  }
  get payload(): Buffer {
    return this.text ?? this.event.payload!;
  }
  get updated(): number {
    return this.event.ts;
  }
}

/** How many events of a batch are sampled for freshness. */
const TIMES_PER_BATCH = 64;

/**
 * Keeps the last event of each document, or each one.
 * @param items in stream order, not empty
 * @param readDocuments reads the present state of documents of which an event that is kept has no payload: ids in,
 * JSON text or `null` out. It may return fewer, if they would be too many bytes: then the batch ends before the
 * first event that needs a document that was not read.
 * @param everyEvent whether each event is kept, in stream order: see {@linkcode Batches.everyEvent}
 */
export async function coalesce(
  items: Item[],
  readDocuments: (docIds: Buffer[]) => Promise<(Buffer | null)[]>,
  everyEvent = false,
): Promise<Batch> {
  const [upserts, removals]: [Latest[], Latest[]] = [[], []];
  const batch: Batch = {
    lastId: items.at(-1)!.streamId,
    events: items.length,
    upserts,
    removals,
    parked: [],
    noops: 0,
    times: sample(items),
  };
  const events: Event[] = [];
  for (const item of items) {
    if (isEvent(item)) events.push(item);
    else batch.parked.push(item);
  }
  const rows = everyEvent ? events.map((event) => new Latest(event)) : lastOfEach(events);
  const unread = new Map<string, Latest[]>();
  for (const row of rows) {
    if (row.event.type === "delete") removals.push(row);
    else if (row.event.payload !== null) upserts.push(row);
    else {
      const known = unread.get(row.key);
      if (known === undefined) unread.set(row.key, [row]);
      else known.push(row);
    }
  }
  if (unread.size > 0) {
    const groups = [...unread.values()];
    const texts = await readDocuments(groups.map(([row]) => row!.id));
    const left = groups[texts.length]?.[0];
    if (left !== undefined) {
      const cut = items.findIndex((item) =>
        isEvent(item) && item.compareId(left.event) === 0 && item.payload === null &&
        item.type !== "delete"
      );
      return coalesce(items.slice(0, cut), readDocuments, everyEvent);
    }
    for (const [index, text] of texts.entries()) {
      for (const row of groups[index]!) {
        if (text === null) batch.noops++;
        else {
          row.text = text;
          upserts.push(row);
        }
      }
    }
  }
  // Every sink takes row locks in the same order, so two of them cannot deadlock.
  const sort = everyEvent ? (rows: Latest[]) => void rows.sort(byPlace) : sortById;
  sort(upserts);
  sort(removals);
  return batch;
}

/** Ids often begin with the same bytes, which are compared once. */
function sortById(rows: Latest[]): void {
  let same = Infinity;
  for (const { event } of rows) same = Math.min(same, event.sameIdBytes(rows[0]!.event));
  rows.sort((a, b) => a.event.compareId(b.event, same));
}

/** The rows of documents, by their last events, in the order of their first ones. */
function lastOfEach(events: Event[]): Latest[] {
  const rows: Latest[] = [];
  // Where each document's row is in `rows`, from 1: open addressing, with half of the slots free at least.
  const slots = new Int32Array(2 << Math.ceil(Math.log2(events.length)));
  const mask = slots.length - 1;
  for (const event of events) {
    for (let slot = event.hash & mask;; slot = slot + 1 & mask) {
      const place = slots[slot]!;
      if (place === 0) {
        slots[slot] = rows.push(new Latest(event));
        break;
      }
      const row = rows[place - 1]!;
      if (row.event.hash === event.hash && row.event.compareId(event) === 0) {
        row.take(event);
        break;
      }
    }
  }
  return rows;
}

function sample(items: Item[]): number[] {
  const step = Math.max(1, Math.floor(items.length / TIMES_PER_BATCH));
  const times: number[] = [];
  for (let index = 0; index < items.length; index += step) {
    const item = items[index]!;
    if (isEvent(item)) times.push(item.ts);
  }
  return times;
}
