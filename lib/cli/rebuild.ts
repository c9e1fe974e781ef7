/** `deno task rebuild`: fills an empty Redis from the target. */

import { rebuild } from "../operate/rebuild.ts";
import { connectRedis } from "../redis/connect.ts";
import { openTarget } from "../targets/open.ts";
import { configured, oneLine, quoted, sayFor } from "./common.ts";
import { progressOf } from "./progress.ts";

export interface RebuildCommandOptions {
  config?: string;
  entity: string;
  /** by default the first */
  target?: string;
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
  await using redis = await connectRedis(config);
  await using target = await openTarget(config, options.target);
  await target.check(options.entity);
  signal.throwIfAborted();
  const progress = progressOf("rows");
  const report = await rebuild(redis, target, config, options.entity, {
    onProgress: progress.update,
    signal,
  }).finally(progress.end);
  const { rows, restored, kept, refused, refusedRows, index } = report;
  if (options.json) console.log(JSON.stringify(report, null, 2));
  else {
    console.log(
      `${rows} rows: ${restored} documents written, ${kept} left as they were, ` +
        `${refusedRows} refused; search index ${index}`,
    );
    for (const { id, reason } of refused.slice(0, SHOWN)) {
      console.log(`  refused: ${quoted(id)}: ${oneLine(reason)}`);
    }
  }
  if (refusedRows > 0) Deno.exitCode = 1;
}
