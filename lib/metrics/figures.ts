/**
 * The figures of the pipeline, by its streams and its target: what people are shown, and what `verify` compares.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig } from "../config/load.ts";
import type { Redis } from "../redis/client.ts";
import { type Pool, targetOf } from "../targets/open.ts";
import { readStandings, type StandingAndLag, type View, viewOf } from "../targets/standings.ts";
import type { Target } from "../targets/target.ts";

/** How much was written and applied, and what is left: of one partition, or of all. */
export interface Sums {
  /** events that the target holds: applied, or parked */
  applied: number;
  /** events in the stream behind the target's offset */
  lag: number;
  /** age of the oldest of them, in seconds; 0 with none */
  lagSeconds: number;
  /** events that were written: applied + lag */
  written: number;
  /** events that are parked now */
  parked: number;
}

/** What the streams and the target say of one partition, read together. */
export interface PartitionFigures extends Sums {
  /** its number, from 0 */
  partition: number;
  /** the key of its events, such as `stream:session` */
  stream: string;
  /** the sink that holds a live lease */
  owner: string | null;
  /** the last stream id that the target holds; `0-0` for none */
  offset: string;
}

/** What the streams and the target say of an entity. The sums are of all its partitions, `lagSeconds` the largest. */
export interface Figures extends Sums {
  /** when they were read, in ms */
  at: number;
  /** each of them, in order */
  partitions: PartitionFigures[];
}

/**
 * Reads the figures of those of an entity's partitions that the target has, of the streams and the target together.
 * Changes nothing. While it is repartitioned, these are as they were before.
 * @throws {ConfigError} where the configuration has another number of partitions than Redis
 * @throws the error of a server that does not answer
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, readFigures } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { written, applied, lag, parked } = await readFigures(redis, target, config, "session");
 * console.log(`${written} written, ${applied} applied, ${lag} behind, ${parked} parked`);
 * ```
 */
export async function readFigures(
  redis: Redis,
  target: Target | Pool,
  config: Config,
  entity: string,
): Promise<Figures> {
  checkArguments("readFigures", { client: redis, target, config, entity });
  entityConfig(config, entity);
  const opened = targetOf(target, config);
  const view = await viewOf(redis, config, entity, opened.describe().name);
  return figuresOf(view, await readStandings(redis, opened.offsets, view, { waits: false }));
}

/** The figures of what was read of the partitions of an entity. */
export function figuresOf(view: View, read: readonly StandingAndLag[]): Figures {
  const partitions = read.map((both, index): PartitionFigures => {
    const { partition, stream } = view.partitions[index]!;
    const { offset, live, owner } = both.standing;
    return { partition, stream, offset, owner: live ? owner : null, ...sumsOf(both) };
  });
  return { at: Date.now(), partitions, ...sumOf(partitions) };
}

/** The figures of one partition. */
export function sumsOf({ standing, lag }: StandingAndLag): Sums {
  return {
    applied: standing.events,
    lag: lag.events,
    lagSeconds: lag.seconds,
    written: standing.events + lag.events,
    parked: standing.parked,
  };
}

/** The sums of several partitions or entities; the lag in seconds is the largest. */
export function sumOf(parts: readonly Sums[]): Sums {
  const sum = (name: keyof Sums) => parts.reduce((all, part) => all + part[name], 0);
  return {
    applied: sum("applied"),
    lag: sum("lag"),
    lagSeconds: parts.reduce((most, { lagSeconds }) => Math.max(most, lagSeconds), 0),
    written: sum("written"),
    parked: sum("parked"),
  };
}

/** What a sink has sent last of its freshness: when, p50 and p99. */
export const FRESHNESS_GAUGES = ["at", "freshness_p50_ms", "freshness_p99_ms"] as const;
/** After so long without a new freshness, in ms, a sink applies nothing. */
const FRESHNESS_MAX_AGE_MS = 5000;

/** p50 and p99 in ms of the sinks that have applied something lately, by their {@linkcode FRESHNESS_GAUGES}. */
export function recentFreshness(gauges: (string | null)[][]): [p50: number, p99: number][] {
  return gauges.flatMap(([at, p50, p99]): [number, number][] => {
    // By the sink's clock. Where the two do not agree, nobody knows how old it is.
    const age = Date.now() - Number(at ?? -Infinity);
    return Math.abs(age) <= FRESHNESS_MAX_AGE_MS && p50 && p99 ? [[Number(p50), Number(p99)]] : [];
  });
}
