/**
 * Durability that is asked for and checked: `WAIT` for replicas, `WAITAOF` for the local disk.
 * @module
 */

import type { Buffer } from "node:buffer";
import type { Redis } from "./client.ts";
import type { Config } from "../config/load.ts";
import { asError, ConnectionError, reasonOf } from "../core/errors.ts";
import { isNoScript, type Script } from "./scripts/mod.ts";

/**
 * What a write waits for: `memory` nothing but Redis's own answer, `replicas` a number of replicas
 * (WAIT), `fsync` the local append-only file on disk (WAITAOF 1 0), `replicas+fsync` both.
 */
export type Durability = "memory" | "replicas" | "fsync" | "replicas+fsync";

/** All of them. */
export const DURABILITIES: readonly Durability[] = [
  "memory",
  "replicas",
  "fsync",
  "replicas+fsync",
];

/** What a group of writes waits for. */
export interface Wait {
  /** replicas that acknowledge; 0 asks for none */
  replicas: number;
  /** whether the local append-only file must be on disk */
  fsync: boolean;
}

/** What `zero_data_loss` asks for, or what a call asks for instead. */
export function durabilityOf(config: Config, level?: Durability): Wait {
  const { enabled, wait_for_replicas, wait_for_aof_rewrite, replicas } = config.zero_data_loss;
  const wanted = level ??
    ([
      enabled && wait_for_replicas ? "replicas" : "",
      enabled && wait_for_aof_rewrite ? "fsync" : "",
    ].filter(Boolean).join("+") || "memory");
  return {
    replicas: wanted.includes("replicas") ? replicas : 0,
    fsync: wanted.includes("fsync"),
  };
}

interface Call {
  script: Script;
  keys: string[];
  args: (string | Buffer)[];
  wait: Wait;
  settle: (outcome: DurableOutcome) => void;
}

/** The outcome of a call: its reply or error, and why its durability was not confirmed, if it was not. */
export interface DurableOutcome {
  error: Error | null;
  reply: unknown;
  unconfirmed: string | null;
}

/** A client that tells whether a call would be sent. */
type SendingRedis = Redis & { readonly sends: boolean };

/** The most calls that share one WAIT. */
const GROUP_LIMIT = 256;

/**
 * Sends writes and their WAIT in one pipeline on a connection of their own. Calls that arrive during a
 * WAIT go out together behind it and share the next one.
 */
export class DurableLane {
  #redis: SendingRedis;
  #config: Config;
  #waiting: Call[] = [];
  #running = false;
  #loaded = new Set<string>();

  constructor(redis: SendingRedis, config: Config) {
    this.#redis = redis;
    // The address may lead to another server now, with other scripts.
    redis.on("close", () => this.#loaded.clear());
    this.#config = config;
  }

  /** Runs a script and waits for what `wait` asks for. Never rejects. */
  run(script: Script, keys: string[], args: Call["args"], wait: Wait): Promise<DurableOutcome> {
    if (!this.#redis.sends) {
      const error = new ConnectionError("Not connected to Redis: nothing was sent");
      return Promise.resolve({ error, reply: null, unconfirmed: null });
    }
    return new Promise((settle) => {
      this.#waiting.push({ script, keys, args, wait, settle });
      if (!this.#running) this.#drain();
    });
  }

  async #drain(): Promise<void> {
    this.#running = true;
    // Gathers the calls of one turn of the event loop.
    await Promise.resolve();
    while (this.#waiting.length > 0) await this.#sendGroup(this.#waiting.splice(0, GROUP_LIMIT));
    this.#running = false;
  }

  async #sendGroup(calls: Call[]): Promise<void> {
    const { wait_timeout_ms, aof_rewrite_timeout_secs } = this.#config.zero_data_loss;
    const replicas = Math.max(...calls.map(({ wait }) => wait.replicas));
    const fsync = calls.some(({ wait }) => wait.fsync);
    let results: [Error | null, unknown][];
    try {
      await this.#load(calls);
      const pipeline = this.#redis.pipeline();
      for (const { script, keys, args } of calls) {
        pipeline.evalsha(script.sha, keys.length, ...keys, ...args);
      }
      if (replicas > 0) pipeline.call("WAIT", replicas, wait_timeout_ms);
      if (fsync) pipeline.call("WAITAOF", 1, 0, Math.ceil(aof_rewrite_timeout_secs * 1000));
      results = await pipeline.exec() ?? [];
    } catch (error) {
      for (const { settle } of calls) {
        settle({ error: asError(error), reply: null, unconfirmed: null });
      }
      return;
    }
    const waits = results.slice(calls.length);
    const waited = replicas > 0 ? explainWait(waits.shift()!, replicas, wait_timeout_ms) : null;
    const synced = fsync ? explainFsync(waits.shift()!, aof_rewrite_timeout_secs) : null;
    calls.forEach((call, index) => {
      const [error, reply] = results[index]!;
      if (isNoScript(error)) {
        // Redis forgot the script, so this call wrote nothing: it goes with the next group.
        this.#loaded.clear();
        this.#waiting.push(call);
        return;
      }
      const problems = [call.wait.replicas > 0 ? waited : null, call.wait.fsync ? synced : null]
        .filter((problem) => problem !== null);
      call.settle({ error, reply, unconfirmed: problems.length > 0 ? problems.join("; ") : null });
    });
  }

  /** Loads the scripts that this connection has not loaded yet. */
  async #load(calls: Call[]): Promise<void> {
    for (const { script } of calls) {
      if (this.#loaded.has(script.sha)) continue;
      await this.#redis.script("LOAD", script.source);
      this.#loaded.add(script.sha);
    }
  }

  close(): void {
    this.#redis.disconnect();
  }
}

function explainWait([error, reply]: [Error | null, unknown], wanted: number, timeout: number) {
  if (error) return `WAIT failed: ${reasonOf(error)}`;
  const got = Number(reply);
  return got >= wanted
    ? null
    : `${got} of ${wanted} replicas acknowledged within zero_data_loss.wait_timeout_ms (${timeout} ms)`;
}

function explainFsync([error, reply]: [Error | null, unknown], seconds: number): string | null {
  if (error) return `WAITAOF failed: ${reasonOf(error)}`;
  const [local] = reply as [number, number];
  return local >= 1
    ? null
    : `the append-only file was not on disk within zero_data_loss.aof_rewrite_timeout_secs (${seconds} s)`;
}
