/**
 * Watches the pipeline: samples counters, lag and freshness at an interval, and keeps a bounded series.
 * @module
 */

import { type Config, entityConfig } from "../config/load.ts";
import { WriteBehindError } from "../core/errors.ts";
import { asError } from "../core/events.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { COUNTER_NAMES, type CounterName } from "../redis/counters.ts";
import { allPartitions, type PartitionKeys } from "../redis/keys.ts";
import { type Position, readLag } from "../redis/lag.ts";
import { valueOf } from "../redis/streams.ts";

/**
 * One moment of the pipeline. Rates are per second since the sample before; the five counters are in events since
 * sampling began, so that the first sample has zeros.
 */
export interface Sample extends Record<CounterName, number> {
  /** when it was taken */
  at: Date;
  /** events written to Redis per second, by all processes */
  writtenPerSecond: number;
  /** events applied to the target per second, by all sinks */
  drainedPerSecond: number;
  /** events that the target is behind, over all partitions */
  lagEvents: number;
  /** age of the oldest event that the target does not have, in seconds */
  lagSeconds: number;
  /** ms from the write call to the row being visible, the median of recent events; null where none came */
  freshnessP50Ms: number | null;
  /** the same, of all but the slowest one in a hundred */
  freshnessP99Ms: number | null;
}

/** Options of {@linkcode Sampler}. */
export interface SamplerOptions {
  /** the entity whose lag is watched; all of them when left out */
  entity?: string;
  /** called before each sample, to send what this process has counted and not yet sent */
  flush?: (() => Promise<void>)[];
}

/** After so long without a new freshness, in ms, a sink applies nothing. */
const FRESHNESS_MAX_AGE_MS = 5000;

/**
 * Samples the pipeline every `metrics.sample_interval_ms`.
 *
 * At most `metrics.max_samples` are kept. When there are more, every other sample of the older half is
 * merged into the one after it (rates over both intervals, the larger lag and freshness), so the whole
 * history stays in the series, coarser with age, and no peak vanishes.
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, Sampler } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using sampler = new Sampler(redis, config);
 * sampler.onSample(({ lagEvents, drainedPerSecond }) => console.log(lagEvents, drainedPerSecond));
 * sampler.start();
 * await sampler.until(({ lagEvents }) => lagEvents === 0, "the target to catch up");
 * ```
 */
export class Sampler {
  /** What went wrong at the last sample; null when it succeeded. */
  lastError: Error | null = null;
  readonly #redis: RedisConnection;
  readonly #config: Config;
  readonly #flush: (() => Promise<void>)[];
  readonly #partitions: PartitionKeys[];
  readonly #samples: Sample[] = [];
  readonly #listeners = new Set<(sample: Sample) => void>();
  #totals = new Map<CounterName, { seen: number; since: number }>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #started = false;
  #taking: Promise<unknown> = Promise.resolve();

  /**
   * Does not begin yet: see {@linkcode start}.
   * @throws {ConfigError} where the configuration has no such entity
   */
  constructor(redis: RedisConnection, config: Config, options: SamplerOptions = {}) {
    const { entity, flush = [] } = options;
    this.#redis = redis;
    this.#config = config;
    this.#flush = flush;
    const entities = entity === undefined ? config.entities : [entityConfig(config, entity)];
    this.#partitions = entities.flatMap(({ name }) => allPartitions(config, name));
  }

  /** The samples so far, oldest first: the sampler's own list, which grows and is thinned out. */
  get samples(): readonly Sample[] {
    return this.#samples;
  }

  /** Takes a sample now and then every `metrics.sample_interval_ms`. Does nothing when it runs already. */
  start(): void {
    if (this.#started) return;
    this.#started = true;
    void this.#tick();
  }

  /** Ends sampling, after a sample that is being taken. The series stays. */
  async stop(): Promise<void> {
    this.#started = false;
    clearTimeout(this.#timer);
    await this.#taking;
  }

  /** Ends sampling, as {@linkcode stop} does. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /**
   * Calls `listener` with each new sample.
   * @returns a function that ends this
   */
  onSample(listener: (sample: Sample) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /**
   * Waits for a sample that meets a condition.
   * @param what what is awaited, for the error message
   * @param deadlineMs how long to wait, in ms
   * @throws {WriteBehindError} after the deadline
   */
  async until(
    condition: (sample: Sample) => boolean,
    what: string,
    deadlineMs = 60_000,
  ): Promise<Sample> {
    const met = Promise.withResolvers<Sample>();
    const end = this.onSample((sample) => {
      if (condition(sample)) met.resolve(sample);
    });
    const timer = setTimeout(
      () => met.reject(new WriteBehindError(`waited ${deadlineMs} ms in vain for ${what}`)),
      deadlineMs,
    );
    try {
      return await met.promise;
    } finally {
      clearTimeout(timer);
      end();
    }
  }

  /**
   * Takes one sample, in at most two round trips, and adds it to the series.
   * @throws the error that Redis answers
   */
  sample(): Promise<Sample> {
    const taken = this.#taking.then(() => this.#sample());
    this.#taking = taken.catch((error) => this.#fail(error));
    return taken;
  }

  /** Never rejects, since nobody waits for it. */
  async #tick(): Promise<void> {
    const began = performance.now();
    await this.sample().catch(() => {}); // lastError has it
    if (!this.#started) return;
    // A stop and a start during the sample leave two ticks: the newer timer wins.
    clearTimeout(this.#timer);
    const pause = this.#config.metrics.sample_interval_ms - (performance.now() - began);
    const timer = setTimeout(() => void this.#tick(), Math.max(0, pause));
    Deno.unrefTimer(timer);
    this.#timer = timer;
  }

  #fail(error: unknown): void {
    this.lastError = asError(error);
  }

  async #sample(): Promise<Sample> {
    const flushed = [this.#redis.counters.flush(), ...this.#flush.map((flush) => flush())];
    await Promise.all(flushed);
    const first = this.#redis.pipeline();
    first.mget(COUNTER_NAMES.map((name) => `metrics:${name}`));
    for (const keys of this.#partitions) {
      first.get(keys.lastId);
      first.hmget(keys.gauges, "at", "freshness_p50_ms", "freshness_p99_ms");
    }
    const replies = ((await first.exec()) ?? []).values();
    const next = () => {
      const reply = replies.next().value;
      if (reply === undefined) throw new WriteBehindError("Redis gave no reply to a sample");
      return valueOf(reply);
    };
    const counts = next() as (string | null)[];
    const at = new Date();
    const positions: Position[] = [];
    const freshness: [number, number][] = [];
    for (const keys of this.#partitions) {
      // The copy of the offset; there is none before the first batch.
      positions.push({ stream: keys.stream, offset: next() as string | null ?? "0-0" });
      const [reportedAt, p50, p99] = next() as (string | null)[];
      const age = at.getTime() - Number(reportedAt ?? -Infinity);
      if (age <= FRESHNESS_MAX_AGE_MS && p50 && p99) freshness.push([Number(p50), Number(p99)]);
    }
    const lags = await readLag(this.#redis, positions);
    const largest = (index: 0 | 1) =>
      freshness.length === 0 ? null : Math.max(...freshness.map((pair) => pair[index]));
    const sample: Sample = {
      at,
      ...this.#count(counts),
      writtenPerSecond: 0,
      drainedPerSecond: 0,
      lagEvents: lags.reduce((sum, { events }) => sum + events, 0),
      lagSeconds: Math.max(...lags.map(({ seconds }) => seconds)),
      freshnessP50Ms: largest(0),
      freshnessP99Ms: largest(1),
    };
    this.lastError = null;
    this.#add(sample);
    return sample;
  }

  /** Turns the counters in Redis into events since sampling began, even if Redis was emptied meanwhile. */
  #count(values: (string | null)[]): Record<CounterName, number> {
    const entries = COUNTER_NAMES.map((name, index): [CounterName, number] => {
      const seen = Number(values[index] ?? 0);
      const total = this.#totals.get(name) ?? { seen, since: 0 };
      const since = total.since + (seen >= total.seen ? seen - total.seen : seen);
      this.#totals.set(name, { seen, since });
      return [name, since];
    });
    return Object.fromEntries(entries) as Record<CounterName, number>;
  }

  #add(sample: Sample): void {
    const before = this.#samples.at(-1);
    if (before) setRates(sample, before);
    this.#samples.push(sample);
    if (this.#samples.length > this.#config.metrics.max_samples) thinOut(this.#samples);
    for (const listener of [...this.#listeners]) {
      try {
        listener(sample);
      } catch (error) {
        this.#fail(error);
      }
    }
  }
}

function setRates(sample: Sample, before: Sample): void {
  const seconds = Math.max(1, sample.at.getTime() - before.at.getTime()) / 1000;
  sample.writtenPerSecond = (sample.redis_success - before.redis_success) / seconds;
  sample.drainedPerSecond = (sample.postgres_success - before.postgres_success) / seconds;
}

/** Halves the resolution of the older half; the first sample stays, since it marks the start. */
function thinOut(samples: Sample[]): void {
  if (samples.length < 3) return void samples.shift();
  // An odd number, so that the last of them absorbs the one before it.
  const older = samples.splice(0, Math.max(3, Math.floor(samples.length / 2) | 1));
  const kept = older.slice(0, 1);
  for (let index = 2; index < older.length; index += 2) {
    kept.push(merged(older[index - 1]!, older[index]!, kept.at(-1)!));
  }
  samples.unshift(...kept);
}

function merged(dropped: Sample, sample: Sample, before: Sample): Sample {
  const result = {
    ...sample,
    lagEvents: Math.max(dropped.lagEvents, sample.lagEvents),
    lagSeconds: Math.max(dropped.lagSeconds, sample.lagSeconds),
    freshnessP50Ms: largerOf(dropped.freshnessP50Ms, sample.freshnessP50Ms),
    freshnessP99Ms: largerOf(dropped.freshnessP99Ms, sample.freshnessP99Ms),
  };
  setRates(result, before);
  return result;
}

function largerOf(a: number | null, b: number | null): number | null {
  return a === null || b === null ? a ?? b : Math.max(a, b);
}
