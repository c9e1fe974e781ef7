/**
 * How an entity's keys are split. The configuration says it, or, where `streams.partitions` is `auto`, Redis, whose word
 * is kept here: it changes while a program runs when an entity is repartitioned.
 * @module
 */

import type { Config } from "./config.ts";
import { ConfigError } from "../core/errors.ts";
import { partitionsInRanges, rangeProblem } from "./ranges.ts";

/** How an entity's keys are split. */
export interface Shape {
  /** how many streams it has */
  readonly partitions: number;
  /** whether their names carry a hash tag, as `stream:{session-0}` does; with several they always do */
  readonly tagged: boolean;
}

/** The most that an entity may have. */
export const MOST_PARTITIONS = 256;

/** How many partitions an entity may have while a program runs: where it is left to Redis, their number may grow. */
export const partitionsAtMost = ({ streams }: Config): number =>
  streams.partitions === "auto" ? MOST_PARTITIONS : streams.partitions;

/** Partitions in a cluster, where nothing says how many: one would be on one node. */
export const CLUSTER_PARTITIONS = 16;

/** What Redis has said, by configuration and entity. */
const known = new WeakMap<Config, Map<string, Shape>>();

/** Lets a configuration that was made of another one, for the same Redis, know what that knows. */
export function shareShapes(config: Config, from?: Config): void {
  known.set(config, from && known.get(from) || new Map());
}

/**
 * Notes what Redis has said of an entity.
 * @throws {ConfigError} where the ranges of targets do not fit
 */
export function learnShape(config: Config, entity: string, shape: Shape): void {
  checkRanges(config, entity, shape);
  known.get(config)!.set(entity, shape);
}

/**
 * How an entity's keys are split.
 * @throws {ConfigError} where the configuration leaves it to Redis, which was not asked yet
 */
export function shapeOf(config: Config, entity: string): Shape {
  const { partitions } = config.streams;
  // In a cluster, the keys of a partition share a slot by their tag.
  const tagged = config.redis.cluster !== null;
  if (partitions !== "auto") return { partitions, tagged: tagged || partitions > 1 };
  const shape = known.get(config)!.get(entity);
  if (shape !== undefined) return shape;
  throw new ConfigError(
    `streams.partitions is auto, and how many ${entity} has was not read from Redis yet: connect to Redis first`,
  );
}

/** Whether it is known how an entity's keys are split. */
export function knowsShape(config: Config, entity: string): boolean {
  return config.streams.partitions !== "auto" || known.get(config)!.has(entity);
}

/** @throws {ConfigError} where the ranges of targets do not have each partition of an entity exactly once */
export function checkRanges({ targets }: Config, entity: string, { partitions }: Shape): void {
  const problem = rangeProblem(targets, partitions);
  if (problem === null) return;
  throw new ConfigError(
    `targets[${problem.index}].partitions: ${entity} has ${partitions} partitions: ${problem.message}`,
  );
}

/** How an entity is split that nobody has written yet, where the configuration leaves it to Redis. */
export function firstShape({ redis, targets }: Config): Shape {
  const isCluster = redis.cluster !== null;
  const partitions = partitionsInRanges(targets) ?? (isCluster ? CLUSTER_PARTITIONS : 1);
  return { partitions, tagged: isCluster || partitions > 1 };
}

/** Whether two shapes give the same names. */
export function sameShape(one: Shape, other: Shape): boolean {
  return one.partitions === other.partitions && one.tagged === other.tagged;
}

/** A shape as Redis keeps it, such as `4`, or `1 tagged`; and for people. */
export function textOf({ partitions, tagged }: Shape): string {
  return partitions === 1 && tagged ? "1 tagged" : String(partitions);
}
