/** `deno task cache`: turns the cache of an entity on or off, or tells its state. */

import { sourceConfig } from "../config/load.ts";
import { type CacheReport, readCache, turnCacheOff, turnCacheOn } from "../operate/cache.ts";
import { connectRedis } from "../redis/connect.ts";
import { openTarget } from "../targets/open.ts";
import { configured, oneLine, quoted, sayFor } from "./common.ts";
import { progressOf } from "./progress.ts";

export interface CacheOptions {
  config?: string;
  entity: string;
  json?: boolean;
}

/** Documents that are printed. */
const SHOWN = 20;

/** Turns a cache on or off. The process's exit status is 1 where documents are not as their rows. */
export async function runCache(
  verb: "on" | "off" | "status",
  { config: path, entity, json }: CacheOptions,
  signal: AbortSignal,
): Promise<void> {
  const say = sayFor({ json });
  const config = await configured(path, say);
  await using redis = await connectRedis(config, { rights: "operator" });
  if (verb === "status") {
    const status = await readCache(redis, config, entity);
    if (json) return console.log(JSON.stringify(status, null, 2));
    const foreign = status.foreign === null
      ? ""
      : `; the event ${status.foreign} was written by a program that knows of no cache`;
    return console.log(`${entity}: ${status.state}, ${status.pending} pending${foreign}`);
  }
  await using target = await openTarget(config, sourceConfig(config, entity).name);
  await target.check(entity);
  const progress = progressOf("documents");
  const turn = verb === "on" ? turnCacheOn : turnCacheOff;
  const report = await turn(redis, target, config, entity, {
    onStep: (what) => progress.above(() => say(oneLine(what))),
    onProgress: progress.update,
    signal,
  }).finally(progress.end);
  if (report.different.length > 0) Deno.exitCode = 1;
  if (json) console.log(JSON.stringify(report, null, 2));
  else print(entity, verb, report);
}

function print(entity: string, verb: "on" | "off", { state, changed, different }: CacheReport) {
  const what = verb === "on" ? "documents may be evicted now" : "documents were brought back";
  console.log(`the cache of ${entity} is ${state}: ${changed} ${what}`);
  if (different.length === 0) return;
  console.log(
    `${different.length} documents are not as their rows, and stay; run deno task verify`,
  );
  for (const id of different.slice(0, SHOWN)) console.log(`  ${quoted(id)}`);
}
