/** `deno task status`: a line a partition. */

import { type Config, entityConfig } from "../config/load.ts";
import { counted } from "../core/counted.ts";
import { delay } from "../core/delay.ts";
import { reasonOf } from "../core/errors.ts";
import { interruptible } from "../core/interrupt.ts";
import { type PartitionStatus, readStatus } from "../operate/status.ts";
import { type CacheFigures, hitRate, readCacheFigures } from "../redis/cache_state.ts";
import { connectRedis } from "../redis/connect.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { openTarget } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import { answered, configured, oneLine, sayFor } from "./common.ts";

export interface StatusOptions {
  config?: string;
  entity?: string;
  /** one of the targets; all where it is left out */
  target?: string;
  json?: boolean;
  /** seconds between two looks; `true` is {@linkcode WATCH_SECONDS} */
  watch?: number | true;
}

const WATCH_SECONDS = 2;

/** After so long without an answer, in ms, a server counts as down. */
const PATIENCE_MS = 10_000;

/**
 * Prints the status. The process's exit status is 1 where a partition is stuck, its rows are in doubt, it warns, or a
 * server is down. With `watch` it is printed again and again until Ctrl-C, and the exit status is that of the last look.
 */
export async function runStatus(options: StatusOptions): Promise<void> {
  const config = await configured(options.config, sayFor(options));
  const { watch } = options;
  if (watch === undefined) return void print(await look(config, options), options);
  await interruptible(async (signal) => {
    while (!signal.aborted) {
      const seen = await look(config, options);
      if (signal.aborted) return;
      const head = options.json ? [] : [`${new Date().toISOString()}; Ctrl-C ends this`];
      if (!written([...Deno.stdout.isTerminal() ? [HOME] : [], ...head])) return;
      if (!print(seen, options)) return;
      await delay(1000 * (watch === true ? WATCH_SECONDS : watch), signal);
    }
  });
}

/** Empties a terminal's screen. */
const HOME = "\x1b[H\x1b[2J\x1b[3J";

/** What was seen, and what could not be: the servers that are away. */
interface Look {
  away: string[];
  partitions: PartitionStatus[];
  /** the caches of the entities that have one */
  caches: (CacheFigures & { entity: string })[];
  /** whether the configuration does not say which Redis has a partition: sentinels or a cluster do */
  tellsNode: boolean;
  /** whether a command has to be told which target it is for */
  namesTarget: boolean;
}

/** Writes lines, unless who reads them has gone: `console.log` does not say so, and a watch would go on for ever. */
function written(lines: readonly string[]): boolean {
  const bytes = new TextEncoder().encode(lines.map((line) => `${line}\n`).join(""));
  try {
    for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) return false;
    throw error;
  }
}

/** @returns whether somebody reads it */
function print(
  { away, partitions, caches, ...looked }: Look,
  { json, watch }: StatusOptions,
): boolean {
  const lines: string[] = [];
  if (json) {
    // A line each, where there are many.
    const indent = watch === undefined ? 2 : 0;
    lines.push(JSON.stringify({ away, partitions, caches }, null, indent));
  } else {
    for (const reason of away) lines.push(reason);
    const several = new Set(partitions.map(({ target }) => target)).size > 1;
    for (const partition of partitions) lines.push(lineOf(partition, { several, ...looked }));
    for (const { entity, ...figures } of caches) {
      const { evictedKeys, expiredKeys } = figures;
      lines.push(
        `${entity} | cache: hits ${hitRate(figures)} | all of Redis since it started: ${
          counted(evictedKeys, "key")
        } evicted, ` +
          `${expiredKeys} expired`,
      );
    }
  }
  Deno.exitCode = away.length > 0 || partitions.some(needsAttention) ? 1 : 0;
  return written(lines);
}

/**
 * Looks once.
 * @param patienceMs how long each server may take to answer, in ms
 */
export async function look(
  config: Config,
  options: StatusOptions,
  patienceMs: number = PATIENCE_MS,
): Promise<Look> {
  const away: string[] = [];
  const reach = async <T>(
    what: string,
    work: Promise<T>,
    close?: (late: T) => void,
  ): Promise<T | null> => {
    try {
      return await answered(work, patienceMs, close);
    } catch (error) {
      const line = oneLine(
        reasonOf(error).startsWith("Cannot") ? reasonOf(error) : `${what}: ${reasonOf(error)}`,
      );
      // What is the same for all targets is told once.
      if (!away.includes(line)) away.push(line);
      return null;
    }
  };
  const leave = (redis: RedisConnection) => redis.disconnect();
  // Closing could wait for a server that does not answer, or fail by it: nobody waits for it.
  const closeTarget = (target: Target) => void target.close().catch(() => {});
  const names = options.target ? [options.target] : config.targets.map(({ name }) => name);
  const [redis, ...targets] = await Promise.all([
    reach("Redis", connectRedis(config, { rights: "operator", looks: true }), leave),
    ...names.map((name) =>
      reach(
        names.length > 1 ? `the target ${name}` : "the target",
        openTarget(config, name),
        closeTarget,
      )
    ),
  ]);
  const entities = options.entity ? [options.entity] : config.entities.map(({ name }) => name);
  const partitions: PartitionStatus[] = [];
  const caches: Look["caches"] = [];
  for (const entity of entities) {
    for (const [index, target] of targets.entries()) {
      const reading = readStatus(redis, target, config, entity, { name: names[index] });
      const read = await reach("status", reading);
      partitions.push(...read ?? []);
    }
    if (redis === null || !entityConfig(config, entity).cache.enabled) continue;
    const figures = await reach("the cache", readCacheFigures(redis, config, entity));
    if (figures !== null) caches.push({ entity, ...figures });
  }
  if (redis !== null) leave(redis);
  for (const target of targets) if (target !== null) closeTarget(target);
  return {
    away,
    partitions,
    caches,
    namesTarget: config.targets.length > 1,
    tellsNode: config.redis.sentinels !== null || config.redis.cluster !== null,
  };
}

const needsAttention = ({ stuck, doubts, warnings }: PartitionStatus) =>
  stuck.length + doubts.length + warnings.length > 0;

/** Behind a blank line stands SQL, whose own lines count: in one line it would be of no use. */
function shortened(error: string): string {
  const [said, sql] = error.split("\n\n");
  return oneLine(said!) +
    (sql === undefined ? "" : " (it is in the sink's log, and in status --json)");
}

function lineOf(
  status: PartitionStatus,
  { several, tellsNode, namesTarget }:
    & { several: boolean }
    & Pick<Look, "tellsNode" | "namesTarget">,
): string {
  const known = <T>(value: T | null, text: (value: T) => string | number) =>
    value === null ? "?" : text(value);
  const { stuck, doubts, wentBackAt, lastError } = status;
  const times = (count: number) =>
    count === 0 ? "never" : `${counted(count, "time")}, last ${wentBackAt?.toISOString()}`;
  return [
    several ? `${status.stream} to ${status.target ?? "?"}` : status.stream,
    stuck.length > 0
      ? `STUCK: ${oneLine(stuck.join("; "))}`
      : doubts.length > 0
      ? `DOUBTFUL: rows may be missing or old, run deno task verify --entity ${status.entity}${
        namesTarget ? ` --target ${status.target}` : ""
      }: ${oneLine(doubts.join("; "))}`
      : status.warnings.length > 0
      ? `WARNING: ${oneLine(status.warnings.join("; "))}`
      : status.lagEvents === null
      ? "unknown"
      : "ok",
    ...(tellsNode ? [`Redis ${known(status.node, String)}`] : []),
    `offset ${known(status.offset, String)}`,
    `lag ${status.lagEvents === null ? "? events" : counted(status.lagEvents, "event")}, ${
      known(status.lagSeconds, (seconds) => seconds.toFixed(1))
    } s`,
    `written ${known(status.written, String)}, applied ${known(status.applied, String)}`,
    status.owner !== null
      ? `owner ${status.owner} (${status.state ?? "owner"}, lease ${
        status.leaseSeconds === null ? "held" : `${status.leaseSeconds.toFixed(1)} s`
      })`
      : status.offset === null
      ? "owner ?"
      : "owner none",
    `parked ${known(status.parked, String)}`,
    `went back ${known(status.wentBack, times)}`,
    ...(status.cache ? [`cache ${status.cache.state}, ${status.cache.pending} pending`] : []),
    lastError === null
      ? "last error none"
      : `last error (${status.failures} in a row): ${shortened(lastError)}`,
  ].join(" | ");
}
