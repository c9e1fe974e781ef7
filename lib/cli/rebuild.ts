/** `deno task rebuild`: fills an empty Redis from the target. */

import { counted } from "../core/counted.ts";
import type { Config } from "../config/load.ts";
import { rebuild, type RebuildReport } from "../operate/rebuild.ts";
import { connectRedis } from "../redis/connect.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { openTarget } from "../targets/open.ts";
import { configured, oneLine, perTarget, quoted, sayFor, targetNames } from "./common.ts";
import { progressOf } from "./progress.ts";

export interface RebuildCommandOptions {
  config?: string;
  entity: string;
  /** by default the first, or all that have some of the partitions */
  target?: string;
  limit?: number;
  json?: boolean;
}

/** Refused rows that are printed. */
const SHOWN = 20;

/** Rebuilds. The process's exit status is 1 where rows were refused. */
export async function runRebuild(
  options: RebuildCommandOptions,
  signal: AbortSignal,
): Promise<void> {
  const config = await configured(options.config, sayFor(options));
  await using redis = await connectRedis(config, { rights: "operator" });
  const names = targetNames(config, options.target);
  const reports: [string, RebuildReport][] = [];
  for (const name of names) {
    const report = await rebuildFrom(redis, config, name, options, signal);
    if (report.refusedRows > 0) Deno.exitCode = 1;
    if (!options.json) print(report, names.length > 1 ? `${name}: ` : "");
    reports.push([name, report]);
  }
  if (options.json) console.log(JSON.stringify(perTarget(reports), null, 2));
}

async function rebuildFrom(
  redis: RedisConnection,
  config: Config,
  name: string,
  { entity, limit }: RebuildCommandOptions,
  signal: AbortSignal,
): Promise<RebuildReport> {
  await using target = await openTarget(config, name);
  await target.check(entity);
  signal.throwIfAborted();
  const progress = progressOf("rows");
  const options = { onProgress: progress.update, signal, limit };
  return await rebuild(redis, target, config, entity, options).finally(progress.end);
}

function print({ rows, restored, kept, refused, refusedRows, index }: RebuildReport, of: string) {
  console.log(
    `${of}${counted(rows, "row")}: ${
      counted(restored, "document")
    } written, ${kept} left as they were, ` +
      `${refusedRows} refused; search index ${index}`,
  );
  for (const { id, reason } of refused.slice(0, SHOWN)) {
    console.log(`  refused: ${quoted(id)}: ${oneLine(reason)}`);
  }
}
