/** A Redis Cluster of one test file, and what is done to it. */

import {
  askNode,
  meet,
  nodeId,
  RedisCluster,
  startCluster,
  startClusterNode,
} from "writebehind/dev/servers/cluster.ts";
import type { RedisServer } from "writebehind/dev/servers/redis.ts";
import { slotOf } from "writebehind/redis/slots.ts";
import { type Pipeline, pipelineOn } from "./pipeline.ts";
import { testFolder, type TestServers, waitFor } from "./servers.ts";

/** Three masters and a replica of each. */
export class TestCluster extends RedisCluster {
  static async start(): Promise<TestCluster> {
    return new TestCluster((await startCluster({ dir: testFolder("cluster") })).nodes);
  }

  /** The section `redis` that names it: by one node, which tells of the others. */
  get config() {
    return { cluster: this.nodes.map(({ host, port }) => ({ host, port })) };
  }

  /**
   * A pipeline over the cluster, emptied, and a PostgreSQL.
   * @param overrides win over the section `redis` that names the cluster
   */
  async pipeline(
    postgres: TestServers["postgres"],
    overrides: Parameters<typeof pipelineOn>[1] = {},
  ): Promise<Pipeline> {
    await this.empty();
    const servers = { redis: this.nodes[0]!, postgres, [Symbol.asyncDispose]: async () => {} };
    return await pipelineOn(servers, { redis: this.config, ...overrides });
  }

  /** A master other than this one. */
  async masterBeside({ port }: RedisServer): Promise<RedisServer> {
    for (const node of this.nodes) {
      const [role] = await askNode(node, "ROLE") as [string];
      if (role === "master" && node.port !== port) return node;
    }
    throw new Error(`there is no master beside ${port}`);
  }

  /** Waits until all are up, and say that the cluster is whole. Nothing moves then. */
  override async settled(): Promise<void> {
    await super.settled();
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
}
