/** `deno task target`: the targets of a pipeline that runs. */

import type { Config } from "../config/load.ts";
import { counted } from "../core/counted.ts";
import { WriteBehindError } from "../core/errors.ts";
import { addTarget } from "../operate/add_target.ts";
import {
  type ListedTarget,
  listTargets,
  pauseTarget,
  removeTarget,
  resumeTarget,
} from "../operate/targets.ts";
import { connectRedis } from "../redis/connect.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { openTarget } from "../targets/open.ts";
import { configured, oneLine, quoted, sayFor } from "./common.ts";
import { progressOf } from "./progress.ts";

export interface TargetOptions {
  config?: string;
  /** one of the entities; all where it is left out */
  entity?: string;
  json?: boolean;
}

/** Refused documents that are printed. */
const SHOWN = 20;

/** Connects, and does something for each entity that is asked for. */
async function forEach<Result>(
  options: TargetOptions,
  work: (redis: RedisConnection, config: Config, entity: string) => Promise<Result>,
): Promise<Result[]> {
  const config = await configured(options.config, sayFor(options));
  await using redis = await connectRedis(config, { rights: "operator" });
  const entities = options.entity === undefined
    ? config.entities.map(({ name }) => name)
    : [options.entity];
  const results: Result[] = [];
  for (const entity of entities) results.push(await work(redis, config, entity));
  return results;
}

/** Lists them, a line a stream. */
export async function runTargetList(options: TargetOptions): Promise<void> {
  const listed = (await forEach(options, listTargets)).flat();
  if (options.json) console.log(JSON.stringify({ targets: listed }, null, 2));
  else for (const target of listed) console.log(lineOf(target));
}

function lineOf(listed: ListedTarget): string {
  const { name, stream, kind, state, offset, lagEvents, holdsUp, goneBack } = listed;
  return [
    oneLine(stream),
    oneLine(name),
    kind ?? "not in the configuration",
    state ?? "not registered: no sink of it has begun",
    `offset ${offset ?? "none"}`,
    `${goneBack ? "stands before a rewind" : `${counted(lagEvents, "event")} behind`}${
      holdsUp ? ", for which the stream is kept" : ""
    }`,
  ].join(" | ");
}

/** Adds one, and fills it. The exit status is 1 where it has refused documents. */
export async function runTargetAdd(
  name: string,
  options: TargetOptions,
  signal: AbortSignal,
): Promise<void> {
  const reports = await forEach(options, async (redis, config, entity) => {
    await using target = await openTarget(config, name);
    signal.throwIfAborted();
    const progress = progressOf("documents");
    const report = await addTarget(redis, target, config, entity, {
      onProgress: progress.update,
      signal,
    }).finally(progress.end);
    return { entity, ...report };
  });
  if (options.json) console.log(JSON.stringify({ added: reports }, null, 2));
  for (const report of options.json ? [] : reports) {
    const { entity, streams, rows, removed, refused, refusedDocuments } = report;
    console.log(
      streams.length === 0
        ? `${entity}: ${name} is there already`
        : `${entity}: ${counted(rows, "row")} written, ${removed} removed, ` +
          `${counted(refusedDocuments, "document")} refused; ` +
          "a sink carries on what was written meanwhile",
    );
    for (const { id, reason } of refused.slice(0, SHOWN)) {
      console.log(`  refused: ${quoted(id)}: ${oneLine(reason)}`);
    }
  }
  if (reports.some(({ refusedDocuments }) => refusedDocuments > 0)) Deno.exitCode = 1;
}

/** Pauses one, or lets it go on. */
export async function runTargetState(
  name: string,
  options: TargetOptions,
  verb: "pause" | "resume",
): Promise<void> {
  const change = verb === "pause" ? pauseTarget : resumeTarget;
  await forEach(options, (redis, config, entity) => change(redis, config, entity, name));
  console.log(
    verb === "pause"
      ? `${name} is paused: its events are kept in the streams until deno task target resume ${name}`
      : `${name} goes on from where it was`,
  );
}

/** Removes one, or says what that gives up: the exit status is 1 where it was not asked for by `--yes`. */
export async function runTargetRemove(
  name: string,
  options: TargetOptions & { yes?: boolean },
): Promise<void> {
  const { yes = false } = options;
  const gone = (await forEach(
    options,
    (redis, config, entity) => removeTarget(redis, config, entity, name, { dryRun: !yes }),
  )).flat();
  if (options.json) console.log(JSON.stringify({ removed: yes, streams: gone }, null, 2));
  for (const { stream, events } of options.json ? [] : gone) {
    const will = yes ? "does" : "would";
    console.log(
      `${oneLine(stream)}: ${name} ${will} not get what waits for it: ${counted(events, "event")}`,
    );
  }
  if (!yes) throw new WriteBehindError("nothing was changed; --yes does it");
}
