/**
 * Settling: lets Redis evict what a cache's target holds. It also sees whether each event was noted by its writer: one of
 * another program that knows of no cache would lose what is evicted before it is read.
 * @module
 */

import { type Config, entityConfig, targetConfig } from "../config/load.ts";
import { failpoint } from "../core/failpoints.ts";
import { compareStreamIds, versionOf } from "../core/stream_ids.ts";
import { documentIds } from "../redis/documents.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, type PartitionKeys } from "../redis/keys.ts";
import { dropScript, runScript, settleScript } from "../redis/scripts/mod.ts";
import type { Batch } from "../targets/batch.ts";
import { rowsOf } from "../targets/open.ts";
import type { Claim, Target } from "../targets/target.ts";
import type { StreamReader } from "./reader.ts";
import type { PartitionReport } from "./report.ts";

/** Documents that one script settles, so that Redis answers others in between. */
const CHUNK = 500;

/** A document, and its event that the target has applied. */
type Settled = [id: string, streamId: string];

/** A note of a document's last event. */
interface Note {
  id: string;
  streamId: string;
  isDelete: boolean;
}

/** Whether an entity is cached in front of a target. */
export function isSource(config: Config, entity: string, target: string): boolean {
  const { cache } = entityConfig(config, entity);
  return cache.enabled && targetConfig(config, cache.source ?? undefined).name === target;
}

/** Settles what is applied under one claim. */
export class Settler {
  #config: Config;
  #reader: StreamReader;
  #target: Target;
  #claim: Claim;
  #report: PartitionReport;
  /** whether notes may stand that nothing settles any more: those of before a crash, or of a batch that was not settled */
  #sweeps = true;

  constructor(
    config: Config,
    reader: StreamReader,
    target: Target,
    claim: Claim,
    report: PartitionReport,
  ) {
    this.#config = config;
    this.#reader = reader;
    this.#target = target;
    this.#claim = claim;
    this.#report = report;
  }

  /**
   * Settles a batch that was applied. Never rejects: what is not settled stays in Redis, and is settled later.
   * @param swallowed ids of documents whose rows are not as they should be, though the target refused none
   */
  async applied(
    { upserts, removals, lastId }: Batch,
    swallowed: readonly string[],
  ): Promise<void> {
    // At once: the ids lie in memory that is used again.
    const settled: Settled[] = [];
    for (const rows of [upserts, removals]) {
      for (const { id, ms, seq } of rows) settled.push([id.toString(), `${ms}-${seq}`]);
    }
    for (const lost of swallowed) {
      const at = settled.findIndex(([id]) => id === lost);
      if (at >= 0) settled.splice(at, 1);
    }
    await failpoint?.("settling");
    try {
      await this.#settle(settled, lastId, true);
      this.#report.over("settleFailed");
    } catch (error) {
      this.#sweeps = true;
      this.#report.trouble("settleFailed", error);
    }
    await failpoint?.("settled");
  }

  /**
   * Settles what the offset has passed, where that may be needed. Only what the rows show: an event that is parked, or whose
   * row was swallowed, keeps its note.
   */
  async sweep(): Promise<void> {
    if (!this.#sweeps) return;
    this.#sweeps = false;
    try {
      await this.#sweep();
      this.#report.over("settleFailed");
    } catch (error) {
      this.#sweeps = true;
      this.#report.trouble("settleFailed", error);
    }
  }

  async #sweep(): Promise<void> {
    const { keys: { notes }, offset } = this.#claim;
    const redis = await this.#reader.connection();
    let cursor = "0";
    do {
      const [next, pairs] = await redis.hscan(notes, cursor, "COUNT", CHUNK);
      cursor = next;
      const passed: Note[] = [];
      for (let index = 0; index < pairs.length; index += 2) {
        const [id, note] = [pairs[index]!, pairs[index + 1]!];
        const streamId = note.replace(/^-/, "");
        if (compareStreamIds(streamId, offset) > 0) continue;
        passed.push({ id, streamId, isDelete: note !== streamId });
      }
      if (passed.length > 0) await this.#settle(await this.#held(passed), "", false);
    } while (cursor !== "0");
    await this.#settle([], offset, false);
  }

  /** Those whose rows are as their events have left them, or newer. */
  async #held(notes: Note[]): Promise<Settled[]> {
    const held: Settled[] = [];
    for (let left = notes; left.length > 0;) {
      const { rows } = await rowsOf(this.#target).at(this.#claim.keys, left.map(({ id }) => id));
      rows.forEach((row, index) => {
        const { id, streamId, isDelete } = left[index]!;
        const isNewer = row !== null && BigInt(row.version) >= versionOf(streamId)!;
        if (isNewer || row === null && isDelete) held.push([id, streamId]);
      });
      left = left.slice(rows.length);
    }
    return held;
  }

  async #settle(documents: Settled[], offset: string, areNoted: boolean): Promise<void> {
    const { settings, notes, documentPrefix, entity } = this.#claim.keys;
    const { keep_seconds } = entityConfig(this.#config, entity).cache;
    const redis = await this.#reader.connection();
    for (let at = 0; at === 0 || at < documents.length; at += CHUNK) {
      const some = documents.slice(at, at + CHUNK);
      const isLast = at + CHUNK >= documents.length;
      const foreign = await runScript(
        redis,
        settleScript,
        [settings, notes, ...some.map(([id]) => documentPrefix + id)],
        [isLast ? offset : "", String(1000 * keep_seconds), areNoted ? "1" : "0", ...some.flat()],
      );
      if (foreign !== "") this.#report.notNoted(String(foreign));
    }
  }
}

/**
 * Removes the documents of a partition that could be evicted: where Redis has gone back, they may be older than their rows.
 * @param redis that has the keys of all partitions
 * @returns how many were removed
 */
export async function dropEvictable(
  redis: RedisConnection,
  config: Config,
  keys: PartitionKeys,
): Promise<number> {
  let dropped = 0;
  const partitions = allPartitions(config, keys.entity, keys.shape);
  for await (const { ids } of documentIds(redis, partitions, [keys])) {
    if (ids.length === 0) continue;
    const names = ids.map((id) => keys.documentPrefix + id.toString());
    dropped += Number(await runScript(redis, dropScript, names, []));
  }
  return dropped;
}
