/** `deno task verify`: compares Redis with the target, and repairs what differs. */

import { type FoundDoubt, settleDoubts } from "../operate/verify/doubts.ts";
import { repairRedis, type RepairReport, repairTarget } from "../operate/verify/repair.ts";
import { countsOf, MAX_LISTED, verify, type VerifyReport } from "../operate/verify/verify.ts";
import { connectRedis } from "../redis/connect.ts";
import { openTarget } from "../targets/open.ts";
import { configured, oneLine, quoted, sayFor } from "./common.ts";
import { progressOf } from "./progress.ts";

export interface VerifyCommandOptions {
  config?: string;
  entity: string;
  /** by default the first */
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
  const { entity, settle, repair } = options;
  const say = sayFor(options);
  const config = await configured(options.config, say);
  await using redis = await connectRedis(config);
  await using target = await openTarget(config, options.target);
  await target.check(entity);
  signal.throwIfAborted();
  const progress = progressOf("documents and rows compared");
  const report = await verify(redis, target, config, entity, {
    settleMs: settle * 1000,
    onProgress: progress.update,
    signal,
  }).finally(progress.end);
  if (!options.json) print(report, repair);
  let repaired: RepairReport | undefined;
  const { mismatches, counts } = report;
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
  if (options.json) {
    console.log(JSON.stringify({ ...report, repaired: repaired ?? null }, null, 2));
  } else for (const doubt of report.doubts) console.log(lineOf(doubt));
  if (left > 0) Deno.exitCode = 1;
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

function print(report: VerifyReport, repair: "target" | "redis" | undefined): void {
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
    ({ id, difference }) =>
      `${difference}: ${quoted(id)}${repair ? ` ${PLANS[repair][difference]}` : ""}`,
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
