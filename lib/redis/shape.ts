/**
 * The number of partitions of an entity. The first write fixes it: with another one, documents and events would go to
 * other keys, and nobody would drain or compare the old ones. A repartition changes it.
 *
 * One hash an entity records it. It is asked for by clients, since in a cluster a script sees its own slot only.
 * @module
 */

import { keyFamilies } from "../config/key_names.ts";
import { type Config, entityConfig } from "../config/load.ts";
import {
  firstShape,
  learnShape,
  MOST_PARTITIONS,
  sameShape,
  type Shape,
  shapeOf,
  textOf,
} from "../config/shapes.ts";
import { delay } from "../core/delay.ts";
import { ConfigError, reasonOf, RepartitioningError } from "../core/errors.ts";
import type { Redis } from "./client.ts";
import type { PartitionKeys } from "./keys.ts";

export { MOST_PARTITIONS };

/** The hash that records the shape of an entity; of one partition that is not tagged, it is also its settings. */
export const recordOf = ({ streams }: Config, entity: string): string =>
  keyFamilies(streams).settings + entity;

/** What the record says. */
export interface Recorded {
  /** how the entity is split; while it is repartitioned, how it was before */
  shape: Shape;
  /** what it is repartitioned to just now; `null` where it is not */
  to: Shape | null;
  /** whether that has begun to move documents, so that there is no way back */
  moving: boolean;
}

/** Settings hold it too, so that no script that writes needs to look for more than the number that it expects. */
const RECORD = /^(\d+)( tagged)?(?: (to|into) (\d+)( tagged)?)?$/;

/** Reads a record; `null` for one that cannot be read. */
export function recordedIn(text: string): Recorded | null {
  const [, from, fromTagged, how, to, toTagged] = RECORD.exec(text) ?? [];
  if (from === undefined) return null;
  const shape = (count: string, tagged?: string): Shape => {
    const partitions = Number(count);
    return { partitions, tagged: partitions > 1 || tagged !== undefined };
  };
  return {
    shape: shape(from, fromTagged),
    to: to === undefined ? null : shape(to, toTagged),
    moving: how === "into",
  };
}

/** The other way round. */
export function textOfRecord({ shape, to, moving }: Recorded): string {
  return to === null ? textOf(shape) : `${textOf(shape)} ${moving ? "into" : "to"} ${textOf(to)}`;
}

/** Whether a record says that the entity is repartitioned just now. */
export const isUnderWay = (text: string): boolean => recordedIn(text)?.to != null;

/** Why a call is refused while an entity is repartitioned, for people. */
export function repartitioning(entity: string, { shape, to }: Recorded): string {
  return `${entity} is being repartitioned from ${textOf(shape)} to ${
    textOf(to ?? shape)
  }; if that was ` +
    `stopped, deno task repartition --entity ${entity} --to ${(to ?? shape).partitions} goes on`;
}

const differs = (entity: string, found: Shape, wanted: Shape) =>
  new ConfigError(
    `streams.partitions: expected ${
      textOf(found)
    }, as the first write of ${entity} has fixed it, or a repartition ` +
      `since, got ${textOf(wanted)}; use ${
        found.tagged && found.partitions === 1 ? "auto" : found.partitions
      }`,
  );

/**
 * Sees that an entity has as many partitions in Redis as in the configuration; where that says `auto`, notes how many
 * it has.
 * @param options.lookAgain false goes by a look at the partitions of up to a second ago, for the claims of one sink
 * @param options.expects what is used, where that was noted before
 * @param options.meanwhile whether all goes on while the entity is repartitioned: `draining` until documents move
 * @throws {ConfigError} where it has another number of them
 * @throws {RepartitioningError} where it is being repartitioned, or was since a number was read from Redis
 */
export async function checkShape(
  redis: Redis,
  config: Config,
  entity: string,
  { lookAgain = true, expects, meanwhile = "no" }: {
    lookAgain?: boolean;
    expects?: Shape;
    meanwhile?: "no" | "draining" | "yes";
  } = {},
): Promise<void> {
  entityConfig(config, entity);
  const found = await readShape(redis, config, entity, lookAgain);
  if (config.streams.partitions === "auto" && expects === undefined) {
    learnShape(config, entity, found?.shape ?? firstShape(config));
  }
  if (found === null) return;
  const wanted = expects ?? shapeOf(config, entity);
  if (found.to !== null && (meanwhile === "no" || meanwhile === "draining" && found.moving)) {
    throw new RepartitioningError(repartitioning(entity, found));
  }
  // Who is to use the new number waits for it.
  const known = [found.shape, ...found.to !== null && meanwhile === "yes" ? [found.to] : []];
  if (known.some((one) => sameShape(one, wanted))) return;
  // Who reads the number from Redis goes on with it.
  if (config.streams.partitions === "auto") {
    throw new RepartitioningError(
      `${entity} was repartitioned from ${textOf(wanted)} to ${textOf(found.shape)}`,
    );
  }
  throw differs(entity, found.shape, wanted);
}

/**
 * How an entity is split just now, for who only looks on, and has to follow a repartition.
 * Where the configuration says `auto`, it is noted.
 * @returns `shape` as the streams are named; `other` only while it is repartitioned, what else they may be named
 * @throws {ConfigError} where it has neither number of the configuration
 */
export async function lookAtShape(
  redis: Redis,
  config: Config,
  entity: string,
): Promise<{ shape: Shape; other: Shape | null }> {
  const isFixed = config.streams.partitions !== "auto";
  const found = await readShape(redis, config, entity, false).catch((error) => {
    if (reasonOf(error).startsWith("NOPERM")) return null;
    throw error;
  });
  // Where all is gone from Redis, what was known of it may still be what the target holds.
  if (found === null) return { shape: shapeOf(config, entity), other: null };
  const { shape, to: other } = found;
  if (!isFixed) learnShape(config, entity, shape);
  const wanted = shapeOf(config, entity);
  if (!sameShape(shape, wanted) && !(other && sameShape(other, wanted))) {
    throw differs(entity, shape, wanted);
  }
  return { shape, other };
}

/**
 * Sees that the configuration knows of the cache that an entity has: what it has evicted would seem to be missing.
 * @throws {ConfigError} where it does not
 */
export async function checkCached(redis: Redis, keys: PartitionKeys): Promise<void> {
  const { cached, entity, settings } = keys;
  if (cached || await redis.hget(settings, "cache") === null) return;
  throw new ConfigError(
    `entities: expected cache.enabled for ${entity}, since Redis may have evicted documents of it (${settings}), got none; ` +
      "set it; to do without, run deno task cache off before",
  );
}

/** Records under way, by connection and entity. */
const underWay = new WeakMap<Redis, Map<string, Promise<void>>>();

/**
 * Records the number of partitions, once for ever. Writers that find none at the same time share one look, which is
 * some hundred commands.
 * @throws {ConfigError} where there is another one
 */
export function recordShape(redis: Redis, config: Config, entity: string): Promise<void> {
  const records = underWay.getOrInsertComputed(redis, () => new Map());
  const key = `${recordOf(config, entity)} ${config.streams.partitions}`;
  return records.getOrInsertComputed(
    key,
    () => recordOnce(redis, config, entity).finally(() => records.delete(key)),
  );
}

async function recordOnce(redis: Redis, config: Config, entity: string): Promise<void> {
  const shape = shapeOf(config, entity);
  await checkShape(redis, config, entity, { expects: shape });
  // Of one partition, the stream's own settings are the record.
  if (!shape.tagged) return;
  await redis.hsetnx(recordOf(config, entity), "partitions", textOf(shape));
  // Another writer may have been first.
  await checkShape(redis, config, entity, { expects: shape });
}

/** How long a call waits for the end of a repartition, in ms. */
const PATIENCE_MS = 60_000;
/** How often it looks, in ms. */
const LOOK_AGAIN_MS = 100;

/** Looks of waiting calls that are under way, by connection and record. */
const waiting = new WeakMap<Redis, Map<string, Promise<Recorded | null>>>();

/**
 * When a call began to wait.
 * @param since in ms, of `performance.now()`
 */
export const patienceEnds = (since: number): number => since + PATIENCE_MS;

/**
 * What follows for a call that found other partitions than it used: waits while the entity is repartitioned.
 * @param used the names that it has used
 * @param waits whether it found that the entity is being repartitioned, not that it was
 * @param deadline in ms, of `performance.now()`
 * @returns whether it is to be made again, with what the configuration says then
 * @throws {RepartitioningError} after the deadline
 */
export async function awaitShape(
  redis: Redis,
  config: Config,
  entity: string,
  { used, waits, deadline }: { used: Shape; waits: boolean; deadline: number },
): Promise<boolean> {
  for (;;) {
    const found = await sharedRecord(redis, config, entity);
    if (found === null) return false;
    if (found.to === null) {
      if (config.streams.partitions === "auto") learnShape(config, entity, found.shape);
      // Where it is the same again, the repartition was taken back.
      const now = shapeOf(config, entity);
      return sameShape(now, found.shape) && (waits || !sameShape(now, used));
    }
    if (performance.now() >= deadline) {
      throw new RepartitioningError(
        `after ${PATIENCE_MS / 1000} s, ${repartitioning(entity, found)}`,
      );
    }
    await delay(LOOK_AGAIN_MS);
  }
}

/** Calls that wait look at the same time: they share it. */
function sharedRecord(redis: Redis, config: Config, entity: string): Promise<Recorded | null> {
  const looks = waiting.getOrInsertComputed(redis, () => new Map());
  const key = recordOf(config, entity);
  return looks.getOrInsertComputed(
    key,
    () => readShape(redis, config, entity).finally(() => looks.delete(key)),
  );
}

/** How an entity is split in Redis; `null` where nothing was ever written. */
export async function readShape(
  redis: Redis,
  config: Config,
  entity: string,
  lookAgain: boolean = true,
): Promise<Recorded | null> {
  const record = await redis.hget(recordOf(config, entity), "partitions");
  if (record !== null) return recordedIn(record) ?? unreadable(config, entity, record);
  const partitions =
    await (lookAgain ? readOldShape(redis, config, entity) : sharedLook(redis, config, entity));
  return partitions && { shape: partitions, to: null, moving: false };
}

function unreadable(config: Config, entity: string, text: string): never {
  throw new ConfigError(
    `${recordOf(config, entity)} has ${
      JSON.stringify(text.slice(0, 40))
    } for partitions, which this version cannot ` +
      "read: a newer one, or another program, has written it",
  );
}

/** How long a sink's other partitions go by the same look, in ms. */
const LOOK_MS = 1000;

/** Looks of sinks, by entity, and when they began. */
const looks = new WeakMap<Config, Map<string, { at: number; shape: Promise<Shape | null> }>>();

/** All partitions of a sink claim at about the same time, and a look is some hundred commands: they share it. */
function sharedLook(redis: Redis, config: Config, entity: string): Promise<Shape | null> {
  const known = looks.get(config) ??
    new Map<string, { at: number; shape: Promise<Shape | null> }>();
  looks.set(config, known);
  const now = performance.now();
  const last = known.get(entity);
  if (last && now - last.at < LOOK_MS) return last.shape;
  const shape = readOldShape(redis, config, entity);
  known.set(entity, { at: now, shape });
  // The next claim looks for itself; who asked has the error.
  shape.catch(() => known.delete(entity));
  return shape;
}

/** What older versions, or the original project, have written before there was a record. */
async function readOldShape(
  redis: Redis,
  config: Config,
  entity: string,
): Promise<Shape | null> {
  const { streams, settings } = keyFamilies(config.streams);
  const pipeline = redis.pipeline().exists(streams + entity);
  for (let partition = 0; partition < MOST_PARTITIONS; partition++) {
    pipeline.hget(`${settings}{${entity}-${partition}}`, "partitions");
  }
  const replies = (await pipeline.exec()) ?? [];
  const values = replies.map(([error, value]) => {
    // A user for just the configured keys may not ask for others.
    if (error && !error.message.startsWith("NOPERM")) throw error;
    return error ? null : value;
  });
  const split = values.slice(1).find((value) => value !== null);
  const shape = recordedIn(String(split ?? ""))?.shape;
  if (shape !== undefined) return { ...shape, tagged: true };
  return values[0] === 1 ? { partitions: 1, tagged: false } : null;
}

/**
 * Whether a read that was sent just before on the same connection has used the names that hold: what has begun to move
 * since cannot have hidden a document from it.
 * @returns `null` where it has; else what the record says now
 */
export async function otherShape(
  redis: Redis,
  config: Config,
  entity: string,
  used: Shape,
): Promise<Recorded | null> {
  try {
    const record = await redis.hget(recordOf(config, entity), "partitions");
    const found = record === null ? null : recordedIn(record);
    return found === null || sameShape(found.shape, used) && !found.moving ? null : found;
  } catch (error) {
    // Who may not ask has written or read here before there was a record of it.
    if (reasonOf(error).startsWith("NOPERM")) return null;
    throw error;
  }
}
