/**
 * Sentinels: which server is the primary, by their word, and when that changes.
 * @module
 */

import type { Config, SentinelAddress } from "../config/load.ts";
import { answerTo, CertificateError, redisTrust, speaksTls } from "../config/tls.ts";
import { ConnectionError, reasonOf } from "../core/errors.ts";
import { askAll, askingClient, askOn, patienceOf, SilenceError } from "./asking.ts";
import type { Redis } from "./client.ts";
import { pairsOf } from "./streams.ts";

/** Where a server listens. */
export interface Node {
  readonly host: string;
  readonly port: number;
}

/** The sentinels lead to no primary; the message says what to do. */
export class SentinelError extends ConnectionError {}

/**
 * Asks all sentinels at once which server is the primary. Those that a failover has not reached yet name the one
 * before: the highest epoch counts.
 * @param signal ends the asking
 * @throws {SentinelError} with what each of them said
 */
export async function primaryOf(config: Config, signal?: AbortSignal): Promise<Node> {
  const { sentinels, sentinel_name } = config.redis;
  const { told, failed } = await askAll(
    sentinels ?? [],
    (one, ended) => ask(config, one, ended),
    patienceOf(config),
    signal,
  );
  const [first] = told.toSorted((a, b) => b.epoch - a.epoch);
  if (first !== undefined) return first.node;
  if (signal?.aborted) throw new SentinelError("nobody waits for the sentinels any more");
  const reasons = await Promise.all(
    [...failed].map(async ([one, error]) =>
      `${one.host}:${one.port}: ${await explainSentinel(error, config, one)}`
    ),
  );
  throw new SentinelError(
    `no sentinel names a primary ${sentinel_name}: ${
      reasons.join("; ")
    }; check redis.sentinels and ` +
      "redis.sentinel_name",
  );
}

/** What a sentinel has told. */
interface Told {
  node: Node;
  /** how many failovers there were, by its knowledge */
  epoch: number;
}

function ask(config: Config, sentinel: SentinelAddress, signal: AbortSignal): Promise<Told> {
  const sentinel_name = config.redis.sentinel_name!;
  return askOn(sentinelClient(config, sentinel, () => null), signal, async (client) => {
    try {
      const facts = pairsOf(await client.call("SENTINEL", "MASTER", sentinel_name));
      // During a failover this is the new one already, and the facts have the one before.
      const place = await client.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", sentinel_name);
      const [host, port] = place as [string, string];
      return { node: { host, port: Number(port) }, epoch: Number(facts.get("config-epoch")) };
    } catch (error) {
      if (!/No such master/i.test(reasonOf(error))) throw error;
      const known = await client.call("SENTINEL", "MASTERS") as unknown[];
      const names = known.map((one) => String(pairsOf(one).get("name"))).sort();
      const others = names.length > 0 ? names.join(", ") : "no primary at all";
      throw new SentinelError(`it does not know ${sentinel_name}; it knows ${others}`);
    }
  });
}

function sentinelClient(
  config: Config,
  { host, port }: SentinelAddress,
  retryStrategy: (times: number) => number | null,
): Redis {
  const { redis } = config;
  const { sentinel_username: username, sentinel_password: password, sentinel_tls } = redis;
  const trust = sentinel_tls ? redisTrust(redis, host) : null;
  return askingClient({ host, port, username, password, trust }, patienceOf(config), retryStrategy);
}

/** Says what a sentinel's error means, and what to do about it. */
async function explainSentinel(
  error: unknown,
  { redis }: Config,
  { host, port }: SentinelAddress,
): Promise<string> {
  const reason = reasonOf(error);
  if (error instanceof SentinelError || error instanceof CertificateError) return reason;
  if (/ECONNREFUSED|refused/.test(reason)) return "connection refused: nothing listens there";
  if (/unknown command/i.test(reason)) {
    return "it is a Redis, no sentinel; those listen on 26379 mostly";
  }
  if (/WRONGPASS|NOAUTH|AUTH/.test(reason)) {
    return "authentication failed: check redis.sentinel_username and redis.sentinel_password";
  }
  // A server without TLS waits for the rest of what it takes for a command.
  if (redis.sentinel_tls && /^[+-]/.test(await answerTo(host, port, "PING\r\n"))) {
    return "it speaks no TLS there: set redis.sentinel_tls to false, or name its tls-port";
  }
  // One with TLS closes the connection, or answers by an alert.
  if (!redis.sentinel_tls && !(error instanceof SilenceError) && await speaksTls(host, port)) {
    return "it speaks TLS: set redis.sentinel_tls to true";
  }
  return reason;
}

/** By a configuration: its connections share a watch. */
const watches = new WeakMap<Config, SentinelWatch>();

/**
 * Listens to the sentinels, for all connections of a configuration: a server that is not the primary any more may answer
 * on, and nothing else would tell.
 */
export class SentinelWatch {
  #config: Config;
  #listeners = new Set<(primary: Node) => void>();
  #clients: Redis[] = [];
  #ended = new AbortController();
  #looking: Promise<void> | undefined;
  #again = false;

  private constructor(config: Config) {
    this.#config = config;
  }

  /**
   * Listens while anybody does.
   * @param listener gets the primary, each time that something may have changed
   * @returns `look` asks now, since what was told before may not have been heard, or was not heeded; `end` ends it
   */
  static join(
    config: Config,
    listener: (primary: Node) => void,
  ): { look: () => void; end: () => void } {
    let watch = watches.get(config);
    if (!watch) watches.set(config, watch = new SentinelWatch(config));
    watch.#listeners.add(listener);
    if (watch.#listeners.size === 1) watch.#start();
    return { look: () => watch.#look(), end: () => watch.#leave(listener) };
  }

  #start(): void {
    this.#ended = new AbortController();
    this.#clients = this.#config.redis.sentinels!.map((sentinel) => {
      const client = sentinelClient(this.#config, sentinel, (times) => Math.min(100 * times, 2000));
      // A sentinel that is away tells nothing; another one does, or none can.
      client.on("error", () => {});
      client.on("message", () => this.#look());
      client.on("ready", () => {
        // What it said meanwhile was not heard.
        client.subscribe("+switch-master", "+promoted-slave").then(() => this.#look(), () => {});
      });
      client.connect().catch(() => {}); // it tries again by itself
      return client;
    });
  }

  #leave(listener: (primary: Node) => void): void {
    if (!this.#listeners.delete(listener) || this.#listeners.size > 0) return;
    this.#ended.abort();
    for (const client of this.#clients) client.disconnect();
    this.#clients = [];
  }

  /** Asks who is the primary now; once more where something was heard meanwhile. */
  #look(): void {
    this.#again = true;
    this.#looking ??= this.#ask().finally(() => this.#looking = undefined);
  }

  async #ask(): Promise<void> {
    while (this.#again && this.#listeners.size > 0) {
      this.#again = false;
      // Where none answers, nobody knows better than before.
      const primary = await primaryOf(this.#config, this.#ended.signal).catch(() => null);
      if (primary !== null) { for (const listener of this.#listeners) listener(primary); }
    }
  }
}
