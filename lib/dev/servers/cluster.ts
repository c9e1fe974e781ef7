/** A Redis Cluster of embedded servers: masters that share the slots, and a replica of each. */

import { join } from "node:path";
import { Redis } from "ioredis";
import { delay } from "../../core/delay.ts";
import { asError } from "../../core/events.ts";
import { SLOTS } from "../../redis/slots.ts";
import { freePort } from "./processes.ts";
import { type RedisOptions, type RedisServer, startRedis } from "./redis.ts";

/** How long a cluster may take to be ready, in ms. */
const READY_MS = 60_000;
/** How long an answer may take, in ms. */
const ANSWER_MS = 5000;
/** After so long without a word, a node is taken for dead by the others, in ms. */
const NODE_TIMEOUT_MS = 2000;

/** Options of {@linkcode startCluster}. */
export interface ClusterOptions {
  /** The folder in which each server has its own. */
  dir: string;
  /** Masters, each with a part of the slots. @default {3} */
  masters?: number;
  /** Replicas of each master. @default {1} */
  replicas?: number;
  /** Letters and digits: what clients and the nodes need. @default {none} */
  password?: string;
  /** `redis-server` arguments that win over ours. */
  extraArgs?: readonly string[];
}

/** A cluster that this project started. */
export interface RedisCluster {
  /** Its servers: the masters first, then their replicas in the same order. */
  readonly nodes: readonly RedisServer[];
  /** Shuts all of them down. */
  stop(): Promise<void>;
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
  { extraArgs = [], ...options }: Pick<RedisOptions, "dir" | "port" | "password" | "extraArgs">,
): Promise<RedisServer> {
  return startRedis({
    ...options,
    extraArgs: [
      ...["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"],
      ...["--cluster-node-timeout", String(NODE_TIMEOUT_MS)],
      // By default it is the port plus 10000, which may be none.
      ...["--cluster-port", String(freePort())],
      ...extraArgs,
    ],
  });
}

/** Starts a cluster, and waits until all of its nodes say that it is whole. */
export async function startCluster(options: ClusterOptions): Promise<RedisCluster> {
  const { dir, masters = 3, replicas = 1, password = "", extraArgs = [] } = options;
  const count = masters * (1 + replicas);
  // Those that did start are stopped again, before what failed is thrown.
  const started = await Promise.allSettled(
    Array.from(
      { length: count },
      (_, n) => startClusterNode({ dir: join(dir, `node-${n}`), password, extraArgs }),
    ),
  );
  const nodes = started.flatMap((one) => one.status === "fulfilled" ? [one.value] : []);
  const stop = async () => {
    await Promise.all(nodes.map((node) => node.stop()));
  };
  try {
    for (const one of started) if (one.status === "rejected") throw one.reason;
    await unite(nodes, masters);
  } catch (error) {
    await stop();
    throw error;
  }
  return { nodes, stop };
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
  const deadline = Date.now() + READY_MS;
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
      if (Date.now() > deadline) {
        throw new Error(`the cluster is not whole after ${READY_MS} ms: ${info}`);
      }
      await delay(50);
    }
  }
}
