/**
 * Filling a partition of a target with the documents that Redis holds, and with those that a cache has evicted.
 * @module
 */

import { Buffer } from "node:buffer";
import { passes } from "../core/error_kinds.ts";
import { reasonOf } from "../core/errors.ts";
import { partsOf } from "../core/stream_ids.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { documentIds, readDocuments } from "../redis/documents.ts";
import { type PartitionKeys, partitionOf } from "../redis/keys.ts";
import type { BatchRows, Upsert } from "../targets/batch.ts";
import { type Claim, READ_BYTES, type Target } from "../targets/target.ts";
import { evictedRows } from "./evicted.ts";

/** What adding a target has done. */
export interface AddReport {
  /** the streams that it was added to; those that knew it before are left out */
  streams: string[];
  /** rows written from documents in Redis, or from those that a cache has evicted */
  rows: number;
  /** rows removed, since Redis does not have their documents any more */
  removed: number;
  /** documents that the target does not take, with its reason; at most 1,000 */
  refused: { id: string; reason: string }[];
  /** how many those are */
  refusedDocuments: number;
}

/** Refused documents that a report names. */
const MAX_REFUSED = 1000;

/** What is filled, and from where. */
interface FillingScope {
  redis: RedisConnection;
  target: Target;
  /** the target that has what a cache has evicted; `null` where all is in Redis */
  evicted: Target | null;
  /** under which rows are written, of one partition */
  claim: Claim;
  /** the id that is the version of all rows */
  place: string;
  /** all partitions of the entity */
  partitions: PartitionKeys[];
  /** counts the rows */
  report: AddReport;
  /** called between two chunks; what it throws stops the filling */
  between: () => Promise<void>;
}

/** Writes the rows of one partition, and removes those whose documents are gone. */
export class Filling {
  #redis: RedisConnection;
  #target: Target;
  #evicted: Target | null;
  #claim: Claim;
  #keys: PartitionKeys;
  #place: string;
  #partitions: PartitionKeys[];
  #report: AddReport;
  #between: () => Promise<void>;

  constructor({ redis, target, evicted, claim, place, partitions, report, between }: FillingScope) {
    this.#redis = redis;
    this.#target = target;
    this.#evicted = evicted;
    this.#claim = claim;
    this.#keys = claim.keys;
    this.#place = place;
    this.#partitions = partitions;
    this.#report = report;
    this.#between = between;
  }

  /** Documents that Redis holds. */
  async fill(): Promise<void> {
    const keys = this.#keys;
    for await (const { ids } of documentIds(this.#redis, this.#partitions, [keys])) {
      for (let left = ids; left.length > 0;) {
        const texts = await readDocuments(this.#redis, keys, left, READ_BYTES);
        const upserts = texts.flatMap((payload, index) =>
          payload === null ? [] : [this.#upsert(left[index]!, payload)]
        );
        await this.#apply({ upserts, removals: [] });
        left = left.slice(texts.length);
        await this.#between();
      }
    }
  }

  /** Documents that Redis has evicted, from their rows: what is written of them afterwards is behind the place. */
  async fillEvicted(): Promise<void> {
    const source = this.#evicted;
    if (source === null) return;
    for await (const own of this.#ownIds(source)) {
      for (let left = own; left.length > 0;) {
        const texts = await readDocuments(this.#redis, this.#keys, left, READ_BYTES);
        const asked = left.slice(0, texts.length);
        const missing = asked.filter((_, index) => texts[index] === null);
        const rows = await evictedRows(this.#redis, source, this.#keys, missing);
        const upserts = asked.flatMap((id, index) => {
          const payload = texts[index] ?? rows.get(id);
          return payload ? [this.#upsert(Buffer.from(id), payload)] : [];
        });
        await this.#apply({ upserts, removals: [] });
        left = left.slice(texts.length);
        await this.#between();
      }
    }
  }

  /** The ids of a target's rows that are of this partition. */
  async *#ownIds({ rows }: Target): AsyncGenerator<string[]> {
    const { entity, partition } = this.#keys;
    if (!rows) return;
    for await (const page of rows.ids(entity)) {
      yield page.filter((id) => partitionOf(id, this.#partitions.length) === partition);
    }
  }

  /** Removes rows of documents that Redis does not have: a target that was there before may have some. */
  async clear(): Promise<void> {
    for await (const own of this.#ownIds(this.#target)) {
      for (let left = own; left.length > 0;) {
        const texts = await readDocuments(this.#redis, this.#keys, left, READ_BYTES);
        const missing = left.slice(0, texts.length).filter((_, index) => texts[index] === null);
        const source = this.#evicted;
        const evicted = source && await evictedRows(this.#redis, source, this.#keys, missing);
        const gone = missing.filter((id) => !evicted?.has(id));
        const removals = gone.map((id) => rowOf(Buffer.from(id), this.#place));
        if (removals.length > 0) await this.#apply({ upserts: [], removals });
        left = left.slice(texts.length);
        await this.#between();
      }
    }
  }

  /** A document's row, with what an event would tell of it. */
  #upsert(id: Buffer, payload: Buffer): Upsert {
    const written = { updated: Date.now(), created: null, fresh: false };
    return { ...rowOf(id, this.#place), payload, ...written };
  }

  /** Writes rows; those that the target does not take are found by halves, and told. */
  async #apply(rows: BatchRows): Promise<void> {
    const byKey = <Row extends { key: string }>(list: Row[]) =>
      [...new Map(list.map((row) => [row.key, row])).values()]
        .sort((a, b) => a.key < b.key ? -1 : 1);
    const upserts = byKey(rows.upserts);
    const removals = byKey(rows.removals);
    if (upserts.length + removals.length === 0) return;
    const nothing = { events: 0, parked: [], noops: 0, times: [] };
    try {
      await this.#target.batches.apply(this.#claim, {
        ...nothing,
        upserts,
        removals,
        lastId: this.#claim.offset,
      });
      this.#report.rows += upserts.length;
      this.#report.removed += removals.length;
    } catch (error) {
      const kind = this.#target.kindOf(error);
      const size = upserts.length + removals.length;
      if (passes(kind) && kind !== "too_large" || kind === "configuration") throw error;
      if (size === 1) {
        this.#report.refusedDocuments++;
        if (this.#report.refused.length < MAX_REFUSED) {
          const id = (upserts[0] ?? removals[0])!.id.toString();
          this.#report.refused.push({ id, reason: reasonOf(error) });
        }
        return;
      }
      // They are never both: one half is empty.
      const [up, down] = [upserts, removals].map(({ length }) => Math.ceil(length / 2));
      const first = { upserts: upserts.slice(0, up), removals: removals.slice(0, down) };
      await this.#apply(first);
      await this.#apply({ upserts: upserts.slice(up), removals: removals.slice(down) });
    }
  }
}

/** A row with the version of a place in the stream: later events replace it. */
function rowOf(id: Buffer, place: string) {
  return { id, key: id.toString("latin1"), ...partsOf(place) };
}
