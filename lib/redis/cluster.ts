/**
 * The connection to a Redis Cluster: a plain connection to each node, and the way of each command to the node that has its
 * key. ioredis's own `Cluster` sends commands again whose reply was lost, which would write twice.
 *
 * MOVED, ASK, TRYAGAIN and CLUSTERDOWN mean that nothing ran, so such a command is sent again, within
 * `redis.command_timeout_ms`. A command whose reply was lost never is.
 * @module
 */

import type { Buffer } from "node:buffer";
import { Command } from "ioredis";
import type { Config } from "../config/load.ts";
import { backoff, delay } from "../core/delay.ts";
import { asError, ConnectionError, reasonOf } from "../core/errors.ts";
import { isReplyError } from "./client.ts";
import { connected, type ConnectionOptions, RedisConnection } from "./connection.ts";
import type { DurableOutcome, Wait } from "./durability.ts";
import { IN_SCRIPT } from "./explain.ts";
import type { Node } from "./nodes.ts";
import type { Script } from "./scripts/mod.ts";
import { nameOf, slotOf, SlotTable } from "./slots.ts";

/** How often the nodes are asked who has which slot while one of them is lost, in ms. */
const SEEK_MS = 200;
/** The first pause, in ms, before a command is sent again that no node took; doubled up to the other one. */
const AGAIN_MS = 10;
const AGAIN_MAX_MS = 200;
/** So often a command follows MOVED at once; nodes that name each other in turn do not agree yet. */
const FOLLOWED = 3;

/** An answer by which a node says that it has run nothing. */
type Redirect =
  | { kind: "TRYAGAIN" | "CLUSTERDOWN" }
  | { kind: "MOVED" | "ASK"; slot: number; /** where to send it */ node: Node };

const REDIRECT = /^-?(?:(MOVED|ASK) (\d+) (.*):(\d+)|(TRYAGAIN|CLUSTERDOWN)\b)/;

/** @param asked the node that answered: one that does not know how another is reached names no host */
function redirectOf(error: unknown, asked: Node | null): Redirect | null {
  // What a script says in its middle proves nothing.
  if (!isReplyError(error) || IN_SCRIPT.test(reasonOf(error))) return null;
  const [, moved, slot, host, port, other] = REDIRECT.exec(reasonOf(error)) ?? [];
  if (other === "TRYAGAIN" || other === "CLUSTERDOWN") return { kind: other };
  if (moved !== "MOVED" && moved !== "ASK") return null;
  const node = { host: host || asked!.host, port: Number(port) };
  return { kind: moved, slot: Number(slot), node };
}

/** Why a command is not sent, once the connection is closed. */
const CLOSED = "Connection is closed.";

/** Commands whose key is not their first argument: where it is. */
const KEY_AT: Record<string, number> = {
  eval: 2,
  evalsha: 2,
  xinfo: 1,
  xgroup: 1,
  memory: 1,
  object: 1,
  "json.debug": 1,
};
/** Commands that name no key. */
const KEYLESS = new Set(
  "asking client cluster command config dbsize exec flushall flushdb info multi ping publish scan script select wait waitaof"
    .split(" "),
);

/** The key by which a command goes to its node. */
function keyOf({ name, args }: Command): string {
  const command = name.toLowerCase();
  if (command === "time") return ""; // all nodes have about the same
  const at = command === "xread"
    ? args.findIndex((arg) => /^streams$/i.test(String(arg))) + 1
    : KEY_AT[command] ?? 0;
  const key = KEYLESS.has(command) || (at === 2 && String(args[1]) === "0") ? undefined : args[at];
  if (key !== undefined) return String(key);
  throw new TypeError(`${name} names no key, so in a cluster a node must be chosen: see at()`);
}

/** A connection to a cluster. Made by `connectRedis`. */
export class ClusterConnection extends RedisConnection {
  #config: Config;
  #given: ConnectionOptions;
  #looks: boolean;
  #table: SlotTable;
  #nodes = new Map<string, RedisConnection>();
  /** connections that are being opened for the first time; for who looks on, also those that could not be */
  #opening = new Map<RedisConnection, Promise<Error | void>>();
  /** those to nodes that are no masters any more, until what is under way there is over */
  #left = new Set<RedisConnection>();
  #ended = false;
  #forget: () => void;
  #seeking: ReturnType<typeof setTimeout> | undefined;
  #looking = false;

  private constructor(config: Config, options: ConnectionOptions, looks: boolean) {
    super(config, options);
    this.#looks = looks;
    this.#config = config;
    this.#given = options;
    this.#table = SlotTable.of(config);
    this.#forget = this.#table.onChange(() => this.#follow());
  }

  /**
   * Connects to all masters.
   * @param looks whether some of them may be away, which are so until it is closed
   * @throws {ConnectionError} where no node tells of the cluster, or one of its masters cannot be reached
   */
  static async open(
    config: Config,
    options: ConnectionOptions,
    looks: boolean,
  ): Promise<ClusterConnection> {
    const cluster = new ClusterConnection(config, options, looks);
    try {
      await cluster.#table.look();
      const { masters } = cluster.#table;
      const opened = await Promise.all(
        masters.map((node) => cluster.#opening.get(cluster.#to(node))),
      );
      const failed = opened.filter((one) => one instanceof Error);
      if (failed.length > 0 && !(looks && failed.length < masters.length)) throw failed[0];
    } catch (error) {
      cluster.disconnect();
      throw error;
    }
    cluster.status = "ready";
    return cluster;
  }

  override get sends(): boolean {
    return !this.#ended;
  }

  override get servers(): RedisConnection[] {
    return this.#table.masters.map((node) => this.#to(node));
  }

  override at(key: string): RedisConnection {
    return this.#of(slotOf(key));
  }

  override async countKeys(): Promise<number> {
    const counts = await Promise.all(this.servers.map((server) => server.dbsize()));
    return counts.reduce((sum, count) => sum + count, 0);
  }

  /** The connection to the master of a slot. */
  #of(slot: number): RedisConnection {
    const node = this.#table.ownerOf(slot);
    if (node !== undefined) return this.#to(node);
    this.#seek();
    throw new ConnectionError(
      `Not connected to Redis: no node of ${this.address} has slot ${slot}`,
    );
  }

  /** The connection to a node, opened when first needed. */
  #to(node: Node): RedisConnection {
    const name = nameOf(node);
    const known = this.#nodes.get(name);
    if (known !== undefined) return known;
    const redis = new RedisConnection(this.#config, this.#given, node);
    this.#nodes.set(name, redis);
    redis.events.onAll((name, event) => this.events.emit(name, event));
    const lost = () => this.#seek();
    redis.on("reconnecting", lost);
    const opening = connected(redis, this.#config).then(
      () => void this.#opening.delete(redis),
      (error) => {
        // Another attempt is made when it is needed again; who looks on once would wait for each.
        if (this.#looks) return error;
        this.#opening.delete(redis);
        if (this.#nodes.get(name) === redis) this.#nodes.delete(name);
        this.#seek();
        return error;
      },
    );
    this.#opening.set(redis, opening);
    return redis;
  }

  /** After a change of the table: opens connections to masters that are new, and leaves nodes that are none any more. */
  #follow(): void {
    if (this.#ended) return;
    const masters = new Set<string>();
    for (const node of this.#table.masters) {
      masters.add(nameOf(node));
      this.#to(node);
    }
    for (const [name, redis] of this.#nodes) {
      if (masters.has(name)) continue;
      this.#nodes.delete(name);
      this.#left.add(redis);
      const timer = setTimeout(() => {
        this.#left.delete(redis);
        void redis.close();
      }, this.#config.redis.command_timeout_ms);
      Deno.unrefTimer(timer);
    }
  }

  /** Asks the nodes who has which slot: once, and on as long as a master is lost. */
  #seek(): void {
    if (this.#ended || this.#looking || this.#seeking !== undefined) return;
    this.#looking = true;
    // Where no node answers, nobody knows better than before.
    void this.#table.look().catch(() => {}).finally(() => {
      this.#looking = false;
      const lost = this.#table.masters.some((node) => {
        const redis = this.#nodes.get(nameOf(node));
        return redis === undefined || !this.#opening.has(redis) && !redis.sends;
      });
      if (!lost || this.#ended) return;
      this.#seeking = setTimeout(() => {
        this.#seeking = undefined;
        this.#seek();
      }, SEEK_MS);
      Deno.unrefTimer(this.#seeking);
    });
  }

  /**
   * Notes where a node has sent a command.
   * @returns whether to send it at once; else after a pause
   */
  #heed(redirect: Redirect, attempt: number): boolean {
    const { kind } = redirect;
    if (redirect.kind === "MOVED") this.#table.moved(redirect.slot, redirect.node);
    if (kind !== "TRYAGAIN" && kind !== "ASK") this.#seek();
    return (kind === "MOVED" || kind === "ASK") && attempt <= FOLLOWED;
  }

  /**
   * Sends a command to the node that has its key, and again where that one sends it elsewhere. It waits in the meantime
   * within its own time.
   */
  override sendCommand(command: Command): unknown {
    let slot: number;
    try {
      slot = slotOf(keyOf(command));
    } catch (error) {
      command.reject(asError(error));
      return command.promise;
    }
    const fail = command.reject;
    let asked: RedisConnection | null = null;
    /** the answer by which it was not run, while it waits */
    let held: Error | null = null;
    let attempt = 0;
    const send = (to: Node | null) => {
      if (command.isSettled) return;
      if (this.#ended) return fail(held ?? new ConnectionError(CLOSED));
      try {
        asked = to === null ? this.#of(slot) : this.#to(to);
      } catch (error) {
        return fail(asError(error));
      }
      const redis = asked;
      const go = () => {
        if (command.isSettled) return;
        held = null;
        if (to !== null) ask(redis);
        redis.sendCommand(command);
      };
      const opening = this.#opening.get(redis);
      if (opening === undefined) go();
      else void opening.then((failed) => failed && this.#looks ? command.reject(failed) : go());
    };
    command.reject = (error) => {
      const redirect = redirectOf(error, asked?.node ?? null);
      if (redirect === null) return fail(held ?? error);
      held = error;
      attempt++;
      const at = redirect.kind === "ASK" ? redirect.node : null;
      if (this.#heed(redirect, attempt)) send(at);
      else setTimeout(() => send(null), backoff(attempt, AGAIN_MS, AGAIN_MAX_MS));
    };
    send(null);
    return command.promise;
  }

  override evalshaTogether(sha: string, keys: string[], args: string[]): Promise<unknown> {
    return this.#run(keys[0]!, async (redis, asking) => {
      if (!redis.sends) throw notConnected(redis);
      if (asking) ask(redis);
      return await redis.inFlight(() => redis.evalshaTogether(sha, keys, args));
    });
  }

  override async runDurably(
    script: Script,
    keys: string[],
    args: (string | Buffer)[],
    wait: Wait,
  ): Promise<DurableOutcome> {
    return await this.#run(keys[0]!, async (redis, asking) => {
      // Calls share a WAIT, and none of them could be told from the others: it waits until the slot has moved.
      if (asking) throw asking;
      const outcome = await redis.runDurably(script, keys, args, wait);
      if (outcome.error) throw outcome.error;
      return outcome;
    });
  }

  /** Does something at the node that has a key, and again where that one sends it elsewhere. */
  async #run<T>(
    key: string,
    work: (redis: RedisConnection, asking: Error | null) => Promise<T>,
  ): Promise<T> {
    const slot = slotOf(key);
    const deadline = performance.now() + this.#config.redis.command_timeout_ms;
    let redis = this.#of(slot);
    let asking: Error | null = null;
    for (let attempt = 1;; attempt++) {
      const opening = this.#opening.get(redis);
      if (opening !== undefined) await opening;
      try {
        return await work(redis, asking);
      } catch (error) {
        const redirect = redirectOf(error, redis.node);
        if (redirect === null || this.#ended) throw error;
        const atOnce: boolean = this.#heed(redirect, attempt) && error !== asking;
        if (!atOnce) {
          const pause = backoff(attempt, AGAIN_MS, AGAIN_MAX_MS);
          if (performance.now() + pause > deadline) throw error;
          await delay(pause);
          if (this.#ended) throw error;
        }
        const at: Node | null = atOnce && redirect.kind === "ASK" ? redirect.node : null;
        asking = at && asError(error);
        redis = at ? this.#to(at) : this.#of(slot);
      }
    }
  }

  override disconnect(): void {
    const isFirst = !this.#ended;
    this.#ended = true;
    this.#forget();
    clearTimeout(this.#seeking);
    for (const redis of [...this.#nodes.values(), ...this.#left]) redis.disconnect();
    this.status = "end";
    // As a connection to one server tells it.
    if (isFirst) this.emit("end");
  }

  override async close(): Promise<void> {
    await this.counters.close();
    await Promise.all([...this.#nodes.values(), ...this.#left].map((redis) => redis.close()));
    this.disconnect();
  }
}

/** Lets the next command be run by a node that is about to get the slot. */
function ask(redis: RedisConnection): void {
  const asking = new Command("asking");
  asking.promise.catch(() => {}); // the next command fails as well
  redis.sendCommand(asking);
}

const notConnected = (redis: RedisConnection) =>
  new ConnectionError(`Not connected to Redis at ${redis.address}: nothing was sent`);
