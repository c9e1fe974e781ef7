/**
 * What one partition's sink tells: its state and sums, events, counters, and gauges in Redis for people.
 * @module
 */

import { type ErrorKind, passes } from "../core/error_kinds.ts";
import {
  asError,
  type Emitter,
  OncePerMinute,
  type Place,
  type SinkEvents,
} from "../core/events.ts";
import { reasonOf } from "../core/errors.ts";
import type { Counters } from "../redis/counters.ts";
import type { Batch } from "../targets/target.ts";
import { Freshness } from "./freshness.ts";

/** What a sink does with a partition now. */
export type PartitionState = "idle" | "owner" | "standby" | "retrying" | "paused";

/** What goes on failing beside the batches. */
type Trouble = "trimFailed" | "leaseNotRenewed" | "releaseFailed";

/** The report of one partition. */
export class PartitionReport {
  state: PartitionState = "idle";
  /** the newest failure; `null` once a batch went well again */
  lastError: Error | null = null;
  /** failures since the last batch that went well */
  failuresInARow = 0;
  /** events applied, and rows written or removed for them, since this sink was made */
  events = 0;
  rows = 0;
  /** events put in the dead letter */
  parked = 0;
  /** events that had nothing to write: their document was gone, and they carried no payload */
  noops = 0;
  /** times that the stream was found to have gone back */
  wentBack = 0;
  readonly place: Place;
  #emitter: Emitter<SinkEvents>;
  #counters: Counters;
  #gauges: string;
  #freshness = new Freshness();
  /** when a batch was applied last, in ms */
  #appliedAt = 0;
  #troubles = new OncePerMinute();

  /** @param gauges the hash in Redis in which people are told how the partition is */
  constructor(
    place: Place,
    emitter: Emitter<SinkEvents>,
    counters: Counters,
    gauges: string,
  ) {
    this.place = place;
    this.#emitter = emitter;
    this.#counters = counters;
    this.#gauges = gauges;
  }

  claimed(epoch: string, offset: string): void {
    // What failed is not over by claiming again: a batch has to go well.
    if (this.failuresInARow === 0 || this.state === "standby") this.state = "owner";
    this.#emitter.emit("claimed", { ...this.place, epoch, offset });
    this.#tell();
  }

  standby(): void {
    if (this.state === "standby") return;
    this.state = "standby";
    this.#emitter.emit("standby", this.place);
  }

  lost(error: Error): void {
    this.#emitter.emit("lost", { ...this.place, error });
  }

  released(): void {
    this.#emitter.emit("released", this.place);
  }

  applied(batch: Batch): void {
    const { events, noops, parked, lastId } = batch;
    const rows = batch.upserts.length + batch.removals.length;
    this.#wentWell();
    this.events += events;
    this.noops += noops;
    this.parked += parked.length;
    this.rows += rows;
    this.#appliedAt = Date.now();
    this.#freshness.add(batch.times, this.#appliedAt);
    const { stream } = this.place;
    this.#counters.count("postgres_success", events - parked.length, `applied from ${stream}`);
    if (noops > 0) this.#counters.count("postgres_success", 0, `nothing to apply from ${stream}`);
    for (const { streamId, id, sqlstate, reason } of parked) {
      this.#counters.count("postgres_fail", 1, `parked from ${stream}: ${reason}`);
      const documentId = id && id.toString();
      this.#emitter.emit("parked", { ...this.place, streamId, documentId, sqlstate, reason });
    }
    const sums = { events, rows, parked: parked.length, noops };
    this.#emitter.emit("applied", { ...this.place, ...sums, offset: lastId });
    this.#tell();
  }

  /** With nothing left to apply, a failure that is over is not shown any longer. */
  caughtUp(): void {
    if (this.failuresInARow === 0) return;
    this.#wentWell();
    this.#tell();
  }

  #wentWell(): void {
    if (this.failuresInARow > 0) {
      this.#emitter.emit("recovered", { ...this.place, failures: this.failuresInARow });
    }
    this.state = "owner";
    this.lastError = null;
    this.failuresInARow = 0;
  }

  failed(error: Error, kind: ErrorKind): void {
    this.lastError = error;
    this.failuresInARow++;
    this.state = passes(kind) ? "retrying" : "paused";
    this.#emitter.emit("failed", { ...this.place, kind, failures: this.failuresInARow, error });
    const reason = `${this.place.stream}: ${reasonOf(error)}`;
    this.#counters.count("postgres_fail", 1, reason);
    this.#counters.count("redis_retry", 1, reason);
    this.#tell();
  }

  halved(batchSize: number): void {
    this.#emitter.emit("halved", { ...this.place, batchSize });
  }

  goneBack(witness: string, error: Error): void {
    this.wentBack++;
    this.lastError = error;
    this.#counters.count("postgres_fail", 1, error.message);
    this.#emitter.emit("wentBack", { ...this.place, witness });
  }

  rewound(documents: number, error: Error): void {
    this.lastError = error;
    const { stream } = this.place;
    this.#counters.count("redis_retry", documents, `${stream}: ${documents} documents sent again`);
    this.#emitter.emit("rewound", { ...this.place, documents });
  }

  /** Tells of something that goes on failing, once a minute at most while it lasts. */
  trouble(what: Trouble, error: unknown): void {
    if (!this.#troubles.allows(what)) return;
    this.#emitter.emit(what, { ...this.place, error: asError(error) });
  }

  troubleOver(what: Trouble): void {
    this.#troubles.over(what);
  }

  /** Tells people, by way of Redis, how this partition is. */
  #tell(): void {
    this.#counters.gauge(this.#gauges, () => ({
      ...this.#freshness.quantiles(),
      at: this.#appliedAt,
      owner: this.place.process,
      state: this.state,
      failures: this.failuresInARow,
      last_error: this.lastError === null ? "" : reasonOf(this.lastError).slice(0, 1000),
    }));
  }
}
