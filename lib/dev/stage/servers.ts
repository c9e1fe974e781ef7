/**
 * Servers of the stage's own, to be broken: a Redis with a replica, a PostgreSQL, and the network before them.
 * @module
 */

import { randomBytes } from "node:crypto";
import { redisInfo } from "../../config/probe.ts";
import type { ResolvedServers } from "../../config/servers.ts";
import { delay } from "../../core/delay.ts";
import { WriteBehindError } from "../../core/errors.ts";
import { Redis } from "../../redis/client.ts";
import { ServersFolder } from "../servers/folder.ts";
import type { Passwords } from "../servers/passwords.ts";
import { type PostgresServer, startPostgres } from "../servers/postgres.ts";
import { TcpProxy } from "../servers/proxy.ts";
import { type RedisServer, startRedis } from "../servers/redis.ts";

/** Past this, Redis refuses writes: a talk never fills a laptop. */
const MAX_MEMORY = "2gb";
/** How long a replica may take to become the primary, in ms. */
const PROMOTE_MS = 15_000;

/** The configuration of a stage with servers of its own: nothing in the checkout's file can spoil the show. */
const CONFIG = `dummy_data: { perform_write_behind: { insert: true, update: true, delete: true } }
write_behind: { retry_max_ms: 500 }
metrics: { flush_interval_ms: 250 }
`;

/** The servers. What writes and reads goes by proxies, which a promotion points at the new primary. */
export class StageServers implements AsyncDisposable {
  readonly #folder = new ServersFolder("writebehind-stage-");
  /** the configuration file that goes with them */
  readonly configPath: string = this.#folder.next("config") + ".yaml";
  readonly #passwords: Passwords;
  /** for writers, and for the page's own figures */
  #writers!: TcpProxy;
  /** for the sinks: the one that is cut */
  #sinks!: TcpProxy;
  #primary!: RedisServer;
  #replica!: RedisServer;
  #postgres!: PostgresServer;
  #postgresRuns = true;

  private constructor() {
    const fresh = () => randomBytes(16).toString("hex");
    this.#passwords = { redis: fresh(), application: fresh(), owner: fresh() };
  }

  /**
   * Starts all of them.
   * @throws {NoEmbeddedServerError} where there is none for this machine
   */
  static async start(): Promise<StageServers> {
    const servers = new StageServers();
    try {
      await servers.#start();
      return servers;
    } catch (error) {
      await servers[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(): Promise<void> {
    await Deno.writeTextFile(this.configPath, CONFIG);
    const { redis: password } = this.#passwords;
    const redis = async (replicaOf?: RedisServer) =>
      await startRedis({
        dir: this.#folder.next("redis"),
        password,
        replicaOf,
        extraArgs: ["--maxmemory", MAX_MEMORY],
      });
    const both = async () => {
      this.#primary = await redis();
      this.#replica = await redis(this.#primary);
    };
    // Waits for all of them, so that none is still starting while a failure is handled.
    const settled = await Promise.allSettled([both(), this.#startPostgres()]);
    for (const result of settled) if (result.status === "rejected") throw result.reason;
    this.#writers = await TcpProxy.start(this.#primary);
    this.#sinks = await TcpProxy.start(this.#primary);
  }

  async #startPostgres(): Promise<void> {
    // Once it ran, in its folder and on its port again, where clients look for it.
    const { dir = this.#folder.next("postgres"), port } = this.#postgres ?? {};
    this.#postgres = await startPostgres({ dir, port, passwords: this.#passwords });
    this.#postgresRuns = true;
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

  /** Where writers, and what watches, connect to. */
  get addresses(): ResolvedServers {
    return {
      redisUrl: through(this.#writers, this.#primary.url),
      databaseUrl: this.#postgres.url,
      source: { redis: "embedded", database: "embedded" },
    };
  }

  /**
   * Where the sinks connect to: to PostgreSQL directly, since behind a proxy nobody can know at once that a process has
   * ended, and a killed sink would be replaced only when its lease ends.
   */
  get sinksAddresses(): Pick<ResolvedServers, "redisUrl" | "databaseUrl"> {
    return {
      redisUrl: through(this.#sinks, this.#primary.url),
      databaseUrl: this.#postgres.url,
    };
  }

  /** Stops PostgreSQL like a crash. */
  async stopPostgres(): Promise<void> {
    this.#postgresRuns = false;
    await this.#postgres.stop("immediate");
  }

  /** Starts it again; it repairs its data. */
  async startPostgres(): Promise<void> {
    if (!this.#postgresRuns) await this.#startPostgres();
  }

  /** Packets between the sinks and Redis vanish, until `mendNetwork`. */
  cutNetwork(): void {
    this.#sinks.halfOpen();
  }

  /** What was held back arrives. */
  async mendNetwork(): Promise<void> {
    await this.#sinks.heal();
  }

  /**
   * Hands over to the replica, once it has every write: the two change places, and all clients go to the new primary.
   * @throws {WriteBehindError} where it does not become the primary in time
   */
  async promote(): Promise<void> {
    const [from, to] = [this.#primary, this.#replica];
    const client = new Redis(from.url, { maxRetriesPerRequest: 0, retryStrategy: () => null });
    // Without a listener ioredis prints to the console; the call below rejects as well.
    client.on("error", () => {});
    try {
      await client.call("FAILOVER", "TO", to.host, to.port, "TIMEOUT", PROMOTE_MS);
    } finally {
      client.disconnect();
    }
    await this.#until(to, "role:master", "become the primary");
    [this.#primary, this.#replica] = [to, from];
    this.#writers.switchTo(to);
    this.#sinks.switchTo(to);
    await this.#until(from, "master_link_status:up", "follow the new primary");
  }

  async #until({ port }: RedisServer, line: string, what: string): Promise<void> {
    const deadline = Date.now() + PROMOTE_MS;
    while (!(await redisInfo(port, this.#passwords.redis).catch(() => "")).includes(line)) {
      if (Date.now() > deadline) {
        throw new WriteBehindError(`the Redis on port ${port} did not ${what} in time; try again`);
      }
      await delay(20);
    }
  }

  /** Ends all of them, and removes their data. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#writers, this.#sinks].map((proxy) => proxy?.close()));
    // Their data goes too, so nothing has to be shut down in order.
    await this.#folder[Symbol.asyncDispose]();
  }
}

/** The same address by way of a proxy. */
function through(proxy: TcpProxy, address: string): string {
  const url = new URL(address);
  url.port = String(proxy.port);
  return url.href;
}
