/**
 * The loop of one partition: read, apply, trim; and again after whatever went wrong.
 * @module
 */

import type { Semaphore } from "async-mutex";
import type { Config } from "../config/load.ts";
import { backoff, delay } from "../core/delay.ts";
import { type ErrorKind, isOfRows, passes } from "../core/error_kinds.ts";
import { asError, reasonOf, RepartitioningError, WriteBehindError } from "../core/errors.ts";
import { failpoint } from "../core/failpoints.ts";
import { awaitedLater } from "../core/promises.ts";
import { traced } from "../core/tracing.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { addressOf, withAddress } from "../redis/explain.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import {
  type Claim,
  OwnershipLostError,
  ParkedChangedError,
  type Target,
} from "../targets/target.ts";
import type { Batch, BatchRows } from "../targets/batch.ts";
import { coalesce } from "./coalesce.ts";
import { isEvent, type Item, park } from "./decode.ts";
import { batchLimits } from "./limits.ts";
import { GivenError, type Owned, PartitionOwnership, PausedError } from "./ownership.ts";
import { BEHIND, Poison } from "./poison.ts";
import { StreamReader, type Wait } from "./reader.ts";
import type { PartitionReport } from "./report.ts";
import type { Sharing } from "./sharing.ts";
import { WentBackError } from "./went_back.ts";

/** Events that were read, and the batch made of them. */
interface Work {
  items: Item[];
  batch: Batch;
  /** whether there were more to read */
  more: boolean;
  /** whether nothing of it is parked, and it was not refused: another may be sent behind it */
  isPlain: boolean;
  /** when it was sent ahead, by `performance.now()` */
  sentAt?: number;
  /** lets another batch be read; safe to call again */
  done(): void;
  /** gives back its memory, once it was applied: what has failed may be sent still */
  free(): void;
}

/** So many events in a batch mean that they come more slowly than batches are applied. */
const FEW = 2;

const isFew = ({ items }: Work): boolean => items.length <= FEW;

/** Nothing was short. */
const NONE: BatchRows = { upserts: [], removals: [] };

/** Drains one partition into the target. Use one {@linkcode PartitionSink.run} at a time. */
export class PartitionSink {
  readonly keys: PartitionKeys;
  readonly report: PartitionReport;
  #config: Config;
  #target: Target;
  #reader: StreamReader;
  /** for batches, shared with the other partitions */
  #slots: Semaphore;
  #ownership: PartitionOwnership;
  #poison: Poison;
  /** events in a batch, at most */
  #maxEvents: number;
  /** the same now: halved when a batch takes the target too long */
  #batchSize: number;
  /** rows of which the last batch wrote or removed fewer than given, until they were looked at */
  #short: BatchRows = NONE;
  /** the last error of the target for a batch */
  #refused: unknown;
  /** whether a read was ended, since another process is to have the partition */
  #giving = false;
  /** what is being prefetched */
  #next: Promise<Work | null> = Promise.resolve(null);

  /** @param redis for what is not the partition's alone; the rest goes by connections of its own */
  constructor(
    redis: RedisConnection,
    config: Config,
    target: Target,
    keys: PartitionKeys,
    report: PartitionReport,
    slots: Semaphore,
  ) {
    this.keys = keys;
    this.report = report;
    this.#slots = slots;
    this.#config = config;
    this.#target = target;
    this.#reader = new StreamReader(config, keys);
    this.#ownership = new PartitionOwnership(redis, target, config, keys, this.#reader, report);
    this.#poison = new Poison(target);
    this.#batchSize = this.#maxEvents = batchLimits(config).events;
  }

  /**
   * Applies events until there are none left, or, with `follow`, until the signal is aborted. The batch
   * under way when it is aborted is finished. What may pass by itself is retried for ever.
   * @throws without `follow`, the first error that cannot pass by itself, or that is for all partitions together; with
   * it, never
   */
  async run({ follow, signal }: { follow: boolean; signal: AbortSignal }): Promise<void> {
    // A read that waits for events would delay a stop by its whole waiting time.
    const unblock = () => this.#reader.close();
    if (follow) signal.addEventListener("abort", unblock, { once: true });
    try {
      while (!signal.aborted) {
        try {
          const owned = await this.#ownership.take(follow, signal);
          if (owned === null) return;
          this.#giving = false;
          await this.#pump(owned, follow, signal);
          if (!follow) return;
        } catch (error) {
          if (signal.aborted && follow) {
            // A stop closes the reader, so a failed read means nothing; a failed batch does.
            if (error === this.#refused) this.#failed(asError(error));
            return;
          }
          const given = this.#giving && error !== this.#refused;
          this.#giving = false;
          const kind = this.#failed(given ? new GivenError("given away") : asError(error));
          // A prefetch ends with its connection, before another claim reads and prepares.
          await this.#dropNext();
          const isOver = !passes(kind) || error instanceof RepartitioningError ||
            // Before, it goes on to be given back.
            error instanceof PausedError && !this.#ownership.holds;
          if (!follow && isOver) throw error;
          const { retry_base_ms, retry_max_ms } = this.#config.write_behind;
          const attempt = this.report.failuresInARow;
          await delay(backoff(attempt, retry_base_ms, retry_max_ms), signal);
        }
      }
    } finally {
      signal.removeEventListener("abort", unblock);
      void this.#dropNext(); // others may wait for its place
    }
  }

  /** From now on, the partition is one of those that are shared. */
  share(sharing: Sharing): void {
    this.#ownership.share(sharing);
  }

  /** Gives the partition to another process once the batch under way is done: a read that waits is ended. */
  give(): void {
    this.#giving = true;
    this.#reader.close();
  }

  /** Gives the partition back and closes the connections. Never rejects. */
  async close(): Promise<void> {
    await this.#ownership.release();
    await this.#dropNext();
  }

  async #pump(owned: Owned, follow: boolean, signal: AbortSignal): Promise<void> {
    const { claim, trimmer, settler } = owned;
    await this.#lookForSwallowed(claim);
    await settler?.sweep({ isCaughtUp: false });
    let settling: Promise<void> | undefined;
    let waited = false;
    // Whether the next batch was sent: then it has its turn, also where the sink stops or gives the partition away.
    let isAhead = false;
    try {
      this.#readOn(claim.offset, false);
      while (isAhead || !signal.aborted) {
        if (!isAhead) {
          this.#ownership.check(owned);
          if (this.#giving) throw new GivenError("given away");
        }
        isAhead = false;
        const work = await this.#next;
        if (work === null) {
          await settling;
          await settler?.sweep({ isCaughtUp: true });
          await trimmer.trim();
          await trimmer.lookForWitness();
          this.#ownership.check(owned);
          // To wait takes another command, and what made it fail is not over because nothing was there to read.
          if (waited || !follow) this.report.caughtUp();
          if (!follow) return;
          this.#readOn(claim.offset, waited || this.report.failuresInARow === 0 ? true : "briefly");
          waited = true;
          continue;
        }
        // With a backlog the next batch is read while this one commits, and where events come one by one, the next
        // event. Where more come, that would make small batches at the end of the stream: there it is read
        // afterwards, with all that came meanwhile.
        const slow = follow && isFew(work);
        const goesOn = () => !signal.aborted && !this.#giving;
        const prefetch = (work.more || slow) && !claim.hasParked && goesOn();
        if (prefetch) this.#readOn(work.batch.lastId, !work.more);
        const began = work.sentAt ?? performance.now();
        let isUnderWay = true;
        const applying = this.#apply(claim, work).finally(() => {
          isUnderWay = false;
          work.done();
        });
        if (prefetch && slow) {
          this.#next = awaitedLater(this.#next.then((next) => {
            isAhead = isUnderWay && goesOn() && this.#sendAhead(owned, work, next);
            return next;
          }));
        }
        const { applied, short } = await applying;
        this.#batchSize = Math.min(this.#maxEvents, this.#batchSize * 2);
        this.report.applied(applied, performance.now() - began);
        this.#short = short;
        const swallowed = await this.#lookForSwallowed(claim, isAhead ? await this.#next : null);
        // While the next batch is applied; where that is faster, it waits here, since a trim would take what it looks at.
        await settling;
        settling = settler?.applied(applied, swallowed);
        work.free();
        trimmer.applied(applied.events, work.more);
        const fits = prefetch && applied.lastId === work.batch.lastId && !claim.hasParked;
        if (fits) continue;
        if (prefetch) await this.#dropNext();
        isAhead = false;
        if (goesOn()) this.#readOn(claim.offset, follow);
      }
    } catch (error) {
      // Nobody waits for it any more: it must not hold up the next claim.
      if (isAhead) this.#target.ownership.abandon(claim, asError(error));
      // Until it goes on, `target list` shows what was told last.
      if (error instanceof PausedError) await trimmer.trim();
      throw error;
    } finally {
      await settling;
    }
  }

  /** Sends a small batch behind the one that is under way, so that the target need not wait for it; whether it was sent. */
  #sendAhead(owned: Owned, work: Work, next: Work | null): boolean {
    if (!work.isPlain || !next?.isPlain || !isFew(next)) return false;
    try {
      this.#ownership.check(owned);
    } catch {
      return false; // it is thrown before the next one's turn
    }
    const isSent = this.#target.batches.sendAhead?.(owned.claim, next.batch, work.batch) ?? false;
    if (isSent) next.sentAt = performance.now();
    return isSent;
  }

  /** Begins to read the entries after a position. */
  #readOn(position: string, wait: Wait): void {
    this.#next = awaitedLater(this.#read(position, wait));
  }

  /** Lets go what was prefetched; an error of it is the one that ended the loop, or follows from it, or comes again. */
  async #dropNext(): Promise<void> {
    const next = await this.#next.catch(() => null); // see above
    next?.done();
  }

  async #read(position: string, wait: Wait): Promise<Work | null> {
    await failpoint?.("reading");
    let done = () => {};
    try {
      const { items, more, free } = await this.#reader.read(position, this.#batchSize, {
        wait,
        slot: async () => {
          [, done] = await this.#slots.acquire();
        },
      });
      await failpoint?.("read");
      if (items.length === 0) {
        done();
        free();
        return null;
      }
      const batch = await this.#coalesce(items);
      this.#target.batches.prepare(this.keys, batch);
      await failpoint?.("coalesced");
      return { items, batch, more, isPlain: batch.parked.length === 0, done, free };
    } catch (error) {
      done();
      throw error;
    }
  }

  #coalesce(items: Item[]): Promise<Batch> {
    const { everyEvent } = this.#target.batches;
    return coalesce(items, (docIds) => this.#reader.documents(docIds), everyEvent);
  }

  /** Applies a batch, in a span. */
  #apply(claim: Claim, work: Work): Promise<{ applied: Batch; short: BatchRows }> {
    const { entity, partition, stream, target, process } = this.report.place;
    return traced(`apply ${entity}`, {
      kind: "consumer",
      before: () => ({
        "messaging.destination.name": stream,
        "messaging.batch.message_count": work.batch.events,
        "writebehind.entity": entity,
        "writebehind.partition": partition,
        "writebehind.target": target,
        "writebehind.process": process,
      }),
      after: ({ applied }) => ({
        "writebehind.offset": applied.lastId,
        "writebehind.rows": applied.upserts.length + applied.removals.length,
        "writebehind.parked": applied.parked.length,
      }),
    }, () => this.#applyOrPark(claim, work));
  }

  /** Applies a batch. What cannot be stored is parked, and so are later events of parked documents. */
  async #applyOrPark(
    claim: Claim,
    work: Work,
  ): Promise<{ applied: Batch; short: BatchRows }> {
    let { items, batch } = work;
    if (claim.hasParked) {
      items = await this.#parkBehind(claim, items);
      batch = await this.#coalesce(items);
    }
    for (;;) {
      await failpoint?.(batch.parked.length > 0 ? "parking" : "applying");
      try {
        const short = await this.#target.batches.apply(claim, batch);
        await failpoint?.("applied");
        this.#poison.wentWell();
        return { applied: batch, short };
      } catch (error) {
        work.isPlain = false;
        if (isTurn(error)) throw error;
        // The batch may cover only the first of its items, and only those may be blamed for its error.
        const covered = items.slice(0, batch.events);
        const parkedNow = await this.#poison.park(claim, covered, batch, error);
        if (parkedNow === null) {
          const stuck = isOfRows(this.#target.kindOf(error));
          throw this.#refused = stuck ? new StuckError(reasonOf(error), error) : error;
        }
        if (parkedNow === "smaller") {
          items = covered.slice(0, Math.ceil(covered.length / 2));
          this.#batchSize = items.length;
        } else items = parkedNow;
        batch = await this.#coalesce(items);
      }
    }
  }

  /**
   * Mostly nothing was short, and nobody lacks anything. Rows that are newer than their events, or were removed before, are
   * no loss. If it fails, it is done under the next claim: a document that was removed meanwhile may be named then, as a
   * verify shows.
   */
  async #lookForSwallowed(claim: Claim, ahead: Work | null = null): Promise<string[]> {
    const { upserts, removals } = this.#short;
    if (upserts.length + removals.length === 0) return [];
    const ids = await this.#target.batches.swallowed(claim, this.#short, ahead?.batch);
    if (ids.length > 0) {
      await this.#target.identities.doubt(claim, SWALLOWED, { keepWitness: true });
      this.report.swallowed(ids);
    }
    this.#short = NONE;
    return ids;
  }

  async #parkBehind(claim: Claim, items: Item[]): Promise<Item[]> {
    const ids = new Map<string, Buffer>();
    for (const item of items) if (isEvent(item)) ids.set(item.key, item.docId);
    await failpoint?.("parking behind");
    const blocked = await this.#target.batches.parkedAmong(claim, [...ids.values()]);
    if (blocked.size === 0) return items;
    return items.map((item) => isEvent(item) && blocked.has(item.key) ? park(item, BEHIND) : item);
  }

  /** Notes a failure. Before the next attempt the partition is claimed again, which shows the true offset. */
  #failed(error: Error): ErrorKind {
    this.#ownership.end();
    if (isTurn(error)) {
      this.report.turned(error);
      return "transient";
    }
    if (error instanceof PausedError) {
      this.report.paused();
      return "transient";
    }
    if (error instanceof RepartitioningError) {
      // Told by status: what this sink reports would be of partitions that there are no more.
      this.report.standby();
      return "transient";
    }
    if (error instanceof WentBackError) {
      this.report.lastError = error;
      return "transient";
    }
    const kind = this.#target.kindOf(error);
    this.report.failed(withAddress(error, addressOf(this.#config)), kind);
    if (kind === "too_large" && this.#batchSize > 1) {
      this.#batchSize = Math.floor(this.#batchSize / 2);
      this.report.halved(this.#batchSize);
    }
    return kind;
  }
}

/** The doubt about rows that were swallowed: one text for all, so that it is noted once. */
const SWALLOWED =
  "rows were not written or removed, though the target refused none: a trigger of the table swallows them";

/** Not a failure: claiming again is all that is needed. */
const isTurn = (error: unknown): boolean =>
  error instanceof OwnershipLostError || error instanceof ParkedChangedError ||
  error instanceof GivenError;

/** A batch that can neither be stored nor parked. */
class StuckError extends WriteBehindError {
  constructor(reason: string, cause: unknown) {
    super(`the batch can neither be stored nor parked: ${reason}`, { cause });
  }
}
