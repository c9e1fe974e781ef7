/** `deno task verify`: compares Redis with the target, and repairs what differs. */

import type { Config } from "../config/load.ts";
import { hasPartition } from "../config/ranges.ts";
import { type FoundDoubt, settleDoubts } from "../operate/verify/doubts.ts";
import { repairRedis, type RepairReport, repairTarget } from "../operate/verify/repair.ts";
import type { Seen } from "../operate/verify/compare.ts";
import { countsOf, MAX_LISTED, verify, type VerifyReport } from "../operate/verify/verify.ts";
import { connectRedis } from "../redis/connect.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { keysOfDocument } from "../redis/keys.ts";
import { openTarget } from "../targets/open.ts";
import { configured, oneLine, perTarget, quoted, sayFor, targetNames } from "./common.ts";
import { progressOf } from "./progress.ts";

export interface VerifyCommandOptions {
  config?: string;
  entity: string;
  /** by default the first, or all that have some of the partitions */
  target?: string;
  /** seconds */
  settle: number;
  repair?: "target" | "redis";
  yes?: boolean;
  json?: boolean;
}

/** Lines of a kind that are printed; `--json` gives all. */
const SHOWN = 20;

/** Compares, and repairs where asked. The process's exit status is 1 where mismatches are left. */
export async function runVerify(options: VerifyCommandOptions, signal: AbortSignal): Promise<void> {
  const config = await configured(options.config, sayFor(options));
  await using redis = await connectRedis(config, { rights: "operator" });
  const names = targetNames(config, options.target);
  const reports: [string, object][] = [];
  for (const name of names) {
    if (names.length > 1 && !options.json) console.log(`${name}:`);
    reports.push([name, await verifyOne(redis, config, name, options, signal)]);
  }
  if (options.json) console.log(JSON.stringify(perTarget(reports), null, 2));
}

async function verifyOne(
  redis: RedisConnection,
  config: Config,
  name: string,
  options: VerifyCommandOptions,
  signal: AbortSignal,
): Promise<VerifyReport & { repaired: RepairReport | null }> {
  const { entity, settle, repair } = options;
  const say = sayFor(options);
  await using target = await openTarget(config, name);
  await target.check(entity);
  signal.throwIfAborted();
  const progress = progressOf("documents and rows compared");
  const report = await verify(redis, target, config, entity, {
    settleMs: settle * 1000,
    onProgress: progress.update,
    signal,
  }).finally(progress.end);
  const isStray = ({ id }: Seen) =>
    !hasPartition(config.targets, name, keysOfDocument(config, entity, id).partition);
  if (!options.json) print(report, repair, isStray);
  let repaired: RepairReport | undefined;
  const { counts } = report;
  const mismatches = report.mismatches.filter((seen) => !isStray(seen));
  if (repair && options.yes && mismatches.length > 0) {
    const repairing = progressOf("documents repaired");
    try {
      const onProgress = (done: number) => repairing.update(done, mismatches.length);
      const how = { onProgress, signal };
      repaired = repair === "target"
        ? await repairTarget(redis, config, entity, mismatches, how)
        : await repairRedis(redis, target, config, entity, mismatches, how);
    } finally {
      repairing.end();
    }
    if (!options.json) printRepair(repaired, repair);
  } else if (repair && mismatches.length > 0) say("nothing was changed; --yes does it");
  const left = counts.mismatches - (repaired?.mended ?? 0);
  if (repaired && left === 0 && counts.behind === 0) {
    await settleDoubts(target, config, entity, report.doubts);
  }
  if (!options.json) { for (const doubt of report.doubts) console.log(lineOf(doubt)); }
  if (left > 0) Deno.exitCode = 1;
  return { ...report, repaired: repaired ?? null };
}

function lineOf({ stream, reason, settled, error }: FoundDoubt): string {
  const outcome = settled
    ? "settled"
    : error === null
    ? "not settled yet"
    : `not noted as settled: ${error}`;
  return oneLine(`${stream} was in doubt (${reason}): ${outcome}`);
}

const PLANS = {
  target: {
    missing: "would be resent, as it is in Redis",
    different: "would be resent, as it is in Redis",
    extra: "would be removed from the target: Redis does not have it",
  },
  redis: {
    missing: "would be removed from Redis: the target does not have it",
    different: "would be replaced in Redis by what the target holds",
    extra: "would be written into Redis, as the target holds it",
  },
};

function print(
  report: VerifyReport,
  repair: "target" | "redis" | undefined,
  isStray: (seen: Seen) => boolean,
): void {
  const { counts } = report;
  console.log(countsOf(report));
  if (report.foreign > 0) {
    console.log(
      `${report.foreign} keys under the prefix are no documents: their ids cannot be any`,
    );
  }
  shown(
    report.mismatches,
    counts.mismatches,
    (seen) => {
      const { id, difference } = seen;
      const plan = isStray(seen)
        ? " of a partition that is not in the target's range; no repair removes it"
        : repair
        ? ` ${PLANS[repair][difference]}`
        : "";
      return `${difference}: ${quoted(id)}${plan}`;
    },
  );
  shown(report.behind, counts.behind, (id) => `behind: ${quoted(id)}`);
  shown(report.parked, counts.parked, (id) => `parked: ${quoted(id)}`);
  shown(report.notForwarded, counts.notForwarded, (id) => `not forwarded: ${quoted(id)}`);
}

function shown<T>(list: T[], count: number, line: (item: T) => string): void {
  for (const item of list.slice(0, SHOWN)) console.log(`  ${line(item)}`);
  if (count > SHOWN) console.log(`  … and ${count - SHOWN} more; --json lists up to ${MAX_LISTED}`);
}

function printRepair({ mended, changed, refused }: RepairReport, repair: "target" | "redis"): void {
  const done = repair === "target" ? "resent, a sink applies them" : "made equal to their rows";
  console.log(`${mended} ${done}; ${changed} had changed meanwhile and were left alone`);
  shown(refused, refused.length, ({ id, reason }) => `refused: ${quoted(id)}: ${oneLine(reason)}`);
}
