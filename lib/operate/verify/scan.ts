/**
 * The quick scan of `verify` over all rows and all documents. It passes over what is certainly equal, so that
 * few are left for the exact comparison.
 *
 * Rows are read in the order of their ids, which is about the order in which they were written. Redis names
 * documents in no order, and finding their rows one by one would take most of the time.
 * @module
 */

import { Buffer } from "node:buffer";
import type { Config } from "../../config/load.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { type DocumentIds, documentIds, readDocuments } from "../../redis/documents.ts";
import { allPartitions, byPartition, type PartitionKeys, partitionsOf } from "../../redis/keys.ts";
import { rowsOf } from "../../targets/open.ts";
import { READ_BYTES, type Rows, type Target } from "../../targets/target.ts";
import { DifferenceSketch } from "./difference_sketch.ts";
import { prefetch } from "./prefetch.ts";

/** Keeps Redis, the target and this process busy together. Each holds `READ_BYTES`, plus one document. */
const PAGES_AT_A_TIME = 3;

/** What was scanned. */
export interface Scanned {
  /** how many rows or documents */
  count: number;
  /** ids of those that may differ */
  suspected: string[];
}

/** Scans all rows, then all documents, of an entity. */
export class Scan {
  /** keys under the entity's prefix that cannot be its documents */
  foreign = 0;
  #redis: RedisConnection;
  #rows: Rows;
  #entity: string;
  #partitions: PartitionKeys[];
  /** those that the target has */
  #own: PartitionKeys[];
  /** documents that were met by their rows, minus those that were met in Redis */
  #met = new DifferenceSketch();

  constructor(redis: RedisConnection, target: Target, config: Config, entity: string) {
    this.#redis = redis;
    this.#rows = rowsOf(target);
    this.#entity = entity;
    this.#partitions = allPartitions(config, entity);
    this.#own = partitionsOf(config, entity, target.describe().name);
  }

  /** About how many documents and rows there are, for showing progress. */
  async size(): Promise<number> {
    const rows = await this.#rows.size(this.#entity);
    return Math.max(await this.#redis.countKeys(), rows) + rows;
  }

  /** All rows. Suspected are those that the target does not find equal to their documents. */
  rows(): AsyncGenerator<Scanned> {
    return prefetch(this.#rows.ids(this.#entity), PAGES_AT_A_TIME, (page) => this.#scanPage(page));
  }

  #ids(): AsyncGenerator<DocumentIds> {
    return documentIds(this.#redis, this.#partitions, this.#own);
  }

  /**
   * All documents; call it after all rows. Suspected are those that no row has led to. A document may come
   * twice (SCAN promises at least once).
   */
  async *documents(): AsyncGenerator<Scanned> {
    yield* prefetch(this.#ids(), 1, ({ ids, foreign }) => {
      this.foreign += foreign;
      for (const id of ids) this.#met.takeAway(id);
      return Promise.resolve({ count: ids.length, suspected: [] });
    });
    if (this.#met.isEmpty) return;
    for await (const { ids } of this.#ids()) {
      yield { count: 0, suspected: ids.filter((id) => this.#met.mayHold(id)).map(String) };
    }
  }

  /** Reads the documents of rows, `READ_BYTES` at a time plus one document, and lets the target compare them. */
  async #scanPage(page: string[]): Promise<Scanned> {
    const suspected: string[] = [];
    let ids: Buffer[] = [];
    let texts: (Buffer | null)[] = [];
    let bytes = 0;
    const compare = async () => {
      suspected.push(...await this.#rows.notSurelyEqual(this.#entity, ids, texts));
      [ids, texts, bytes] = [[], [], 0];
    };
    for (const [keys, own] of byPartition(this.#partitions, page, (id) => id)) {
      if (this.#own.every(({ partition }) => partition !== keys.partition)) {
        suspected.push(...own);
        continue;
      }
      for (let at = 0; at < own.length;) {
        const left = own.slice(at);
        // As bytes, which the target takes unchanged.
        const read = await readDocuments(this.#redis, keys, left, READ_BYTES - bytes);
        for (const text of read) {
          const id = Buffer.from(own[at++]!);
          if (text) this.#met.add(id);
          ids.push(id);
          texts.push(text);
          bytes += text?.length ?? 0;
        }
        if (bytes >= READ_BYTES) await compare();
      }
    }
    if (ids.length > 0) await compare();
    return { count: page.length, suspected };
  }
}
