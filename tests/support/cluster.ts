/** A Redis Cluster of one test file, and what is done to it. */

import {
  askNode,
  meet,
  nodeId,
  type RedisCluster,
  startCluster,
  startClusterNode,
  whole,
} from "writebehind/dev/servers/cluster.ts";
import type { RedisServer } from "writebehind/dev/servers/redis.ts";
import { slotOf } from "writebehind/redis/slots.ts";
import { testFolder, waitFor } from "./servers.ts";

/** What CLUSTER SLOTS answers: from, to, and their master. */
type Slots = [from: number, to: number, master: [host: string, port: number]][];

/** Three masters and a replica of each. */
export class TestCluster implements AsyncDisposable {
  #cluster: RedisCluster;
  /** its servers; one that was started again stands in the place of the one before */
  readonly nodes: RedisServer[];

  private constructor(cluster: RedisCluster) {
    this.#cluster = cluster;
    this.nodes = [...cluster.nodes];
  }

  static async start(): Promise<TestCluster> {
    return new TestCluster(await startCluster({ dir: testFolder("cluster") }));
  }

  /** The section `redis` that names it: by one node, which tells of the others. */
  get config() {
    return { cluster: this.nodes.map(({ host, port }) => ({ host, port })) };
  }

  /** The master of a key's slot, by the word of most nodes. */
  async masterOf(key: string): Promise<RedisServer> {
    const slot = slotOf(key);
    const votes = new Map<number, number>();
    await Promise.all(this.nodes.map(async (node) => {
      // One that is away, or hangs, has no vote.
      const ranges = await askNode(node, "CLUSTER", "SLOTS").catch(() => []) as Slots;
      const port = ranges.find(([from, to]) => from <= slot && slot <= to)?.[2][1];
      if (port !== undefined) votes.set(port, (votes.get(port) ?? 0) + 1);
    }));
    const [port] = [...votes].sort(([, a], [, b]) => b - a)[0] ?? [];
    return this.nodes.find((node) => node.port === port)!;
  }

  /** A master other than this one. */
  async masterBeside({ port }: RedisServer): Promise<RedisServer> {
    for (const node of this.nodes) {
      const [role] = await askNode(node, "ROLE") as [string];
      if (role === "master" && node.port !== port) return node;
    }
    throw new Error(`there is no master beside ${port}`);
  }

  /** A replica of a master. */
  async replicaOf({ port }: RedisServer): Promise<RedisServer> {
    for (const node of this.nodes) {
      const role = await askNode(node, "ROLE").catch(() => []) as [string?, string?, number?];
      if (role[0] === "slave" && Number(role[2]) === port) return node;
    }
    throw new Error(`nobody is a replica of ${port}`);
  }

  /** Waits until all are up, and say that the cluster is whole. Nothing moves then. */
  async settled(): Promise<void> {
    await whole(this.nodes, this.nodes.length);
    for (const node of this.nodes) {
      const nodes = String(await askNode(node, "CLUSTER", "NODES"));
      const own = nodes.split("\n").find((line) => /\bmyself,master\b/.test(line)) ?? "";
      // A master that a replica has replaced within a move still has the mark when it is one again.
      for (const [, slot] of own.matchAll(/\[(\d+)-[<>]-/g)) {
        await askNode(node, "CLUSTER", "SETSLOT", slot!, "STABLE");
      }
    }
  }

  /** Empties all nodes. */
  async empty(): Promise<void> {
    await this.settled();
    for (const node of this.nodes) {
      const [role] = await askNode(node, "ROLE") as [string];
      if (role === "master") await askNode(node, "FLUSHALL");
    }
  }

  /** Starts a server that was killed again, on its port and with its data. */
  async restart({ dir, port }: RedisServer): Promise<void> {
    const at = this.nodes.findIndex((node) => node.port === port);
    this.nodes[at] = await startClusterNode({ dir, port });
  }

  /** Adds a master without slots. */
  async add(): Promise<RedisServer> {
    const node = await startClusterNode({ dir: testFolder("cluster-node") });
    await meet(this.nodes[0]!, node);
    this.nodes.push(node);
    await this.settled();
    return node;
  }

  /**
   * Moves the slot of a key to another master, key by key.
   * @param between called after each key but the last
   */
  async move(key: string, to: RedisServer, between?: () => Promise<unknown>): Promise<void> {
    const slot = slotOf(key);
    const from = await this.masterOf(key);
    await askNode(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", await nodeId(from));
    await askNode(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", await nodeId(to));
    for (;;) {
      const keys = await askNode(from, "CLUSTER", "GETKEYSINSLOT", slot, 10) as string[];
      if (keys.length === 0) break;
      for (const one of keys) {
        await askNode(from, "MIGRATE", to.host, to.port, one, 0, 5000);
        await between?.();
      }
    }
    const owner = await nodeId(to);
    await askNode(to, "CLUSTER", "SETSLOT", slot, "NODE", owner);
    // Where it was the last slot of a master, that one is a replica now.
    await askNode(from, "CLUSTER", "SETSLOT", slot, "NODE", owner).catch(() => {});
    await waitFor(async () => (await this.masterOf(key)).port === to.port, {
      what: "all nodes to know where the slot is",
      deadlineMs: 30_000,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#cluster.nodes, ...this.nodes].map((node) => node.stop()));
  }
}
