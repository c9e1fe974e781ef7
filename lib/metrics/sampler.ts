/**
 * Watches the pipeline: samples counters, lag and freshness at an interval, and keeps a bounded series.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { asError, WriteBehindError } from "../core/errors.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { COUNTER_NAMES, type CounterName } from "../redis/counters.ts";
import { gaugesOf } from "../redis/keys.ts";
import { valueOf } from "../redis/streams.ts";
import { type Pool, targetOf } from "../targets/open.ts";
import {
  readStandings,
  readTold,
  RememberedOffsets,
  type StandingAndLag,
  type View,
  viewOf,
} from "../targets/standings.ts";
import type { Target } from "../targets/target.ts";
import { FRESHNESS_GAUGES, recentFreshness, sumOf, type Sums, sumsOf } from "./figures.ts";

/**
 * One moment of the pipeline, by its streams and its target. Rates are per second since the sample before.
 *
 * The five counters are the original's: what processes have counted and sent, in events since sampling began, so that
 * the first sample has zeros. They are apart from all the others, and may differ from them: a process that is killed
 * takes along what it has not sent.
 */
export interface Sample extends Record<CounterName, number> {
  /** when it was taken */
  at: Date;
  /** events that were written: applied and waiting */
  written: number;
  /** events that the target holds: applied, or parked */
  applied: number;
  /** events that are parked now */
  parked: number;
  /** events written to Redis per second */
  writtenPerSecond: number;
  /** events applied to the target per second */
  appliedPerSecond: number;
  /** events that the target is behind, over all partitions */
  lagEvents: number;
  /** age of the oldest event that the target does not have, in seconds */
  lagSeconds: number;
  /** ms from the write call to the row being visible, the median of recent events; null where none came */
  freshnessP50Ms: number | null;
  /** the same, of all but the slowest one in a hundred */
  freshnessP99Ms: number | null;
  /** the sinks that hold live leases; null where none does */
  owner: string | null;
  /**
   * whether the target answered; where it did not, what it has applied is what its sinks have told Redis last, and what
   * is parked, and who owns it, is what it said last
   */
  targetAnswers: boolean;
}

/** Options of {@linkcode Sampler}. */
export interface SamplerOptions {
  /** the entity that is watched; all of them when left out */
  entity?: string;
  /** called before each sample, to send what this process has counted and not yet sent */
  flush?: (() => Promise<void>)[];
}

/**
 * Samples the pipeline every `metrics.sample_interval_ms`.
 *
 * At most `metrics.max_samples` are kept. When there are more, every other sample of the older half is
 * merged into the one after it (rates over both intervals, the larger lag and freshness), so the whole
 * history stays in the series, coarser with age, and no peak vanishes.
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, Sampler } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * await using sampler = new Sampler(redis, target, config);
 * sampler.onSample(({ written, applied, lagEvents }) => console.log(written, applied, lagEvents));
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
  readonly #entities: string[];
  /** the target's name */
  readonly #target: string;
  readonly #offsets: RememberedOffsets;
  /** what was read of each stream when the target answered last */
  #known = new Map<string, StandingAndLag>();
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
  constructor(
    redis: RedisConnection,
    target: Target | Pool,
    config: Config,
    options: SamplerOptions = {},
  ) {
    checkArguments("Sampler", { redis, target, config, options });
    const { entity, flush = [] } = options;
    this.#redis = redis;
    const opened = targetOf(target, config);
    this.#target = opened.describe().name;
    this.#offsets = new RememberedOffsets(opened.offsets);
    this.#config = config;
    this.#flush = flush;
    const entities = entity === undefined ? config.entities : [entityConfig(config, entity)];
    this.#entities = entities.map(({ name }) => name);
  }

  /** The samples so far, oldest first: the sampler's own list, which grows and is thinned out. */
  get samples(): readonly Sample[] {
    return this.#samples;
  }

  /** Takes a sample, and another one every `metrics.sample_interval_ms`. Does nothing when it runs already. */
  start(): void {
    if (this.#started) return;
    this.#started = true;
    void this.#tick();
  }

  /**
   * Ends sampling with a last sample: stop last, so that it tells how everything ended. Where nothing moves any more,
   * another one says so, without a rate. The series stays.
   */
  async stop(): Promise<void> {
    const started = this.#started;
    this.#started = false;
    clearTimeout(this.#timer);
    await this.#taking;
    if (started) await this.#sampleLast().catch((error) => this.#fail(error));
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
    checkArguments("onSample", { listener });
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /**
   * Waits for a sample that meets a condition.
   * @param what what is awaited, for the error message
   * @param deadlineMs how long to wait, in ms
   * @throws {WriteBehindError} after the deadline; or what the condition throws
   */
  async until(
    condition: (sample: Sample) => boolean,
    what: string,
    deadlineMs = 60_000,
  ): Promise<Sample> {
    checkArguments("until", { condition, text: what, deadlineMs });
    const met = Promise.withResolvers<Sample>();
    const end = this.onSample((sample) => {
      try {
        if (condition(sample)) met.resolve(sample);
      } catch (error) {
        met.reject(error);
      }
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
   * Takes one sample and adds it to the series. A target that does not answer is waited for no longer than a second.
   * @throws the error of Redis; or that of a target that has never answered
   */
  sample(): Promise<Sample> {
    const taken = this.#taking.then(() => this.#sample());
    this.#taking = taken.catch((error) => this.#fail(error));
    return taken;
  }

  async #sampleLast(): Promise<void> {
    const last = await this.sample();
    const { written, applied } = await this.#figures(await this.#view());
    const moved = last.writtenPerSecond + last.appliedPerSecond > 0;
    if (moved && written === last.written && applied === last.applied) {
      this.#add({ ...last, at: new Date() });
    }
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
    const view = await this.#view();
    const [{ counts, freshness }, sums] = await Promise.all([
      this.#reports(view),
      this.#figures(view),
    ]);
    const largest = (index: 0 | 1) =>
      freshness.length === 0 ? null : Math.max(...freshness.map((pair) => pair[index]));
    const { written, applied, parked, lag, lagSeconds, owner } = sums;
    const sample: Sample = {
      at: new Date(),
      ...{ written, applied, parked, lagEvents: lag, lagSeconds },
      ...{ writtenPerSecond: 0, appliedPerSecond: 0 },
      freshnessP50Ms: largest(0),
      freshnessP99Ms: largest(1),
      ...{ owner, targetAnswers: this.#offsets.answers },
      ...this.#count(counts),
    };
    this.lastError = null;
    this.#add(sample);
    return sample;
  }

  /** The partitions that there are now. */
  async #view(): Promise<View> {
    const views = this.#entities.map((name) =>
      viewOf(this.#redis, this.#config, name, this.#target)
    );
    const read = await Promise.all(views);
    return {
      partitions: read.flatMap(({ partitions }) => partitions),
      others: read.flatMap(({ others }) => others),
      isMoving: read.some(({ isMoving }) => isMoving),
    };
  }

  /** What the streams and the target say. */
  async #figures(view: View): Promise<Sums & { owner: string | null }> {
    this.#offsets.answers = true;
    const read = await this.#standings(view);
    const owners = read.flatMap(({ standing: { live, owner } }) => live && owner ? [owner] : []);
    return { ...sumOf(read.map(sumsOf)), owner: [...new Set(owners)].sort().join(", ") || null };
  }

  async #standings(view: View): Promise<StandingAndLag[]> {
    const { partitions } = view;
    const read = await readStandings(this.#redis, this.#offsets, view, { waits: false });
    if (!this.#offsets.answers) {
      const last = partitions.map(({ stream }, index) => this.#known.get(stream) ?? read[index]!);
      return await readTold(this.#redis, this.#target, partitions, last);
    }
    this.#known = new Map(partitions.map(({ stream }, index) => [stream, read[index]!]));
    return read;
  }

  /** What processes have reported: the counters, and how fresh the rows are. */
  async #reports({ partitions }: View) {
    const pipeline = this.#redis.pipeline();
    for (const name of COUNTER_NAMES) pipeline.get(`metrics:${name}`);
    for (const keys of partitions) {
      pipeline.hmget(gaugesOf(keys, this.#target), ...FRESHNESS_GAUGES);
    }
    const replies = ((await pipeline.exec()) ?? []).map(valueOf);
    if (replies.length === 0) throw new WriteBehindError("Redis gave no reply to a sample");
    const counts = replies.splice(0, COUNTER_NAMES.length) as (string | null)[];
    const gauges = replies as (string | null)[][];
    return { counts, freshness: recentFreshness(gauges) };
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

/** By the true time in between. What was lost with a Redis was written all the same: a rate is not below 0. */
function setRates(sample: Sample, before: Sample): void {
  const seconds = Math.max(1, sample.at.getTime() - before.at.getTime()) / 1000;
  sample.writtenPerSecond = Math.max(0, sample.written - before.written) / seconds;
  sample.appliedPerSecond = Math.max(0, sample.applied - before.applied) / seconds;
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
    targetAnswers: dropped.targetAnswers && sample.targetAnswers,
    freshnessP50Ms: largerOf(dropped.freshnessP50Ms, sample.freshnessP50Ms),
    freshnessP99Ms: largerOf(dropped.freshnessP99Ms, sample.freshnessP99Ms),
  };
  setRates(result, before);
  return result;
}

function largerOf(a: number | null, b: number | null): number | null {
  return a === null || b === null ? a ?? b : Math.max(a, b);
}
