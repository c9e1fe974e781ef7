/**
 * The sinks of entities and targets, side by side in one process.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig, targetConfig } from "../config/load.ts";
import { backoff, delay } from "../core/delay.ts";
import { asError, ConfigError, WriteBehindError } from "../core/errors.ts";
import { Emitter, type ListenerFailed, OncePerMinute, type TargetEvents } from "../core/events.ts";
import { logEvents } from "../core/log.ts";
import { awaitedLater } from "../core/promises.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { openTarget } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import { RedisWriteBehind } from "./sink.ts";

const stopped = () => new WriteBehindError("the sinks were stopped: make others");

/** A target that was opened, and the sink that carries an entity's events on to it. */
export interface Carried {
  /** the entity's name */
  entity: string;
  /** the target's name in the configuration */
  name: string;
  /** it, opened */
  target: Target;
  /** what carries events on to it */
  sink: RedisWriteBehind;
}

/**
 * Carries the events of several entities on to several targets, each by a sink of its own: one that is slow, refuses, or
 * cannot be reached holds up no other.
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, Sinks } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using sinks = new Sinks(redis, config);
 * sinks.start();
 * await sinks.opened("postgresql");
 * console.log(sinks.carried.map(({ name }) => name));
 * ```
 */
export class Sinks implements AsyncDisposable {
  /** The targets that could be opened so far, in the order of that. */
  readonly carried: Carried[] = [];
  /** What happens before a target has a sink, whose own events tell the rest. */
  readonly events: Emitter<TargetEvents> = new Emitter();
  #redis: RedisConnection;
  #config: Config;
  #entities: readonly string[];
  #names: readonly string[];
  #stop = new AbortController();
  /** by name: what is open, or is being opened */
  #opening = new Map<string, Promise<void>>();
  #opened = new Emitter<{ opened: Carried; listenerFailed: ListenerFailed }>();

  /**
   * Opens nothing yet: see {@linkcode start}.
   * @param options.entities their names. @default {all that the configuration has}
   * @param options.targets their names. @default {all that the configuration has}
   * @throws {ConfigError} where the configuration has no such entity or target
   */
  constructor(
    redis: RedisConnection,
    config: Config,
    options: { entities?: readonly string[]; targets?: readonly string[] } = {},
  ) {
    checkArguments("Sinks", { redis, config, options });
    const { entities, targets } = options;
    for (const names of [entities, targets]) checkArguments("Sinks", { names });
    this.#redis = redis;
    this.#config = config;
    this.#entities = entities ?? config.entities.map(({ name }) => name);
    this.#names = targets ?? config.targets.map(({ name }) => name);
    for (const entity of this.#entities) entityConfig(config, entity);
    for (const name of this.#names) targetConfig(config, name);
    logEvents("sink", this.events);
    this.#opened.on("listenerFailed", (failed) => this.events.emit("listenerFailed", failed));
  }

  /**
   * Calls a listener with each sink once its target is open, before it begins.
   * @returns a function that ends this
   */
  onOpened(listener: (carried: Carried) => void): () => void {
    checkArguments("onOpened", { listener });
    return this.#opened.on("opened", listener);
  }

  /**
   * Carries events on to all targets, in the background. One that cannot be opened is tried again for ever. Safe to call
   * again.
   * @throws {WriteBehindError} where they were stopped before
   */
  start(): void {
    if (this.#stop.signal.aborted) throw stopped();
    for (const name of this.#names) {
      if (!this.#opening.has(name)) this.#opening.set(name, this.#openSometime(name));
    }
  }

  /**
   * Opens a target and starts its sinks.
   * @throws {ConnectionError} where it cannot be reached or used
   * @throws {ConfigError} where these sinks are for no such target
   * @throws {WriteBehindError} where they were stopped before, or it is open already, or being opened
   */
  async open(name: string): Promise<void> {
    this.#check(name);
    if (this.#stop.signal.aborted) throw stopped();
    if (this.#opening.has(name)) {
      throw new WriteBehindError(
        `the target ${name} is open already, or being opened: wait by opened`,
      );
    }
    const opening = this.#open(name);
    this.#opening.set(name, awaitedLater(opening));
    try {
      await opening;
    } catch (error) {
      this.#opening.delete(name);
      throw error;
    }
  }

  async #open(name: string): Promise<void> {
    const target = await openTarget(this.#config, name);
    const opened: Carried[] = [];
    try {
      for (const entity of this.#entities) {
        const sink = new RedisWriteBehind(this.#redis, target, this.#config, entity);
        opened.push({ entity, name, target, sink });
      }
    } catch (error) {
      await target.close();
      throw error;
    }
    for (const carried of opened) {
      this.carried.push(carried);
      this.#opened.emit("opened", carried);
      if (!this.#stop.signal.aborted) carried.sink.start();
    }
  }

  #check(name: string): void {
    targetConfig(this.#config, name);
    if (this.#names.includes(name)) return;
    throw new ConfigError(`the target ${name} is none of these sinks: ${this.#names.join(", ")}`);
  }

  /**
   * Waits until a target is open.
   * @throws {ConfigError} where these sinks are for no such target
   * @throws {WriteBehindError} where they are stopped before
   */
  async opened(name: string): Promise<void> {
    this.#check(name);
    if (this.carried.some((one) => one.name === name)) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const { signal } = this.#stop;
    if (signal.aborted) throw stopped();
    const stop = () => reject(stopped());
    signal.addEventListener("abort", stop, { once: true });
    const end = this.onOpened((carried) => {
      if (carried.name === name) resolve();
    });
    try {
      await promise;
    } finally {
      end();
      signal.removeEventListener("abort", stop);
    }
  }

  async #openSometime(name: string): Promise<void> {
    const { retry_base_ms, retry_max_ms } = this.#config.write_behind;
    const { signal } = this.#stop;
    const reports = new OncePerMinute();
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        await this.#open(name);
        return;
      } catch (error) {
        const event = { target: name, error: asError(error) };
        if (reports.allows(name)) this.events.emit("notOpened", event);
        await delay(backoff(attempt, retry_base_ms, retry_max_ms), signal);
      }
    }
  }

  /** Lets running batches finish, and gives the partitions back. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.allSettled(this.#opening.values()); // who opens one has its error
    await Promise.all(this.carried.map(({ sink }) => sink.stop()));
  }

  /** Stops, as {@linkcode stop} does, and closes the targets. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await Promise.all(
      [...new Set(this.carried.map(({ target }) => target))].map((target) => target.close()),
    );
  }
}
