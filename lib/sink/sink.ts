/**
 * The sink of one entity and target: all partitions that the target has, side by side.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { randomBytes } from "node:crypto";
import type { Config } from "../config/load.ts";
import { learnShape, sameShape } from "../config/shapes.ts";
import { RepartitioningError, WriteBehindError } from "../core/errors.ts";
import { Emitter, type SinkEvents } from "../core/events.ts";
import { logEvents } from "../core/log.ts";
import { delay } from "../core/delay.ts";
import { awaitedLater } from "../core/promises.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { gaugesOf, partitionsOf } from "../redis/keys.ts";
import { readRegistration } from "../redis/registrations.ts";
import { readShape, type Recorded } from "../redis/shape.ts";
import { type Pool, targetOf } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import { batchSlots } from "./limits.ts";
import { PartitionSink } from "./partition.ts";
import { PartitionReport, type PartitionState } from "./report.ts";
import { Sharing } from "./sharing.ts";

export type { PartitionState };

/** How often a sink looks whether its entity was repartitioned, in ms. */
const LOOK_MS = 500;

/** What a sink has done so far, and its state. */
export interface SinkStatus {
  /** events applied */
  events: number;
  /** rows written or removed for them */
  rows: number;
  /** events that had nothing to write: their document was gone, and they carried no payload */
  noops: number;
  /** events that were parked */
  parked: number;
  /** how often a stream went back */
  wentBack: number;
  /** each partition by its stream; `lastError` is why it failed last, `null` once a batch was applied again */
  partitions: {
    partition: number;
    stream: string;
    state: PartitionState;
    failuresInARow: number;
    lastError: string | null;
    /** trims and renewals of the lease that failed */
    trimsFailed: number;
    renewalsFailed: number;
  }[];
}

/**
 * Carries the events of an entity's streams on to the target.
 * The offset moves in the transaction of the rows, so after any crash the table holds exactly the events
 * up to the offset, each applied once.
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, RedisWriteBehind } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * await using sink = new RedisWriteBehind(redis, target, config, "session");
 * sink.events.on("parked", ({ documentId, reason }) => console.error(documentId, reason));
 * const { events, rows } = await sink.drain();
 * console.log(events, rows);
 * ```
 */
export class RedisWriteBehind {
  #config: Config;
  #redis: RedisConnection;
  #target: Target;
  #entity: string;
  #partitions: PartitionSink[];
  /** of partitions that there are no more */
  #past: PartitionReport[] = [];
  #sharing: Sharing | null = null;
  #stop = new AbortController();
  /** what {@linkcode start} has begun */
  #running: Promise<void> | undefined;
  #draining: Promise<void> | undefined;
  /** whether it has given its partitions back, for a repartition */
  #hasGiven = false;
  /** Its name in events and in leases: the process id and a random part. */
  readonly process: string;
  /** What happens, as it happens: `sink.events.on("parked", …)`. */
  readonly events: Emitter<SinkEvents> = new Emitter();

  /**
   * Does not begin yet: see {@linkcode start} and {@linkcode drain}.
   * @param redis counts and logs go there; reads go by connections of the sink's own
   * @param target a target, or a pool of PostgreSQL connections: it may have at least `write_behind.connections` (or as
   * many as there are partitions) for each entity of the configuration, whose sinks may share it, and two
   * @param entity an entity's name from the configuration
   */
  constructor(redis: RedisConnection, target: Target | Pool, config: Config, entity: string) {
    checkArguments("RedisWriteBehind", { redis, target, config, entity });
    this.#config = config;
    this.#redis = redis;
    this.#target = targetOf(target, config);
    this.process = `${Deno.pid}-${randomBytes(6).toString("hex")}`;
    const { name } = this.#target.describe();
    logEvents("sink", this.events, config.targets.length > 1 ? name : undefined);
    this.#entity = entity;
    this.#partitions = this.#allPartitions();
  }

  #allPartitions(): PartitionSink[] {
    const [config, target, entity] = [this.#config, this.#target.describe().name, this.#entity];
    const slots = batchSlots(config);
    return partitionsOf(config, entity, target).map((keys) => {
      const { partition, stream } = keys;
      const place = { entity, partition, stream, target, process: this.process };
      const { counters } = this.#redis;
      const report = new PartitionReport(place, this.events, counters, gaugesOf(keys, target));
      return new PartitionSink(this.#redis, config, this.#target, keys, report, slots);
    });
  }

  /** What was done since this sink was made. */
  get status(): SinkStatus {
    const reports = this.#partitions.map(({ report }) => report);
    const sum = (of: (report: PartitionReport) => number) =>
      [...this.#past, ...reports].reduce((total, report) => total + of(report), 0);
    return {
      events: sum(({ events }) => events),
      rows: sum(({ rows }) => rows),
      noops: sum(({ noops }) => noops),
      parked: sum(({ parked }) => parked),
      wentBack: sum(({ wentBack }) => wentBack),
      partitions: reports.map(({ place, state, failuresInARow, lastError, troubles }) => ({
        partition: place.partition,
        stream: place.stream,
        state,
        failuresInARow,
        lastError: lastError?.message ?? null,
        trimsFailed: troubles.trimFailed,
        renewalsFailed: troubles.leaseNotRenewed,
      })),
    };
  }

  /** The newest failure of a partition that has applied nothing since; `null` where all is well. */
  get lastError(): Error | null {
    return this.#partitions.find(({ report }) => report.lastError)?.report.lastError ?? null;
  }

  /**
   * Applies all events in the streams, then gives the partitions back. Where another sink owns a
   * partition, waits until that one has applied them.
   * @param signal ends it after the running batch, as {@linkcode stop} does
   * @returns the status afterwards
   * @throws {WriteBehindError} where it was stopped before, or was started, or drains already
   * @throws the first error that retrying cannot solve; transient ones are retried for ever
   */
  async drain(signal?: AbortSignal): Promise<SinkStatus> {
    checkArguments("drain", { signal });
    this.#refuseStopped();
    this.#refuseDraining();
    if (this.#running) {
      throw new WriteBehindError(
        `the sink of ${this.#entity} was started, and applies what comes by itself: wait by caughtUp`,
      );
    }
    const stop = this.#stop.signal;
    const draining = this.#drainAll(signal ? AbortSignal.any([stop, signal]) : stop);
    this.#draining = awaitedLater(draining);
    try {
      await draining;
    } finally {
      this.#draining = undefined;
    }
    return this.status;
  }

  async #drainAll(signal: AbortSignal): Promise<void> {
    try {
      for (;;) {
        if (await this.#lookForRepartition()) await this.#begin();
        try {
          await this.#drainOnce(signal);
          break;
        } catch (error) {
          if (!(error instanceof RepartitioningError)) throw error;
          await delay(LOOK_MS, signal);
        }
      }
    } finally {
      await this.#release();
    }
  }

  async #drainOnce(signal: AbortSignal): Promise<void> {
    // The first failure is thrown; each partition has told its own as an event.
    const outcomes = await Promise.allSettled(
      this.#partitions.map((partition) => partition.run({ follow: false, signal })),
    );
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }

  /**
   * Starts carrying events on in the background: continuously where `write_behind.interval_seconds` is
   * 0, else a drain every so often. Safe to call again. What fails is tried again: see {@linkcode lastError}.
   * @throws {WriteBehindError} where it was stopped before, or drains
   */
  start(): void {
    this.#refuseStopped();
    this.#refuseDraining();
    this.#running ??= this.#config.write_behind.interval_seconds === 0
      ? this.#follow()
      : this.#tick();
  }

  #refuseStopped(): void {
    if (!this.#stop.signal.aborted) return;
    throw new WriteBehindError(`the sink of ${this.#entity} was stopped: make another`);
  }

  #refuseDraining(): void {
    if (!this.#draining) return;
    throw new WriteBehindError(`the sink of ${this.#entity} drains: wait until it has`);
  }

  /** With `streams.partitions: auto`, the partitions are others once the entity was repartitioned. */
  async #follow(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      const repartitioned = new AbortController();
      const signal = AbortSignal.any([this.#stop.signal, repartitioned.signal]);
      const sharing = this.#sharing = this.#share();
      for (const partition of this.#partitions) if (sharing) partition.share(sharing);
      await Promise.all([
        sharing?.run(signal),
        this.#untilRepartitioned(signal).then(() => repartitioned.abort()),
        ...this.#partitions.map((partition) => partition.run({ follow: true, signal })),
      ]);
      if (!this.#stop.signal.aborted) await this.#begin();
    }
  }

  async #untilRepartitioned(signal: AbortSignal): Promise<void> {
    if (this.#config.streams.partitions !== "auto") {
      // Each partition says that the number is another one now.
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      return;
    }
    while (!signal.aborted) {
      await delay(LOOK_MS, signal);
      if (!signal.aborted && await this.#lookForRepartition()) return;
    }
  }

  /** Whether the entity has other partitions than these. */
  async #lookForRepartition(): Promise<boolean> {
    const [config, entity] = [this.#config, this.#entity];
    if (config.streams.partitions !== "auto") return false;
    try {
      const found = await readShape(this.#redis, config, entity);
      await this.#giveWherePaused(found);
      if (found === null || sameShape(found.shape, this.#partitions[0]!.keys.shape)) return false;
      learnShape(config, entity, found.shape);
      return true;
    } catch {
      // Redis is away, or ranges of targets do not fit: the partitions have said so, and it is asked again.
      return false;
    }
  }

  /**
   * A repartition pauses the target, the last partition last. Each would notice when it looks around, which those of many
   * do seldom, and writers wait meanwhile.
   */
  async #giveWherePaused(found: Recorded | null): Promise<void> {
    const { name } = this.#target.describe();
    const { keys } = this.#partitions.at(-1)!;
    const isPaused = found !== null && found.to !== null &&
      (await readRegistration(this.#redis, keys, name))?.state === "paused";
    if (isPaused && !this.#hasGiven) {
      for (const partition of this.#partitions) partition.give();
    }
    this.#hasGiven = isPaused;
  }

  /** Begins with the partitions that there are now. */
  async #begin(): Promise<void> {
    await this.#release();
    this.#past.push(...this.#partitions.map(({ report }) => report));
    this.#partitions = this.#allPartitions();
  }

  /** Others may come, with whom the partitions are shared, where the target can tell of them. */
  #share(): Sharing | null {
    const { ownership } = this.#target;
    if (!ownership.share) return null;
    const keys = this.#partitions.map(({ keys }) => keys);
    const partitionOf = (stream: string) =>
      this.#partitions.find(({ keys }) => keys.stream === stream)!;
    const { max_retry_attempts } = this.#config.write_behind;
    return new Sharing(ownership, this.#config, keys, {
      process: this.process,
      fails: (stream) => partitionOf(stream).report.failuresInARow >= max_retry_attempts,
      onGive: (stream) => partitionOf(stream).give(),
    });
  }

  async #tick(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      if (await this.#lookForRepartition()) await this.#begin();
      // What went wrong is in the partition's lastError, the counters and the log stream.
      await this.#drainOnce(signal).catch(() => {});
      await delay(this.#config.write_behind.interval_seconds * 1000, signal);
    }
  }

  /** Lets running batches finish, gives the partitions back, and sends the counters. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    await this.#draining?.catch(() => {}); // who drains has the error
    await this.#release();
  }

  /**
   * Stops when a signal is aborted.
   * @internal
   */
  stopOn(signal: AbortSignal): void {
    const stop = () => void this.stop();
    signal.addEventListener("abort", stop, { once: true, signal: this.#stop.signal });
  }

  async #release(): Promise<void> {
    await Promise.all(this.#partitions.map((partition) => partition.close()));
    await this.#sharing?.leave();
    await this.#redis.counters.flush();
  }

  /** Stops, as {@linkcode stop} does. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/**
 * Runs a sink in the background.
 * @param target a target, or a pool of PostgreSQL connections: it may have at least `write_behind.connections` (or as
 * many as there are partitions) for each entity of the configuration, whose sinks may share it, and two
 * @param signal stops it
 * @returns the running sink; `stop()` lets the running batch finish
 *
 * @example
 * ```ts
 * import { connectRedis, consumePeriodically, loadConfig, openTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * await using sink = consumePeriodically(redis, target, config, "session");
 * sink.events.on("applied", ({ events, rows }) => console.log(events, rows));
 * ```
 */
export function consumePeriodically(
  redis: RedisConnection,
  target: Target | Pool,
  config: Config,
  entity: string,
  signal?: AbortSignal,
): RedisWriteBehind {
  checkArguments("consumePeriodically", { redis, target, config, entity, signal });
  const sink = new RedisWriteBehind(redis, target, config, entity);
  if (signal?.aborted) void sink.stop();
  else sink.start();
  if (signal) sink.stopOn(signal);
  return sink;
}
