/**
 * The loop of one partition: own it, read ahead, apply, trim; and again after whatever went wrong.
 * @module
 */

import type { Config } from "../config/load.ts";
import { backoff, delay } from "../core/delay.ts";
import type { ErrorKind } from "../core/error_kinds.ts";
import { reasonOf, WriteBehindError } from "../core/errors.ts";
import { failpoint } from "../core/failpoints.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { lastGeneratedId } from "../redis/streams.ts";
import {
  type Batch,
  type Claim,
  OwnershipLostError,
  ParkedChangedError,
  type Target,
} from "../targets/target.ts";
import { coalesce } from "./coalesce.ts";
import { isEvent, type Item, park } from "./decode.ts";
import { Freshness } from "./freshness.ts";
import { Poison } from "./poison.ts";
import { StreamReader } from "./reader.ts";
import { hasWitness, sendAgain } from "./rewind.ts";
import { Trimmer } from "./trimmer.ts";

/** How often a sink in waiting looks whether its partition is free, in ms. */
const STANDBY_MS = 250;

/** What a sink does with a partition now. */
export type PartitionState = "idle" | "owner" | "standby" | "retrying" | "paused";

/** The stream no longer holds what the target has applied last. */
export class WentBackError extends WriteBehindError {}

/** Events that were read, and the batch made of them. */
interface Work {
  items: Item[];
  batch: Batch;
  /** whether there were more to read */
  more: boolean;
}

/** Drains one partition into the target. Use one {@linkcode PartitionSink.run} at a time. */
export class PartitionSink {
  readonly keys: PartitionKeys;
  state: PartitionState = "idle";
  /** the newest failure; `null` once a batch went well again */
  lastError: Error | null = null;
  /** failures since the last batch that went well */
  failuresInARow = 0;
  /** events applied, and rows written or removed for them, since this sink was made */
  events = 0;
  rows = 0;
  /** events put in the dead-letter table */
  parked = 0;
  /** events that had nothing to write: their document was gone, and they carried no payload */
  noops = 0;
  /** times that the stream was found to have gone back */
  wentBack = 0;
  #redis: RedisConnection;
  #config: Config;
  #target: Target;
  #owner: string;
  #reader: StreamReader;
  #poison: Poison;
  #freshness = new Freshness();
  /** when a batch was applied last, in ms */
  #appliedAt = 0;
  #claim: Claim | null = null;
  /** the newest claim, also where a failure has ended its use: its lease is given back on `close` */
  #lease: Claim | null = null;
  #renewedAt = 0;
  #heartbeat: ReturnType<typeof setInterval> | undefined;
  /** of the newest claim that was begun */
  #trimmer: Trimmer | null = null;
  /** lowered when a batch takes the database too long */
  #batchSize: number;

  constructor(
    redis: RedisConnection,
    config: Config,
    target: Target,
    keys: PartitionKeys,
    owner: string,
  ) {
    this.#redis = redis;
    this.#config = config;
    this.#target = target;
    this.#poison = new Poison(target);
    this.keys = keys;
    this.#owner = owner;
    this.#reader = new StreamReader(config, keys);
    this.#batchSize = config.write_behind.batch_size;
  }

  /**
   * Applies events until there are none left, or, with `follow`, until the signal is aborted. The batch
   * under way when it is aborted is finished. Transient errors are tried again for ever.
   * @throws without `follow`, the first error that is not transient; with it, never
   */
  async run({ follow, signal }: { follow: boolean; signal: AbortSignal }): Promise<void> {
    // A read that waits for events would hold up a stop for its whole waiting time.
    const unblock = () => this.#reader.close();
    if (follow) signal.addEventListener("abort", unblock, { once: true });
    try {
      while (!signal.aborted) {
        try {
          if (!await this.#own(follow, signal)) return;
          await this.#pump(follow, signal);
          if (!follow) return;
        } catch (error) {
          if (signal.aborted && follow) return;
          const kind = this.#failed(error as Error);
          if (!follow && !passes(kind)) throw error;
          const { retry_base_ms, retry_max_ms } = this.#config.write_behind;
          await delay(backoff(this.failuresInARow, retry_base_ms, retry_max_ms), signal);
        }
      }
    } finally {
      signal.removeEventListener("abort", unblock);
    }
  }

  /** Gives the partition back and closes the connections. */
  async close(): Promise<void> {
    clearInterval(this.#heartbeat);
    await this.#trimmer?.stop();
    this.#reader.close();
    const lease = this.#lease;
    this.#claim = this.#lease = null;
    this.state = "idle";
    await failpoint?.("releasing");
    // Without it a successor waits for the lease to end: that costs time, nothing else.
    await this.#target.ownership.release(this.keys, lease).catch(() => {});
  }

  /** Takes the partition. False where another sink has it and has drained it, or where we were stopped. */
  async #own(follow: boolean, signal: AbortSignal): Promise<boolean> {
    let goal: string | undefined;
    while (!signal.aborted && this.#claim === null) {
      const { lease_seconds } = this.#config.write_behind;
      const claim = await this.#target.ownership.claim(this.keys, this.#owner, lease_seconds);
      if (claim !== null) {
        this.#lease = claim;
        await failpoint?.("claimed");
        await this.#begin(claim);
        return true;
      }
      this.state = "standby";
      // The stream is its owner's business now, who also trims it.
      this.#trimmer = null;
      if (!follow) {
        const offset = await this.#target.offsets.offset(this.keys);
        const last = await lastGeneratedId(await this.#reader.connection(), this.keys.stream);
        goal ??= last;
        // An offset past the last id tells of a stream that has gone back, which its owner has to mend.
        if (compareStreamIds(offset, goal) >= 0 && compareStreamIds(last, offset) >= 0) {
          return false;
        }
      }
      await delay(STANDBY_MS, signal);
    }
    return !signal.aborted;
  }

  /** Starts on a partition that was claimed: the stream must hold what the target has applied last. */
  async #begin(claim: Claim): Promise<void> {
    // Every begin has a connection of its own, so no other server can slip in behind the check.
    this.#reader.close();
    const redis = await this.#reader.connection();
    const { lease_seconds } = this.#config.write_behind;
    clearInterval(this.#heartbeat);
    this.#heartbeat = setInterval(() => this.#renew(claim), lease_seconds * 1000 / 3);
    this.#claim = claim;
    this.#renewedAt = Date.now();
    // A trim may have missed an older witness than the one that the target names by now.
    if (this.#trimmer?.witnessMissing || !await hasWitness(redis, this.keys, claim.witness)) {
      await this.#recover(claim);
    }
    this.#trimmer = await Trimmer.begin(this.#reader, claim);
    // What failed is not over by claiming again: a batch has to go well.
    if (this.failuresInARow === 0 || this.state === "standby") this.state = "owner";
    this.#tell();
    await failpoint?.("begun");
  }

  /** The stream has gone back: says so, and sends again what the target may not have. */
  async #recover(claim: Claim): Promise<void> {
    const { stream } = this.keys;
    this.wentBack++;
    const what =
      `${stream} has gone back: the entry ${claim.witness}, which the target has applied ` +
      "last, is not in it any more";
    const { counters } = this.#redis;
    counters.count("postgres_fail", 1, what);
    this.lastError = new WentBackError(what);
    await failpoint?.("sending again");
    const sent = await sendAgain(await this.#reader.connection(), this.keys, claim.offset);
    await failpoint?.("sent again");
    await this.#target.ownership.wentBack(claim);
    claim.witness = "0-0";
    const done = `${sent} documents were sent again; run verify for what else was lost`;
    counters.count("redis_retry", sent, `${stream}: ${done}`);
    this.lastError = new WentBackError(`${what}; ${done}`);
  }

  async #renew(claim: Claim): Promise<void> {
    const { lease_seconds } = this.#config.write_behind;
    try {
      await this.#target.ownership.renew(claim, lease_seconds);
      this.#renewedAt = Date.now();
    } catch (error) {
      if (this.#claim !== claim) return;
      const lost = error instanceof OwnershipLostError;
      if (lost) {
        this.#claim = null;
        // What is missing from now on, a successor has trimmed.
        void this.#trimmer?.stop();
      }
      // A statement whose connection has silently died would be waited for until the system gives up.
      if (lost || Date.now() - this.#renewedAt > lease_seconds * 1000) {
        this.#target.ownership.abandon(claim, error as Error);
      }
    }
  }

  async #pump(follow: boolean, signal: AbortSignal): Promise<void> {
    const claim = this.#claim!;
    const trimmer = this.#trimmer!;
    let next = this.#nextWork(claim.offset, false);
    while (!signal.aborted) {
      this.#check(claim);
      const work = await next;
      if (work === null) {
        await trimmer.trim();
        await trimmer.lookForWitness();
        this.#check(claim);
        this.#idle();
        if (!follow) return;
        next = this.#nextWork(claim.offset, true);
        continue;
      }
      // With a backlog the next batch is read while this one commits. At the end of the stream that
      // would make small batches: there it is read afterwards, with all that came in the meantime.
      const ahead = work.more && !claim.hasParked;
      if (ahead) next = this.#nextWork(work.batch.lastId, false);
      // Where this batch fails, nobody waits for that read any more.
      next.catch(() => {});
      const applied = await this.#apply(claim, work);
      this.#applied(applied);
      trimmer.applied(applied.events, work.more);
      const readAhead = ahead && applied.lastId === work.batch.lastId && !claim.hasParked;
      if (!readAhead) {
        if (ahead) await next.catch(() => {});
        next = this.#nextWork(claim.offset, follow);
      }
    }
    next.catch(() => {});
  }

  /** With nothing left to apply, a failure that is over must not go on standing there as the last word. */
  #idle(): void {
    if (this.failuresInARow === 0) return;
    this.state = "owner";
    this.lastError = null;
    this.failuresInARow = 0;
    this.#tell();
  }

  #check(claim: Claim): void {
    if (this.#claim !== claim) throw new OwnershipLostError(`${this.keys.stream} was taken`);
    if (this.#trimmer?.witnessMissing) {
      throw new WentBackError(`${this.keys.stream} has gone back: what was applied last is gone`);
    }
  }

  async #nextWork(position: string, wait: boolean): Promise<Work | null> {
    await failpoint?.("reading");
    const { items, more } = await this.#reader.read(position, this.#batchSize, wait);
    await failpoint?.("read");
    if (items.length === 0) return null;
    const batch = await this.#coalesce(items);
    this.#target.batches.prepare(this.keys, batch);
    await failpoint?.("coalesced");
    return { items, batch, more };
  }

  #coalesce(items: Item[]): Promise<Batch> {
    return coalesce(items, (docIds) => this.#reader.documents(docIds));
  }

  /** Applies a batch. What cannot be stored is parked, and so is what stands behind something parked. */
  async #apply(claim: Claim, { items, batch }: Work): Promise<Batch> {
    if (claim.hasParked) {
      items = await this.#parkBehind(claim, items);
      batch = await this.#coalesce(items);
    }
    for (;;) {
      await failpoint?.(batch.parked.length > 0 ? "parking" : "applying");
      try {
        await this.#target.batches.apply(claim, batch);
        await failpoint?.("applied");
        return batch;
      } catch (error) {
        // Only what this batch covers may be judged by it: a batch may end before its items do.
        const covered = items.slice(0, batch.events);
        const parkedNow = isTurn(error)
          ? null
          : await this.#poison.park(claim, covered, batch, error);
        if (parkedNow === null) {
          const stuck = this.#target.kindOf(error) === "document";
          throw stuck ? new StuckError(reasonOf(error), error) : error;
        }
        items = parkedNow;
        batch = await this.#coalesce(items);
      }
    }
  }

  async #parkBehind(claim: Claim, items: Item[]): Promise<Item[]> {
    const ids = new Map<string, Buffer>();
    for (const item of items) if (isEvent(item)) ids.set(item.key, item.docId);
    await failpoint?.("parking behind");
    const blocked = await this.#target.batches.parkedAmong(claim, [...ids.values()]);
    if (blocked.size === 0) return items;
    const refusal = { sqlstate: "", reason: "an earlier event of this document is parked" };
    return items.map((item) => isEvent(item) && blocked.has(item.key) ? park(item, refusal) : item);
  }

  #applied(batch: Batch): void {
    this.state = "owner";
    this.lastError = null;
    this.failuresInARow = 0;
    this.events += batch.events;
    this.noops += batch.noops;
    this.parked += batch.parked.length;
    this.rows += batch.upserts.length + batch.removals.length;
    this.#batchSize = Math.min(this.#config.write_behind.batch_size, this.#batchSize * 2);
    this.#freshness.add(batch.times, Date.now());
    const { counters } = this.#redis;
    const { stream } = this.keys;
    counters.count(
      "postgres_success",
      batch.events - batch.parked.length,
      `applied from ${stream}`,
    );
    if (batch.noops > 0) counters.count("postgres_success", 0, `nothing to apply from ${stream}`);
    for (const { reason } of batch.parked) {
      counters.count("postgres_fail", 1, `parked from ${stream}: ${reason}`);
    }
    this.#appliedAt = Date.now();
    this.#tell();
  }

  /** Tells people, by way of Redis, how this partition is. */
  #tell(): void {
    this.#redis.counters.gauge(this.keys.gauges, () => ({
      ...this.#freshness.quantiles(),
      at: this.#appliedAt,
      owner: this.#owner,
      state: this.state,
      failures: this.failuresInARow,
      last_error: this.lastError === null ? "" : reasonOf(this.lastError).slice(0, 1000),
    }));
  }

  /** Notes a failure. The partition is claimed anew before the next attempt, which tells the true offset. */
  #failed(error: Error): ErrorKind {
    this.#claim = null;
    void this.#trimmer?.stop();
    clearInterval(this.#heartbeat);
    this.#reader.close();
    // These are turns of events, not failures: claiming again deals with them.
    if (isTurn(error)) {
      this.state = "standby";
      return "transient";
    }
    if (error instanceof WentBackError) {
      this.lastError = error;
      return "transient";
    }
    const kind = this.#target.kindOf(error);
    this.lastError = error;
    this.failuresInARow++;
    this.state = passes(kind) ? "retrying" : "paused";
    if (kind === "too_large") this.#batchSize = Math.max(1, Math.floor(this.#batchSize / 2));
    const { counters } = this.#redis;
    const reason = `${this.keys.stream}: ${reasonOf(error)}`;
    counters.count("postgres_fail", 1, reason);
    counters.count("redis_retry", 1, reason);
    this.#tell();
    return kind;
  }
}

/** Whether what failed may go well by itself when it is tried again. */
const passes = (kind: ErrorKind): boolean =>
  kind === "transient" || kind === "chance" || kind === "too_large";

/** A turn of events that claiming again deals with, not a failure. */
const isTurn = (error: unknown): boolean =>
  error instanceof OwnershipLostError || error instanceof ParkedChangedError;

/** A batch that can neither be stored nor parked. */
class StuckError extends WriteBehindError {
  constructor(reason: string, cause: unknown) {
    super(`the batch can neither be stored nor parked: ${reason}`, { cause });
  }
}
