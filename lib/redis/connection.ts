/**
 * Connections that fail fast: the server is reachable, new enough and able to do the job, or connecting fails.
 * @module
 */

import type { Buffer } from "node:buffer";
import { nextTick } from "node:process";
import type { Config } from "../config/load.ts";
import { ConnectionError } from "../core/errors.ts";
import { Emitter, OncePerMinute, type RedisEvents } from "../core/events.ts";
import { Redis, type RedisOptions } from "./client.ts";
import { Counters } from "./counters.ts";
import { DurableLane, type DurableOutcome, type Wait } from "./durability.ts";
import { addressOf, explainConnecting } from "./explain.ts";
import { type Node, Route } from "./nodes.ts";
import { ReplyTimeouts, WatchedCommand } from "./reply_timeouts.ts";
import type { Script } from "./scripts/mod.ts";

/** Options of ioredis that a caller may add; replies always come in their RESP2 shapes. */
export interface ConnectionOptions extends Omit<RedisOptions, "replyMapping"> {
  /**
   * What the user must be allowed to do: `writer` for a program that writes, reads and searches alone, `operator` for one
   * that runs sinks, or what an operator runs, and writes no documents; `all` for both.
   * @default {"all"}
   */
  rights?: "writer" | "operator" | "all";
  /**
   * Whether some masters of a cluster may be away, as long as one answers: for who looks on once.
   * @default {false}
   * @internal
   */
  looks?: boolean;
}

/**
 * A connection to Redis: an ioredis client with what belongs to the connection. Made by {@linkcode connectRedis}.
 */
export class RedisConnection extends Redis {
  /** What this connection counts, sent about once a second. */
  readonly counters: Counters;
  /** What happens to the connection, such as `redis.events.on("connectionLost", …)`. */
  readonly events: Emitter<RedisEvents> = new Emitter();
  #callsInFlight = 0;
  #config: Config;
  #timeouts: ReplyTimeouts;
  /** calls gathered in this turn of the event loop, and how many of them go out before the turn ends */
  #gathered = 0;
  #sendAt = 2;
  #lane: Promise<DurableLane> | undefined;
  #closed = false;
  #route: Route;

  /**
   * Not connected yet: {@linkcode connectRedis} connects, and checks the server.
   * @param options more options of ioredis; they win over ours
   * @param node of a cluster, to which it leads
   */
  constructor(config: Config, options: ConnectionOptions = {}, node?: Node) {
    const route = new Route(config, node);
    super({ ...redisOptions(config), ...route.options, ...options });
    this.#route = route;
    this.#config = config;
    const { commandTimeout = config.redis.command_timeout_ms } = this.options;
    this.#timeouts = new ReplyTimeouts(commandTimeout);
    const reports = new OncePerMinute();
    this.counters = new Counters(config, this, (error) => {
      if (error === null) reports.over("countersNotSent");
      else if (reports.allows("countersNotSent")) {
        this.events.emit("countersNotSent", { address: this.address, error });
      }
    });
    this.#watch(reports);
  }

  /** The server's address, without secrets. */
  get address(): string {
    return addressOf(this.#config, this.#route.node);
  }

  /**
   * The connection to the server that has a key; in a cluster, it may have it no longer than until its next answer.
   * @internal
   */
  at(_key: string): RedisConnection {
    return this;
  }

  /**
   * The connections to all servers that have a part of the keys.
   * @internal
   */
  get servers(): RedisConnection[] {
    return [this];
  }

  /**
   * How many keys there are, of all kinds.
   * @internal
   */
  countKeys(): Promise<number> {
    return this.dbsize();
  }

  /**
   * The server that it is connected to, or was last.
   * @internal
   */
  get node(): Node | null {
    return this.#route.node;
  }

  /**
   * Whether a call would be sent. A connection that is left takes none, before it ends.
   * @internal
   */
  get sends(): boolean {
    return this.status === "ready" && this.stream.writable;
  }

  /** Document calls that wait for their reply. */
  get callsInFlight(): number {
    return this.#callsInFlight;
  }

  /**
   * Makes a document call, which counts as in flight until it has ended.
   * @internal
   */
  async inFlight<T>(call: () => Promise<T>): Promise<T> {
    this.#callsInFlight++;
    try {
      return await call();
    } finally {
      this.#callsInFlight--;
    }
  }

  /** Makes events of what becomes of the connection, once it has been there. */
  #watch(reports: OncePerMinute): void {
    let connected = false;
    let lost = false;
    let reason: Error | undefined;
    // Without a listener ioredis prints to the console.
    this.on("error", (error: Error) => reason = error);
    this.on("ready", () => {
      if (lost) this.events.emit("reconnected", { address: this.address });
      // An answer of a server that is left would be worth nothing: what it has written is gone.
      this.#route.watch(() => this.stream.destroy());
      connected = true;
      lost = false;
      reason = undefined;
      reports.over("connectionLost");
    });
    // Not where the connection was closed on purpose.
    this.on("reconnecting", () => {
      if (!connected) return;
      lost = true;
      const error = reason ?? new ConnectionError("the server closed the connection");
      const { address } = this;
      if (reports.allows("connectionLost")) this.events.emit("connectionLost", { address, error });
    });
    this.on("end", () => this.#route.end());
  }

  /** One that is closed says so, whatever is called on it. */
  override sendCommand(...[command, stream]: Parameters<Redis["sendCommand"]>): unknown {
    if (this.status === "end" || this.#closed && !this.sends) {
      const why = `The connection to Redis at ${this.address} is closed: nothing was sent`;
      command.reject(new ConnectionError(why));
      return command.promise;
    }
    return super.sendCommand(command, stream);
  }

  /** Closes at once. With `reconnect`, it opens another connection then. */
  override disconnect(reconnect = false): void {
    // One that waits for its next attempt tells no end.
    if (!reconnect) this.#route.end();
    super.disconnect(reconnect);
  }

  /**
   * Runs a document call's script by its hash, as `evalsha` does at twice the cost: here calls of one turn
   * of the event loop go out together, and one timer watches over all of them.
   * @internal
   */
  evalshaTogether(sha: string, keys: string[], args: string[]): Promise<unknown> {
    this.#gather();
    const command = new WatchedCommand(
      "evalsha",
      [sha, String(keys.length), ...keys, ...args],
      { replyEncoding: "utf8", keyPrefix: this.options.keyPrefix ?? "" },
    );
    this.sendCommand(command);
    this.#timeouts.add(command);
    return command.promise;
  }

  /**
   * Holds back what follows in this turn of the event loop, since a write to the socket costs more than the rest of
   * a command. The socket itself holds it, so that it is lost with the socket and never sent over another one. A
   * single call goes out at once, and so does the first quarter of many: Redis works on it while the next calls are
   * made. Each further part is as large as all parts before it.
   *
   * ioredis's `enableAutoPipelining` makes 0.76, 0.89, 0.81 and 0.75 times as many inserts a second with 1, 16, 64
   * and 256 in flight (medians of 7 runs, taken in turns).
   */
  #gather(): void {
    const { stream } = this;
    if (this.#gathered === 0) {
      if (this.#callsInFlight < 2) return;
      this.#sendAt = Math.max(2, this.#callsInFlight >> 2);
      stream.cork();
      // After everything that the replies of this turn set off.
      nextTick(() => {
        this.#gathered = 0;
        stream.uncork();
      });
    } else if (this.#gathered === this.#sendAt) {
      this.#sendAt *= 2;
      stream.uncork();
      stream.cork();
    }
    this.#gathered++;
  }

  /**
   * Runs a document call's script, and waits for its durability. Never rejects, once it has its connection.
   * @internal
   */
  runDurably(
    script: Script,
    keys: string[],
    args: (string | Buffer)[],
    wait: Wait,
  ): Promise<DurableOutcome> {
    return this.#durableLane().then((lane) => lane.run(script, keys, args, wait));
  }

  /** The connection for writes that wait for durability, opened when first needed: WAIT holds up everything behind it. */
  #durableLane(): Promise<DurableLane> {
    // Nobody would close it.
    if (this.#closed) {
      return Promise.reject(new ConnectionError("Not connected to Redis: nothing was sent"));
    }
    const { wait_timeout_ms, aof_rewrite_timeout_secs } = this.#config.zero_data_loss;
    const timeout = this.#config.redis.command_timeout_ms + wait_timeout_ms +
      1000 * aof_rewrite_timeout_secs;
    const options = { commandTimeout: timeout, socketTimeout: timeout };
    const node = this.#config.redis.cluster === null ? undefined : this.node!;
    this.#lane ??= openRedis(this.#config, options, node).then(
      (redis) => {
        redis.events.onAll((name, event) => this.events.emit(name, event));
        return new DurableLane(redis, this.#config);
      },
      (error) => {
        this.#lane = undefined;
        throw error;
      },
    );
    return this.#lane;
  }

  /** Sends the counters, then closes. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.counters.close();
    const lane = await this.#lane?.catch(() => undefined); // the writes that wanted it have the error
    lane?.close();
    this.disconnect();
  }

  /** Closes as {@linkcode close} does: `await using redis = await connectRedis(config)`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function redisOptions(config: Config): ConnectionOptions {
  const { db, username, password, command_timeout_ms } = config.redis;
  return {
    db,
    ...(username === null ? {} : { username }),
    ...(password === null ? {} : { password }),
    lazyConnect: true,
    connectTimeout: Math.min(command_timeout_ms, 10_000),
    commandTimeout: command_timeout_ms,
    // A connection that went silent must be closed, or it would hold up every later call.
    socketTimeout: command_timeout_ms,
    // A write is sent once, or its caller gets an error: no retry, no offline queue.
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    enableOfflineQueue: false,
    retryStrategy: (times) => Math.min(50 * 2 ** Math.min(times, 6), 2000),
    connectionName: "writebehind",
  };
}

/**
 * Connects and waits until Redis takes commands.
 * @param node of a cluster
 */
export async function openRedis(
  config: Config,
  options: ConnectionOptions,
  node?: Node,
): Promise<RedisConnection> {
  const redis = new RedisConnection(config, options, node);
  await connected(redis, config);
  return redis;
}

/**
 * Connects and waits until Redis takes commands; where it does not, the connection is closed.
 * @throws {ConnectionError} with the address and the reason
 */
export async function connected(redis: RedisConnection, config: Config): Promise<void> {
  let reason: unknown;
  const remember = (error: unknown) => reason = error;
  redis.on("error", remember);
  try {
    await redis.connect();
    await redis.ping();
  } catch (cause) {
    redis.disconnect();
    const why = await explainConnecting(reason ?? cause, config, redis.node);
    throw new ConnectionError(
      `Cannot connect to Redis at ${redis.address}: ${why}`,
      { cause },
    );
  }
  redis.off("error", remember);
}
