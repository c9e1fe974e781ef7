/**
 * Dummy traffic: a worker that creates, updates and deletes session documents.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, configWith, type DeepPartial, entityConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import {
  BackpressureError,
  ConnectionError,
  DocumentError,
  DurabilityError,
  reasonOf,
  RedisRefusedError,
  UnknownOutcomeError,
} from "../core/errors.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { type Call, Calls } from "./calls.ts";
import { Tally, type TrafficReport } from "./tally.ts";

/** How long traffic runs that somebody stops, in seconds: longer than any presentation. */
export const UNTIL_STOPPED_SECONDS = 86_400;

/** Options of {@linkcode dummyDataWorker}; the others are those of `dummy_data` in the configuration. */
export interface TrafficOptions extends DeepPartial<Config["dummy_data"]> {
  /** stops the traffic: calls in flight finish */
  signal?: AbortSignal;
  /** called with the report so far, at most four times a second, and at the end */
  onProgress?: (report: TrafficReport) => void;
  /** repeat a call with the same `requestId` while its outcome is unknown; costs a key in Redis a write */
  requestIds?: boolean;
  /** asked before each write for the documents a second that are wanted then, in the place of `rate` */
  currentRate?: () => number;
}

/**
 * Writes dummy sessions: creates, updates and deletes in the shares that `dummy_data` says, until
 * `num_records` calls are made or, where `duration_seconds` is not 0, for that long.
 *
 * Updates and deletes take documents that this traffic has created; while there are none, it creates.
 * A refusal because too much is waiting slows it down, for as long as that lasts; other failures are
 * counted with their reasons, and it goes on.
 * @returns what was done, also after `signal`
 * @throws {ConfigError} for an unknown entity or options that do not fit
 *
 * @example
 * ```ts
 * import { connectRedis, dummyDataWorker, loadConfig } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * const report = await dummyDataWorker(redis, config, "session", {
 *   num_records: 1000,
 *   rate: 200,
 *   signal: AbortSignal.timeout(10_000),
 * });
 * console.log(report.inserted, report.latencyMs.p99, report.reasons);
 * ```
 */
export async function dummyDataWorker(
  redis: RedisConnection,
  config: Config,
  entity: string,
  options: TrafficOptions = {},
): Promise<TrafficReport> {
  checkArguments("dummyDataWorker", { redis, config, entity, options });
  const { signal, onProgress, requestIds = false, currentRate, ...overrides } = options;
  entityConfig(config, entity);
  const merged = configWith(config, { dummy_data: overrides });
  const rate = currentRate ?? (() => merged.dummy_data.rate);
  return await new Traffic(redis, merged, entity, requestIds, rate, onProgress).run(signal);
}

const PROGRESS_MS = 250;
/** A lane that waits for its turn looks so often whether another rate is wanted, in ms. */
const LOOK_MS = 250;
/** Pauses after a refusal, in ms, doubled each time in a row. */
const FIRST_PAUSE_MS = 10;
const LONGEST_PAUSE_MS = 1000;

/** The same text for the same cause: without the id, and without how much there is at the moment. */
function shortReason(error: unknown, docId: string): string {
  if (error instanceof BackpressureError) return `${error.limit} is reached`;
  return reasonOf(error).replaceAll(docId, "<id>");
}

/** Whether Redis, or the way to it, is the reason, which may pass; not the call. */
function isPassing(error: unknown): boolean {
  return error instanceof ConnectionError || error instanceof RedisRefusedError ||
    error instanceof UnknownOutcomeError;
}

class Traffic {
  readonly #redis: RedisConnection;
  readonly #config: Config;
  readonly #entity: string;
  readonly #requestIds: boolean;
  readonly #rate: () => number;
  readonly #onProgress: TrafficOptions["onProgress"];
  readonly #stop = new AbortController();
  readonly #calls: Calls;
  readonly #tally = new Tally();
  #turns = 0;
  #nextStart = performance.now();
  #lastProgress = performance.now();
  #refusalsInARow = 0;

  constructor(
    redis: RedisConnection,
    config: Config,
    entity: string,
    requestIds: boolean,
    rate: () => number,
    onProgress: TrafficOptions["onProgress"],
  ) {
    this.#redis = redis;
    this.#config = config;
    this.#entity = entity;
    this.#requestIds = requestIds;
    this.#rate = rate;
    this.#onProgress = onProgress;
    this.#calls = new Calls(redis, config, entity);
  }

  async run(signal: AbortSignal | undefined): Promise<TrafficReport> {
    const { concurrency, duration_seconds } = this.#config.dummy_data;
    const stop = () => this.#stop.abort();
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
    const timer = duration_seconds > 0 ? setTimeout(stop, 1000 * duration_seconds) : undefined;
    try {
      const lanes = Array.from({ length: concurrency }, () => this.#lane());
      // A listener that throws stops all lanes; none is left running behind the caller's back.
      const failed = (await Promise.allSettled(lanes)).find(({ status }) => status === "rejected");
      if (failed?.status === "rejected") throw failed.reason;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
    }
    const report = this.#tally.report();
    this.#onProgress?.(report);
    return report;
  }

  async #lane(): Promise<void> {
    try {
      while (this.#takeTurn()) {
        await this.#waitForStart();
        if (this.#stop.signal.aborted) return;
        await this.#make(this.#calls.next());
        this.#reportProgress();
      }
    } catch (error) {
      this.#stop.abort();
      throw error;
    }
  }

  #reportProgress(): void {
    const now = performance.now();
    if (this.#onProgress === undefined || now - this.#lastProgress < PROGRESS_MS) return;
    this.#lastProgress = now;
    this.#onProgress(this.#tally.report());
  }

  #takeTurn(): boolean {
    const { num_records, duration_seconds } = this.#config.dummy_data;
    if (this.#stop.signal.aborted) return false;
    return this.#turns++ < num_records || duration_seconds > 0;
  }

  /** Starts are counted from the one before, not from its end, so the rate does not drift. */
  async #waitForStart(): Promise<void> {
    const rate = this.#rate();
    if (rate === 0) return;
    // What a stall held up is made good for one second's worth at most.
    const start = Math.max(this.#nextStart, performance.now() - 1000);
    this.#nextStart = start + 1000 / rate;
    while (!this.#stop.signal.aborted && performance.now() < start) {
      await this.#sleep(Math.min(start - performance.now(), LOOK_MS));
      if (this.#rate() === rate) continue;
      this.#nextStart = performance.now(); // Another rate counts from now on.
      return;
    }
  }

  /** Ends early where the traffic is stopped. */
  async #sleep(ms: number): Promise<void> {
    if (ms > 0) await delay(ms, this.#stop.signal);
  }

  /** Makes the call, as often as that is safe and of use. */
  async #make(call: Call): Promise<void> {
    const options = this.#requestIds ? { requestId: crypto.randomUUID() } : {};
    let unknownSince: number | undefined;
    for (;;) {
      const began = performance.now();
      try {
        await call.write(options);
        this.#tally.addLatency(performance.now() - began);
        return this.#succeed(call);
      } catch (error) {
        const reason = shortReason(error, call.docId);
        this.#tally.addReason(reason);
        if (error instanceof DurabilityError) {
          this.#tally.unconfirmed++;
          return this.#succeed(call);
        }
        if (error instanceof UnknownOutcomeError) unknownSince ??= performance.now();
        const waits = error instanceof BackpressureError;
        if (waits) this.#tally.backpressure++;
        if (!(waits || this.#mayRepeat(error, unknownSince)) || this.#stop.signal.aborted) {
          return await this.#fail(call, error, waits && unknownSince === undefined);
        }
        this.#redis.counters.count("redis_retry", 1, `${call.verb} ${this.#entity}: ${reason}`);
        this.#reportProgress();
        await this.#pause();
      }
    }
  }

  /** A request whose outcome is unknown is repeated, for as long as Redis knows its requestId. */
  #mayRepeat(error: unknown, unknownSince: number | undefined): boolean {
    if (!this.#requestIds || unknownSince === undefined || !isPassing(error)) return false;
    const seconds = (performance.now() - unknownSince) / 1000;
    return seconds < this.#config.documents.request_id_ttl_seconds;
  }

  #succeed({ verb, docId }: Call): void {
    this.#refusalsInARow = 0;
    this.#tally.addWritten(verb);
    if (verb !== "delete") this.#calls.giveBack(docId);
  }

  /** @param stopped the traffic ended while the call waited to be repeated: nobody's failure */
  async #fail({ verb, docId }: Call, error: unknown, stopped: boolean): Promise<void> {
    if (!stopped) this.#tally.failed++;
    const unknown = error instanceof UnknownOutcomeError;
    const missing = error instanceof DocumentError && error.code === "missing";
    // A document that may be gone, or may never have been there, is left alone.
    if (verb === "update" ? !missing : verb === "delete" && !missing && !unknown) {
      this.#calls.giveBack(docId);
    }
    // While Redis is away every call fails at once: no need to make thousands a second.
    if (isPassing(error)) await this.#pause();
  }

  /** Waits longer with each refusal in a row, with jitter, so that lanes do not come back together. */
  async #pause(): Promise<void> {
    const doubled = FIRST_PAUSE_MS * 2 ** Math.min(10, this.#refusalsInARow++ / this.#lanes);
    await this.#sleep(Math.min(LONGEST_PAUSE_MS, doubled) * (0.5 + Math.random()));
  }

  get #lanes(): number {
    return this.#config.dummy_data.concurrency;
  }
}
