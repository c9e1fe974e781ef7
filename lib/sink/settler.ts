/**
 * Settling: lets Redis evict what a cache's target holds. It also sees whether each event was noted by its writer: one of
 * another program that knows of no cache would lose what is evicted before it is read.
 * @module
 */

import { type Config, entityConfig, targetConfig } from "../config/load.ts";
import { ConfigError } from "../core/errors.ts";
import { failpoint } from "../core/failpoints.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import { documentIds } from "../redis/documents.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, type PartitionKeys } from "../redis/keys.ts";
import { dropScript, runScript, settleScript } from "../redis/scripts/mod.ts";
import type { Batch } from "../targets/batch.ts";
import type { Claim, Target } from "../targets/target.ts";
import type { StreamReader } from "./reader.ts";
import type { PartitionReport } from "./report.ts";

/** Documents that one script settles, so that Redis answers others in between. */
const CHUNK = 500;

/** A document, and its event that the target has applied. */
type Settled = [id: string, streamId: string];

/** Whether an entity is cached in front of a target. */
export function isSource(config: Config, entity: string, target: string): boolean {
  const { cache } = entityConfig(config, entity);
  return cache.enabled && targetConfig(config, cache.source ?? undefined).name === target;
}

/**
 * Sees that what writers note of a cache is settled.
 * @throws {ConfigError} where Redis has a cache, and the configuration does not
 */
export async function checkCached(
  redis: RedisConnection,
  { cached, entity, settings }: PartitionKeys,
): Promise<void> {
  if (cached || await redis.hget(settings, "cache") === null) return;
  throw new ConfigError(
    `entities: expected cache.enabled for ${entity}, since Redis may have evicted documents of it (${settings}), got none; ` +
      "set it, or run deno task cache off with it set",
  );
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

  /** Settles a batch that was applied. Never rejects: what is not settled stays in Redis, and is settled later. */
  async applied({ upserts, removals, lastId }: Batch): Promise<void> {
    // At once: the ids lie in memory that is used again.
    const settled: Settled[] = [];
    for (const rows of [upserts, removals]) {
      for (const { id, ms, seq } of rows) settled.push([id.toString(), `${ms}-${seq}`]);
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

  /** Settles all that the offset has passed, where that may be needed; parked events keep their notes. */
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
    const { keys: { notes }, offset, hasParked } = this.#claim;
    const redis = await this.#reader.connection();
    let cursor = "0";
    do {
      const [next, pairs] = await redis.hscan(notes, cursor, "COUNT", CHUNK);
      cursor = next;
      let passed: Settled[] = [];
      for (let index = 0; index < pairs.length; index += 2) {
        const streamId = pairs[index + 1]!.replace(/^-/, "");
        if (compareStreamIds(streamId, offset) <= 0) passed.push([pairs[index]!, streamId]);
      }
      if (hasParked && passed.length > 0) {
        const ids = passed.map(([id]) => Buffer.from(id));
        const parked = await this.#target.batches.parkedAmong(this.#claim, ids);
        passed = passed.filter((_, index) => !parked.has(ids[index]!.toString("latin1")));
      }
      await this.#settle(passed, "", false);
    } while (cursor !== "0");
    await this.#settle([], offset, false);
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
