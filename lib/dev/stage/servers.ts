/**
 * The stage's servers: its own, with a network before Redis that can be cut.
 * @module
 */

import { type Config, configWith, loadConfig } from "../../config/load.ts";
import { type ResolvedServers, serverOverrides } from "../../config/servers.ts";
import { CLUSTER_PARTITIONS } from "../../config/shapes.ts";
import { allPartitions } from "../../redis/keys.ts";
import { OwnServers } from "../servers/own.ts";
import { CLUSTER_ARGS, StageCluster } from "./cluster.ts";
import { OneRedis } from "./one_redis.ts";
import type { StageRedis } from "./redis.ts";

/** Past this, Redis refuses writes: a talk never fills a laptop. In a cluster, each node has its part of it. */
const MAX_MEMORY_MB = 2048;
const MASTERS = 3;

/** The configuration of a stage with servers of its own: nothing in the checkout's file can spoil the show. */
const CONFIG = `dummy_data: { perform_write_behind: { insert: true, update: true, delete: true } }
write_behind: { retry_max_ms: 500 }
metrics: { flush_interval_ms: 250 }
`;
const OF_CLUSTER = `streams: { partitions: ${CLUSTER_PARTITIONS} }
`;

/** The servers. */
export class StageServers implements AsyncDisposable {
  readonly own: OwnServers;
  readonly redis: StageRedis;
  /** the configuration file that goes with them */
  readonly configPath: string;

  private constructor(own: OwnServers, redis: StageRedis, configPath: string) {
    this.own = own;
    this.redis = redis;
    this.configPath = configPath;
  }

  /**
   * Starts all of them.
   * @param options.cluster whether Redis is a cluster. @default {false}
   * @param options.entity whose partitions it has
   * @throws {NoEmbeddedServerError} where there is none for this machine
   */
  static async start(
    { cluster = false, entity }: { cluster?: boolean | undefined; entity: string },
  ): Promise<StageServers> {
    await using begun = new AsyncDisposableStack();
    const megabytes = Math.floor(MAX_MEMORY_MB / (cluster ? MASTERS : 1));
    const redisArgs = ["--maxmemory", `${megabytes}mb`, ...cluster ? CLUSTER_ARGS : []];
    const own = begun.use(await OwnServers.start({ redisArgs, cluster }));
    const configPath = `${own.path("config")}.yaml`;
    await Deno.writeTextFile(configPath, CONFIG + (cluster ? OF_CLUSTER : ""));
    const config = configWith(await loadConfig(configPath), serverOverrides(own));
    const streams = allPartitions(config, entity).map(({ stream }) => stream);
    const redis = begun.use(
      own.cluster ? await StageCluster.start(own.cluster, streams) : await OneRedis.start(own),
    );
    begun.move();
    return new StageServers(own, redis, configPath);
  }

  /** Where writers, and what watches, connect to. */
  get addresses(): ResolvedServers {
    const { databaseUrl, source } = this.own;
    return { redisUrl: this.redis.url, databaseUrl, source };
  }

  /** The configuration of writers, and of what watches. */
  async config(): Promise<Config> {
    return configWith(await loadConfig(this.configPath), serverOverrides(this.addresses));
  }

  /**
   * Where the sinks connect to: to PostgreSQL directly, since behind a proxy nobody can know at once that a process has
   * ended, and a killed sink would be replaced only when its lease ends.
   */
  get sinksAddresses(): Pick<ResolvedServers, "redisUrl" | "databaseUrl"> {
    return { redisUrl: this.redis.sinksUrl, databaseUrl: this.own.databaseUrl };
  }

  /** Ends all of them, and removes their data. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.redis[Symbol.asyncDispose]();
    await this.own[Symbol.asyncDispose]();
  }
}
