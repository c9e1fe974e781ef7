/**
 * Mending a stream in which an entry has an id that no version can hold: another program has written it, or the
 * server's clock was wrong. Redis gives every later entry a higher id still, so writers are refused until it is gone.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { mendingKey } from "../config/key_names.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { ConfigError, WriteBehindError } from "../core/errors.ts";
import { compareStreamIds, isFar, LAST_STREAM_ID } from "../core/stream_ids.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, type PartitionKeys, partitionsOf } from "../redis/keys.ts";
import { mendScript, runScript } from "../redis/scripts/mod.ts";
import { checkShape } from "../redis/shape.ts";
import { readRegistration } from "../redis/registrations.ts";
import { lastEntryId, lastGeneratedId, noteLastId } from "../redis/streams.ts";
import { checkBelonging } from "../sink/belonging.ts";
import { forward, resend } from "../sink/rewind.ts";
import { type Pool, targetsOf } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";

/** An entry that no version can hold. */
export interface FarEntry {
  /** the stream that it is in */
  stream: string;
  /** its id */
  streamId: string;
  /** names and values in turn */
  fields: string[];
}

/** What a mending did, or would do. */
export interface MendReport {
  /** the entries that are removed */
  entries: FarEntry[];
  /** documents that such entries name: they are resent, as they are now */
  resent: number;
  /** streams that were put right */
  streams: string[];
}

/** Entries that are copied at a time. */
const CHUNK = 500;
/** Sinks trim while the copy is made, and other programs may write. */
const ATTEMPTS = 20;
/** The longest pause before another attempt, in ms. */
const DISTURBED_MS = 200;
/** Documents that are resent in the step that removes their entries: a command has room for so many, and so has its time. */
const AT_ONCE = 20_000;

/**
 * Removes entries whose ids no version can hold, and lets the stream go on at the ids before them. Documents that
 * they name are resent.
 * Where a sink has parked such entries, the offset is moved back before them.
 * @param target the target, or all of them: the offset of each may stand at such an entry. The sink of one that is left
 * out moves it back by itself
 * @param options.dryRun looks, and changes nothing. @default {false}
 * @throws {WriteBehindError} where another program goes on writing to the stream
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, mendStreams, openTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { entries } = await mendStreams(redis, target, config, "session", { dryRun: true });
 * console.log(entries.length);
 * ```
 */
export async function mendStreams(
  redis: RedisConnection,
  target: Target | Pool | readonly Target[],
  config: Config,
  entity: string,
  options: { dryRun?: boolean } = {},
): Promise<MendReport> {
  checkArguments("mendStreams", { redis, anyTargets: target, config, entity, options });
  const { dryRun = false } = options;
  entityConfig(config, entity);
  // A repartition that waits for the targets may wait for this.
  await checkShape(redis, config, entity, { meanwhile: "draining" });
  const targets = await carriedOn(redis, targetsOf(target, config), config, entity);
  const report: MendReport = { entries: [], resent: 0, streams: [] };
  for (const keys of allPartitions(config, entity)) {
    const { stream } = keys;
    if (!isFar(await lastGeneratedId(redis, stream))) {
      // The stream was removed since a sink has looked.
      if (!dryRun) await noteLastId(redis, keys);
      continue;
    }
    if (dryRun) {
      report.streams.push(stream);
      take(report, await farEntries(redis, stream));
      continue;
    }
    // No sink need have looked: from now on writers are refused.
    await noteLastId(redis, keys);
    for (let attempt = 0;; attempt++) {
      const [seconds] = await redis.at(stream).time();
      const replaced = await replace(redis, keys, await floorOf(targets, keys));
      if (replaced === null) break; // another mending was faster
      const { kept, far } = replaced;
      if (attempt === 0) report.streams.push(stream);
      take(report, far);
      // A stream that is empty begins anew at the present time, of which no event may be passed.
      const begin = kept === "0-0" ? `${Number(seconds) * 1000 - 1}-0` : kept;
      for (const one of targets) await moveBack(redis, one, keys, begin);
      // Another program has written such an entry again.
      if (!isFar(await lastGeneratedId(redis, stream))) break;
      if (attempt === ATTEMPTS) throw goesOn(stream);
    }
    await noteLastId(redis, keys);
  }
  return report;
}

/** What is past the ids that a version can hold. */
interface Far {
  entries: FarEntry[];
  /** the ids of the documents that they name */
  named: string[];
}

async function farEntries(redis: RedisConnection, stream: string): Promise<Far> {
  const entries: FarEntry[] = [];
  const named = new Set<string>();
  for (const [streamId, fields] of await redis.xrange(stream, `(${LAST_STREAM_ID}`, "+")) {
    entries.push({ stream, streamId, fields });
    for (let at = 0; at < fields.length; at += 2) {
      if (fields[at] === "doc_id" && fields[at + 1]) named.add(fields[at + 1]!);
    }
  }
  return { entries, named: [...named] };
}

function take(report: MendReport, { entries, named }: Far): void {
  report.entries.push(...entries);
  report.resent += named.length;
}

/** What is resent has to be past all offsets; one at such an entry is moved back. */
async function floorOf(targets: readonly Target[], keys: PartitionKeys): Promise<string> {
  const offsets = await Promise.all(targets.map((one) => one.offsets.offset(keys)));
  const near = offsets.filter((offset) => !isFar(offset));
  return near.sort(compareStreamIds).at(-1) ?? "0-0";
}

/**
 * The targets whose offsets count: not one that was given up, nor, beside others, one that does not belong to the streams.
 * @throws {ConfigError} where none does
 */
async function carriedOn(
  redis: RedisConnection,
  targets: readonly Target[],
  config: Config,
  entity: string,
): Promise<Target[]> {
  const found: Target[] = [];
  let refusal: ConfigError | undefined;
  for (const target of targets) {
    const { name } = target.describe();
    const keys = partitionsOf(config, entity, name);
    const known = await Promise.all(keys.map((one) => readRegistration(redis, one, name)));
    if (known.every((one) => one?.state === "removed" || one?.state === "detached")) continue;
    try {
      await checkBelonging(redis, target, config, entity);
      found.push(target);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      refusal ??= error;
    }
  }
  if (found.length === 0 && refusal !== undefined) throw refusal;
  return found;
}

/**
 * Moves an offset at such an entry back to where the stream begins. A batch under way ends with it, also one that would
 * move it there.
 */
async function moveBack(
  redis: RedisConnection,
  { offsets, ownership }: Target,
  keys: PartitionKeys,
  begin: string,
): Promise<void> {
  const offset = await offsets.offset(keys);
  const before = isFar(offset) ? begin : offset;
  await ownership.moveOffset(keys, before, "0-0");
  await forward(redis, keys, before);
}

/**
 * Puts a copy of the stream without its far entries in its place, and resends the documents that they name.
 * @param floor what is resent gets ids past it
 * @returns the last id that was kept, and what was not; `null` where there is nothing far any more
 */
async function replace(
  redis: RedisConnection,
  keys: PartitionKeys,
  floor: string,
): Promise<{ kept: string; far: Far } | null> {
  const { stream, settings, notes, cached, documentPrefix } = keys;
  const copy = mendingKey(stream);
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (!isFar(await lastGeneratedId(redis, stream))) return null;
    // First, so that what comes while the others are read is noticed.
    const newest = await lastEntryId(redis, stream);
    const far = await farEntries(redis, stream);
    const copied = await copyTo(redis, stream, copy);
    if (copied !== null) {
      const atOnce = far.named.slice(0, AT_ONCE);
      const names = [stream, copy, settings, ...cached ? [notes] : []];
      const done = await runScript(
        redis,
        mendScript,
        [...names, ...atOnce.map((id) => documentPrefix + id)],
        [
          ...[copied.last, String(copied.entries), LAST_STREAM_ID, newest, floor],
          ...[String(Date.now()), cached ? "1" : "", ...atOnce],
        ],
      );
      if (done === 1) {
        for (const id of far.named.slice(AT_ONCE)) await resend(redis, keys, id);
        return { kept: copied.last, far };
      }
    }
    // Two that mend at once would go on disturbing each other.
    await delay(Math.random() * DISTURBED_MS);
  }
  await redis.del(copy);
  throw goesOn(stream);
}

/** Copies what a version can hold. @returns the last id, and how many; `null` where another mending copies as well */
async function copyTo(
  redis: RedisConnection,
  stream: string,
  copy: string,
): Promise<{ last: string; entries: number } | null> {
  await redis.del(copy);
  let last = "0-0";
  for (let copied = 0;;) {
    const after = last === "0-0" ? "-" : `(${last}`;
    const entries = await redis.xrangeBuffer(stream, after, LAST_STREAM_ID, "COUNT", CHUNK);
    if (entries.length === 0) return { last, entries: copied };
    const pipeline = redis.pipeline();
    for (const [id, fields] of entries) pipeline.xadd(copy, id, ...fields);
    for (const [error] of (await pipeline.exec()) ?? []) {
      if (error && /equal or smaller than the target stream top/.test(error.message)) return null;
      if (error) throw error;
    }
    last = entries.at(-1)![0].toString();
    copied += entries.length;
  }
}

const goesOn = (stream: string) =>
  new WriteBehindError(
    `Cannot mend ${stream}: another program goes on writing to it; stop that one, then run this again`,
  );
