/** What is measured with: sizes, and the events of each workload, the same in every run. */

import { type EventType, generateDummySession, type Random, seededRandom } from "writebehind";

/** How much each row measures. */
export interface Sizes {
  /** events of the drains in rows 1 to 5 and 10 */
  events: number;
  /** keys of the mixed workload, and of the hot one */
  mixedKeys: number;
  hotKeys: number;
  /** events that the original's algorithm gets: it is slow, and its rate does not depend on their number */
  originalEvents: number;
  /** writes of one verb at 1 in flight; more in flight get more */
  writes: number;
  benchmarkWrites: number;
  freshnessSeconds: number;
  /** bytes of all documents of one size */
  largeBytes: number;
  largeBacklog: number;
  /** only for the chart of the cost against the size */
  mediumBacklog: number;
  smallBacklog: number;
  verified: number;
}

export const FULL: Sizes = {
  events: 200_000,
  mixedKeys: 50_000,
  hotKeys: 1_000,
  originalEvents: 2_000,
  writes: 2_000,
  benchmarkWrites: 60_000,
  freshnessSeconds: 3,
  largeBytes: 100_000_000,
  largeBacklog: 1_000_000,
  mediumBacklog: 100_000,
  smallBacklog: 10_000,
  verified: 100_000,
};

export const QUICK: Sizes = {
  events: 4_000,
  mixedKeys: 1_000,
  hotKeys: 20,
  originalEvents: 100,
  writes: 100,
  benchmarkWrites: 2_000,
  freshnessSeconds: 0.3,
  largeBytes: 3_000_000,
  largeBacklog: 10_000,
  mediumBacklog: 3_000,
  smallBacklog: 1_000,
  verified: 1_000,
};

/** An event before it has its stream id. */
export interface DraftEvent {
  docId: string;
  type: EventType;
  /** JSON text; absent for a delete */
  payload?: string;
}

const SEED = 20_260_101;
const IDS_BEGIN = 1_764_000_000_000;

/** Ids as `generateDocId` makes them at 8,000 a second, from the generator alone. */
function idOf(index: number, random: Random): string {
  const hex = () => Math.floor(random() * 2 ** 24).toString(16).padStart(6, "0");
  return `app-m1-${IDS_BEGIN + (index >> 3)}-${hex()}${hex()}`;
}

const payloadFrom = (random: Random) => JSON.stringify(generateDummySession(random));

/** Inserts of as many documents, of about 350 bytes of JSON. */
export function* uniqueInserts(count: number): Generator<Required<DraftEvent>> {
  const random = seededRandom(SEED);
  for (let index = 0; index < count; index++) {
    yield { docId: idOf(index, random), type: "insert", payload: payloadFrom(random) };
  }
}

/** Inserts of documents of about so many bytes of JSON: a session, and a text that does not compress well. */
export function* documentsOf(count: number, bytes: number): Generator<Required<DraftEvent>> {
  const random = seededRandom(SEED);
  for (let index = 0; index < count; index++) {
    const session = generateDummySession(random);
    const length = bytes - JSON.stringify({ ...session, notes: "" }).length;
    let notes = "";
    while (notes.length < length) notes += random().toString(36).slice(2);
    const payload = JSON.stringify({ ...session, notes: notes.slice(0, length) });
    yield { docId: idOf(index, random), type: "insert", payload };
  }
}

/** How often a document that exists is removed, and not updated, when its turn comes. */
const REMOVED_SHARE = 0.3;

/**
 * Inserts, updates and deletes of documents chosen at random, such as writers could have made: a document
 * that is not there is inserted, one that is there is updated or removed.
 */
export function* mixedChanges(count: number, keys: number): Generator<DraftEvent> {
  const random = seededRandom(SEED);
  const ids = Array.from({ length: keys }, (_, index) => idOf(index, random));
  const there = new Uint8Array(keys);
  for (let event = 0; event < count; event++) {
    const key = Math.floor(random() * keys);
    const docId = ids[key]!;
    if (there[key] && random() < REMOVED_SHARE) {
      there[key] = 0;
      yield { docId, type: "delete" };
    } else {
      const type = there[key] ? "update" : "insert";
      there[key] = 1;
      yield { docId, type, payload: payloadFrom(random) };
    }
  }
}

/** Updates, after one insert each, of a few documents chosen at random. */
export function* hotUpdates(count: number, keys: number): Generator<Required<DraftEvent>> {
  const random = seededRandom(SEED);
  const ids = Array.from({ length: keys }, (_, index) => idOf(index, random));
  for (let event = 0; event < count; event++) {
    const key = event < keys ? event : Math.floor(random() * keys);
    const type = event < keys ? "insert" : "update";
    yield { docId: ids[key]!, type, payload: payloadFrom(random) };
  }
}

/** The rows that a table has after the events. */
export function rowsAfter(events: Iterable<DraftEvent>): number {
  const there = new Set<string>();
  for (const { docId, type } of events) {
    if (type === "delete") there.delete(docId);
    else there.add(docId);
  }
  return there.size;
}
