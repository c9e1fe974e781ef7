/**
 * The loop of one partition: own it, read ahead, apply, trim; and again after whatever went wrong.
 * @module
 */

import type { Config } from "../config.ts";
import type { RedisConnection } from "../connections.ts";
import { reasonOf } from "../errors.ts";
import { compareStreamIds, CONSUMER_GROUP, type PartitionKeys } from "../events.ts";
import { runScript, trimScript } from "../scripts/mod.ts";
import { type Batch, type Claim, OwnershipLostError, type Target } from "../targets/target.ts";
import { coalesce, decode } from "./batch.ts";
import { Freshness } from "./freshness.ts";
import { lastGeneratedId, pairsOf } from "./progress.ts";
import { StreamReader } from "./reader.ts";
import { backoff, delay, kindOf } from "./retry.ts";

/** How often a sink in waiting looks whether its partition is free, in ms. */
const STANDBY_MS = 250;

/** What a sink does with a partition now. */
export type PartitionState = "idle" | "owner" | "standby" | "retrying" | "paused";

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
  /** events that had nothing to write: their document was gone, and they carried no payload */
  noops = 0;
  #redis: RedisConnection;
  #config: Config;
  #target: Target;
  #owner: string;
  #reader: StreamReader;
  #freshness = new Freshness();
  #claim: Claim | null = null;
  #heartbeat: ReturnType<typeof setInterval> | undefined;
  #entriesRead = 0;
  #trimmedTo = "0-0";
  #trimming: Promise<void> | undefined;

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
    this.keys = keys;
    this.#owner = owner;
    this.#reader = new StreamReader(config, keys);
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
          const kind = kindOf(error);
          this.#failed(error as Error, kind === "transient" ? "retrying" : "paused");
          if (!follow && kind !== "transient") throw error;
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
    await this.#trimming;
    this.#reader.close();
    const claim = this.#claim;
    this.#claim = null;
    this.state = "idle";
    // Without it a successor waits for the lease to end: that costs time, nothing else.
    if (claim) await this.#target.release(claim).catch(() => {});
  }

  /** Takes the partition. False where another sink has it and has drained it, or where we were stopped. */
  async #own(follow: boolean, signal: AbortSignal): Promise<boolean> {
    let goal: string | undefined;
    while (!signal.aborted && this.#claim === null) {
      const { lease_seconds } = this.#config.write_behind;
      const claim = await this.#target.claim(this.keys, this.#owner, lease_seconds);
      if (claim !== null) {
        await this.#begin(claim);
        return true;
      }
      this.state = "standby";
      if (!follow) {
        goal ??= await lastGeneratedId(await this.#reader.connection(), this.keys.stream);
        const offset = await this.#target.offset(this.keys);
        if (compareStreamIds(offset, goal) >= 0) return false;
      }
      await delay(STANDBY_MS, signal);
    }
    return !signal.aborted;
  }

  async #begin(claim: Claim): Promise<void> {
    const { stream } = this.keys;
    const redis = await this.#reader.connection();
    await redis.xgroup("CREATE", stream, CONSUMER_GROUP, claim.offset, "MKSTREAM").catch(
      (error) => {
        if (!reasonOf(error).startsWith("BUSYGROUP")) throw error;
      },
    );
    await redis.xgroup("CREATECONSUMER", stream, CONSUMER_GROUP, this.#owner);
    const info = pairsOf(await redis.xinfo("STREAM", stream));
    const behind = (await redis.xrange(stream, `(${claim.offset}`, "+", "COUNT", 1)).length === 0
      ? 0
      : Number(info.get("length"));
    this.#entriesRead = Number(info.get("entries-added")) - behind;
    this.#claim = claim;
    this.state = "owner";
    const { lease_seconds } = this.#config.write_behind;
    clearInterval(this.#heartbeat);
    this.#heartbeat = setInterval(() => this.#renew(claim), lease_seconds * 1000 / 3);
  }

  async #renew(claim: Claim): Promise<void> {
    try {
      await this.#target.renew(claim, this.#config.write_behind.lease_seconds);
    } catch (error) {
      // A database that is away is the loop's business; a lost partition ends this claim at once.
      if (error instanceof OwnershipLostError && this.#claim === claim) this.#claim = null;
    }
  }

  async #pump(follow: boolean, signal: AbortSignal): Promise<void> {
    const claim = this.#claim!;
    const { batch_size } = this.#config.write_behind;
    let next = this.#nextBatch(claim.offset, false);
    try {
      while (!signal.aborted) {
        if (this.#claim !== claim) throw new OwnershipLostError(`${this.keys.stream} was taken`);
        const batch = await next;
        if (batch === null) {
          await this.#trim(claim);
          if (!follow) return;
          next = this.#nextBatch(claim.offset, true);
          continue;
        }
        // With a backlog the next batch is read while this one commits. At the end of the stream that
        // would make small batches: there it is read afterwards, with all that came in the meantime.
        const backlog = batch.events >= batch_size;
        if (backlog) next = this.#nextBatch(batch.lastId, false);
        await this.#target.apply(claim, batch);
        this.#applied(batch);
        void this.#trim(claim);
        if (!backlog) next = this.#nextBatch(claim.offset, false);
      }
    } finally {
      // A read that is not wanted any more must not become an unhandled rejection.
      next.catch(() => {});
    }
  }

  async #nextBatch(position: string, wait: boolean): Promise<Batch | null> {
    const entries = await this.#reader.read(position, wait);
    if (entries.length === 0) return null;
    return coalesce(entries.map(decode), (docIds) => this.#reader.documents(docIds));
  }

  #applied(batch: Batch): void {
    this.state = "owner";
    this.lastError = null;
    this.failuresInARow = 0;
    this.events += batch.events;
    this.noops += batch.noops;
    this.rows += batch.upserts.length + batch.removals.length;
    this.#entriesRead += batch.events;
    this.#freshness.add(batch.times, Date.now());
    const { counters } = this.#redis;
    counters.count("postgres_success", batch.events, `applied from ${this.keys.stream}`);
    if (batch.noops > 0) {
      counters.count("postgres_success", 0, `nothing to apply: the document was gone`);
    }
    counters.gauge(this.keys.gauges, () => ({
      ...this.#freshness.quantiles(),
      at: Date.now(),
    }));
  }

  #failed(error: Error, state: PartitionState): void {
    this.lastError = error;
    this.failuresInARow++;
    this.state = state;
    // The partition is claimed anew before the next attempt, which reads the offset that the target holds.
    this.#claim = null;
    clearInterval(this.#heartbeat);
    this.#reader.close();
    const { counters } = this.#redis;
    const reason = `${this.keys.stream}: ${reasonOf(error)}`;
    counters.count("postgres_fail", 1, reason);
    counters.count("redis_retry", 1, reason);
  }

  /** Trims to the newest offset; one at a time, and only after the commit. */
  async #trim(claim: Claim): Promise<void> {
    while (this.#trimming) await this.#trimming;
    if (claim.offset === this.#trimmedTo || this.#claim !== claim) return;
    this.#trimming = this.#trimNow(claim.offset).finally(() => this.#trimming = undefined);
    await this.#trimming;
  }

  async #trimNow(offset: string): Promise<void> {
    const { stream, lastId, settings } = this.keys;
    try {
      const redis = await this.#reader.connection();
      await runScript(redis, trimScript, [stream, lastId, settings], [
        offset,
        CONSUMER_GROUP,
        String(this.#entriesRead),
      ]);
      this.#trimmedTo = offset;
    } catch {
      // Nothing depends on it: the next batch trims further.
    }
  }
}
