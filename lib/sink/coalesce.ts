/**
 * From stream entries to a batch: decode, keep the last event of each document, sort.
 * @module
 */

import type { Batch, Upsert } from "../targets/batch.ts";
import { type Event, isEvent, type Item } from "./decode.ts";

/** The last event of a document: its row, unless it is a delete. */
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
 * Keeps the last event of each document.
 * @param items in stream order, not empty
 * @param readDocuments reads the present state of documents whose last event has no payload: ids in, JSON text
 * or `null` out. It may return fewer, if they would be too many bytes: then the batch ends before the first
 * event of a document that was not read.
 */
export async function coalesce(
  items: Item[],
  readDocuments: (docIds: Buffer[]) => Promise<(Buffer | null)[]>,
): Promise<Batch> {
  const latest = new Map<string, Latest>();
  const batch: Batch = {
    lastId: items.at(-1)!.streamId,
    events: items.length,
    upserts: [],
    removals: [],
    parked: [],
    noops: 0,
    times: sample(items),
  };
  for (const item of items) {
    if (!isEvent(item)) {
      batch.parked.push(item);
      continue;
    }
    const known = latest.get(item.key);
    if (known === undefined) latest.set(item.key, new Latest(item));
    else known.take(item);
  }
  const unread: Latest[] = [];
  for (const last of latest.values()) {
    if (last.event.type === "delete") batch.removals.push(last);
    else if (last.event.payload === null) unread.push(last);
    else batch.upserts.push(last);
  }
  if (unread.length > 0) {
    const texts = await readDocuments(unread.map(({ id }) => id));
    const left = unread[texts.length];
    if (left !== undefined) {
      const cut = items.findIndex((item) => isEvent(item) && item.key === left.key);
      return coalesce(items.slice(0, cut), readDocuments);
    }
    texts.forEach((text, index) => {
      if (text === null) batch.noops++;
      else {
        const last = unread[index]!;
        last.text = text;
        batch.upserts.push(last);
      }
    });
  }
  // Every sink takes row locks in the same order, so two of them cannot deadlock.
  batch.upserts.sort(byKey);
  batch.removals.sort(byKey);
  return batch;
}

const byKey = (a: { key: string }, b: { key: string }) =>
  a.key < b.key ? -1 : a.key > b.key ? 1 : 0;

function sample(items: Item[]): number[] {
  const step = Math.max(1, Math.floor(items.length / TIMES_PER_BATCH));
  const times: number[] = [];
  for (let index = 0; index < items.length; index += step) {
    const item = items[index]!;
    if (isEvent(item)) times.push(item.ts);
  }
  return times;
}
