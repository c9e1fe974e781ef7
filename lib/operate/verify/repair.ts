/**
 * Repairs on either side what `verify` found, if it has not changed since.
 * @module
 */

import { checkArguments } from "../../core/arguments.ts";
import type { Config } from "../../config/load.ts";
import { hasPartition } from "../../config/ranges.ts";
import { DocumentError } from "../../core/errors.ts";
import { encoded, type Restoration, restore } from "../../documents/restore.ts";
import { type Pool, rowsOf, targetOf } from "../../targets/open.ts";
import { PAGE_ROWS, READ_BYTES, type Target } from "../../targets/target.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { readTexts } from "../../redis/documents.ts";
import { allPartitions, byPartition, type PartitionKeys } from "../../redis/keys.ts";
import { checkRebuilt } from "../../redis/rebuilding.ts";
import { checkShape } from "../../redis/shape.ts";
import { resend } from "../../sink/rewind.ts";
import { hashOf, hashOfRow, type Seen } from "./compare.ts";

/** What a repair did, in documents. */
export interface RepairReport {
  /** documents that are equal now, or will be when a sink has applied the event */
  mended: number;
  /** documents or rows that have changed since they were seen: left alone */
  changed: number;
  /** documents that Redis cannot hold as their rows are, or whose partition is another target's, with the reason */
  refused: { id: string; reason: string }[];
}

/** Options of {@linkcode repairTarget} and {@linkcode repairRedis}. */
export interface RepairOptions {
  /** called after each chunk, with the documents done so far */
  onProgress?: (done: number) => void;
  /** stops it between two chunks, with its reason */
  signal?: AbortSignal;
}

/**
 * Resends documents: appends their present state as new events, which a sink applies to the target. Documents
 * that have changed since they were seen are left alone.
 * @param mismatches from a report of `verify`
 * @throws {WriteBehindError} where rows would go whose documents a rebuild has not brought back yet
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, repairTarget, verify } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { mismatches } = await verify(redis, target, config, "session");
 * const { mended, changed } = await repairTarget(redis, config, "session", mismatches);
 * console.log(mended, changed);
 * ```
 */
export async function repairTarget(
  redis: RedisConnection,
  config: Config,
  entity: string,
  mismatches: readonly Seen[],
  options: RepairOptions = {},
): Promise<RepairReport> {
  checkArguments("repairTarget", { redis, config, entity, mismatches, options });
  const { onProgress, signal } = options;
  checkArguments("repairTarget", { onProgress, signal });
  const report: RepairReport = { mended: 0, changed: 0, refused: [] };
  for (const [keys, chunk] of chunks(config, entity, mismatches)) {
    if (chunk.some(({ document }) => document === null)) {
      await checkRebuilt(redis, [keys], "Cannot remove rows that Redis lacks");
    }
    for (let left = chunk; left.length > 0;) {
      signal?.throwIfAborted();
      // Documents may move to other names meanwhile.
      await checkShape(redis, config, entity, { expects: keys.shape });
      const texts = await readTexts(redis, keys, left.map(({ id }) => id), READ_BYTES);
      for (const [index, text] of texts.entries()) {
        const { id, document } = left[index]!;
        const asSeen = (text === null ? null : hashOf(text)) === document;
        const sent = asSeen && await resend(redis, keys, id, text) !== null;
        report[sent ? "mended" : "changed"]++;
      }
      left = left.slice(texts.length);
      onProgress?.(report.mended + report.changed);
    }
  }
  return report;
}

/**
 * Makes documents in Redis equal to their rows: writes, replaces or removes them, without events. It leaves those
 * alone whose document or row has changed since, or with an event that the target has not applied.
 * @param mismatches from a report of `verify`
 * @throws {WriteBehindError} where the target keeps no rows that can be read
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, repairRedis, verify } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { mismatches } = await verify(redis, target, config, "session");
 * const { mended, refused } = await repairRedis(redis, target, config, "session", mismatches);
 * console.log(mended, refused);
 * ```
 */
export async function repairRedis(
  redis: RedisConnection,
  target: Target | Pool,
  config: Config,
  entity: string,
  mismatches: readonly Seen[],
  options: RepairOptions = {},
): Promise<RepairReport> {
  checkArguments("repairRedis", { redis, target, config, entity, mismatches, options });
  const { onProgress, signal } = options;
  checkArguments("repairRedis", { onProgress, signal });
  const opened = targetOf(target, config);
  const stored = rowsOf(opened);
  const report: RepairReport = { mended: 0, changed: 0, refused: [] };
  for (const [keys, chunk] of chunks(config, entity, mismatches)) {
    const { name } = opened.describe();
    if (!hasPartition(config.targets, name, keys.partition)) {
      const reason = `its partition is not in the range of ${name}`;
      report.refused.push(...chunk.map(({ id }) => ({ id, reason })));
      continue;
    }
    for (let left = chunk; left.length > 0;) {
      signal?.throwIfAborted();
      await checkShape(redis, config, entity, { expects: keys.shape });
      const ids = left.map(({ id }) => id);
      const [texts, { offset, rows, parked }] = await Promise.all([
        readTexts(redis, keys, ids, READ_BYTES),
        stored.at(keys, ids),
      ]);
      const both = Math.min(texts.length, rows.length);
      const wanted: Restoration[] = [];
      for (let index = 0; index < both; index++) {
        const { id, document, row: seenRow } = left[index]!;
        const expected = texts[index]!;
        const row = rows[index]!;
        const asSeen = !parked[index] &&
          (expected === null ? null : hashOf(expected)) === document &&
          (row === null ? null : hashOfRow(row)) === seenRow;
        if (!asSeen) report.changed++;
        else {
          const restored = encoded(row);
          if (restored instanceof DocumentError) {
            report.refused.push({ id, reason: restored.message });
          } else wanted.push({ id, expected, wanted: restored });
        }
      }
      for (const { outcome } of await restore(redis, keys, offset, wanted)) {
        report[outcome === "restored" ? "mended" : "changed"]++;
      }
      left = left.slice(both);
      onProgress?.(report.mended + report.changed + report.refused.length);
    }
  }
  return report;
}

function* chunks(
  config: Config,
  entity: string,
  mismatches: readonly Seen[],
): Generator<[PartitionKeys, Seen[]]> {
  for (
    const [keys, own] of byPartition(allPartitions(config, entity), mismatches, ({ id }) => id)
  ) {
    for (let at = 0; at < own.length; at += PAGE_ROWS) yield [keys, own.slice(at, at + PAGE_ROWS)];
  }
}
