/**
 * Traffic whose rate may be changed at any time, in a thread of its own: however fast it writes, the page moves on.
 * @module
 */

import { asError } from "../../core/errors.ts";
import type { TrafficReport } from "../../demo/tally.ts";

/** Where the traffic writes to. */
export interface TrafficTarget {
  configPath: string | undefined;
  redisUrl: string;
  databaseUrl: string;
  entity: string;
}

/** What the thread is asked to do. */
export type TrafficOrder =
  | { kind: "open"; target: TrafficTarget }
  /** documents a second; 0 stops */
  | { kind: "rate"; rate: number }
  /** so many documents at once, as fast as possible */
  | { kind: "burst"; records: number }
  | { kind: "close" };

/** What it says. */
export type TrafficNews =
  | { kind: "ready" }
  | { kind: "failed"; message: string }
  /** writes of one run, so far or at its end */
  | { kind: "report"; run: number; report: TrafficReport; ended: boolean }
  /** all orders until now are carried out */
  | { kind: "closed" };

/** What is written a second is told of so long, in ms: at most, and at least. */
const LATELY_MS = 3000;
const ENOUGH_MS = 1500;
/** A rate counts as reached from this part of it on. */
const REACHED = 0.9;
/** Reports come so often, in ms, while anything is written. */
const REPORTS_MS = 500;

/** The traffic, as the stage drives it. */
export class StageTraffic implements AsyncDisposable {
  /** documents a second that are asked for */
  rate = 0;
  readonly #worker: Worker;
  readonly #reports = new Map<number, TrafficReport>();
  /** how much was written, and how many calls had failed, lately, since the rate was set */
  #lately: { at: number; written: number; failed: number }[] = [];
  readonly #opened = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<void>();

  /** @param onFailure called with why the traffic ended, if it did by itself */
  private constructor(onFailure: (error: Error) => void) {
    const url = new URL("./traffic_worker.ts", import.meta.url);
    this.#worker = new Worker(url.href, { type: "module", name: "traffic" });
    this.#worker.onmessage = ({ data }: MessageEvent<TrafficNews>) => {
      if (data.kind === "ready") this.#opened.resolve();
      else if (data.kind === "closed") this.#closed.resolve();
      else if (data.kind === "report") this.#take(data.run, data.report);
      else {
        this.#opened.reject(new Error(data.message));
        onFailure(new Error(data.message));
      }
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const error = asError(event.message);
      this.#opened.reject(error);
      this.#closed.resolve();
      onFailure(error);
    };
  }

  /** Connects; writes nothing yet. */
  static async open(
    target: TrafficTarget,
    onFailure: (error: Error) => void,
  ): Promise<StageTraffic> {
    const traffic = new StageTraffic(onFailure);
    traffic.#send({ kind: "open", target });
    try {
      await traffic.#opened.promise;
      return traffic;
    } catch (error) {
      traffic.#worker.terminate();
      throw error;
    }
  }

  /** Writes that a writer was refused, or does not know the outcome of, since it began. */
  get failed(): number {
    return [...this.#reports.values()].reduce((sum, { failed }) => sum + failed, 0);
  }

  #take(run: number, report: TrafficReport): void {
    this.#reports.set(run, report);
    const now = performance.now();
    const written = [...this.#reports.values()]
      .reduce((sum, { inserted, updated, deleted }) => sum + inserted + updated + deleted, 0);
    this.#lately.push({ at: now, written, failed: this.failed });
    while (this.#lately[0]!.at < now - LATELY_MS) this.#lately.shift();
  }

  /**
   * Documents a second that are written lately, where fewer than asked for; else, and at first, null. Where calls fail, that
   * is why fewer are written.
   */
  get asFastAsPossible(): number | null {
    const [first, last] = [this.#lately[0], this.#lately.at(-1)];
    if (!first || !last || first.failed < last.failed) return null;
    const ms = Math.max(last.at, performance.now() - REPORTS_MS) - first.at;
    if (ms < ENOUGH_MS) return null;
    const reached = 1000 * (last.written - first.written) / ms;
    return reached < REACHED * this.rate ? reached : null;
  }

  /** Writes so many documents a second from now on. */
  setRate(rate: number): void {
    this.rate = rate;
    this.#lately = [];
    this.#send({ kind: "rate", rate });
  }

  /** Writes so many more, as fast as possible. */
  burst(records: number): void {
    this.#send({ kind: "burst", records });
  }

  /** Waits for the writes in flight, and ends. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#send({ kind: "close" });
    await this.#closed.promise;
    this.#worker.terminate();
  }

  #send(order: TrafficOrder): void {
    this.#worker.postMessage(order);
  }
}
