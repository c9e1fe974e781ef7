/**
 * The report of one partition: its state and sums, its events and counters, and its gauges in Redis for people.
 * @module
 */

import { counted } from "../core/counted.ts";
import { type ErrorKind, passes } from "../core/error_kinds.ts";
import { type Emitter, OncePerMinute, type Place, type SinkEvents } from "../core/events.ts";
import { asError, reasonOf } from "../core/errors.ts";
import type { Counters } from "../redis/counters.ts";
import { type Claim, OwnershipLostError } from "../targets/target.ts";
import type { Batch } from "../targets/batch.ts";
import type { LostCommits } from "./belonging.ts";
import { Freshness, RECENT_MS } from "./freshness.ts";

/** Characters of an error that people are told by way of Redis; the SQL for an administrator is one of the longest. */
const MOST_TOLD = 16_000;

/** What a sink does with a partition now. */
export type PartitionState = "idle" | "owner" | "standby" | "retrying" | "paused";

/** What may keep failing beside the batches. */
export type Trouble =
  | "dueFailed"
  | "settleFailed"
  | "trimFailed"
  | "leaseNotRenewed"
  | "releaseFailed"
  | "indexNotKept";

/** Ids that an event names, at most. */
const NAMED_IDS = 5;

/** The report of one partition. */
export class PartitionReport {
  state: PartitionState = "idle";
  /** the newest failure; `null` once a batch was applied again */
  lastError: Error | null = null;
  /** failures since the last batch that was applied */
  failuresInARow = 0;
  /** events applied, and rows written or removed for them, since this sink was made */
  events = 0;
  rows = 0;
  /** events that were parked */
  parked = 0;
  /** events that had nothing to write: their document was gone, and they carried no payload */
  noops = 0;
  /** how often the stream went back */
  wentBack = 0;
  /** how often each trouble beside the batches was met */
  readonly troubles: Record<Trouble, number> = {
    trimFailed: 0,
    dueFailed: 0,
    settleFailed: 0,
    leaseNotRenewed: 0,
    releaseFailed: 0,
    indexNotKept: 0,
  };
  readonly place: Place;
  /** whether the sink owns the partition, by its last event of ownership; `null` where there was none */
  #owns: boolean | null = null;
  #emitter: Emitter<SinkEvents>;
  #counters: Counters;
  #gauges: string;
  #freshness = new Freshness();
  /** when a batch was applied last, in ms */
  #appliedAt = 0;
  #troubles = new OncePerMinute();
  /** how the columns of the table differ, as it was told last */
  #columns = "";

  /** @param gauges the key of the hash in Redis that shows people the partition's state */
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

  claimed({ epoch, offset }: Claim): void {
    // Claiming again does not end a failure: a batch has to be applied.
    if (this.failuresInARow === 0 || this.state === "standby") this.state = "owner";
    this.#emitter.emit("claimed", { ...this.place, epoch, offset, again: this.#owns === true });
    this.#owns = true;
    this.#show();
  }

  /** The next claim is news: another sink may have owned the partition since the last. */
  interrupted(): void {
    if (this.#owns === true) this.#owns = null;
  }

  /** An operator has paused the target: what has failed before is over. */
  paused(): void {
    if (this.state === "paused" && this.#owns === false) return;
    this.#isOver();
    this.state = "paused";
    this.#show();
    this.#owns = false;
    this.#emitter.emit("paused", this.place);
  }

  /** Another target was so far behind that the stream was full, and has lost its place. */
  detached(name: string): void {
    const { stream } = this.place;
    const reason =
      `${name} has lost its place in ${stream}, which was full of events that it did not have`;
    this.#counters.count("postgres_fail", 1, reason);
    this.#emitter.emit("detached", { ...this.place, target: name });
  }

  /** Another sink owns the partition, or is to have it: what has failed here is over, and does not count if it comes back. */
  standby(): void {
    this.#isOver();
    this.state = "standby";
    if (this.#owns === false) return;
    this.#owns = false;
    this.#emitter.emit("standby", this.place);
  }

  /** The claim has ended, but not by a failure: a new one has to be made. */
  turned(error: Error): void {
    this.state = "standby";
    if (!(error instanceof OwnershipLostError)) return;
    this.#owns = null;
    this.#emitter.emit("lost", { ...this.place, error });
  }

  /** Nothing is done with the partition until the next claim. */
  idle(): void {
    this.state = "idle";
    this.#owns = null;
  }

  released(): void {
    this.#emitter.emit("released", this.place);
  }

  /** @param durationMs how long applying it took */
  applied(batch: Batch, durationMs: number): void {
    const { events, noops, parked, lastId } = batch;
    const rows = batch.upserts.length + batch.removals.length;
    this.#wentWell();
    this.events += events;
    this.noops += noops;
    this.parked += parked.length;
    this.rows += rows;
    this.#appliedAt = Date.now();
    const freshnessMs = batch.times.map((time) => this.#appliedAt - time);
    this.#freshness.add(freshnessMs);
    const { stream } = this.place;
    this.#counters.count("postgres_success", events - parked.length, `applied from ${stream}`);
    if (noops > 0) this.#counters.count("postgres_success", 0, `nothing to apply from ${stream}`);
    for (const { streamId, id, sqlstate, reason } of parked) {
      this.#counters.count("postgres_fail", 1, `parked from ${stream}: ${reason}`);
      const documentId = id && id.toString();
      this.#emitter.emit("parked", { ...this.place, streamId, documentId, sqlstate, reason });
    }
    const sums = { events, rows, parked: parked.length, noops };
    const times = { durationMs, freshnessMs };
    this.#emitter.emit("applied", { ...this.place, ...sums, offset: lastId, ...times });
    this.#show();
  }

  /** Nothing is left to apply, so an earlier failure is over. */
  caughtUp(): void {
    if (this.failuresInARow === 0) return;
    this.#wentWell();
    this.#show();
  }

  #wentWell(): void {
    if (this.failuresInARow > 0) {
      this.#emitter.emit("recovered", { ...this.place, failures: this.failuresInARow });
    }
    this.#isOver();
    this.state = "owner";
  }

  #isOver(): void {
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
    this.#show();
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
    this.#countResent(documents);
    this.#emitter.emit("rewound", { ...this.place, documents });
  }

  /** The target has lost what it had committed last. */
  offsetWentBack(lost: LostCommits): void {
    const { stream } = this.place;
    const { offset, told, missing } = lost;
    const reason = missing === null
      ? "the stream still holds it, and it is applied again"
      : `the stream does not hold what came after ${missing.after}, up to ${missing.upTo}; what it holds is applied again`;
    this.#counters.count(
      "postgres_fail",
      0,
      `${stream}: the offset went back from ${told} to ${offset}: ${reason}`,
    );
    this.#emitter.emit("offsetWentBack", { ...this.place, ...lost, reason });
  }

  /** Rows may be missing or old. */
  doubted(reason: string): void {
    this.#counters.count("postgres_fail", 0, `${this.place.stream}: ${reason}`);
    this.#emitter.emit("doubted", { ...this.place, reason });
  }

  /** Rows were neither written nor refused. */
  swallowed(ids: string[]): void {
    const documentIds = ids.slice(0, NAMED_IDS);
    this.#counters.count(
      "postgres_fail",
      0,
      `${this.place.stream}: ${counted(ids.length, "row")} swallowed, such as ${
        documentIds.join(", ")
      }`,
    );
    this.#emitter.emit("swallowed", { ...this.place, rows: ids.length, documentIds });
  }

  /** An event was not noted by its writer, so that nothing of the cache is evicted any more. */
  notNoted(streamId: string): void {
    this.#emitter.emit("notNoted", { ...this.place, streamId });
  }

  /** Documents were sent again whose events were gone from the stream, or whose rows were swallowed. */
  resent(documents: number): void {
    this.#countResent(documents);
    this.#emitter.emit("resent", { ...this.place, documents });
  }

  #countResent(documents: number): void {
    const reason = `${this.place.stream}: ${counted(documents, "document")} resent`;
    this.#counters.count("redis_retry", documents, reason);
  }

  /** Tables of ours were gone. */
  madeAnew(tables: string[]): void {
    this.#emitter.emit("madeAnew", { ...this.place, tables });
  }

  /** How the columns of the table differ from the configuration. */
  columns(differences: string[]): void {
    const text = differences.join("; ");
    if (text !== "" && text !== this.#columns) {
      this.#emitter.emit("columnsDiffer", { ...this.place, differences: text });
    }
    this.#columns = text;
  }

  /** Something keeps failing: an event at most once a minute, while it lasts. */
  trouble(what: Trouble, error: unknown): void {
    this.troubles[what]++;
    if (!this.#troubles.allows(what)) return;
    this.#emitter.emit(what, { ...this.place, error: asError(error) });
  }

  /** It has succeeded again. */
  over(what: Trouble): void {
    this.#troubles.over(what);
  }

  /** Shows people, by way of Redis, the state of this partition. */
  #show(): void {
    if (this.#owns === false) return; // its owner does
    this.#counters.gauge(this.#gauges, () => ({
      // One that has lost the target does not know that another applies: it leaves what that one has said.
      ...Date.now() - this.#appliedAt <= RECENT_MS
        ? { at: this.#appliedAt, ...this.#freshness.quantiles() }
        : {},
      owner: this.place.process,
      state: this.state,
      failures: this.failuresInARow,
      last_error: this.lastError === null ? "" : reasonOf(this.lastError).slice(0, MOST_TOLD),
    }));
  }
}
