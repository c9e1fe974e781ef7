/**
 * What traffic has done, counted as it goes.
 * @module
 */

import { createHistogram } from "node:perf_hooks";
import type { EventType } from "../core/stream_ids.ts";

/** What traffic has done. */
export interface TrafficReport {
  /** documents inserted */
  inserted: number;
  /** documents updated */
  updated: number;
  /** documents deleted */
  deleted: number;
  /** of these three, the ones whose durability was not confirmed */
  unconfirmed: number;
  /** calls that failed; for `UnknownOutcomeError`, the document may be written all the same */
  failed: number;
  /** how often a call was refused because too much was waiting, and was repeated later */
  backpressure: number;
  /** how long it took, in seconds */
  seconds: number;
  /** writes per second: inserts, updates and deletes */
  perSecond: number;
  /** of the calls that succeeded, without waiting for their turn, in ms */
  latencyMs: { p50: number; p99: number };
  /** why calls failed or had to be repeated later, and how often */
  reasons: Record<string, number>;
  /** documents that this traffic created and did not delete */
  live: number;
}

/** Different reasons in a report; more of them are counted under one line. */
const MAX_REASONS = 20;

/** Counts calls, from the moment that it is made. */
export class Tally {
  /** calls whose durability was not confirmed */
  unconfirmed = 0;
  failed = 0;
  backpressure = 0;
  readonly #began = performance.now();
  readonly #written = { insert: 0, update: 0, delete: 0 };
  readonly #latency = createHistogram();
  readonly #reasons = new Map<string, number>();

  addWritten(verb: EventType): void {
    this.#written[verb]++;
  }

  addLatency(ms: number): void {
    this.#latency.record(Math.max(1, Math.round(1000 * ms)));
  }

  addReason(reason: string): void {
    const known = this.#reasons.has(reason) || this.#reasons.size < MAX_REASONS;
    const key = known ? reason : "(other reasons)";
    this.#reasons.set(key, (this.#reasons.get(key) ?? 0) + 1);
  }

  report(): TrafficReport {
    const { insert, update, delete: deleted } = this.#written;
    const seconds = (performance.now() - this.#began) / 1000;
    const latency = (percent: number) =>
      this.#latency.count === 0 ? 0 : this.#latency.percentile(percent) / 1000;
    return {
      inserted: insert,
      updated: update,
      deleted,
      unconfirmed: this.unconfirmed,
      failed: this.failed,
      backpressure: this.backpressure,
      seconds,
      perSecond: (insert + update + deleted) / seconds,
      latencyMs: { p50: latency(50), p99: latency(99) },
      reasons: Object.fromEntries(this.#reasons),
      live: insert - deleted,
    };
  }
}
