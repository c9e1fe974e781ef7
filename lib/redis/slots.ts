/**
 * Which node of a cluster has which slot, and so each key: by the word of the nodes themselves.
 * @module
 */

import type { Config } from "../config/load.ts";
import { CertificateError, redisTrust } from "../config/tls.ts";
import { ConnectionError, reasonOf } from "../core/errors.ts";
import { askAll, askingClient, askOn, patienceOf } from "./asking.ts";
import { explainConnecting } from "./explain.ts";
import { crc16 } from "./keys.ts";
import type { Node } from "./nodes.ts";

/** All slots of a cluster. */
export const SLOTS = 16384;
/** How old what is known may be for a new connection, in ms. */
const FRESH_MS = 200;

/** No node tells of the cluster; the message says what to do. */
export class ClusterError extends ConnectionError {}

/** The slot of a key: by what is between its first braces, where there is anything, else by all of it. */
export function slotOf(key: string): number {
  const open = key.indexOf("{");
  const close = open < 0 ? -1 : key.indexOf("}", open + 1);
  return crc16(close > open + 1 ? key.slice(open + 1, close) : key) % SLOTS;
}

/** How messages and maps name a node. */
export const nameOf = ({ host, port }: Node): string => `${host}:${port}`;

/** What one node knows. */
interface View {
  /** how many changes it has heard of */
  epoch: number;
  /** whether it takes the cluster for whole */
  ok: boolean;
  /** from and to, both included, and the master that has them */
  ranges: { from: number; to: number; master: Node }[];
  /** masters and replicas */
  nodes: Node[];
}

/** By a configuration: its connections share what is known. */
const tables = new WeakMap<Config, SlotTable>();

/** What is known of a cluster. */
export class SlotTable {
  #config: Config;
  #owners: (Node | undefined)[] = [];
  /** nodes that may tell more */
  #known: readonly Node[];
  #looking: Promise<void> | undefined;
  #listeners = new Set<() => void>();
  /** when the nodes were asked last, in ms of `performance.now()` */
  #lookedAt = -Infinity;

  private constructor(config: Config) {
    this.#config = config;
    this.#known = config.redis.cluster!;
  }

  /** That of a configuration, which names a cluster. */
  static of(config: Config): SlotTable {
    let table = tables.get(config);
    if (!table) tables.set(config, table = new SlotTable(config));
    return table;
  }

  /** The master that has a slot; `undefined` where none has, or it is not known. */
  ownerOf(slot: number): Node | undefined {
    return this.#owners[slot];
  }

  /** All masters that have slots, in the order of those. */
  get masters(): Node[] {
    return [
      ...new Map(this.#owners.flatMap((node) => node ? [[nameOf(node), node]] : [])).values(),
    ];
  }

  /** Notes that a node has answered that another one has a slot. */
  moved(slot: number, node: Node): void {
    const known = this.#owners[slot];
    if (known !== undefined && nameOf(known) === nameOf(node)) return;
    this.#owners[slot] = node;
    this.#notify();
  }

  /**
   * Calls a listener after each change.
   * @returns ends that
   */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #notify(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  /**
   * Sees that what is known is not older than a moment: many partitions that open connections at the same time share it.
   * @throws as {@linkcode look}
   */
  async refresh(): Promise<void> {
    if (performance.now() - this.#lookedAt > FRESH_MS) await this.look();
  }

  /**
   * Asks all nodes who has which slot; those that ask at the same time share the answers.
   * @throws {ClusterError} where no node tells, with what each of them said
   */
  look(): Promise<void> {
    return this.#looking ??= this.#look().finally(() => this.#looking = undefined);
  }

  async #look(): Promise<void> {
    const config = this.#config;
    const seeds = config.redis.cluster!;
    const asked = [
      ...new Map([...this.#known, ...seeds].map((one) => [nameOf(one), one])).values(),
    ];
    const { told, failed } = await askAll(
      asked,
      (node, signal) => view(config, node, signal),
      patienceOf(config),
    );
    // A node that is cut off from the others, or was frozen, knows no change since.
    const [best] = told.toSorted((a, b) => b.epoch - a.epoch || Number(b.ok) - Number(a.ok));
    if (best === undefined) {
      const reasons = await Promise.all(
        [...failed].map(async ([node, error]) =>
          `${nameOf(node)}: ${await explain(error, config, node)}`
        ),
      );
      throw new ClusterError(
        `no node tells of the cluster: ${reasons.join("; ")}; check redis.cluster`,
      );
    }
    const owners = new Array<Node | undefined>(SLOTS);
    for (const { from, to, master } of best.ranges) owners.fill(master, from, to + 1);
    this.#lookedAt = performance.now();
    this.#known = best.nodes;
    this.#owners = owners;
    this.#notify();
  }
}

function view(config: Config, node: Node, signal: AbortSignal): Promise<View> {
  const { redis } = config;
  const { username, password, tls } = redis;
  const trust = tls ? redisTrust(redis, node.host) : null;
  const client = askingClient(
    { ...node, username, password, trust },
    patienceOf(config),
    () => null,
  );
  return askOn(client, signal, async (client) => {
    const info = String(await client.call("CLUSTER", "INFO"));
    const slots = await client.call("CLUSTER", "SLOTS") as [number, number, ...Place[]][];
    // A node that does not know how it is reached leaves that out.
    const at = ([host, port]: Place): Node => ({ host: host || node.host, port });
    return {
      epoch: Number(/cluster_current_epoch:(\d+)/.exec(info)?.[1] ?? 0),
      ok: info.includes("cluster_state:ok"),
      ranges: slots.map(([from, to, master]) => ({ from, to, master: at(master!) })),
      nodes: slots.flatMap(([, , ...places]) => places.map(at)),
    };
  });
}

/** A node in a reply of CLUSTER SLOTS; more follows. */
type Place = [host: string | null, port: number];

function explain(error: unknown, config: Config, node: Node): Promise<string> | string {
  const reason = reasonOf(error);
  if (/cluster support disabled/.test(reason)) {
    return "it runs without cluster-enabled; name it by redis.host and redis.port";
  }
  return error instanceof CertificateError ? reason : explainConnecting(error, config, node);
}
