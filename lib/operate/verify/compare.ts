/**
 * The exact comparison of `verify`: reads documents and rows by their ids, and finds those that differ.
 * @module
 */

import { createHash } from "node:crypto";
import type { Config } from "../../config/load.ts";
import { equalJson } from "../../core/json/equality.ts";
import { withoutNote } from "../../redis/cache_state.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { readTexts } from "../../redis/documents.ts";
import { allPartitions, byPartition, type PartitionKeys, partitionsOf } from "../../redis/keys.ts";
import { type Goal, goalOf, isReached } from "../../sink/goal.ts";
import { rowsOf } from "../../targets/open.ts";
import {
  type Offsets,
  PAGE_ROWS,
  READ_BYTES,
  type Row,
  type Rows,
  type Target,
} from "../../targets/target.ts";

/** How the target differs from Redis in one document: the row is `missing`, `extra` or `different`. */
export type Difference = "missing" | "extra" | "different";

/** A difference as it was seen, with hashes instead of texts, since there may be many. */
export interface Seen {
  /** the document's id */
  id: string;
  /** how they differ */
  difference: Difference;
  /** hash of the document's text, `null` where it is missing */
  document: string | null;
  /** hash of the row's version and text, `null` where it is missing */
  row: string | null;
}

/** A difference that may go away by itself. */
export interface Suspect extends Seen {
  partition: number;
  /** the end of the stream when it was seen: the difference counts once the target has reached it */
  goal: Goal;
  /** how often it was seen unchanged after the target had passed that event */
  looks: number;
}

/** Nothing is waited for. */
const NOTHING: Goal = { id: "0-0", wentBack: 0 };

/** The hash of a document's text, as {@linkcode Seen} has it. */
export function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("base64url");
}

/** The hash of a row, as {@linkcode Seen} has it. */
export function hashOfRow({ version, text }: Row): string {
  return hashOf(`${version} ${text}`);
}

/** Compares documents with their rows, by their ids. */
export class Comparison {
  readonly partitions: PartitionKeys[];
  /** documents that were only in the target so far, since Redis has evicted them */
  evicted = 0;
  #redis: RedisConnection;
  #rows: Rows;
  #offsets: Offsets;
  /** those that the target has: for it, the others have no documents */
  #own: Set<number>;

  constructor(redis: RedisConnection, target: Target, config: Config, entity: string) {
    this.#redis = redis;
    this.#rows = rowsOf(target);
    this.#offsets = target.offsets;
    this.partitions = allPartitions(config, entity);
    const own = partitionsOf(config, entity, target.describe().name);
    this.#own = new Set(own.map(({ partition }) => partition));
  }

  /** The documents of `ids` that differ from their rows now. */
  async compare(ids: string[]): Promise<Suspect[]> {
    const suspects: Suspect[] = [];
    for (const [keys, own] of byPartition(this.partitions, ids, (id) => id)) {
      for (let at = 0; at < own.length; at += PAGE_ROWS) {
        suspects.push(...await this.#compare(keys, own.slice(at, at + PAGE_ROWS)));
      }
    }
    return suspects;
  }

  async #compare(keys: PartitionKeys, ids: string[]): Promise<Suspect[]> {
    const suspects: Suspect[] = [];
    const isOwn = this.#own.has(keys.partition);
    for (let left = ids; left.length > 0;) {
      const [documents, { rows }] = await Promise.all([
        isOwn ? readTexts(this.#redis, keys, left, READ_BYTES) : left.map(() => null),
        this.#rows.at(keys, left),
      ]);
      const both = Math.min(documents.length, rows.length);
      const evicted = await this.#evictedAmong(
        keys,
        left.slice(0, both).filter((_, at) => documents[at] === null && rows[at] !== null),
      );
      this.evicted += evicted.size;
      for (let index = 0; index < both; index++) {
        const document = documents[index]!;
        const row = rows[index]!;
        if (document === null && row === null || evicted.has(left[index]!)) continue;
        if (document !== null && row !== null && equalJson(document, row.text)) continue;
        suspects.push({
          id: left[index]!,
          partition: keys.partition,
          difference: document === null ? "extra" : row === null ? "missing" : "different",
          document: document === null ? null : hashOf(document),
          row: row === null ? null : hashOfRow(row),
          goal: NOTHING,
          looks: 0,
        });
      }
      left = left.slice(both);
    }
    if (isOwn && suspects.length > 0) {
      // Read after the documents, so that the events behind what was seen are not above it.
      const goal = await goalOf(this.#redis, this.#offsets, keys);
      for (const suspect of suspects) suspect.goal = goal;
    }
    return suspects;
  }

  /** Those of the documents that are missing of which no event is noted: their rows are current. */
  async #evictedAmong(keys: PartitionKeys, missing: string[]): Promise<Set<string>> {
    if (missing.length === 0 || !keys.cached) return new Set();
    const [state, evicted] = await Promise.all([
      this.#redis.hget(keys.settings, "cache"),
      withoutNote(this.#redis, keys, missing),
    ]);
    return new Set(state === null || state === "noting" ? [] : evicted);
  }

  /** Those of the suspects that have a parked event. */
  async parked(suspects: Suspect[]): Promise<Set<string>> {
    const parked = new Set<string>();
    for (let at = 0; at < suspects.length; at += PAGE_ROWS) {
      const ids = suspects.slice(at, at + PAGE_ROWS).map(({ id }) => id);
      for (const id of await this.#rows.parkedAmong(this.partitions, ids)) parked.add(id);
    }
    return parked;
  }

  /** Of a partition: its end now, the offset of the target, and whether that is of the stream as it is now. */
  async progress(partition: number): Promise<{ goal: Goal; offset: string; counts: boolean }> {
    const keys = this.partitions[partition]!;
    const goal = await goalOf(this.#redis, this.#offsets, keys);
    const any = { ...goal, id: NOTHING.id };
    const { is, offset } = await isReached(this.#redis, this.#offsets, keys, any);
    return { goal, offset, counts: is === "reached" };
  }
}
