/**
 * The page's figures: read from the streams and the target, at an interval, and kept for a while.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import { reasonOf } from "../../core/errors.ts";
import {
  type Figures,
  figuresOf,
  FRESHNESS_GAUGES,
  recentFreshness,
} from "../../metrics/figures.ts";
import {
  type CacheState,
  hitRate,
  inAll,
  readCacheFigures,
  readCaches,
} from "../../redis/cache_state.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { allPartitions, gaugesOf, partitionsOf } from "../../redis/keys.ts";
import { listTargets } from "../../operate/targets.ts";
import type { TargetState } from "../../redis/registrations.ts";
import { readStandings, readTold, type StandingAndLag, viewOf } from "../../targets/standings.ts";
import type { Target } from "../../targets/target.ts";
import { type MasterView, readNodes } from "./nodes.ts";

/** One moment, as the page shows it. Rates are per second since the moment before. */
export interface StageSample {
  /** in ms since 1970 */
  at: number;
  /** events written and applied since the partitions began */
  written: number;
  applied: number;
  /** events that the target is behind */
  lag: number;
  /** age of the oldest of them, in seconds */
  lagSeconds: number;
  /** events in the dead letter */
  parked: number;
  writtenPerSecond: number;
  appliedPerSecond: number;
  /** from the write call to the row being visible, in ms; null while nothing is applied */
  freshnessP50Ms: number | null;
  freshnessP99Ms: number | null;
}

/** Whether the servers answer. */
export interface Reachable {
  redis: boolean;
  target: boolean;
}

/** How a target is, by what the streams say. */
export interface TargetView {
  name: string;
  /** `null` where no sink has registered it */
  state: TargetState | null;
  /**
   * events that it is behind: the first as the figures say, the others by the offset that they have told last;
   * `null` while that cannot be read
   */
  lag: number | null;
}

/** How the entity's cache is. */
export interface CacheView {
  /** that of its partitions that is least far; `null` where Redis has none */
  state: CacheState | null;
  /** documents that are not evicted, since the target lacks their last event */
  pending: number;
  /** the share of hits, for people */
  hits: string;
  /** keys that all of Redis has evicted, or whose time was over, since it started */
  gone: number;
}

/** Options of {@linkcode Watch}. */
export interface WatchOptions {
  redis: RedisConnection;
  target: Target;
  config: Config;
  entity: string;
  /**
   * called with each moment, and with the figures behind it; without one where they cannot be read, and then with the
   * reason, unless it is that a server does not answer
   */
  onSample: (
    sample: StageSample | null,
    reachable: Reachable,
    figures: Figures | null,
    trouble: string | null,
  ) => void;
}

const INTERVAL_MS = 500;
/** Five minutes. */
const MAX_SAMPLES = 600;
/** So long does an event wait, in seconds, where nothing is applied at all. */
const STANDS_SECONDS = 0.5;
/** So many moments without any are more than a slow flow. */
const STANDS_MOMENTS = 4;

const NOTHING_APPLIED = { freshnessP50Ms: null, freshnessP99Ms: null };

/** Reads the figures until it is stopped. */
export class Watch implements AsyncDisposable {
  readonly #options: WatchOptions;
  #samples: StageSample[] = [];
  /** what was read of each stream when the target answered last */
  #known = new Map<string, StandingAndLag>();
  #reachable: Reachable = { redis: true, target: true };
  #targets: TargetView[] = [];
  #cache: CacheView | null = null;
  #masters: readonly MasterView[] | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #reading: Promise<void> = Promise.resolve();
  #stopped = false;
  #generation = 0;

  constructor(options: WatchOptions) {
    this.#options = options;
  }

  /** The moments that are kept, the oldest first. */
  get samples(): readonly StageSample[] {
    return this.#samples;
  }

  get reachable(): Reachable {
    return this.#reachable;
  }

  /** All of several targets; empty where there is one only. */
  get targets(): readonly TargetView[] {
    return this.#targets;
  }

  /** `null` where the entity has none, or that is not known. */
  get cache(): CacheView | null {
    return this.#cache;
  }

  /** Where the partitions are, as was known last; `null` where Redis is no cluster. */
  get masters(): readonly MasterView[] | null {
    return this.#masters;
  }

  /** Reads now, and then at the interval. */
  start(): void {
    this.#reading = this.#read().finally(() => {
      if (!this.#stopped) this.#timer = setTimeout(() => this.start(), INTERVAL_MS);
    });
  }

  /** Forgets everything: what is read from now on counts anew. */
  clear(): void {
    this.#samples = [];
    this.#known.clear();
    this.#generation++;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#reading;
    clearTimeout(this.#timer);
  }

  /** Never rejects: a server that does not answer is what the page shows. */
  async #read(): Promise<void> {
    const generation = this.#generation;
    const reachable = { redis: true, target: true };
    let sample: StageSample | null = null;
    let figures: Figures | null = null;
    let trouble: string | null = null;
    try {
      figures = await this.#readFigures(reachable);
      const freshness = this.#stands(figures, reachable)
        ? NOTHING_APPLIED
        : await this.#freshness();
      this.#targets = await this.#readTargets(figures);
      this.#cache = await this.#readCache();
      if (generation !== this.#generation) return;
      if (figures) sample = this.#add(figures, freshness);
    } catch (error) {
      reachable.redis = await this.#redisAnswers();
      reachable.target &&= await this.#targetAnswers();
      // Where it does not, the page says so; the connection's events have the cause.
      if (reachable.redis) trouble = reasonOf(error);
      this.#targets = this.#targets.map((target) => ({ ...target, lag: null }));
      this.#cache = null;
    }
    this.#masters = await this.#readMasters();
    this.#reachable = reachable;
    this.#options.onSample(sample, reachable, figures, trouble);
  }

  #redisAnswers(): Promise<boolean> {
    const { servers } = this.#options.redis;
    return Promise.all(servers.map((server) => server.ping())).then(() => true, () => false);
  }

  #targetAnswers(): Promise<boolean> {
    const { target, config, entity } = this.#options;
    const [keys] = partitionsOf(config, entity, target.describe().name);
    return target.offsets.offset(keys!).then(() => true, () => false);
  }

  /**
   * While the target is away, what its sinks have told Redis.
   * @returns `null` where it has never answered
   * @throws the error of Redis, or whatever keeps the figures from being read though both answer
   */
  async #readFigures(reachable: Reachable): Promise<Figures | null> {
    const { redis, target, config, entity } = this.#options;
    const { name } = target.describe();
    const view = await viewOf(redis, config, entity, name);
    const { partitions } = view;
    try {
      const read = await readStandings(redis, target.offsets, view, { waits: false });
      this.#known = new Map(partitions.map(({ stream }, index) => [stream, read[index]!]));
      return figuresOf(view, read);
    } catch (error) {
      reachable.target = await this.#targetAnswers();
      if (reachable.target) throw error;
      // Else it was that; the sinks' events have the cause.
    }
    const last = partitions.flatMap(({ stream }) => this.#known.get(stream) ?? []);
    if (last.length < partitions.length) return null;
    return figuresOf(view, await readTold(redis, name, partitions, last));
  }

  async #readTargets(figures: Figures | null): Promise<TargetView[]> {
    const { redis, config, entity, target } = this.#options;
    if (config.targets.length === 1) return [];
    const shown = target.describe().name;
    const listed = Map.groupBy(await listTargets(redis, config, entity), ({ name }) => name);
    return [...listed].map(([name, parts]) => ({
      name,
      state: parts.find(({ state }) => state !== "active")?.state ?? parts[0]!.state,
      // What it has told last may be of before: of the one that is asked, the page shows what it says itself.
      lag: name === shown && figures
        ? figures.lag
        : parts.reduce((sum, { lagEvents }) => sum + lagEvents, 0),
    }));
  }

  async #readMasters(): Promise<readonly MasterView[] | null> {
    const { redis, config, entity } = this.#options;
    if (config.redis.cluster === null) return null;
    try {
      return await readNodes(redis, allPartitions(config, entity));
    } catch {
      // What they said last still names them.
      return this.#masters?.map((master) => ({ ...master, answers: false })) ?? null;
    }
  }

  async #readCache(): Promise<CacheView | null> {
    const { redis, config, entity } = this.#options;
    if (!entityConfig(config, entity).cache.enabled) return null;
    const [caches, figures] = await Promise.all([
      readCaches(redis, allPartitions(config, entity)),
      readCacheFigures(redis, config, entity),
    ]);
    const { state, pending } = inAll(caches);
    return {
      state,
      pending,
      hits: hitRate(figures),
      gone: figures.evictedKeys + figures.expiredKeys,
    };
  }

  /**
   * Whether nothing is applied: what was fresh last says nothing then. Where events wait, or the target is away, one
   * moment is enough to tell; else a slow flow has moments without any.
   */
  #stands(figures: Figures | null, { target }: Reachable): boolean {
    if (!figures) return false;
    const { applied, lagSeconds } = figures;
    const moments = lagSeconds > STANDS_SECONDS || !target ? 1 : STANDS_MOMENTS;
    const then = this.#samples.at(-moments);
    return then !== undefined && then.applied === applied;
  }

  /** Of the slowest partition; null where no sink has applied anything lately. */
  async #freshness(): Promise<Pick<StageSample, "freshnessP50Ms" | "freshnessP99Ms">> {
    const { redis, target, config, entity } = this.#options;
    const { name } = target.describe();
    const gauges = await Promise.all(
      partitionsOf(config, entity, name).map((keys) =>
        redis.hmget(gaugesOf(keys, name), ...FRESHNESS_GAUGES)
      ),
    );
    const recent = recentFreshness(gauges);
    const largest = (index: 0 | 1) =>
      recent.length === 0 ? null : Math.max(...recent.map((one) => one[index]));
    return { freshnessP50Ms: largest(0), freshnessP99Ms: largest(1) };
  }

  #add(
    { at, written, applied, lag, lagSeconds, parked }: Figures,
    freshness: Pick<StageSample, "freshnessP50Ms" | "freshnessP99Ms">,
  ): StageSample {
    const before = this.#samples.at(-1);
    const seconds = before ? (at - before.at) / 1000 : 0;
    // A stream that was emptied begins again: nothing is written backwards.
    const rate = (now: number, then: number) =>
      seconds > 0 ? Math.max(0, (now - then) / seconds) : 0;
    const sample = {
      at,
      written,
      applied,
      lag,
      lagSeconds,
      parked,
      writtenPerSecond: before ? rate(written, before.written) : 0,
      appliedPerSecond: before ? rate(applied, before.applied) : 0,
      ...freshness,
    };
    this.#samples.push(sample);
    if (this.#samples.length > MAX_SAMPLES) this.#samples.shift();
    return sample;
  }
}
