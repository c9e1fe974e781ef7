/**
 * Giving an entity another number of partitions, while programs write and sinks run: writers wait meanwhile.
 *
 * It goes in steps, each noted in Redis before it begins and safe to run again, so that whoever comes after a crash goes
 * on. Until sinks have given their partitions back, it can be taken back.
 * @module
 */

import { checkArguments } from "../../core/arguments.ts";
import { type Config, configWith, entityConfig } from "../../config/load.ts";
import { hasRanges } from "../../config/ranges.ts";
import { learnShape, sameShape, type Shape, textOf } from "../../config/shapes.ts";
import { delay } from "../../core/delay.ts";
import { passes } from "../../core/error_kinds.ts";
import { ConfigError, reasonOf, WriteBehindError } from "../../core/errors.ts";
import { failpoint } from "../../core/failpoints.ts";
import { compareStreamIds, isFar, nextMillisecond } from "../../core/stream_ids.ts";
import { checkUncached } from "../../redis/cache_state.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { allPartitions, keysOfDocument, type PartitionKeys } from "../../redis/keys.ts";
import { checkRebuilt } from "../../redis/rebuilding.ts";
import { MOST_PARTITIONS, readShape } from "../../redis/shape.ts";
import { lastGeneratedId } from "../../redis/streams.ts";
import { SearchError } from "../../search/error.ts";
import { createSearchIndex, dropOthers } from "../../search/index.ts";
import { resend } from "../../sink/rewind.ts";
import type { Target } from "../../targets/target.ts";
import {
  behind,
  type Carried,
  carriedTargets,
  checkParked,
  doubtsOf,
  moveTargets,
  offsetsOf,
  owned,
  pauseAll,
  resumeAll,
  statesOf,
} from "./carried.ts";
import type { Scope } from "./changes.ts";
import { countDocuments, type Move, moveDocuments, moveDueTimes, moveRequests } from "./move.ts";
import {
  alone,
  forgetState,
  noteState,
  readState,
  type RepartitionState,
  stateKey,
} from "./state.ts";
import { inheritance, newcomers, switchStreams } from "./switch.ts";

/** Options of {@linkcode repartition}. */
export interface RepartitionOptions {
  /** how many partitions there are to be, 1 to 256; needed but with `back` */
  to?: number | undefined;
  /** whether one partition has a tag in its names, as several have: a cluster needs it. @default {false} */
  tagged?: boolean | undefined;
  /** takes back one that was stopped before documents have moved, instead of going on. @default {false} */
  back?: boolean | undefined;
  /** how long a target may stand still, or a sink keep its partitions, in ms. @default {30000} */
  patienceMs?: number;
  /** is called when something else begins, with what it is, for people */
  onStep?: (what: string) => void;
  /** is called as documents move, with how many have so far, and about how many there are */
  onProgress?: (done: number, about: number) => void;
  /** stops it, with its reason: what has not moved yet is taken back, else running it again goes on */
  signal?: AbortSignal | undefined;
}

/** What was done. */
export interface RepartitionReport {
  /** how many partitions there were, such as `1`; `1 tagged` for one whose names have a tag */
  from: string;
  /** how many there are */
  to: string;
  /** documents that this run has moved */
  moved: number;
  /** how long that took, in ms */
  movedMs: number;
  /** whether it was taken back */
  back: boolean;
}

/** How often it looks whether what it waits for has come, in ms. */
const LOOK_MS = 50;
const PATIENCE_MS = 30_000;

/**
 * Gives an entity another number of partitions. Writers wait, and read the new number from Redis where
 * `streams.partitions` is `auto`; documents, receipts of requests, dead letters and offsets move to the new names. Stopped
 * or killed, it goes on when it is run again.
 * @param targets all that the streams are carried on to
 * @throws {ConfigError} where it cannot begin, with what to do
 * @throws {WriteBehindError} where a target stays behind, or a sink does not give its partition back: nothing has moved
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, repartition } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { moved } = await repartition(redis, [target], config, "session", { to: 8 });
 * console.log(moved);
 * ```
 */
export async function repartition(
  redis: RedisConnection,
  targets: readonly Target[],
  config: Config,
  entity: string,
  given: RepartitionOptions,
): Promise<RepartitionReport> {
  checkArguments("repartition", { redis, targets, config, entity, options: given });
  const { to, tagged = false, ...options } = given;
  entityConfig(config, entity);
  if (!options.back && !(Number.isInteger(to) && to! >= 1 && to! <= MOST_PARTITIONS)) {
    throw new ConfigError(
      `expected a whole number of partitions, 1 to ${MOST_PARTITIONS}, got ${to}`,
    );
  }
  if (hasRanges(config.targets)) {
    throw new ConfigError(
      `Cannot repartition ${entity}: the ranges of targets (targets[].partitions) are of the number that it has; have ` +
        "one target with all partitions first",
    );
  }
  const shape = to === undefined
    ? null
    : { partitions: to, tagged: to > 1 || tagged || config.redis.cluster !== null };
  const report = await alone(redis, config, entity, options.signal, (signal) => {
    const own = configWith(config, { streams: { partitions: "auto" } });
    return new Repartition(redis, targets, own, entity, { ...options, signal }).run(shape);
  });
  if (config.streams.partitions === "auto" && shape && !report.back) {
    learnShape(config, entity, shape);
  }
  return report;
}

class Repartition {
  #redis: RedisConnection;
  #targets: readonly Target[];
  #config: Config;
  #entity: string;
  #options: Omit<RepartitionOptions, "to" | "tagged"> & { signal: AbortSignal };
  #carried: Carried[] = [];
  #moved = 0;
  #movedMs = 0;

  constructor(
    redis: RedisConnection,
    targets: readonly Target[],
    config: Config,
    entity: string,
    options: Omit<RepartitionOptions, "to" | "tagged"> & { signal: AbortSignal },
  ) {
    this.#redis = redis;
    this.#targets = targets;
    this.#config = config;
    this.#entity = entity;
    this.#options = options;
  }

  /** @param to `null` only where it is taken back */
  async run(to: Shape | null): Promise<RepartitionReport> {
    const [redis, config, entity] = [this.#redis, this.#config, this.#entity];
    const found = await readState(redis, config, entity);
    if (found === null && this.#options.back) {
      throw new ConfigError(
        `no repartition of ${entity} is under way: there is nothing to take back`,
      );
    }
    if (found !== null && !this.#options.back && !sameShape(found.to, to!)) {
      throw new ConfigError(
        `a repartition of ${entity} from ${textOf(found.from)} to ${
          textOf(found.to)
        } is under way: run it again with ` +
          `--to ${found.to.partitions}, or with --back`,
      );
    }
    const state = found ?? await this.#plan(to!);
    learnShape(config, entity, state.from);
    const { from } = state;
    this.#carried = await carriedTargets(redis, this.#targets, config, entity, from);
    if (this.#options.back) await this.#back(state);
    else await this.#forward(state);
    return {
      from: textOf(from),
      to: textOf(state.to),
      moved: this.#moved,
      movedMs: Math.round(this.#movedMs),
      back: this.#options.back ?? false,
    };
  }

  get #olds(): PartitionKeys[] {
    return allPartitions(this.#config, this.#entity);
  }

  get #scope(): Scope {
    const { signal, patienceMs = PATIENCE_MS } = this.#options;
    return {
      ...{ redis: this.#redis, config: this.#config, entity: this.#entity },
      ...{ signal, patienceMs },
    };
  }

  #move({ from, to }: Pick<RepartitionState, "from" | "to">): Move {
    return { ...this.#scope, from, to };
  }

  /** Sees whether it can begin. Changes nothing. */
  async #plan(to: Shape): Promise<RepartitionState> {
    const [redis, config, entity] = [this.#redis, this.#config, this.#entity];
    const recorded = await readShape(redis, config, entity);
    if (recorded === null) {
      throw new ConfigError(
        `nothing was ever written to ${entity}: set streams.partitions to ${
          textOf(to)
        }, and begin with that`,
      );
    }
    const from = recorded.shape;
    if (sameShape(from, to)) {
      throw new ConfigError(`${entity} has ${textOf(to)} partitions already`);
    }
    learnShape(config, entity, from);
    await checkUncached(redis, config, entity, `Cannot repartition ${entity}`);
    await checkRebuilt(redis, this.#olds, `Cannot repartition ${entity}`);
    const carried = await carriedTargets(redis, this.#targets, config, entity, from);
    for (const { stream } of this.#olds) {
      if (!isFar(await lastGeneratedId(redis, stream))) continue;
      throw new ConfigError(
        `Cannot repartition ${entity}: an id in ${stream} is past the year 2248; run deno task mend --entity ${entity} first`,
      );
    }
    const doubts = await doubtsOf(redis, carried, config, entity);
    await checkParked(carried, entity, this.#olds);
    await this.#untilOwned(carried);
    const documents = await countDocuments(this.#move({ from, to }));
    const identity = crypto.randomUUID().replaceAll("-", "").slice(0, 16);
    const none = { paused: [], base: "0-0", ends: {}, resend: [], inherited: null };
    return { step: "draining", from, to, documents, identity, doubts, ...none };
  }

  /** While nobody waits yet: a target that lacks something needs a sink, which may be starting, or taking over. */
  async #untilOwned(carried: readonly Carried[]): Promise<void> {
    const { signal, patienceMs = PATIENCE_MS } = this.#options;
    const deadline = performance.now() + patienceMs;
    for (;;) {
      const lack = await behind(this.#redis, carried, this.#olds);
      if (lack === null || lack.is === "owned") return;
      if (lack.is === "paused" || performance.now() >= deadline) {
        throw new WriteBehindError(`Cannot repartition ${this.#entity}: ${lack.reason}`);
      }
      await delay(LOOK_MS, signal);
      signal.throwIfAborted();
    }
  }

  async #forward(state: RepartitionState): Promise<void> {
    const { onStep } = this.#options;
    try {
      // In a cluster, a crash may have left some of the marks out.
      if (state.step !== "index") await this.#next(state, {});
      while (state.step === "draining" || state.step === "stopping") {
        if (state.step === "draining") state = await this.#drain(state);
        else state = await this.#stop(state);
      }
    } catch (error) {
      await this.#takeBack(state, error);
    }
    await failpoint?.("repartition stopped");
    while (state.step !== "index") {
      this.#options.signal.throwIfAborted();
      if (state.step === "documents") state = await this.#documents(state);
      else if (state.step === "requests") {
        onStep?.("moving the receipts of requests");
        await moveRequests(this.#move(state));
        await moveDueTimes(this.#move(state));
        state = await this.#next(state, { step: "targets" });
      } else state = await this.#switch(state);
    }
    await this.#index(state);
  }

  /** Notes what is done next. */
  async #next(
    state: RepartitionState,
    changes: Partial<RepartitionState>,
  ): Promise<RepartitionState> {
    const next = { ...state, ...changes };
    await noteState(this.#scope, next);
    return next;
  }

  /** Tells writers to wait, and waits until the targets hold all. */
  async #drain(state: RepartitionState): Promise<RepartitionState> {
    const { onStep, signal, patienceMs = PATIENCE_MS } = this.#options;
    onStep?.("writers wait; the targets take what is in the streams");
    await failpoint?.("repartition marked");
    let moved = performance.now();
    let before = "";
    let waits = "";
    for (;;) {
      signal.throwIfAborted();
      try {
        const lack = await behind(this.#redis, this.#carried, this.#olds);
        if (lack === null) break;
        waits = lack.reason;
        const now = await offsetsOf(this.#carried, this.#olds);
        if (now !== before) moved = performance.now();
        before = now;
      } catch (error) {
        // A connection that was lost comes back by itself.
        if (!this.#carried.some(({ target }) => passes(target.kindOf(error)))) throw error;
        waits = reasonOf(error);
      }
      if (performance.now() - moved > patienceMs) {
        throw new WriteBehindError(
          `Cannot repartition ${this.#entity}: for ${
            patienceMs / 1000
          } s nothing has moved: ${waits}`,
        );
      }
      await delay(LOOK_MS, signal);
    }
    await failpoint?.("repartition drained");
    const paused = await statesOf(this.#redis, this.#carried, this.#olds);
    return await this.#next(state, { step: "stopping", paused });
  }

  /** Lets sinks give their partitions back, and sees what the new streams begin with. */
  async #stop(state: RepartitionState): Promise<RepartitionState> {
    const [redis, config, entity] = [this.#redis, this.#config, this.#entity];
    const { onStep, signal, patienceMs = PATIENCE_MS } = this.#options;
    onStep?.("the sinks give their partitions back");
    await pauseAll(redis, config, this.#olds, state.paused);
    await failpoint?.("repartition pausing");
    const deadline = performance.now() + patienceMs + 1000 * config.write_behind.lease_seconds;
    for (;;) {
      signal.throwIfAborted();
      const held = await owned(this.#carried, this.#olds);
      if (held === null) break;
      if (performance.now() > deadline) {
        throw new WriteBehindError(`Cannot repartition ${entity}: ${held}`);
      }
      await delay(LOOK_MS, signal);
    }
    const lack = await behind(redis, this.#carried, this.#olds);
    if (lack !== null) {
      // Another program has written, which asks nobody.
      await resumeAll(redis, this.#olds, state.paused);
      return await this.#next(state, { step: "draining", paused: [] });
    }
    await checkParked(this.#carried, entity, this.#olds);
    const ends: Record<string, string> = {};
    let last = "0-0";
    for (const keys of this.#olds) {
      const end = ends[keys.stream] = await lastGeneratedId(redis, keys.stream);
      const offsets = this.#carried.map(({ target }) => target.offsets.offset(keys));
      last = [last, end, ...await Promise.all(offsets)].toSorted(compareStreamIds).at(-1)!;
    }
    return await this.#next(state, { step: "documents", ends, base: nextMillisecond(last) });
  }

  async #documents(state: RepartitionState): Promise<RepartitionState> {
    const { onStep, onProgress } = this.#options;
    onStep?.(`moving ${state.documents} documents`);
    const began = performance.now();
    const before = this.#moved;
    const moved = await moveDocuments(this.#move(state), (count) => {
      onProgress?.(before + count, Math.max(before + count, state.documents));
    });
    this.#moved += moved;
    this.#movedMs += performance.now() - began;
    return await this.#next(state, { step: "requests" });
  }

  /** Lets the targets and the writers go on with the new streams. */
  async #switch(state: RepartitionState): Promise<RepartitionState> {
    const [config, entity] = [this.#config, this.#entity];
    if (state.step === "targets") {
      this.#options.onStep?.("the targets go on with the new streams");
      await moveTargets(this.#carried, config, entity, state);
      // Whoever goes on after a crash may find some of the old settings only.
      state = await this.#next(state, {
        inherited: state.inherited ?? await inheritance(this.#scope),
      });
      await failpoint?.("repartition switching");
    }
    const next = await switchStreams(this.#scope, this.#carried, state);
    if (next !== null) {
      await failpoint?.("repartition switched");
      return next;
    }
    const come = await newcomers(this.#redis, state, this.#olds);
    const resend = [...new Set([...state.resend, ...come.ids])];
    return await this.#next(state, { step: "documents", ends: come.ends, base: come.base, resend });
  }

  /** Writers go on already. */
  async #index(state: RepartitionState): Promise<void> {
    const [redis, config, entity] = [this.#redis, this.#config, this.#entity];
    learnShape(config, entity, state.to);
    for (const id of state.resend) await resend(redis, keysOfDocument(config, entity, id), id);
    this.#options.onStep?.("writers go on; the search index is made anew");
    try {
      await createSearchIndex(redis, config, entity, { rebuild: true });
      await dropOthers(redis, config, entity, state.from);
    } catch (error) {
      // Redis goes on with it by itself.
      if (!(error instanceof SearchError && error.code === "indexing")) throw error;
      this.#options.onStep?.(error.message);
    }
    await failpoint?.("repartition indexed");
    await redis.del(stateKey(config, entity));
  }

  async #back(state: RepartitionState): Promise<void> {
    const { step } = state;
    if (step !== "draining" && step !== "stopping") {
      throw new ConfigError(
        `Cannot take back the repartition of ${this.#entity}: documents have begun to move (${step}); run it again ` +
          "without --back, and it goes on",
      );
    }
    await this.#undo(state);
  }

  async #undo(state: RepartitionState): Promise<void> {
    await resumeAll(this.#redis, this.#olds, state.paused);
    await forgetState(this.#scope, state);
  }

  /** What has stopped it before anything has moved does not keep writers waiting. */
  async #takeBack(state: RepartitionState, error: unknown): Promise<never> {
    const reading = readState(this.#redis, this.#config, this.#entity);
    const now = await reading.catch(() => null); // the error that is thrown counts
    if (now !== null && (now.step === "draining" || now.step === "stopping")) {
      await this.#undo({ ...state, paused: now.paused });
      this.#options.onStep?.("nothing has moved; writers go on as before");
    }
    throw error;
  }
}
