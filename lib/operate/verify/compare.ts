/**
 * The careful comparison of `verify`: what a difference is, when it was seen, and whether it is explained.
 * @module
 */

import { createHash } from "node:crypto";
import type { Pool } from "pg";
import type { Config } from "../../config/load.ts";
import { equalJson } from "../../core/json/equality.ts";
import { READ_BYTES, type Row, rowsAt } from "../../documents/restore.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { allPartitions, type PartitionKeys, partitionOf } from "../../redis/keys.ts";
import { readScript, runScript } from "../../redis/scripts/mod.ts";
import { lastGeneratedId } from "../../redis/streams.ts";
import { bytesArray } from "../../targets/postgres/arrays.ts";
import { offsetOf } from "../../targets/postgres/migrate.ts";

/** How Redis and the target differ in one document: `missing` and `extra` are told of the target. */
export type Difference = "missing" | "extra" | "different";

/** A document that differs, as it was seen: texts by their hashes, since there may be many of them. */
export interface Seen {
  id: string;
  difference: Difference;
  /** hash of the document's text, `null` where it is missing */
  document: string | null;
  /** hash of the row's version and text, `null` where it is missing */
  row: string | null;
}

/** A difference that may go away by itself. */
export interface Suspect extends Seen {
  partition: number;
  /** the last event in the stream after it was seen: the target must pass it */
  lastId: string;
  /** how often it was seen just so after the target had passed that event */
  looks: number;
}

/** Ids that are compared at a time. */
export const CHUNK = 1000;

/** The hash of a document's text, as {@linkcode Seen} has it. */
export function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("base64url");
}

/** The hash of a row, as {@linkcode Seen} has it. */
export function hashOfRow({ version, text }: Row): string {
  return hashOf(`${version} ${text}`);
}

/** Reads documents of one partition: JSON texts, `null` for one that is missing, fewer where they are many bytes. */
export async function readDocuments(
  redis: RedisConnection,
  { documentPrefix }: PartitionKeys,
  ids: string[],
): Promise<(string | null)[]> {
  const keys = ids.map((id) => documentPrefix + id);
  const texts = await runScript(redis, readScript, keys, [String(READ_BYTES)]) as string[];
  return texts.map((text) => text === "" ? null : text);
}

/** Ids by the partition that they hash to. */
export function byPartition(
  partitions: PartitionKeys[],
  ids: string[],
): [PartitionKeys, string[]][] {
  const groups = Map.groupBy(ids, (id) => partitionOf(id, partitions.length));
  return [...groups].map(([partition, own]) => [partitions[partition]!, own]);
}

/** Compares documents with their rows, whichever are named to it. */
export class Comparison {
  readonly partitions: PartitionKeys[];
  #redis: RedisConnection;
  #pool: Pool;
  #config: Config;

  constructor(redis: RedisConnection, pool: Pool, config: Config, entity: string) {
    this.#redis = redis;
    this.#pool = pool;
    this.#config = config;
    this.partitions = allPartitions(config, entity);
  }

  /** The documents of `ids` that differ from their rows now. */
  async compare(ids: string[]): Promise<Suspect[]> {
    const suspects: Suspect[] = [];
    for (const [keys, own] of byPartition(this.partitions, ids)) {
      for (let at = 0; at < own.length; at += CHUNK) {
        suspects.push(...await this.#compare(keys, own.slice(at, at + CHUNK)));
      }
    }
    return suspects;
  }

  async #compare(keys: PartitionKeys, ids: string[]): Promise<Suspect[]> {
    const suspects: Suspect[] = [];
    for (let left = ids; left.length > 0;) {
      const [documents, { rows }] = await Promise.all([
        readDocuments(this.#redis, keys, left),
        rowsAt(this.#pool, this.#config, keys, left),
      ]);
      const both = Math.min(documents.length, rows.length);
      for (let index = 0; index < both; index++) {
        const document = documents[index]!;
        const row = rows[index]!;
        if (document === null && row === null) continue;
        if (document !== null && row !== null && equalJson(document, row.text)) continue;
        suspects.push({
          id: left[index]!,
          partition: keys.partition,
          difference: document === null ? "extra" : row === null ? "missing" : "different",
          document: document === null ? null : hashOf(document),
          row: row === null ? null : hashOfRow(row),
          lastId: "",
          looks: 0,
        });
      }
      left = left.slice(both);
    }
    if (suspects.length > 0) {
      // Asked after the documents were read, so that the events of what was seen are at or below it.
      const lastId = await lastGeneratedId(this.#redis, keys.stream);
      for (const suspect of suspects) suspect.lastId = lastId;
    }
    return suspects;
  }

  /** Those of the suspects that have a parked event. */
  async parked(suspects: Suspect[]): Promise<Set<string>> {
    const parked = new Set<string>();
    for (let at = 0; at < suspects.length; at += CHUNK) {
      const ids = suspects.slice(at, at + CHUNK).map(({ id }) => Buffer.from(id));
      const { rows } = await this.#pool.query<{ doc_id: Buffer }>(
        `SELECT DISTINCT d.doc_id
           FROM unnest($2::bytea[]) AS e (id)
           JOIN writebehind_dead_letter d
             ON d.stream = ANY($1::text[]) AND d.fingerprint = sha256(e.id) AND d.doc_id = e.id
          WHERE d.state = 'parked'`,
        [this.partitions.map(({ stream }) => stream), bytesArray("bytea", ids, (id) => id)],
      );
      for (const { doc_id } of rows) parked.add(doc_id.toString());
    }
    return parked;
  }

  /** Of each partition, the offset of the target and the last event of the stream. */
  progress(): Promise<{ offset: string; lastId: string }[]> {
    return Promise.all(this.partitions.map(async ({ stream }) => ({
      offset: await offsetOf(this.#pool, stream),
      lastId: await lastGeneratedId(this.#redis, stream),
    })));
  }
}
