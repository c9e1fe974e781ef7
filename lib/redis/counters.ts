/**
 * The original's five counters and its log streams. They are gathered in memory and sent together, so
 * that they add no round trip to a write; they are for people, and no check relies on them.
 * @module
 */

import type { ChainableCommander } from "ioredis";
import type { Config } from "../config/load.ts";
import { asError } from "../core/errors.ts";
import { isReplyError, type Redis } from "./client.ts";

/** One of the five counters, which count events; each has a log stream of the same name. */
export type CounterName =
  | "redis_success"
  | "redis_fail"
  | "redis_retry"
  | "postgres_success"
  | "postgres_fail";
/** The counters, without their `metrics:` prefix. */
export const COUNTER_NAMES: readonly CounterName[] = [
  "redis_success",
  "redis_fail",
  "redis_retry",
  "postgres_success",
  "postgres_fail",
];

/** Returns the fields of a hash. */
export type Gauge = () => Record<string, string | number>;

/** The most different messages that are kept until the next sending; more are counted under one line. */
const MAX_MESSAGES = 100;

/** A line for a log stream. */
interface Message {
  name: CounterName;
  message: string;
  /** events that it is about */
  count: number;
}

/** What one connection has counted and not yet sent. */
export class Counters {
  #config: Config;
  #send: Redis;
  /** by their keys */
  #counts = new Map<string, number>();
  #messages = new Map<string, Message>();
  #gauges = new Map<string, Gauge>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closed = false;
  #sending: Promise<void> = Promise.resolve();
  #onSent: (error: Error | null) => void;

  /**
   * Made with a connection to Redis.
   * @param send the connection that the counts are sent on
   * @param onSent called after each sending with its error, or `null` where it succeeded
   */
  constructor(config: Config, send: Redis, onSent: (error: Error | null) => void = () => {}) {
    this.#config = config;
    this.#send = send;
    this.#onSent = onSent;
  }

  /**
   * Counts events under a name; their log stream gets one entry for equal messages.
   * @param message what happened, such as the reason of a failure
   */
  count(name: CounterName, events: number, message: string): void {
    this.tally(`metrics:${name}`, events);
    this.#log(name, message, events);
  }

  /**
   * Counts what no log stream tells, such as the looks at a cache.
   * @param key the counter's, in Redis
   */
  tally(key: string, count: number): void {
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + count);
    this.#schedule();
  }

  /**
   * Sets fields of a hash for people, such as a sink's freshness.
   * @param key a Redis key
   * @param fields asked for their values when they are sent
   */
  gauge(key: string, fields: Gauge): void {
    this.#gauges.set(key, fields);
    this.#schedule();
  }

  #log(name: CounterName, message: string, count: number): void {
    const own = `${name} ${message}`;
    const fits = this.#messages.has(own) || this.#messages.size < MAX_MESSAGES;
    const text = fits ? message : "(more messages of other kinds)";
    const key = fits ? own : `${name} ${text}`;
    const known = this.#messages.get(key);
    if (known) known.count += count;
    else this.#messages.set(key, { name, message: text, count });
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#closed) return;
    const timer = setTimeout(() => {
      this.#timer = undefined;
      this.flush();
    }, this.#config.metrics.flush_interval_ms);
    Deno.unrefTimer(timer);
    this.#timer = timer;
  }

  /** Sends what was counted. Never rejects: what could not be sent is kept for the next time. */
  flush(): Promise<void> {
    return this.#sending = this.#sending.then(() => this.#flush());
  }

  async #flush(): Promise<void> {
    if (this.#counts.size + this.#gauges.size === 0) return;
    if (this.#send.status !== "ready") return this.#schedule();
    const counts = this.#counts;
    const messages = this.#messages;
    const gauges = this.#gauges;
    this.#counts = new Map();
    this.#messages = new Map();
    this.#gauges = new Map();
    try {
      const replies = await this.#transaction(counts, messages, gauges).exec() ?? [];
      const refused = replies.find(([error]) => error)?.[0];
      this.#onSent(refused ?? null);
      // One was refused within the transaction; the others were done, so they are not sent again. Those that a node of a
      // cluster could not take are.
      const errors = replies.map(([error]) => error).values();
      const unsent = () => {
        const error = errors.next().value;
        return error && !isReplyError(error);
      };
      const left = <Key, Value>(all: Map<Key, Value>) => new Map([...all].filter(unsent));
      this.#keep(left(counts), left(messages), left(gauges));
    } catch (error) {
      this.#onSent(asError(error));
      this.#keep(counts, messages, gauges);
    }
  }

  /** Keeps what could not be sent for the next time. */
  #keep(
    counts: Map<string, number>,
    messages: Map<string, Message>,
    gauges: Map<string, Gauge>,
  ): void {
    for (const [key, count] of counts) this.tally(key, count);
    for (const { name, message, count } of messages.values()) this.#log(name, message, count);
    for (const [key, fields] of gauges) if (!this.#gauges.has(key)) this.#gauges.set(key, fields);
    if (counts.size + messages.size + gauges.size > 0) this.#schedule();
  }

  /**
   * All of it is sent or nothing, so a repetition counts twice only where the reply was lost. In a cluster the keys are on
   * several nodes: there, each is sent by itself.
   */
  #transaction(
    counts: Map<string, number>,
    messages: Map<string, Message>,
    gauges: Map<string, Gauge>,
  ): ChainableCommander {
    const { log_streams, log_max_entries } = this.#config.streams;
    const inCluster = this.#config.redis.cluster !== null;
    const transaction = inCluster ? this.#send.pipeline() : this.#send.multi();
    for (const [key, count] of counts) transaction.incrby(key, count);
    const ts = Date.now();
    for (const { name, message, count } of messages.values()) {
      transaction.xadd(
        log_streams[name],
        "MAXLEN",
        "~",
        log_max_entries,
        "*",
        ...["ts", ts, "count", count, "message", message],
      );
    }
    for (const [key, fields] of gauges) transaction.hset(key, fields());
    return transaction;
  }

  /** Sends what is left and stops the timer. What is counted afterwards is not sent. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.flush();
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
