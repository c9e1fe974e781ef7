/**
 * Connections to what a configuration names: one Redis, the primary of sentinels, or a cluster.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import type { Config } from "../config/load.ts";
import { ConfigError, ConnectionError } from "../core/errors.ts";
import { logEvents } from "../core/log.ts";
import { ClusterConnection } from "./cluster.ts";
import { type ConnectionOptions, openRedis, type RedisConnection } from "./connection.ts";
import { explainRedis } from "./explain.ts";
import { type PartitionKeys, partitionKeys } from "./keys.ts";
import { checkServer } from "./requirements.ts";
import { checkCached, checkShape } from "./shape.ts";
import { ClusterError, slotOf, SlotTable } from "./slots.ts";

/**
 * A connection for a sink, to the server that has a partition now. Once lost it stays closed, so that its owner notices,
 * and checks which server is behind the address now.
 */
export async function openReader(
  config: Config,
  { stream }: PartitionKeys,
): Promise<RedisConnection> {
  const options = { retryStrategy: () => null };
  if (config.redis.cluster === null) return await openRedis(config, options);
  const table = SlotTable.of(config);
  await table.refresh();
  const node = table.ownerOf(slotOf(stream));
  if (node === undefined) {
    throw new ClusterError(`no node of the cluster has the slot of ${stream}`);
  }
  return await openRedis(config, options, node);
}

/**
 * Connects to Redis and checks that it can do what the configuration asks.
 * @param options more options of ioredis; they win over ours
 * @throws {ConnectionError} with the address and the reason: refused, authentication, older than 7.2,
 * no RedisJSON or RediSearch, commands that the user may not run, a `maxmemory-policy` that may evict a stream
 * @throws {ConfigError} for the option `keyPrefix`, or where `zero_data_loss` asks for what the server cannot give, with
 * the key and a value that works
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * console.log(await redis.xlen("stream:session"));
 * ```
 */
export async function connectRedis(
  config: Config,
  given: ConnectionOptions = {},
): Promise<RedisConnection> {
  checkArguments("connectRedis", { config, options: given });
  const { rights = "all", looks = false, ...options } = given;
  if (options.keyPrefix) {
    throw new ConfigError(
      `Cannot use the option keyPrefix ${
        JSON.stringify(options.keyPrefix)
      }: sinks and scripts would look for other ` +
        "keys; name entities and streams.prefix in the configuration instead",
    );
  }
  const redis = config.redis.cluster === null
    ? await openRedis(config, options)
    : await ClusterConnection.open(config, options, looks);
  try {
    const checkShapes = async () => {
      for (const { name } of config.entities) {
        await checkShape(redis, config, name, { meanwhile: "yes" });
      }
    };
    const isFixed = config.streams.partitions !== "auto";
    const learnShapes = isFixed ? () => Promise.resolve() : checkShapes;
    const { servers } = redis;
    const there = looks ? servers.filter(({ sends }) => sends) : servers;
    for (const server of there) await checkServer(server, config, rights, learnShapes);
    // What a node knows that is away, who looks on does without.
    if (there.length === servers.length) {
      if (isFixed) await checkShapes();
      for (const { name } of config.entities) {
        await checkCached(redis, partitionKeys(config, name, 0));
      }
    }
    logEvents("redis", redis.events);
    return redis;
  } catch (error) {
    redis.disconnect();
    if (error instanceof ConfigError || error instanceof ConnectionError) throw error;
    throw new ConnectionError(
      `Cannot use Redis at ${redis.address}: ${explainRedis(error)}`,
      { cause: error },
    );
  }
}
