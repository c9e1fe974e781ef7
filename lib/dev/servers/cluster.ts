/** A Redis Cluster of embedded servers: masters that share the slots, and a replica of each. */

import { join } from "node:path";
import { Redis } from "ioredis";
import { delay } from "../../core/delay.ts";
import { asError } from "../../core/errors.ts";
import { slotOf, SLOTS } from "../../redis/slots.ts";
import { freePort } from "./processes.ts";
import { type RedisOptions, type RedisServer, startRedis } from "./redis.ts";

/** How long a cluster may take to be ready, in ms. */
const READY_MS = 60_000;
/** How long an answer may take, in ms. */
const ANSWER_MS = 5000;
/** After so long without a word, a node is taken for dead by the others, in ms. */
const NODE_TIMEOUT_MS = 2000;
/** A master that was elected and is believed by nobody takes a newer epoch after so long, in ms. */
const DISBELIEVED_MS = 10_000;
/** A replica that does not catch up with its master within 5 s gives up, and is told again after so long, in ms. */
const FAILOVER_MS = 6000;

/** What each server of a cluster is started with. */
type NodeOptions = Pick<RedisOptions, "password" | "extraArgs">;

/** Options of {@linkcode startCluster}. */
export interface ClusterOptions extends NodeOptions {
  /** The folder in which each server has its own. */
  dir: string;
  /** Masters, each with a part of the slots. @default {3} */
  masters?: number;
  /** Replicas of each master. @default {1} */
  replicas?: number;
}

/** What CLUSTER SLOTS answers: from, to, and their master. */
type Slots = [from: number, to: number, master: [host: string | null, port: number]][];

/** The slots by the word of a node; none where it is away, or hangs. */
const slotsBy = (node: RedisServer): Promise<Slots> =>
  askNode(node, "CLUSTER", "SLOTS").catch(() => []) as Promise<Slots>; // then it has no vote

const portWith = (slot: number, ranges: Slots): number | undefined =>
  ranges.find(([from, to]) => from <= slot && slot <= to)?.[2][1];

/** A cluster that this project started. */
export class RedisCluster implements AsyncDisposable {
  /** Its servers; one that was started again stands in the place of the one before. */
  readonly nodes: RedisServer[];
  readonly #options: NodeOptions;

  /** @param options what each of them was started with */
  constructor(nodes: readonly RedisServer[], options: NodeOptions = {}) {
    this.nodes = [...nodes];
    this.#options = options;
  }

  /** The masters of keys' slots, in the order of the keys, by the word of most nodes. */
  async mastersOf(keys: readonly string[]): Promise<RedisServer[]> {
    const slots = keys.map(slotOf);
    const votes = slots.map(() => new Map<number, number>());
    await Promise.all(this.nodes.map(async (node) => {
      const ranges = await slotsBy(node);
      for (const [index, slot] of slots.entries()) {
        const port = portWith(slot, ranges);
        if (port !== undefined) votes[index]!.set(port, (votes[index]!.get(port) ?? 0) + 1);
      }
    }));
    return votes.map((ofOne) => {
      const [port] = [...ofOne].sort(([, a], [, b]) => b - a)[0] ?? [];
      return this.nodes.find((node) => node.port === port)!;
    });
  }

  /** The master of a key's slot. */
  async masterOf(key: string): Promise<RedisServer> {
    const [master] = await this.mastersOf([key]);
    return master!;
  }

  /** A replica of a master. */
  async replicaOf({ port }: RedisServer): Promise<RedisServer> {
    for (const node of this.nodes) {
      // One that is away is none.
      const role = await askNode(node, "ROLE").catch(() => []) as [string?, string?, number?];
      if (role[0] === "slave" && Number(role[2]) === port) return node;
    }
    throw new Error(`nobody is a replica of ${port}`);
  }

  /**
   * Waits until another node has the slot of a key.
   * @returns that one
   */
  async failedOver(key: string, { port }: RedisServer): Promise<RedisServer> {
    const deadline = performance.now() + READY_MS;
    for (let raise = performance.now() + DISBELIEVED_MS;;) {
      const now = await this.masterOf(key);
      if (now !== undefined && now.port !== port) return now;
      if (performance.now() > raise) {
        await this.#raise(key, port);
        raise += DISBELIEVED_MS;
      }
      if (performance.now() > deadline) {
        const views = this.nodes.map((node) => askNode(node, "CLUSTER", "NODES").catch(asError));
        throw new Error(
          `no other node has the slots of ${port} after ${READY_MS} ms; the nodes see:\n` +
            (await Promise.all(views)).join("\n"),
        );
      }
      await delay(50);
    }
  }

  /**
   * Gives a newer epoch to whichever node believes to have a key's slot in place of its old master. Where that one took a new
   * epoch by itself, as at the end of a slot's move, just before it died, nobody believes the replica that was elected,
   * and Redis leaves it so.
   */
  async #raise(key: string, old: number): Promise<void> {
    const slot = slotOf(key);
    await Promise.all(
      this.nodes.filter(({ port }) => port !== old).map(async (node) => {
        if (portWith(slot, await slotsBy(node)) === node.port) {
          await askNode(node, "CLUSTER", "BUMPEPOCH").catch(() => {}); // it is asked again
        }
      }),
    );
  }

  /**
   * Hands over from a live master to its replica, with every write.
   * @param key in one of its slots
   * @returns the new master
   */
  async handOver(key: string, master: RedisServer): Promise<RedisServer> {
    const replica = await this.replicaOf(master);
    // Whatever it answers, what follows is waited for.
    const order = () => void askNode(replica, "CLUSTER", "FAILOVER").catch(() => {});
    order();
    const timer = setInterval(order, FAILOVER_MS);
    return await this.failedOver(key, master).finally(() => clearInterval(timer));
  }

  /** Waits until all are up, and say that the cluster is whole. */
  async settled(): Promise<void> {
    await whole(this.nodes, this.nodes.length);
  }

  /**
   * Starts a server that was killed again, with its data, and on its port where that is free.
   * @returns what it is now
   */
  async restart({ dir, port }: RedisServer): Promise<RedisServer> {
    const at = this.nodes.findIndex((node) => node.port === port);
    return this.nodes[at] = await startClusterNode({ ...this.#options, dir, port });
  }

  /** Shuts all of them down. */
  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.stop()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/**
 * Runs a command on one server, on a connection of its own.
 * @param node.url has its password
 */
export async function askNode(
  { host, port, url = "" }: { host: string; port: number; url?: string },
  command: string,
  ...args: (string | number)[]
): Promise<unknown> {
  const password = URL.parse(url)?.password ?? "";
  const client = new Redis({
    ...(password === "" ? {} : { password }),
    ...{ host, port, protocol: 2, maxRetriesPerRequest: 0, commandTimeout: ANSWER_MS },
    retryStrategy: () => null,
  });
  client.on("error", () => {}); // the call fails by it
  try {
    return await client.call(command, args.map(String));
  } finally {
    client.disconnect();
  }
}

/** Starts a server in cluster mode that belongs to no cluster yet; again on its folder and ports, it is what it was. */
export function startClusterNode(
  { extraArgs = [], ...options }: NodeOptions & Pick<RedisOptions, "dir" | "port">,
): Promise<RedisServer> {
  return startRedis({
    ...options,
    extraArgs: [
      ...["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"],
      ...["--cluster-node-timeout", String(NODE_TIMEOUT_MS)],
      // A replica that has lost elections on a busy machine goes on trying, however old its data is by then.
      ...["--cluster-replica-validity-factor", "0"],
      // By default it is the port plus 10000, which may be none.
      ...["--cluster-port", String(freePort())],
      ...extraArgs,
    ],
  });
}

/** Starts a cluster, the masters first, and waits until all of its nodes say that it is whole. */
export async function startCluster(options: ClusterOptions): Promise<RedisCluster> {
  const { dir, masters = 3, replicas = 1, ...common } = options;
  const count = masters * (1 + replicas);
  // Those that did start are stopped again, before what failed is thrown.
  const started = await Promise.allSettled(
    Array.from(
      { length: count },
      (_, n) => startClusterNode({ dir: join(dir, `node-${n}`), ...common }),
    ),
  );
  const nodes = started.flatMap((one) => one.status === "fulfilled" ? [one.value] : []);
  const cluster = new RedisCluster(nodes, common);
  try {
    for (const one of started) if (one.status === "rejected") throw one.reason;
    await unite(nodes, masters);
  } catch (error) {
    await cluster.stop();
    throw error;
  }
  return cluster;
}

async function unite(nodes: readonly RedisServer[], masters: number): Promise<void> {
  for (const [n, node] of nodes.entries()) {
    await askNode(node, "CLUSTER", "SET-CONFIG-EPOCH", n + 1);
    if (n >= masters) continue;
    const [from, to] = [n, n + 1].map((part) => Math.floor(SLOTS * part / masters));
    await askNode(node, "CLUSTER", "ADDSLOTSRANGE", from!, to! - 1);
  }
  for (const node of nodes.slice(1)) await meet(nodes[0]!, node);
  await whole(nodes, nodes.length);
  for (const [n, node] of nodes.entries()) {
    if (n < masters) continue;
    await askNode(node, "CLUSTER", "REPLICATE", await nodeId(nodes[n % masters]!));
  }
  await whole(nodes, nodes.length);
}

/** Makes a node known to those of another one. */
export async function meet(known: RedisServer, node: RedisServer): Promise<void> {
  const port = Number(String(await askNode(node, "CONFIG", "GET", "cluster-port")).split(",")[1]);
  await askNode(known, "CLUSTER", "MEET", node.host, node.port, port);
}

/** The name by which a cluster knows a node. */
export async function nodeId(node: RedisServer): Promise<string> {
  return String(await askNode(node, "CLUSTER", "MYID"));
}

/** Waits until all nodes say that the cluster is whole, that they know so many, and that replicas are attached. */
export async function whole(nodes: readonly RedisServer[], known: number): Promise<void> {
  const deadline = performance.now() + READY_MS;
  for (const node of nodes) {
    for (;;) {
      // A replica that is loading what it has got refuses to tell.
      const answers = ["CLUSTER INFO", "INFO replication"].map((command) =>
        askNode(node, ...command.split(" ") as [string, string]).catch(asError)
      );
      const [info, replication] = (await Promise.all(answers)).map(String) as [string, string];
      const ready = info.includes("cluster_state:ok") &&
        info.includes(`cluster_known_nodes:${known}\r`) &&
        replication.includes("role:") && !replication.includes("master_link_status:down");
      if (ready) break;
      if (performance.now() > deadline) {
        throw new Error(`the cluster is not whole after ${READY_MS} ms: ${info}`);
      }
      await delay(50);
    }
  }
}
