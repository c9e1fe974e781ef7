/**
 * The stage's servers: its own, with a network before Redis that can be cut.
 * @module
 */

import { type Config, configWith, loadConfig } from "../../config/load.ts";
import { type ResolvedServers, serverOverrides } from "../../config/servers.ts";
import { OwnServers } from "../servers/own.ts";
import { TcpProxy } from "../servers/proxy.ts";

/** Past this, Redis refuses writes: a talk never fills a laptop. */
const MAX_MEMORY = "2gb";

/** The configuration of a stage with servers of its own: nothing in the checkout's file can spoil the show. */
const CONFIG = `dummy_data: { perform_write_behind: { insert: true, update: true, delete: true } }
write_behind: { retry_max_ms: 500 }
metrics: { flush_interval_ms: 250 }
`;

/** The servers. What writes and reads goes by proxies, which a promotion points at the new primary. */
export class StageServers implements AsyncDisposable {
  readonly own: OwnServers;
  /** the configuration file that goes with them */
  readonly configPath: string;
  /** for writers, and for the page's own figures */
  readonly #writers: TcpProxy;
  /** for the sinks: the one that is cut */
  readonly #sinks: TcpProxy;

  private constructor(own: OwnServers, configPath: string, writers: TcpProxy, sinks: TcpProxy) {
    this.own = own;
    this.configPath = configPath;
    this.#writers = writers;
    this.#sinks = sinks;
  }

  /**
   * Starts all of them.
   * @throws {NoEmbeddedServerError} where there is none for this machine
   */
  static async start(): Promise<StageServers> {
    await using begun = new AsyncDisposableStack();
    const own = begun.use(await OwnServers.start({ redisArgs: ["--maxmemory", MAX_MEMORY] }));
    const configPath = `${own.path("config")}.yaml`;
    await Deno.writeTextFile(configPath, CONFIG);
    const writers = begun.use(await TcpProxy.start(own.primary));
    const sinks = begun.use(await TcpProxy.start(own.primary));
    begun.move();
    return new StageServers(own, configPath, writers, sinks);
  }

  /** Where writers, and what watches, connect to. */
  get addresses(): ResolvedServers {
    const { redisUrl, databaseUrl, source } = this.own;
    return { redisUrl: through(this.#writers, redisUrl), databaseUrl, source };
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
    const { redisUrl, databaseUrl } = this.own;
    return { redisUrl: through(this.#sinks, redisUrl), databaseUrl };
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
   * Hands over to the replica: all clients go to the new primary.
   * @throws {WriteBehindError} where it does not become the primary in time
   */
  promote(): Promise<void> {
    return this.own.promote((primary) => this.#switchTo(primary));
  }

  /**
   * Kills Redis; its replica takes its place, and all clients go there.
   * @param onHandedOver called once it takes writes
   * @throws {WriteBehindError} where it does not become the primary in time
   */
  killPrimary(onHandedOver: () => void): Promise<void> {
    return this.own.killPrimary((primary) => {
      this.#switchTo(primary);
      onHandedOver();
    });
  }

  #switchTo(primary: { host: string; port: number }): void {
    this.#writers.switchTo(primary);
    this.#sinks.switchTo(primary);
  }

  /** Ends all of them, and removes their data. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#writers, this.#sinks].map((proxy) => proxy.close()));
    await this.own[Symbol.asyncDispose]();
  }
}

/** The same address by way of a proxy. */
function through(proxy: TcpProxy, address: string): string {
  const url = new URL(address);
  url.port = String(proxy.port);
  return url.href;
}
