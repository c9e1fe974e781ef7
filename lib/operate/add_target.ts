/**
 * Adding a target while everything runs: it is filled with the documents that Redis holds, and where a cache has evicted
 * some, with their rows in the target that the cache is in front of.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig, targetConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { ConfigError, WriteBehindError } from "../core/errors.ts";
import { compareStreamIds, isFar, partsOf } from "../core/stream_ids.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, type PartitionKeys, partitionsOf } from "../redis/keys.ts";
import { checkRebuilt } from "../redis/rebuilding.ts";
import {
  readRegistration,
  register,
  type Registration,
  type TargetState,
} from "../redis/registrations.ts";
import { checkShape } from "../redis/shape.ts";
import { lastEntryId, lastGeneratedId } from "../redis/streams.ts";
import { checkBelonging } from "../sink/belonging.ts";
import { forward, hasWitness } from "../sink/rewind.ts";
import { type Claim, HEARTBEATS, type Target } from "../targets/target.ts";
import { type Evicted, evictedSource, isAsBefore } from "./evicted.ts";
import { type AddReport, Filling } from "./filling.ts";

export type { AddReport };

/** A lease for the time of the filling, in seconds. */
const LEASE_SECONDS = 10;
const LOOK_AGAIN_MS = 100;

/**
 * Adds a target while everything runs: takes its place at the end of each stream, fills it with the documents that Redis
 * holds in its partitions, and lets the sinks go on from there. What is written meanwhile is in the stream behind its
 * place. Stopped half way, it is run again.
 * @param target it, opened: `openTarget(config, name)`
 * @param options.onProgress called after each chunk, with documents done and about how many there are
 * @param options.signal stops it between two chunks, with its reason
 * @throws {ConfigError} where the configuration does not name it, or it belongs to other data, or a cache is in front of it,
 * or is just being turned on
 *
 * @example
 * ```ts
 * import { addTarget, connectRedis, loadConfig, openTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { rows, refusedDocuments } = await addTarget(redis, target, config, "session");
 * console.log(rows, refusedDocuments);
 * ```
 */
export async function addTarget(
  redis: RedisConnection,
  target: Target,
  config: Config,
  entity: string,
  options: {
    onProgress?: (done: number, total: number) => void;
    signal?: AbortSignal;
  } = {},
): Promise<AddReport> {
  checkArguments("addTarget", { redis, target, config, entity, options });
  const { onProgress, signal } = options;
  checkArguments("addTarget", { onProgress, signal });
  const { name } = target.describe();
  targetConfig(config, name);
  entityConfig(config, entity);
  await checkShape(redis, config, entity);
  await using opened = new AsyncDisposableStack();
  const partitions = allPartitions(config, entity);
  const evicted = opened.use(await evictedSource(redis, config, entity, name));
  await target.migrate(entity);
  // That another target was carried on to before is why this one is added.
  await checkBelonging(redis, target, config, entity, ["target"]);
  await checkRebuilt(redis, partitionsOf(config, entity, name), `Cannot add the target ${name}`);
  const report: AddReport = {
    streams: [],
    rows: 0,
    removed: 0,
    refused: [],
    refusedDocuments: 0,
  };
  const total = await redis.countKeys();
  // In all streams first: once rows are there, a sink that waits would take them for those of the others, too.
  const begun: Adding[] = [];
  for (const keys of partitionsOf(config, entity, name)) {
    const adding = new Adding(redis, target, evicted, config, keys, partitions, report);
    if (await adding.begin(signal)) begun.push(adding);
  }
  for (const adding of begun) {
    await adding.run(() => {
      signal?.throwIfAborted();
      onProgress?.(report.rows + report.refusedDocuments, total);
    }, signal);
  }
  return report;
}

/** Adding one partition of a target: its lease and its place in the stream, while it is filled. */
class Adding {
  #redis: RedisConnection;
  #target: Target;
  /** where the documents are that Redis has evicted */
  #evicted: Evicted;
  #config: Config;
  #keys: PartitionKeys;
  #partitions: PartitionKeys[];
  #report: AddReport;
  /** the newest entry that was seen: it must still be in the stream, and it is behind all that was read before */
  #newest = "0-0";

  constructor(
    redis: RedisConnection,
    target: Target,
    evicted: Evicted,
    config: Config,
    keys: PartitionKeys,
    partitions: PartitionKeys[],
    report: AddReport,
  ) {
    this.#redis = redis;
    this.#target = target;
    this.#evicted = evicted;
    this.#config = config;
    this.#keys = keys;
    this.#partitions = partitions;
    this.#report = report;
  }

  /**
   * Takes its place in the stream, from which on its events are kept, and no sink goes on.
   * @returns false where the target is there already
   */
  async begin(signal?: AbortSignal): Promise<boolean> {
    // First of all: who fills it, or carries events on to it, ends before a place is taken anew.
    const taken = await this.#owning(async (claim) => {
      await this.#takePlace(claim);
      return true;
    }, signal);
    return taken ?? false;
  }

  /** @param between called between two chunks; what it throws stops the filling */
  async run(between: () => void, signal?: AbortSignal): Promise<void> {
    await this.#owning(async (claim) => {
      const target = this.#target;
      const keys = this.#keys;
      const place = await this.#place();
      const check = async () => {
        await this.#look();
        between();
      };
      const filling = new Filling({
        ...{ redis: this.#redis, target, evicted: this.#evicted.source, between: check },
        ...{ claim, place, partitions: this.#partitions, report: this.#report },
      });
      await filling.fill();
      // Behind the walk over Redis: what was evicted before it came along is here.
      await filling.fillEvicted();
      await filling.clear();
      await this.#look();
      await this.#lookAtCache();
      await checkRebuilt(this.#redis, [keys], `Cannot add the target ${target.describe().name}`);
      await this.#place();
      const identity = await this.#redis.hget(keys.settings, "identity");
      if (identity !== null) await target.identities.note(claim, identity);
      await target.ownership.renew(claim, LEASE_SECONDS);
      // Its place is no entry, and a sink must find that the stream went back before it has applied one.
      await target.ownership.moveOffset(keys, place, this.#newest);
      const expected = { state: "filling" as const, offset: place };
      if (await this.#register("active", place, expected) === null) throw await this.#lost();
      this.#report.streams.push(keys.stream);
    }, signal);
  }

  /** Does something under a lease; `null` where the target is there already, or another process has filled it meanwhile. */
  async #owning<T>(work: (claim: Claim) => Promise<T>, signal?: AbortSignal): Promise<T | null> {
    const { ownership } = this.#target;
    const claim = await this.#claim(signal);
    if (claim === null) return null;
    const heartbeat = setInterval(
      () => void ownership.renew(claim, LEASE_SECONDS).catch(() => {}), // the next batch tells
      LEASE_SECONDS * 1000 / HEARTBEATS,
    );
    try {
      return await this.#isThere() ? null : await work(claim);
    } finally {
      clearInterval(heartbeat);
      await ownership.release(this.#keys, claim);
    }
  }

  /** Whether a sink of it goes on, or would if it was not paused. */
  async #isThere(): Promise<boolean> {
    const state = (await this.#registration())?.state;
    if (state !== "active") return state === "paused";
    // One that is registered and was refused holds nothing of this Redis.
    const { settings, stream } = this.#keys;
    const identity = await this.#redis.hget(settings, "identity");
    const { source } = await this.#target.identities.read(this.#keys, [stream]);
    return source !== null && source === identity;
  }

  #registration(): Promise<Registration | null> {
    return readRegistration(this.#redis, this.#keys, this.#target.describe().name);
  }

  /** @throws {WriteBehindError} where it is not kept any more */
  async #place(): Promise<string> {
    const known = await this.#registration();
    if (known?.state !== "filling") throw await this.#lost();
    return known.offset;
  }

  #register(
    state: TargetState,
    offset: string | null,
    expected?: { state: TargetState; offset: string },
  ) {
    const { name } = this.#target.describe();
    const { on_full: onFull } = targetConfig(this.#config, name);
    const witness = state === "active" ? this.#newest : "0-0";
    const registration = { name, state, offset, witness, onFull };
    return register(this.#redis, this.#keys, registration, { expected });
  }

  /**
   * Registers it at the end of the stream. The place is the version of all rows, so it is moved past those that the
   * target may hold of an earlier time: of a filling that was stopped, or of events that Redis has lost.
   */
  async #takePlace({ offset }: Claim): Promise<void> {
    const keys = this.#keys;
    const { stream } = keys;
    if (isFar(await lastGeneratedId(this.#redis, stream))) {
      throw new ConfigError(
        `the last id of ${stream} is past the year 2248: run deno task mend --entity ${keys.entity}, then this again`,
      );
    }
    const [seconds, microseconds] = (await this.#redis.at(stream).time()).map(Number);
    const now = `${seconds! * 1000 + Math.ceil(microseconds! / 1000)}-0`;
    const { ms, seq } = partsOf(offset);
    const behind = `${ms + 1}-${seq}`;
    const past = [now, isFar(behind) ? "0-0" : behind].sort(compareStreamIds).at(-1)!;
    await forward(this.#redis, keys, past);
    await this.#register("filling", null);
  }

  /** What was read must not be of a stream that has gone back since: its events would be missing. */
  async #look(): Promise<void> {
    const keys = this.#keys;
    if (!await hasWitness(this.#redis, keys, this.#newest)) {
      throw new WriteBehindError(`${keys.stream} has gone back meanwhile; run this again`);
    }
    this.#newest = await lastEntryId(this.#redis, keys.stream);
  }

  /** A document may have been evicted while the walk over Redis took all to be there. */
  async #lookAtCache(): Promise<void> {
    if (await isAsBefore(this.#redis, this.#keys, this.#evicted)) return;
    throw new WriteBehindError(
      `the cache of ${this.#keys.entity} was turned on or off, or another program has written beside it, while the target ` +
        `${this.#target.describe().name} was filled; run this again`,
    );
  }

  async #lost(): Promise<WriteBehindError> {
    const { name } = this.#target.describe();
    const state = (await this.#registration())?.state ?? "forgotten";
    return new WriteBehindError(
      `the target ${name} was ${state} while it was filled (${this.#keys.stream}); run this again`,
    );
  }

  /** A sink that was refused may hold the lease for a moment. */
  async #claim(signal?: AbortSignal): Promise<Claim | null> {
    const { ownership } = this.#target;
    const patienceMs = 1000 * (this.#config.write_behind.lease_seconds + LEASE_SECONDS);
    const deadline = performance.now() + patienceMs;
    const owner = `${Deno.pid}-add`;
    for (;;) {
      signal?.throwIfAborted();
      if (await this.#isThere()) return null;
      const claim = await ownership.claim(this.#keys, owner, LEASE_SECONDS);
      if (claim !== null) return claim;
      if (performance.now() >= deadline) {
        throw new WriteBehindError(
          `another process has ${this.#keys.stream} in ${this.#target.describe().name}; ` +
            "stop it, or wait for it, and run this again",
        );
      }
      await delay(LOOK_AGAIN_MS, signal);
    }
  }
}
