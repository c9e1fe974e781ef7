/**
 * The number of partitions of an entity. The first write fixes it: with another one, documents and events would go to
 * other keys, and nobody would drain or compare the old ones.
 *
 * One hash an entity records it. It is asked for by clients, since in a cluster a script sees its own slot only.
 * @module
 */

import { keyFamilies } from "../config/key_names.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { ConfigError } from "../core/errors.ts";
import type { Redis } from "./client.ts";

/** The most partitions that a configuration may ask for. */
const MOST_PARTITIONS = 256;

const recordOf = ({ streams }: Config, entity: string) => keyFamilies(streams).settings + entity;

/**
 * Sees that an entity has as many partitions in Redis as in the configuration.
 * @param lookAgain false goes by a look at the partitions of up to a second ago, for the claims of one sink
 * @throws {ConfigError} where it has another number of them
 */
export async function checkShape(
  redis: Redis,
  config: Config,
  entity: string,
  lookAgain: boolean = true,
): Promise<void> {
  entityConfig(config, entity);
  const wanted = config.streams.partitions;
  const found = await readShape(redis, config, entity, lookAgain);
  if (found === null || found === wanted) return;
  throw new ConfigError(
    `streams.partitions: expected ${found}, as the first write of ${entity} has fixed it, got ${wanted}; use ${found}`,
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
  const records = underWay.get(redis) ?? new Map<string, Promise<void>>();
  underWay.set(redis, records);
  const key = `${recordOf(config, entity)} ${config.streams.partitions}`;
  const record = records.get(key) ??
    recordOnce(redis, config, entity).finally(() => records.delete(key));
  records.set(key, record);
  return record;
}

async function recordOnce(redis: Redis, config: Config, entity: string): Promise<void> {
  await checkShape(redis, config, entity);
  const { partitions } = config.streams;
  // Of one partition, the stream's own settings are the record.
  if (partitions === 1) return;
  await redis.hsetnx(recordOf(config, entity), "partitions", partitions);
  // Another writer may have been first.
  await checkShape(redis, config, entity);
}

/** The number of partitions that an entity has in Redis; `null` where nothing was ever written. */
async function readShape(
  redis: Redis,
  config: Config,
  entity: string,
  lookAgain: boolean,
): Promise<number | null> {
  const record = await redis.hget(recordOf(config, entity), "partitions");
  if (record !== null) return Number(record);
  return await (lookAgain
    ? readOldShape(redis, config, entity)
    : sharedLook(redis, config, entity));
}

/** How long a sink's other partitions go by the same look, in ms. */
const LOOK_MS = 1000;

/** Looks of sinks, by entity, and when they began. */
const looks = new WeakMap<Config, Map<string, { at: number; shape: Promise<number | null> }>>();

/** All partitions of a sink claim at about the same time, and a look is some hundred commands: they share it. */
function sharedLook(redis: Redis, config: Config, entity: string): Promise<number | null> {
  const known = looks.get(config) ??
    new Map<string, { at: number; shape: Promise<number | null> }>();
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
): Promise<number | null> {
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
  if (split !== undefined) return Number(split);
  return values[0] === 1 ? 1 : null;
}
