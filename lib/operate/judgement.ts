/**
 * What is wrong with a partition, by what was seen of it: for people, each with what to do about it.
 * @module
 */

import type { Config } from "../config/load.ts";
import { counted } from "../core/counted.ts";
import { isFar, partsOf } from "../core/stream_ids.ts";
import type { PartitionCache } from "../redis/cache_state.ts";
import { type PartitionKeys, targetsWith } from "../redis/keys.ts";
import { hasPlace, type Registration, type TargetState } from "../redis/registrations.ts";
import type { Assessment } from "../sink/belonging.ts";
import { isSource } from "../sink/settler.ts";
import type { StandingAndLag } from "../targets/standings.ts";

/** Of which partition, and which target. */
export interface Place {
  config: Config;
  keys: PartitionKeys;
  /** the target's name */
  name: string;
  /** whether a repartition is under way */
  isMoving: boolean;
}

/** What was seen where both servers answer. */
export interface Both extends StandingAndLag {
  /** whether data, offset and table belong together; `null` while a repartition moves them */
  assessment: Assessment | null;
  /** all targets that the stream knows */
  registrations: Registration[];
  /** the target's own */
  state: TargetState;
  hasGoneBack: boolean;
  /** the highest id that the stream has given */
  lastId: string;
  /** the clock of Redis, in ms since 1970 */
  clockMs: number;
  /** why another target of the configuration is the same database; `null` where none is */
  namesake: string | null;
  /** the target from which documents are brought back, where that has not ended */
  rebuiltFrom: string | null;
}

/** What was seen. */
export interface Seen {
  /** `null` where a server does not answer */
  both: Both | null;
  cache: PartitionCache | null;
  /** the sink's failures in a row */
  failures: number;
}

/** What keeps it, what makes its rows doubtful, and what else somebody should see to. */
export interface Judgement {
  stuck: string[];
  doubts: string[];
  warnings: string[];
}

/** Judges a partition; asks no server. */
export function judge(place: Place, { both, cache, failures }: Seen): Judgement {
  const { config, keys, name } = place;
  const { max_retry_attempts } = config.write_behind;
  // What a sink has said before an operator paused the target, and was stopped, is over.
  const fails = failures > 0 && failures >= max_retry_attempts && both?.state !== "paused";
  const caches = cache && isSource(config, keys.entity, name) ? cacheWarnings(cache, keys) : [];
  return {
    stuck: [
      ...both ? keptBy(place, both) : [],
      ...fails ? [`${counted(failures, "failure")} in a row`] : [],
    ],
    doubts: both?.assessment ? doubtsOf(both.assessment) : [],
    warnings: [...both ? warningsOf(place, both) : [], ...caches],
  };
}

/** Why it makes no progress. */
function keptBy({ config, keys, name }: Place, both: Both): string[] {
  const { assessment, hasGoneBack, lastId, namesake, state } = both;
  const stuck = assessment?.mismatches.map(({ reason }) => reason) ?? [];
  if (hasGoneBack) stuck.push("the stream has gone back, and no sink has rewound it; start one");
  if (isFar(lastId)) {
    stuck.push(
      `the last id of the stream, ${lastId}, is past the year 2248, so events are parked; ` +
        `run deno task mend --entity ${keys.entity}`,
    );
  }
  if (state !== "active") {
    if (state !== "paused") stuck.push(notActive(state, name));
  } else if (namesake !== null) stuck.push(namesake);
  else if (isUnowned(both, config.write_behind.lease_seconds)) {
    stuck.push("events wait, and no sink owns the partition; start one");
  }
  return stuck;
}

/** Whether events have waited for longer than it takes a sink to notice that nobody owns the partition. */
function isUnowned({ standing, lag }: Both, leaseSeconds: number): boolean {
  if (lag.events === 0 || standing.live) return false;
  const since = standing.leaseSeconds === null ? Infinity : -standing.leaseSeconds;
  return Math.min(lag.seconds, since) > leaseSeconds;
}

function doubtsOf({ belonging: { doubt }, doubts }: Assessment): string[] {
  return [
    ...doubt && !doubt.refused ? [`${doubt.reason} (since ${doubt.at.toISOString()})`] : [],
    ...doubts.filter((reason) => !doubt?.reason.includes(reason)),
  ];
}

/** What else somebody should see to, though it goes on. */
function warningsOf({ config, keys, name, isMoving }: Place, both: Both): string[] {
  const { standing, lag, lastId, clockMs, registrations, state, rebuiltFrom } = both;
  const { warn_lag_seconds } = config.write_behind;
  const warnings: string[] = [];
  if (lag.seconds >= warn_lag_seconds) {
    warnings.push(
      `the lag is ${
        lag.seconds.toFixed(0)
      } s, from write_behind.warn_lag_seconds (${warn_lag_seconds}) on`,
    );
  }
  if (lag.events > 0 && standing.waitsFor !== null) {
    warnings.push(`the batch waits for a lock of ${standing.waitsFor}; end its transaction`);
  }
  const lead = partsOf(lastId).ms - clockMs;
  if (!isFar(lastId) && lead > LEAD_MS) {
    warnings.push(
      `the stream's ids are ${
        Math.round(lead / 1000)
      } s ahead of the clock of Redis: it was set back, or another ` +
        "program has written the id; events go on in their order",
    );
  }
  // What a repartition has paused, it lets go on: nobody else may.
  if (state === "paused" && !isMoving) warnings.push(notActive(state, name));
  warnings.push(...strangers(registrations, config, keys));
  if (rebuiltFrom !== null) {
    warnings.push(
      `documents are brought back from ${rebuiltFrom}; if that was stopped, Redis lacks some: run deno task rebuild ` +
        `--entity ${keys.entity} --target ${rebuiltFrom}`,
    );
  }
  return warnings;
}

/** A stream's ids may run ahead of the clock of Redis by so much, in ms, before it is told. */
const LEAD_MS = 60_000;

/** How a target goes on that is not active, before its name. */
const NEXT: Record<Exclude<TargetState, "active">, string> = {
  paused: "run deno task target resume",
  filling: "if that was stopped, run deno task target add",
  detached: "run deno task target add",
  removed: "run deno task target add",
};

const notActive = (state: Exclude<TargetState, "active">, name: string): string =>
  `the target is ${state}: ${NEXT[state]} ${name}`;

/** Why a cache does not evict what it could. */
function cacheWarnings({ state, foreign }: PartitionCache, { entity }: PartitionKeys): string[] {
  const on = `run deno task cache on --entity ${entity}`;
  if (state === "on") return [];
  if (state === null) {
    return [`the configuration has a cache, and Redis has none, so nothing is evicted: ${on}`];
  }
  if (state === "noting") {
    return [`the cache is being turned on; if that was stopped, ${on} again`];
  }
  return [
    foreign === null
      ? `the cache is being turned on or off; if that was stopped, ${on}, or off, again`
      : `the event ${foreign} was written by a program that knows of no cache, so nothing is evicted any more: stop ` +
        `it, then ${on}`,
  ];
}

/** Targets for which the stream is kept, though no sink of this configuration carries it on to them. */
function strangers(known: Registration[], config: Config, keys: PartitionKeys): string[] {
  const here = targetsWith(config, keys);
  return known.filter(({ name, state }) =>
    hasPlace(state) && here.every((target) => target.name !== name)
  ).map(({ name }) => {
    const isKnown = config.targets.some((target) => target.name === name);
    return `the stream is kept for the target ${name}, ` +
      (isKnown
        ? `whose range does not have this partition: give it back, or run deno task target remove ${name}, then ` +
          `deno task target add ${name}`
        : `which is not in the configuration: see that its sink runs, or run deno task target remove ${name}`);
  });
}
