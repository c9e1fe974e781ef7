/**
 * Letting partitions go on whose Redis, target or table is another one than before, on purpose.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import type { Config } from "../config/load.ts";
import { WriteBehindError } from "../core/errors.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { type PartitionKeys, partitionsOf } from "../redis/keys.ts";
import { checkShape } from "../redis/shape.ts";
import { assess, type Assessment, type Mismatch } from "../sink/belonging.ts";
import { type Pool, targetOf } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";

/** A partition that was refused, and how it goes on. */
export interface AdoptedPartition {
  /** the key of its events */
  stream: string;
  /** why it was refused: what is another one (`source` is Redis), or `emptied`; and for people */
  mismatches: { kind: "source" | "target" | "table" | "streams" | "emptied"; reason: string }[];
  /** the offset that it had; `0-0` for none */
  before: string;
  /** the offset that it goes on from */
  offset: string;
}

/** What was adopted, or would be. */
export interface AdoptReport {
  /** the partitions that were refused; empty where there is nothing to adopt */
  partitions: AdoptedPartition[];
}

/**
 * Lets an entity's refused partitions go on with the Redis, the target and the table that are configured now. A table
 * that is gone is made anew. What rows lack then, `verify` finds; until it has looked, the status says so.
 * @param options.dryRun looks, and changes nothing. @default {false}
 * @throws {WriteBehindError} where a partition has gone on meanwhile, as when somebody else has adopted it
 *
 * @example
 * ```ts
 * import { adopt, connectRedis, loadConfig, openTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { partitions } = await adopt(redis, target, config, "session", { dryRun: true });
 * for (const { stream, offset } of partitions) console.log(stream, offset);
 * ```
 */
export async function adopt(
  redis: RedisConnection,
  target: Target | Pool,
  config: Config,
  entity: string,
  options: { dryRun?: boolean } = {},
): Promise<AdoptReport> {
  checkArguments("adopt", { redis, target, config, entity, options });
  const { dryRun = false } = options;
  await checkShape(redis, config, entity);
  const opened = targetOf(target, config);
  const report: AdoptReport = { partitions: [] };
  const found: { keys: PartitionKeys; assessment: Assessment }[] = [];
  for (const keys of partitionsOf(config, entity, opened.describe().name)) {
    const assessment = await assess(redis, opened, config, keys);
    if (assessment.mismatches.length > 0) found.push({ keys, assessment });
  }
  if (!dryRun && found.length > 0) await opened.migrate(entity);
  for (const { keys, assessment } of found) {
    const { mismatches, belonging, origin } = assessment;
    const { offset, witness } = goingOn(mismatches, belonging);
    report.partitions.push({ stream: keys.stream, mismatches, before: belonging.offset, offset });
    if (dryRun) continue;
    // A sink that has noticed does not go on with it.
    if (await opened.offsets.offset(keys) !== belonging.offset) {
      throw new WriteBehindError(
        `the offset of ${keys.stream} has moved meanwhile: somebody else has adopted it, or a sink has not noticed yet; ` +
          "run this again",
      );
    }
    await opened.identities.adopt(keys, {
      source: origin.identity,
      offset,
      witness,
      others: belonging.others.map(({ stream }) => stream),
      doubt: `adopted, since it was another ${
        mismatches.map(({ kind }) => NAMES[kind]).join(" and ")
      }`,
    });
  }
  return report;
}

const NAMES: Record<Mismatch["kind"], string> = {
  source: "Redis",
  target: "target",
  table: "table",
  streams: "stream",
  emptied: "table before it was emptied",
};

/**
 * A table that holds nothing begins at the beginning. Rows that other data in Redis have brought may be of a later time
 * than new events: the stream counts as gone back, so that it is moved past them, and what waits in it is resent.
 */
function goingOn(
  mismatches: Mismatch[],
  { offset, others }: Assessment["belonging"],
): { offset: string; witness: string } {
  if (!mismatches.some(({ kind }) => kind === "source" || kind === "streams")) {
    return { offset: "0-0", witness: "0-0" };
  }
  const last = [offset, ...others.map((other) => other.offset)].sort(compareStreamIds).at(-1)!;
  return { offset: last, witness: last };
}
