/**
 * The targets of a pipeline: which ones there are, and adding, pausing and removing one while everything runs.
 * @module
 */

import { Buffer } from "node:buffer";
import { type Config, entityConfig, targetConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { passes } from "../core/error_kinds.ts";
import { ConfigError, reasonOf, WriteBehindError } from "../core/errors.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { documentIds, readDocuments } from "../redis/documents.ts";
import { allPartitions, groupOf, type PartitionKeys, partitionOf } from "../redis/keys.ts";
import { readLag } from "../redis/lag.ts";
import {
  readRegistrations,
  register,
  type Registration,
  setState,
  type TargetState,
} from "../redis/registrations.ts";
import { checkShape } from "../redis/shape.ts";
import { checkBelonging } from "../sink/belonging.ts";
import type { BatchRows } from "../targets/batch.ts";
import { type Claim, READ_BYTES, type Target } from "../targets/target.ts";

/** A target of a stream. */
export interface ListedTarget {
  /** its name */
  name: string;
  /** the key of the events, such as `stream:session` */
  stream: string;
  /** what it is; `null` where the configuration does not name it */
  kind: string | null;
  /** what it may do with the stream; `null` where no sink has ever registered it */
  state: TargetState | null;
  /** the offset that it has told last; `null` where it has told none */
  offset: string | null;
  /** events behind that offset; all where it has told none */
  lagEvents: number;
  /** whether the stream is trimmed no further because of it */
  holdsUp: boolean;
}

/**
 * Lists the targets that the configuration or the streams of an entity name, by what the streams say: no target is asked.
 *
 * @example
 * ```ts
 * import { connectRedis, listTargets, loadConfig } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * for (const { name, stream, state, lagEvents } of await listTargets(redis, config, "session")) {
 *   console.log(name, stream, state, lagEvents);
 * }
 * ```
 */
export async function listTargets(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<ListedTarget[]> {
  await checkShape(redis, config, entity);
  const listed: ListedTarget[] = [];
  for (const keys of allPartitions(config, entity)) {
    const { stream } = keys;
    const known = new Map((await readRegistrations(redis, keys)).map((one) => [one.name, one]));
    const names = [...config.targets.map(({ name }) => name), ...known.keys()];
    const counting = [...new Set(names)].filter((name) => holds(known.get(name)));
    const offsets = counting.map((name) => known.get(name)?.offset ?? "0-0");
    const lowest = offsets.sort(compareStreamIds)[0];
    for (const name of new Set(names)) {
      const registration = known.get(name);
      const offset = registration?.offset ?? null;
      const [lag] = await readLag(redis, [{ stream, offset: offset ?? "0-0" }]);
      listed.push({
        name,
        stream,
        kind: config.targets.find((target) => target.name === name)?.kind ?? null,
        state: registration?.state ?? null,
        offset,
        lagEvents: lag!.events,
        holdsUp: lag!.events > 0 && holds(registration) && (offset ?? "0-0") === lowest,
      });
    }
  }
  return listed;
}

/** Whether the events that a target lacks are kept for it; one that nobody has registered may lack all. */
function holds(registration: Registration | undefined): boolean {
  return registration?.state !== "removed" && registration?.state !== "detached";
}

/**
 * Stops carrying events on to a target, which keeps its place: its events stay in the streams until it is resumed.
 * A sink sees it within about a second.
 * @throws {ConfigError} where no stream of the entity knows the target
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, pauseTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await pauseTarget(redis, config, "session", "archive");
 * ```
 */
export async function pauseTarget(
  redis: RedisConnection,
  config: Config,
  entity: string,
  name: string,
): Promise<void> {
  await changeState(redis, config, entity, name, "paused", ["active", "paused"]);
}

/**
 * Carries events on to a target again, from where it was paused.
 * @throws {ConfigError} where no stream of the entity knows the target, or it was not paused
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, resumeTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await resumeTarget(redis, config, "session", "archive");
 * ```
 */
export async function resumeTarget(
  redis: RedisConnection,
  config: Config,
  entity: string,
  name: string,
): Promise<void> {
  await changeState(redis, config, entity, name, "active", ["active", "paused"]);
}

async function changeState(
  redis: RedisConnection,
  config: Config,
  entity: string,
  name: string,
  state: TargetState,
  from: TargetState[],
): Promise<void> {
  const found = await registered(redis, config, entity, name);
  const other = found.find(({ registration }) => !from.includes(registration.state));
  if (other !== undefined) {
    const { registration, keys: { stream } } = other;
    throw new ConfigError(
      `the target ${name} is ${registration.state} (${stream}): run deno task target add ${name}`,
    );
  }
  for (const { keys } of found) await setState(redis, keys, name, state);
}

async function registered(
  redis: RedisConnection,
  config: Config,
  entity: string,
  name: string,
): Promise<{ keys: PartitionKeys; registration: Registration }[]> {
  await checkShape(redis, config, entity);
  const names = new Set<string>();
  const found: { keys: PartitionKeys; registration: Registration }[] = [];
  for (const keys of allPartitions(config, entity)) {
    for (const registration of await readRegistrations(redis, keys)) {
      names.add(registration.name);
      if (registration.name === name) found.push({ keys, registration });
    }
  }
  if (found.length > 0) return found;
  throw new ConfigError(
    `the streams of ${entity} know no target ${JSON.stringify(name)}; they know: ${
      [...names].join(", ") || "none"
    }`,
  );
}

/** What a target that is removed will not get. */
export interface RemovedTarget {
  /** the key of the events */
  stream: string;
  /** events that it had not told to have applied */
  events: number;
}

/**
 * Gives a target up: its events are not kept any more, and no sink carries any on to it until it is added anew. What it
 * holds stays there.
 * @param options.dryRun looks, and changes nothing. @default {false}
 * @returns what it will not get, one a stream
 * @throws {ConfigError} where no stream of the entity knows the target
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, removeTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * const gone = await removeTarget(redis, config, "session", "archive", { dryRun: true });
 * for (const { stream, events } of gone) console.log(stream, events);
 * ```
 */
export async function removeTarget(
  redis: RedisConnection,
  config: Config,
  entity: string,
  name: string,
  { dryRun = false }: { dryRun?: boolean } = {},
): Promise<RemovedTarget[]> {
  const found = await registered(redis, config, entity, name);
  const gone: RemovedTarget[] = [];
  for (const { keys, registration } of found) {
    const { stream } = keys;
    const [lag] = await readLag(redis, [{ stream, offset: registration.offset }]);
    gone.push({ stream, events: lag!.events });
    if (dryRun) continue;
    await setState(redis, keys, name, "removed");
    await redis.xgroup("DESTROY", stream, groupOf(name));
  }
  return gone;
}

/** What filling a target has done. */
export interface AddReport {
  /** the streams that it was added to; those that knew it before are left out */
  streams: string[];
  /** rows written from documents in Redis */
  rows: number;
  /** rows removed, since Redis does not have their documents any more */
  removed: number;
  /** documents that the target does not take, with its reason; at most {@linkcode MAX_REFUSED} */
  refused: { id: string; reason: string }[];
  /** how many those are */
  refusedDocuments: number;
}

/** Refused documents that a report names. */
const MAX_REFUSED = 1000;
/** A lease for the time of the filling, in seconds. */
const LEASE_SECONDS = 10;
const LOOK_AGAIN_MS = 100;

/**
 * Adds a target while everything runs: takes its place at the end of each stream, fills it with the documents that Redis
 * holds, and lets the sinks go on from there. What is written meanwhile is in the stream behind its place. Stopped half
 * way, it is run again.
 * @param target it, opened: `openTarget(config, name)`
 * @param options.onProgress called after each chunk, with documents done and about how many there are
 * @param options.signal stops it between two chunks, with its reason
 * @throws {ConfigError} where the configuration does not name it, or it belongs to other data
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
  { onProgress, signal }: {
    onProgress?: (done: number, total: number) => void;
    signal?: AbortSignal;
  } = {},
): Promise<AddReport> {
  const { name } = target.describe();
  targetConfig(config, name);
  entityConfig(config, entity);
  await checkShape(redis, config, entity);
  await target.migrate(entity);
  // That another target was carried on to before is why this one is added.
  await checkBelonging(redis, target, config, entity, ["target"]);
  const report: AddReport = {
    streams: [],
    rows: 0,
    removed: 0,
    refused: [],
    refusedDocuments: 0,
  };
  const total = await redis.dbsize();
  const partitions = allPartitions(config, entity);
  for (const keys of partitions) {
    const known = (await readRegistrations(redis, keys)).find((one) => one.name === name);
    // A sink of it goes on, or would if it was not paused.
    if (known?.state === "paused") continue;
    if (known?.state === "active" && await isSameData(redis, target, keys)) continue;
    const filling = new Filling(redis, target, config, keys, partitions, report);
    await filling.run(() => {
      signal?.throwIfAborted();
      onProgress?.(report.rows + report.refusedDocuments, total);
    });
    report.streams.push(keys.stream);
  }
  return report;
}

/** Whether a target that is registered has begun: one that was refused holds nothing of this Redis. */
async function isSameData(
  redis: RedisConnection,
  { identities }: Target,
  keys: PartitionKeys,
): Promise<boolean> {
  const identity = await redis.hget(keys.settings, "identity");
  const { source } = await identities.read(keys, [keys.stream]);
  return source !== null && source === identity;
}

/** Filling one partition of a target. */
class Filling {
  #redis: RedisConnection;
  #target: Target;
  #config: Config;
  #keys: PartitionKeys;
  #partitions: PartitionKeys[];
  #report: AddReport;

  constructor(
    redis: RedisConnection,
    target: Target,
    config: Config,
    keys: PartitionKeys,
    partitions: PartitionKeys[],
    report: AddReport,
  ) {
    this.#redis = redis;
    this.#target = target;
    this.#config = config;
    this.#keys = keys;
    this.#partitions = partitions;
    this.#report = report;
  }

  /** @param between called between two chunks; what it throws stops the filling */
  async run(between: () => void): Promise<void> {
    const redis = this.#redis;
    const target = this.#target;
    const keys = this.#keys;
    const { name } = target.describe();
    const { on_full: onFull } = targetConfig(this.#config, name);
    const registration = { name, witness: "0-0", onFull };
    const place = await register(redis, keys, { ...registration, offset: null, state: "filling" });
    const claim = await this.#claim();
    const heartbeat = setInterval(
      () => void target.ownership.renew(claim, LEASE_SECONDS).catch(() => {}), // the next batch tells
      LEASE_SECONDS * 1000 / 3,
    );
    try {
      await this.#fill(claim, place.offset, between);
      await this.#clear(claim, place.offset, between);
      const identity = await redis.hget(keys.settings, "identity");
      if (identity !== null) await target.identities.note(claim, identity);
      await target.ownership.moveOffset(keys, place.offset);
    } finally {
      clearInterval(heartbeat);
      await target.ownership.release(keys, claim);
    }
    const filled = { ...registration, offset: place.offset, state: "active" as const };
    const { state } = await register(redis, keys, filled, ["detached", "removed"]);
    if (state === "active") return;
    throw new WriteBehindError(
      `the target ${name} was ${state} while it was filled (${keys.stream}); run this again`,
    );
  }

  /** A sink that was refused may hold the lease for a moment. */
  async #claim(): Promise<Claim> {
    const { ownership } = this.#target;
    const patienceMs = 1000 * (this.#config.write_behind.lease_seconds + LEASE_SECONDS);
    const deadline = Date.now() + patienceMs;
    const owner = `${Deno.pid}-add`;
    for (;;) {
      const claim = await ownership.claim(this.#keys, owner, LEASE_SECONDS);
      if (claim !== null) return claim;
      if (Date.now() >= deadline) {
        throw new WriteBehindError(
          `another process has ${this.#keys.stream} in ${this.#target.describe().name}; ` +
            "stop it, or wait for it, and run this again",
        );
      }
      await delay(LOOK_AGAIN_MS);
    }
  }

  async #fill(claim: Claim, place: string, between: () => void): Promise<void> {
    const keys = this.#keys;
    for await (const { ids } of documentIds(this.#redis, this.#partitions, [keys])) {
      for (let left = ids; left.length > 0;) {
        const texts = await readDocuments(this.#redis, keys, left, READ_BYTES);
        const upserts = texts.flatMap((payload, index) =>
          payload === null ? [] : [{ ...rowOf(left[index]!, place), payload, ...writtenNow() }]
        );
        await this.#apply(claim, { upserts, removals: [] });
        left = left.slice(texts.length);
        between();
      }
    }
  }

  /** Removes rows of documents that Redis does not have: a target that was there before may have some. */
  async #clear(claim: Claim, place: string, between: () => void): Promise<void> {
    const { rows } = this.#target;
    if (!rows) return;
    const { entity, partition } = this.#keys;
    for await (const page of rows.ids(entity)) {
      const own = page.filter((id) => partitionOf(id, this.#partitions.length) === partition);
      for (let left = own; left.length > 0;) {
        const texts = await readDocuments(this.#redis, this.#keys, left, READ_BYTES);
        const gone = left.slice(0, texts.length).filter((_, index) => texts[index] === null);
        const removals = gone.map((id) => rowOf(Buffer.from(id), place));
        if (removals.length > 0) await this.#apply(claim, { upserts: [], removals });
        left = left.slice(texts.length);
        between();
      }
    }
  }

  /** Writes rows; those that the target does not take are found by halves, and told. */
  async #apply(claim: Claim, rows: BatchRows): Promise<void> {
    const byKey = <Row extends { key: string }>(list: Row[]) =>
      [...new Map(list.map((row) => [row.key, row])).values()]
        .sort((a, b) => a.key < b.key ? -1 : 1);
    const upserts = byKey(rows.upserts);
    const removals = byKey(rows.removals);
    if (upserts.length + removals.length === 0) return;
    const nothing = { events: 0, parked: [], noops: 0, times: [] };
    try {
      await this.#target.batches.apply(claim, {
        ...nothing,
        upserts,
        removals,
        lastId: claim.offset,
      });
      this.#report.rows += upserts.length;
      this.#report.removed += removals.length;
    } catch (error) {
      const kind = this.#target.kindOf(error);
      const size = upserts.length + removals.length;
      if (passes(kind) && kind !== "too_large" || kind === "configuration") throw error;
      if (size === 1) {
        this.#report.refusedDocuments++;
        if (this.#report.refused.length < MAX_REFUSED) {
          const id = (upserts[0] ?? removals[0])!.id.toString();
          this.#report.refused.push({ id, reason: reasonOf(error) });
        }
        return;
      }
      // They are never both: one half is empty.
      const [up, down] = [upserts, removals].map(({ length }) => Math.ceil(length / 2));
      const first = { upserts: upserts.slice(0, up), removals: removals.slice(0, down) };
      await this.#apply(claim, first);
      await this.#apply(claim, { upserts: upserts.slice(up), removals: removals.slice(down) });
    }
  }
}

/** A row with the version of a place in the stream: later events replace it. */
function rowOf(id: Buffer, place: string) {
  const [ms, seq] = place.split("-").map(Number);
  return { id, key: id.toString("latin1"), ms: ms!, seq: seq! };
}

/** What events would tell of a document. */
const writtenNow = () => ({ updated: Date.now(), created: null, fresh: false });
