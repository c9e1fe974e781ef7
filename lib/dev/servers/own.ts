/**
 * Servers of one's own, to be broken: nobody else's data is near, and they are gone with the process.
 * @module
 */

import { randomBytes } from "node:crypto";
import { parseRedisUrl, redisUrlOf } from "../../config/redis_address.ts";
import { redisInfo } from "../../config/probe.ts";
import { type ResolvedServers, resolveServers, type ServerSettings } from "../../config/servers.ts";
import { delay } from "../../core/delay.ts";
import { WriteBehindError } from "../../core/errors.ts";
import { Redis } from "../../redis/client.ts";
import { NoEmbeddedServerError } from "./binaries.ts";
import { type RedisCluster, startCluster } from "./cluster.ts";
import { ServersFolder } from "./folder.ts";
import type { Progress } from "./lock.ts";
import type { Passwords } from "./passwords.ts";
import { type PostgresServer, startPostgres } from "./postgres.ts";
import { type RedisServer, startRedis } from "./redis.ts";

/** Servers, and what may be done to them. */
export interface BreakableServers extends ResolvedServers, AsyncDisposable {
  /**
   * Stops PostgreSQL like a crash.
   * @returns whether it did: a server that is not ours is left alone
   */
  stopPostgres(): Promise<boolean>;
  /** Starts it again, on its port, with its data. */
  startPostgres(): Promise<void>;
  /** The address of PostgreSQL's owner, a superuser; undefined for servers that are not ours. Never to be shown. */
  readonly ownerUrl: string | undefined;
}

/** Options of {@linkcode OwnServers.start}. */
export interface OwnServersOptions {
  onProgress?: Progress;
  /** arguments of `redis-server` that win over ours */
  redisArgs?: readonly string[];
  /** Whether Redis has one; what is measured without is not slowed by it. @default {true} */
  replica?: boolean | undefined;
  /** A cluster of masters and their replicas in its place. @default {false} */
  cluster?: boolean;
}

/** How long a replica may take to become the primary, in ms. */
const PROMOTE_MS = 15_000;

/** A Redis with a replica, or a cluster, and a PostgreSQL. */
export class OwnServers implements BreakableServers {
  readonly source = { redis: "embedded", database: "embedded" } as const;
  readonly #folder = new ServersFolder("writebehind-own-");
  readonly #passwords: Passwords;
  readonly #options: OwnServersOptions;
  #primary!: RedisServer;
  #replica!: RedisServer;
  #cluster: RedisCluster | undefined;
  #postgres!: PostgresServer;
  #postgresRuns = false;

  private constructor(options: OwnServersOptions) {
    const fresh = () => randomBytes(16).toString("hex");
    this.#passwords = { redis: fresh(), application: fresh(), owner: fresh() };
    this.#options = options;
  }

  /**
   * Starts all of them, empty. Disposing of them removes their data; where the process ends without that, they end as
   * well.
   * @throws {NoEmbeddedServerError} where there is none for this machine
   */
  static async start(options: OwnServersOptions = {}): Promise<OwnServers> {
    const servers = new OwnServers(options);
    try {
      const starting = [servers.#startAllRedis(), servers.startPostgres()];
      // Waits for all of them, so that none is still starting while a failure is handled.
      for (const result of await Promise.allSettled(starting)) {
        if (result.status === "rejected") throw result.reason;
      }
      return servers;
    } catch (error) {
      await servers[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Where nothing is there yet, of the servers' own folder. */
  path(kind: string): string {
    return this.#folder.next(kind);
  }

  async #startAllRedis(): Promise<void> {
    const { cluster = false, replica = true, redisArgs: extraArgs } = this.#options;
    if (cluster) {
      const { redis: password } = this.#passwords;
      this.#cluster = await startCluster({ dir: this.path("cluster"), password, extraArgs });
      return;
    }
    this.#primary = await this.#startRedis("Redis");
    if (!replica) return;
    this.#replica = await this.#startRedis("Redis replica", this.#primary);
  }

  /** @param before one that has ended: it starts again, in its folder and on its port */
  #startRedis(title: string, replicaOf?: RedisServer, before?: RedisServer): Promise<RedisServer> {
    const { redis: password } = this.#passwords;
    const { redisArgs: extraArgs } = this.#options;
    const { dir = this.#folder.next("redis"), port } = before ?? {};
    return this.#started(title, startRedis({ dir, port, password, replicaOf, extraArgs }));
  }

  async startPostgres(): Promise<void> {
    if (this.#postgresRuns) return;
    // Once it ran, in its folder and on its port again, where clients look for it.
    const { dir = this.#folder.next("postgres"), port } = this.#postgres ?? {};
    const starting = startPostgres({ dir, port, passwords: this.#passwords });
    this.#postgres = await this.#started("PostgreSQL", starting);
    this.#postgresRuns = true;
  }

  async #started<Server extends RedisServer | PostgresServer>(
    title: string,
    starting: Promise<Server>,
  ): Promise<Server> {
    const since = performance.now();
    const server = await starting;
    const seconds = ((performance.now() - since) / 1000).toFixed(1);
    this.#options.onProgress?.(`${title} started on ${server.host}:${server.port} in ${seconds} s`);
    return server;
  }

  /** The cluster, where there is one, which then has no primary. */
  get cluster(): RedisCluster | undefined {
    return this.#cluster;
  }

  /** The primary now. */
  get primary(): RedisServer {
    return this.#primary;
  }

  /** Its replica now. */
  get replica(): RedisServer {
    return this.#replica;
  }

  get postgres(): PostgresServer {
    return this.#postgres;
  }

  /** Whether PostgreSQL was not stopped. */
  get postgresRuns(): boolean {
    return this.#postgresRuns;
  }

  /** The address of the primary now, or of all nodes. */
  get redisUrl(): string {
    return this.#cluster ? clusterUrl(this.#cluster) : this.#primary.url;
  }

  get databaseUrl(): string {
    return this.#postgres.url;
  }

  get ownerUrl(): string {
    return this.#postgres.ownerUrl;
  }

  async stopPostgres(): Promise<boolean> {
    this.#postgresRuns = false;
    await this.#postgres.stop("immediate");
    return true;
  }

  /**
   * Hands over to the replica, once it has every write: the two change places.
   * @param onHandedOver called once it takes writes, so that clients can be sent there
   * @throws {WriteBehindError} where it does not become the primary in time
   */
  async promote(onHandedOver: (primary: RedisServer) => void = () => {}): Promise<void> {
    const [from, to] = [this.#primary, this.#replica];
    await order(from, "FAILOVER", "TO", to.host, to.port, "TIMEOUT", PROMOTE_MS);
    await this.#until(to, "role:master", "become the primary");
    [this.#primary, this.#replica] = [to, from];
    onHandedOver(to);
    await this.#until(from, "master_link_status:up", "follow the new primary");
  }

  /**
   * Kills the primary, as a power cut would: its replica takes its place, without what it has not received yet. The
   * killed one comes back as the replica.
   * @param onHandedOver called once the new one takes writes
   * @throws {WriteBehindError} where that does not become the primary in time
   */
  async killPrimary(onHandedOver: (primary: RedisServer) => void = () => {}): Promise<void> {
    const [from, to] = [this.#primary, this.#replica];
    await from.kill();
    await order(to, "REPLICAOF", "NO", "ONE");
    await this.#until(to, "role:master", "become the primary");
    [this.#primary, this.#replica] = [to, from];
    onHandedOver(to);
    this.#replica = await this.#startRedis("Redis replica", to, from);
  }

  async #until({ port }: RedisServer, line: string, what: string): Promise<void> {
    const deadline = performance.now() + PROMOTE_MS;
    // One that does not answer yet is asked again.
    while (!(await redisInfo(port, this.#passwords.redis).catch(() => "")).includes(line)) {
      if (performance.now() > deadline) {
        throw new WriteBehindError(`the Redis on port ${port} did not ${what} in time; try again`);
      }
      await delay(20);
    }
  }

  /** Ends all of them: their data goes too, so nothing has to be shut down in order. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#folder[Symbol.asyncDispose]();
  }
}

/**
 * The address of a cluster, by all of its nodes.
 * @param host in place of their own
 */
export function clusterUrl({ nodes }: Pick<RedisCluster, "nodes">, host?: string): string {
  const cluster = nodes.map((node) => ({ host: host ?? node.host, port: node.port }));
  return redisUrlOf({ ...parseRedisUrl("a node's address", nodes[0]!.url), cluster });
}

/** Tells a Redis to do something. */
async function order(server: RedisServer, ...command: [string, ...(string | number)[]]) {
  const client = new Redis(server.url, { maxRetriesPerRequest: 0, retryStrategy: () => null });
  // Without a listener ioredis prints to the console; the call rejects as well.
  client.on("error", () => {});
  try {
    await client.call(...command);
  } finally {
    client.disconnect();
  }
}

/**
 * Starts {@linkcode OwnServers}. Where no embedded servers exist for this machine, the servers are those that every
 * command uses, and nothing of them is stopped.
 * @throws {ConfigError} where there are neither
 */
export async function startOwnServers(
  { config, onProgress = () => {}, replica }: OwnServersOptions & { config: ServerSettings },
): Promise<BreakableServers> {
  try {
    return await OwnServers.start({ onProgress, replica });
  } catch (error) {
    if (!(error instanceof NoEmbeddedServerError)) throw error;
    onProgress(`no servers of one's own exist here, so nothing can be stopped: ${error.message}`);
  }
  return {
    ...await resolveServers(config),
    ownerUrl: undefined,
    stopPostgres: () => Promise.resolve(false),
    startPostgres: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
