/**
 * The thread that writes the stage's documents.
 * @module
 */

import { type Config, configWith, loadConfig } from "../../config/load.ts";
import { serverOverrides } from "../../config/servers.ts";
import { reasonOf } from "../../core/errors.ts";
import { dummyDataWorker, type TrafficOptions, UNTIL_STOPPED_SECONDS } from "../../demo/traffic.ts";
import { connectRedis } from "../../redis/connect.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import type { TrafficNews, TrafficOrder, TrafficTarget } from "./traffic.ts";

/** Mostly updates and deletes, so that an hour of traffic fits into memory. */
const MIX = { create_pct: 0.3, update_pct: 0.5, delete_pct: 0.2 };
/** Calls in flight: more for a higher rate. Past this, more of them wait longer, and no more are written. */
const MOST_IN_FLIGHT = 128;
const concurrencyFor = (rate: number) =>
  Math.min(MOST_IN_FLIGHT, Math.max(16, Math.ceil(rate / 100)));

const say = (news: TrafficNews) => self.postMessage(news);

class Writing {
  #redis: RedisConnection;
  #config: Config;
  #entity: string;
  #stop = new AbortController();
  #steady: { stop: AbortController; ended: Promise<void> } | undefined;
  #bursts = new Set<Promise<void>>();
  #runs = 0;
  #changes = Promise.resolve();

  constructor(redis: RedisConnection, config: Config, entity: string) {
    this.#redis = redis;
    this.#config = config;
    this.#entity = entity;
  }

  static async open({ configPath, entity, ...addresses }: TrafficTarget): Promise<Writing> {
    const source = { redis: "embedded", database: "embedded" } as const;
    const overrides = serverOverrides({ ...addresses, source });
    const config = configWith(await loadConfig(configPath), overrides);
    return new Writing(await connectRedis(config, { rights: "writer" }), config, entity);
  }

  /** One change after the other. */
  setRate(rate: number): void {
    this.#changes = this.#changes.then(async () => {
      this.#steady?.stop.abort();
      await this.#steady?.ended;
      const stop = new AbortController();
      const signal = AbortSignal.any([stop.signal, this.#stop.signal]);
      const ended = rate === 0 ? Promise.resolve() : this.#run({
        rate,
        duration_seconds: UNTIL_STOPPED_SECONDS,
        concurrency: concurrencyFor(rate),
        signal,
      });
      this.#steady = { stop, ended };
    });
  }

  burst(records: number): void {
    const signal = this.#stop.signal;
    const burst = this.#run({ num_records: records, rate: 0, concurrency: MOST_IN_FLIGHT, signal });
    this.#bursts.add(burst);
    void burst.finally(() => this.#bursts.delete(burst));
  }

  async #run(options: TrafficOptions): Promise<void> {
    const run = ++this.#runs;
    try {
      const report = await dummyDataWorker(this.#redis, this.#config, this.#entity, {
        ...MIX,
        ...options,
        seed: Date.now() % 2 ** 31,
        onProgress: (report) => say({ kind: "report", run, report, ended: false }),
      });
      say({ kind: "report", run, report, ended: true });
    } catch (error) {
      say({ kind: "failed", message: reasonOf(error) });
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#changes;
    await Promise.all([this.#steady?.ended, ...this.#bursts]);
    await this.#redis.counters.flush();
    this.#redis.disconnect();
  }
}

let writing: Promise<Writing> | undefined;

async function obey(order: TrafficOrder): Promise<void> {
  if (order.kind === "open") {
    writing = Writing.open(order.target);
    await writing;
    return say({ kind: "ready" });
  }
  if (order.kind === "rate") return (await writing)?.setRate(order.rate);
  if (order.kind === "burst") return (await writing)?.burst(order.records);
  await (await writing)?.close();
  say({ kind: "closed" });
}

self.onmessage = ({ data }: MessageEvent<TrafficOrder>) => {
  obey(data).catch((error) => say({ kind: "failed", message: reasonOf(error) }));
};
