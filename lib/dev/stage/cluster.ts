/**
 * The stage's Redis: a cluster, by a network that can be cut.
 * @module
 */

import type { RedisCluster } from "../servers/cluster.ts";
import { clusterUrl } from "../servers/own.ts";
import { TcpProxy } from "../servers/proxy.ts";
import type { RedisServer } from "../servers/redis.ts";
import type { StageRedis, Told } from "./redis.ts";

/**
 * Arguments of the nodes: they tell clients ports alone, and each goes on at the host by which it came. So the sinks,
 * which come by another host, stay with the proxies there.
 */
export const CLUSTER_ARGS = ["--cluster-preferred-endpoint-type", "unknown-endpoint"];
/** The host of the proxies: loopback too, but another address than that of the nodes. Not every system has it. */
const SINKS_HOST = "127.0.0.2";

/** Masters, and a replica of each. */
export class StageCluster implements StageRedis {
  readonly pair = null;
  readonly #cluster: RedisCluster;
  readonly #streams: readonly string[];
  readonly #host: string;
  /** by their port, which is that of the node; none where the host is not there */
  readonly #proxies = new Map<number, TcpProxy>();

  private constructor(cluster: RedisCluster, streams: readonly string[], host: string) {
    this.#cluster = cluster;
    this.#streams = streams;
    this.#host = host;
  }

  /**
   * Begins to stand before it.
   * @param streams of the partitions
   * @param host of the proxies
   */
  static async start(
    cluster: RedisCluster,
    streams: readonly string[],
    host: string = SINKS_HOST,
  ): Promise<StageCluster> {
    const stage = new StageCluster(cluster, streams, host);
    if (!isHere(host)) return stage;
    try {
      for (const node of cluster.nodes) await stage.#standBefore(node);
      return stage;
    } catch (error) {
      await stage[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #standBefore(node: RedisServer): Promise<void> {
    const { port } = node;
    if (this.#proxies.has(port)) return;
    this.#proxies.set(port, await TcpProxy.start(node, { host: this.#host, port }));
  }

  get url(): string {
    return clusterUrl(this.#cluster);
  }

  get sinksUrl(): string {
    return clusterUrl(this.#cluster, this.canBeCut ? this.#host : undefined);
  }

  get canBeCut(): boolean {
    return this.#proxies.size > 0;
  }

  cut(): void {
    for (const proxy of this.#proxies.values()) proxy.halfOpen();
  }

  async mend(): Promise<void> {
    await Promise.all([...this.#proxies.values()].map((proxy) => proxy.heal()));
  }

  /** The master that has the most partitions: its first stream, and how many it has, for people. */
  async #busiest(): Promise<{ master: RedisServer; stream: string; has: string }> {
    await this.#cluster.settled();
    const masters = await this.#cluster.mastersOf(this.#streams);
    const parts = Map.groupBy(this.#streams.keys(), (index) => masters[index]!);
    const [[master, indexes]] = [...parts].sort(([, a], [, b]) => b.length - a.length) as [
      [RedisServer, number[]],
    ];
    const has = `${indexes.length} of ${this.#streams.length} partitions`;
    return { master, stream: this.#streams[indexes[0]!]!, has };
  }

  async promote({ happened, notices }: Told): Promise<void> {
    const { master, stream, has } = await this.#busiest();
    const { port } = master;
    happened.add("note", `the master on port ${port}, with ${has}, hands over to its replica`);
    const now = await this.#cluster.handOver(stream, master);
    happened.add(
      "break",
      `the replica on port ${now.port} is the master of ${has} now, ` +
        `and the one on port ${port} its replica`,
      "replica promoted",
    );
    notices.faultIsOver();
    await this.#cluster.settled();
  }

  async kill({ happened, notices }: Told): Promise<void> {
    const { master, stream, has } = await this.#busiest();
    const { port, pid } = master;
    happened.add(
      "break",
      `kill -9 of the master on port ${port}, process ${pid}, with ${has}`,
      "master killed",
    );
    await master.kill();
    const now = await this.#cluster.failedOver(stream, master);
    happened.add(
      "mend",
      `the replica on port ${now.port} takes its place, with what it has received`,
      "replica took over",
    );
    notices.faultIsOver();
    const back = await this.#cluster.restart(master);
    if (this.canBeCut) await this.#standBefore(back);
    await this.#cluster.settled();
    happened.add("note", `the node on port ${back.port} is back, as the replica`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#proxies.values()].map((proxy) => proxy.close()));
    this.#proxies.clear();
  }
}

/** Whether an address is one of this machine's. */
function isHere(hostname: string): boolean {
  try {
    using _ = Deno.listen({ hostname, port: 0 });
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.AddrNotAvailable) return false;
    throw error;
  }
}
