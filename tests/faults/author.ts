/** A writer that knows what it has written: every document's last state and version, whatever broke meanwhile. */

import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import {
  BackpressureError,
  type Config,
  ConnectionError,
  deleteDocument,
  DocumentError,
  type Durability,
  DurabilityError,
  insertDocument,
  type JsonObject,
  type Random,
  type Receipt,
  type RedisConnection,
  RedisRefusedError,
  UnknownOutcomeError,
  updateDocument,
  type WriteOptions,
} from "writebehind";
import { canonicalJson } from "writebehind/core/json/equality.ts";
import { below } from "writebehind/core/random.ts";

/** A call, by its number, and what it makes of its document: `null` by a delete. */
export interface Made {
  n: number;
  document: JsonObject | null;
}

/** What became of a document by its last event. */
export interface Written extends Made {
  version: bigint;
}

/** Calls that are remembered. */
const REMEMBERED = 50;

export interface AuthorOptions {
  random: Random;
  /** documents that it writes: few of them are written often @default {40} */
  documents?: number;
  /** so many of them get half of the calls; 0 for none @default {0} */
  hot?: number;
  /** what their ids begin with, where several authors write */
  prefix?: string;
  /** calls in flight @default {4} */
  lanes?: number;
  /** pause after each call of a lane, in ms @default {5} */
  paceMs?: number;
  /** what each call waits for, and is repeated until it is confirmed @default {"memory"} */
  durability?: Durability;
  /** how long one call may be tried again, in ms @default {60000} */
  patienceMs?: number;
  /** a text in each document, which makes it so long @default {""} */
  pad?: string;
}

/** Inserts, updates, deletes and creates again, and repeats a call by its requestId until it knows the outcome. */
export class Author {
  readonly written = new Map<string, Written>();
  /** the last calls of each document that were begun, whatever became of them */
  readonly begun = new Map<string, Made[]>();
  /** the documents that were written last, the newest at the end */
  readonly recent: string[] = [];
  /** calls that have made an event, each counted once */
  events = 0;
  /** outcomes that were unknown, and calls that were refused, before they went well */
  unknown = 0;
  refused = 0;
  #redis: RedisConnection;
  #config: Config;
  #options: Required<AuthorOptions>;
  #n = 0;
  /** while it is set, no call begins */
  #held: PromiseWithResolvers<void> | null = null;
  #underWay = new Set<Promise<void>>();

  constructor(redis: RedisConnection, config: Config, options: AuthorOptions) {
    this.#redis = redis;
    this.#config = config;
    this.#options = {
      documents: 40,
      hot: 0,
      prefix: "d",
      lanes: 4,
      paceMs: 5,
      durability: "memory",
      patienceMs: 60_000,
      pad: "",
      ...options,
    };
  }

  /** Makes `calls` calls, or goes on until `signal` is aborted; calls under way are brought to their end. */
  async write({ calls = Infinity, signal }: { calls?: number; signal?: AbortSignal }) {
    const { lanes, paceMs } = this.#options;
    let left = calls;
    const lane = async (number: number) => {
      while (left-- > 0 && !signal?.aborted) {
        await this.#held?.promise;
        const step = this.#step(number).finally(() => this.#underWay.delete(step));
        this.#underWay.add(step);
        await step;
        if (paceMs > 0) await delay(paceMs);
      }
    };
    await Promise.all(Array.from({ length: lanes }, (_, number) => lane(number)));
  }

  /** Holds all further calls, and waits for those under way; returns what lets them go on. */
  async pause(): Promise<() => void> {
    const held = this.#held = Promise.withResolvers<void>();
    await Promise.allSettled(this.#underWay);
    return () => {
      this.#held = null;
      held.resolve();
    };
  }

  /** Goes on writing until it is stopped; what went wrong meanwhile is thrown by `stop`. */
  start(): { stop(): Promise<void>; failed: Promise<never> } {
    const end = new AbortController();
    const writing = this.write({ signal: end.signal });
    const failed = writing.then(() => new Promise<never>(() => {}));
    failed.catch(() => {});
    return {
      failed,
      stop: () => {
        end.abort();
        return writing;
      },
    };
  }

  /** A lane has documents of its own, so the order of its calls is the order of their events. */
  async #step(lane: number): Promise<void> {
    const { random, documents, hot, prefix, lanes, pad } = this.#options;
    const among = hot > 0 && random() < 0.5 ? hot : documents;
    const id = `${prefix}${lane + lanes * below(random, Math.ceil(among / lanes))}`;
    const before = this.written.get(id)?.document ?? null;
    const n = ++this.#n;
    if (before === null) {
      const document = pad === "" ? { n, born: n } : { n, born: n, pad };
      await this.#send(
        id,
        { n, document },
        (options) => insertDocument(this.#redis, this.#config, "session", document, id, options),
      );
    } else if (random() < 0.2) {
      await this.#send(
        id,
        { n, document: null },
        (options) => deleteDocument(this.#redis, this.#config, "session", id, options),
      );
    } else {
      const key = `k${below(random, 3)}`;
      const value = random() < 0.3 ? null : n;
      const document: JsonObject = { ...before, n, [key]: value };
      if (value === null) delete document[key];
      await this.#send(
        id,
        { n, document },
        (options) =>
          updateDocument(this.#redis, this.#config, "session", id, { n, [key]: value }, options),
      );
    }
  }

  async #send(
    id: string,
    made: Made,
    call: (options: WriteOptions) => Promise<Receipt>,
  ): Promise<void> {
    const begun = this.begun.get(id) ?? [];
    this.begun.set(id, begun);
    begun.push(made);
    this.recent.push(id);
    for (const calls of [begun, this.recent]) if (calls.length > REMEMBERED) calls.shift();
    const { version } = await this.#untilKnown(call);
    assert(version !== null);
    const last = this.written.get(id);
    assert(last === undefined || last.version < version, `${id}: versions go back`);
    this.written.set(id, { ...made, version });
    this.events++;
  }

  async #untilKnown(call: (options: WriteOptions) => Promise<Receipt>): Promise<Receipt> {
    const { durability } = this.#options;
    const options = { requestId: crypto.randomUUID(), durability };
    const deadline = Date.now() + this.#options.patienceMs;
    for (;;) {
      try {
        return await call(options);
      } catch (error) {
        // What is not confirmed may still be lost.
        if (error instanceof DurabilityError || error instanceof UnknownOutcomeError) {
          this.unknown++;
        } else if (
          // A right that somebody has taken away, and may give back.
          error instanceof DocumentError && error.code === "permission" ||
          error instanceof ConnectionError || error instanceof RedisRefusedError ||
          error instanceof BackpressureError
        ) this.refused++;
        else throw error;
        if (Date.now() > deadline) throw error;
        await delay(20);
      }
    }
  }

  /** The documents that should be there, as canonical JSON. */
  documents(): Map<string, string> {
    const documents = new Map<string, string>();
    for (const [id, { document }] of this.written) {
      if (document !== null) documents.set(id, canonicalJson(JSON.stringify(document)));
    }
    return documents;
  }
}
