/**
 * Compares Redis with the target, document by document, on a live system and in bounded memory.
 * @module
 */

import type { Pool } from "pg";
import { type Config, entityConfig } from "./config.ts";
import type { RedisConnection } from "./connections.ts";
import { allPartitions, compareStreamIds, documentKey, partitionOf } from "./events.ts";
import { equalJson } from "./json.ts";
import { lastGeneratedId } from "./sink/progress.ts";
import { delay } from "./sink/retry.ts";
import { offsetOf } from "./targets/schema.ts";

/** How Redis and the target differ in one document. */
export type Difference = "missing" | "extra" | "different";

/** What became of a comparison. Lists hold at most {@linkcode MAX_LISTED} ids; the counts are complete. */
export interface VerifyReport {
  /** documents in Redis, and rows in the target */
  documents: number;
  rows: number;
  equal: number;
  /** differences that persist after the target has caught up: these are errors */
  mismatches: { id: string; difference: Difference }[];
  /** documents whose events the target has not reached in time */
  behind: string[];
  /** differences that `perform_write_behind` explains */
  notForwarded: string[];
}

/** Ids that are looked at again at most; a table that differs in more is in need of other means. */
export const MAX_LISTED = 100_000;
const CHUNK = 1000;
const LOOK_AGAIN_MS = 50;

/** Options of {@linkcode verify}. */
export interface VerifyOptions {
  /** how long the target may take to catch up with what was seen, in ms. @default {10000} */
  settleMs?: number;
  /** called after each chunk, with documents and rows compared so far */
  onProgress?: (compared: number) => void;
  signal?: AbortSignal;
}

/**
 * Compares every document of an entity with its row. Documents are equal as JSON values: numbers as
 * decimals, whatever the order of keys. Writers need not stop: a difference counts only where it is still
 * there after the target's offset has passed the last event that was in the stream when it was seen.
 */
export async function verify(
  redis: RedisConnection,
  pool: Pool,
  config: Config,
  entity: string,
  { settleMs = 10_000, onProgress, signal = new AbortController().signal }: VerifyOptions = {},
): Promise<VerifyReport> {
  const comparison = new Comparison(redis, pool, config, entity);
  const report: VerifyReport = {
    documents: 0,
    rows: 0,
    equal: 0,
    mismatches: [],
    behind: [],
    notForwarded: [],
  };
  let suspects: Suspect[] = [];
  for await (const ids of comparison.documentIds()) {
    signal.throwIfAborted();
    const found = await comparison.compare(ids);
    report.documents += ids.length;
    report.equal += ids.length - found.length;
    suspects.push(...found.slice(0, MAX_LISTED - suspects.length));
    onProgress?.(report.documents + report.rows);
  }
  for await (const ids of comparison.rowIds()) {
    signal.throwIfAborted();
    report.rows += ids.length;
    const extra = await comparison.withoutDocument(ids);
    const found = extra.length > 0 ? await comparison.compare(extra) : [];
    suspects.push(...found.slice(0, MAX_LISTED - suspects.length));
    onProgress?.(report.documents + report.rows);
  }

  // Only what still differs after the target has passed the events that were there is a mismatch.
  const deadline = Date.now() + settleMs;
  while (suspects.length > 0) {
    const offsets = await comparison.offsets();
    const settled = suspects.filter(({ partition, lastId }) =>
      compareStreamIds(offsets[partition]!, lastId) >= 0
    );
    const again = new Map<string, Suspect>();
    for (let at = 0; at < settled.length; at += CHUNK) {
      const chunk = settled.slice(at, at + CHUNK);
      for (const found of await comparison.compare(chunk.map(({ id }) => id))) {
        again.set(found.id, found);
      }
    }
    const next: Suspect[] = suspects.filter((suspect) => !settled.includes(suspect));
    for (const before of settled) {
      const now = again.get(before.id);
      if (now === undefined) report.equal++;
      // The document and the row are what they were, and the target has had its chance.
      else if (now.document === before.document && now.row === before.row) {
        const { id, difference } = now;
        if (isNotForwarded(config, difference)) report.notForwarded.push(id);
        else report.mismatches.push({ id, difference });
      } else next.push(now);
    }
    suspects = next;
    if (suspects.length === 0) break;
    if (Date.now() >= deadline) {
      report.behind = suspects.map(({ id }) => id);
      break;
    }
    await delay(LOOK_AGAIN_MS, signal);
    signal.throwIfAborted();
  }
  return report;
}

/** Whether a difference is what the configuration asks for. */
function isNotForwarded(config: Config, difference: Difference): boolean {
  const { perform_write_behind: forward } = config.dummy_data;
  const verb = ({ missing: "insert", different: "update", extra: "delete" } as const)[difference];
  return !forward[verb];
}

/** A document that differs, as it was seen. */
interface Suspect {
  id: string;
  partition: number;
  difference: Difference;
  document: string | null;
  row: string | null;
  /** the last event in the stream after it was seen: the target must pass it */
  lastId: string;
}

class Comparison {
  #redis: RedisConnection;
  #pool: Pool;
  #config: Config;
  #entity: string;
  #table: string;

  constructor(redis: RedisConnection, pool: Pool, config: Config, entity: string) {
    this.#redis = redis;
    this.#pool = pool;
    this.#config = config;
    this.#entity = entity;
    this.#table = entityConfig(config, entity).table;
  }

  /** The ids of all documents in Redis, in chunks. An id may come twice (SCAN's promise is at least once). */
  async *documentIds(): AsyncGenerator<string[]> {
    for (const { documentPrefix } of allPartitions(this.#config, this.#entity)) {
      const match = `${documentPrefix.replaceAll(/[[\]{}*?\\^]/g, "\\$&")}*`;
      let cursor = "0";
      do {
        const [next, keys] = await this.#redis.scan(
          cursor,
          "MATCH",
          match,
          "COUNT",
          CHUNK,
          "TYPE",
          "ReJSON-RL",
        );
        cursor = next;
        if (keys.length > 0) yield keys.map((key) => key.slice(documentPrefix.length));
      } while (cursor !== "0");
    }
  }

  /** The ids of all rows, in chunks, in the order of the key. */
  async *rowIds(): AsyncGenerator<string[]> {
    let after = "";
    for (;;) {
      const { rows } = await this.#pool.query<[string]>({
        text: `SELECT id FROM "${this.#table}" WHERE id > $1 ORDER BY id LIMIT ${CHUNK}`,
        values: [after],
        rowMode: "array",
      });
      if (rows.length === 0) return;
      yield rows.map(([id]) => id);
      after = rows.at(-1)![0];
    }
  }

  async withoutDocument(ids: string[]): Promise<string[]> {
    const pipeline = this.#redis.pipeline();
    for (const id of ids) pipeline.exists(documentKey(this.#config, this.#entity, id));
    const replies = await pipeline.exec() ?? [];
    return ids.filter((_, index) => {
      const [error, exists] = replies[index]!;
      if (error) throw error;
      return exists === 0;
    });
  }

  /** The documents of `ids` that differ from their rows now. */
  async compare(ids: string[]): Promise<Suspect[]> {
    const keys = ids.map((id) => documentKey(this.#config, this.#entity, id));
    const [texts, { rows }] = await Promise.all([
      this.#redis.call("JSON.MGET", ...keys, ".") as Promise<(string | null)[]>,
      this.#pool.query<[string, string | null]>({
        name: `verify ${this.#entity}`,
        text: `SELECT id, payload::text FROM "${this.#table}" WHERE id = ANY($1::text[])`,
        values: [ids],
        rowMode: "array",
      }),
    ]);
    const rowOf = new Map(rows);
    const suspects: Suspect[] = [];
    ids.forEach((id, index) => {
      const document = texts[index]!;
      const row = rowOf.get(id) ?? null;
      if (document === null && row === null) return;
      if (document !== null && row !== null && equalJson(document, row)) return;
      const difference = document === null ? "extra" : row === null ? "missing" : "different";
      const partition = partitionOf(id, this.#config.streams.partitions);
      suspects.push({ id, partition, difference, document, row, lastId: "" });
    });
    if (suspects.length > 0) {
      // Asked after the documents were read, so that the events of what was seen are at or below it.
      const lastIds = await Promise.all(
        allPartitions(this.#config, this.#entity).map(({ stream }) =>
          lastGeneratedId(this.#redis, stream)
        ),
      );
      for (const suspect of suspects) suspect.lastId = lastIds[suspect.partition]!;
    }
    return suspects;
  }

  offsets(): Promise<string[]> {
    return Promise.all(
      allPartitions(this.#config, this.#entity).map(({ stream }) => offsetOf(this.#pool, stream)),
    );
  }
}
