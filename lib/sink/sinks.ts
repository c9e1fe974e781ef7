/**
 * The sinks of entities and targets, side by side in one process.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig, targetConfig } from "../config/load.ts";
import { backoff, delay } from "../core/delay.ts";
import { asError, ConfigError, WriteBehindError } from "../core/errors.ts";
import { Emitter, OncePerMinute, type TargetEvents } from "../core/events.ts";
import { logEvents } from "../core/log.ts";
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
  #opening: Promise<void>[] | undefined;
  #listeners: ((carried: Carried) => void)[] = [];

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
  }

  /** Calls a listener with each sink once its target is open, before it begins. */
  onOpened(listener: (carried: Carried) => void): void {
    checkArguments("onOpened", { listener });
    this.#listeners.push(listener);
  }

  /**
   * Carries events on to all targets, in the background. One that cannot be opened is tried again for ever.
   * @throws {WriteBehindError} where they were stopped before
   */
  start(): void {
    if (this.#stop.signal.aborted) throw stopped();
    this.#opening ??= this.#names.map((name) => this.#openSometime(name));
  }

  /**
   * Opens a target and starts its sinks.
   * @throws {ConnectionError} where it cannot be reached or used
   */
  async open(name: string): Promise<void> {
    const target = await openTarget(this.#config, name);
    for (const entity of this.#entities) {
      const sink = new RedisWriteBehind(this.#redis, target, this.#config, entity);
      const carried = { entity, name, target, sink };
      this.carried.push(carried);
      for (const listener of this.#listeners) listener(carried);
      if (!this.#stop.signal.aborted) sink.start();
    }
  }

  /**
   * Waits until a target is open.
   * @throws {ConfigError} where these sinks are for no such target
   * @throws {WriteBehindError} where they are stopped before
   */
  async opened(name: string): Promise<void> {
    targetConfig(this.#config, name);
    if (!this.#names.includes(name)) {
      throw new ConfigError(`the target ${name} is none of these sinks: ${this.#names.join(", ")}`);
    }
    if (this.carried.some((one) => one.name === name)) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const { signal } = this.#stop;
    if (signal.aborted) throw stopped();
    signal.addEventListener("abort", () => reject(stopped()), { once: true });
    this.onOpened((carried) => {
      if (carried.name === name) resolve();
    });
    await promise;
  }

  async #openSometime(name: string): Promise<void> {
    const { retry_base_ms, retry_max_ms } = this.#config.write_behind;
    const { signal } = this.#stop;
    const reports = new OncePerMinute();
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        await this.open(name);
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
    await Promise.all(this.#opening ?? []);
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
