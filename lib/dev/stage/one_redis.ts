/**
 * The stage's Redis: one with a replica, by a network that can be cut.
 * @module
 */

import type { OwnServers } from "../servers/own.ts";
import { TcpProxy } from "../servers/proxy.ts";
import type { StageRedis, Told } from "./redis.ts";

/** One Redis with a replica. What writes and reads goes by proxies, which a promotion points at the new primary. */
export class OneRedis implements StageRedis {
  readonly #own: OwnServers;
  /** for writers, and for the page's own figures */
  readonly #writers: TcpProxy;
  /** for the sinks: the one that is cut */
  readonly #sinks: TcpProxy;

  private constructor(own: OwnServers, writers: TcpProxy, sinks: TcpProxy) {
    this.#own = own;
    this.#writers = writers;
    this.#sinks = sinks;
  }

  /** Begins to stand before it. */
  static async start(own: OwnServers): Promise<OneRedis> {
    await using begun = new AsyncDisposableStack();
    const writers = begun.use(await TcpProxy.start(own.primary));
    const sinks = begun.use(await TcpProxy.start(own.primary));
    begun.move();
    return new OneRedis(own, writers, sinks);
  }

  get url(): string {
    return through(this.#writers, this.#own.redisUrl);
  }

  get sinksUrl(): string {
    return through(this.#sinks, this.#own.redisUrl);
  }

  get pair(): { primary: number; replica: number } {
    return { primary: this.#own.primary.port, replica: this.#own.replica.port };
  }

  get canBeCut(): boolean {
    return true;
  }

  cut(): void {
    this.#sinks.halfOpen();
  }

  async mend(): Promise<void> {
    await this.#sinks.heal();
  }

  async promote({ happened, notices }: Told): Promise<void> {
    const own = this.#own;
    const before = own.primary.port;
    happened.add("note", `Redis on port ${before} hands over to its replica`);
    await own.promote((primary) => this.#switchTo(primary));
    happened.add(
      "break",
      `the replica on port ${own.primary.port} is the primary now, ` +
        `and the one on port ${before} its replica`,
      "replica promoted",
    );
    notices.faultIsOver();
  }

  async kill({ happened, notices }: Told): Promise<void> {
    const { port, pid } = this.#own.primary;
    happened.add("break", `kill -9 of Redis on port ${port}, process ${pid}`, "Redis killed");
    await this.#own.killPrimary((primary) => {
      this.#switchTo(primary);
      happened.add(
        "mend",
        `the replica on port ${primary.port} takes its place, with what it has received`,
        "replica took over",
      );
      notices.faultIsOver();
    });
    happened.add("note", `Redis on port ${port} is back, as the replica`);
  }

  #switchTo(primary: { host: string; port: number }): void {
    this.#writers.switchTo(primary);
    this.#sinks.switchTo(primary);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#writers, this.#sinks].map((proxy) => proxy.close()));
  }
}

/** The same address by way of a proxy. */
function through(proxy: TcpProxy, address: string): string {
  const url = new URL(address);
  url.port = String(proxy.port);
  return url.href;
}
