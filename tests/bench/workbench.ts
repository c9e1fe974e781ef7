/** The servers of a run, and backlogs that can be put back for every round. */

import type { ChainableCommander } from "ioredis";
import type { Pool } from "pg";
import type { Config, DeepPartial, RedisConnection } from "writebehind";
import { delay } from "writebehind/core/delay.ts";
import type { PostgresServer } from "writebehind/dev/servers/postgres.ts";
import { allPartitions, partitionOf } from "writebehind/redis/keys.ts";
import { lastGeneratedId } from "writebehind/redis/streams.ts";
import { type Pipeline, reset, testPipeline } from "../support/pipeline.ts";
import { Findings } from "./findings.ts";
import type { Step } from "./measure.ts";
import type { DraftEvent, Sizes } from "./workload.ts";

export const ENTITY = "session";

/** Commands that travel in one pipeline while a backlog is filled. */
const CHUNK = 1000;

/** How often Redis is asked whether it has finished rewriting its append-only file, in ms. */
const LOOK_AGAIN_MS = 20;

/** Events in the streams, kept aside too. */
export interface Backlog {
  name: string;
  /** the configuration with the partitions that it was filled for */
  config: Config;
  events: number;
  /** the rows that the table has once it is drained */
  rows: number;
}

/** What a run is told. */
export interface WorkbenchOptions {
  sizes: Sizes;
  rounds: number;
  step: Step;
  signal: AbortSignal;
}

/** What a row needs to measure. */
export class Workbench implements AsyncDisposable {
  readonly sizes: Sizes;
  readonly rounds: number;
  readonly step: Step;
  /** ends what runs beside the bench */
  readonly signal: AbortSignal;
  /** what the page shows beside the rows */
  readonly findings = new Findings();
  #pipeline: Pipeline;

  private constructor(pipeline: Pipeline, { sizes, rounds, step, signal }: WorkbenchOptions) {
    this.#pipeline = pipeline;
    this.sizes = sizes;
    this.rounds = rounds;
    this.step = step;
    this.signal = signal;
  }

  /** Starts a Redis with AOF everysec and no replica, and a PostgreSQL with its default settings. */
  static async open(options: WorkbenchOptions): Promise<Workbench> {
    options.step("starting Redis and PostgreSQL");
    return new Workbench(await testPipeline(), options);
  }

  get redis(): RedisConnection {
    return this.#pipeline.redis;
  }

  /** The PostgreSQL server. */
  get postgres(): PostgresServer {
    return this.#pipeline.servers.postgres;
  }

  get pool(): Pool {
    return this.#pipeline.pool;
  }
  get config(): Config {
    return this.#pipeline.config;
  }
  get redisPid(): number {
    return this.#pipeline.servers.redis.pid;
  }
  /** of the process that starts all others of PostgreSQL */
  get postgresPid(): number {
    return this.#pipeline.servers.postgres.pid;
  }
  /** The addresses, as a process takes them from its environment. */
  get environment(): { REDIS_URL: string; DATABASE_URL: string } {
    const { host, port, database, user, password } = this.config.postgresql;
    return {
      REDIS_URL: this.#pipeline.servers.redis.url,
      DATABASE_URL: `postgresql://${user}:${password}@${host}:${port}/${database}`,
    };
  }

  with(overrides: DeepPartial<Config>): Config {
    return this.#pipeline.with(overrides);
  }

  /** Empties Redis and the tables. */
  async clear(): Promise<void> {
    await reset(this.#pipeline);
  }

  /** Empties the tables and lets both servers finish what they have to do for what was before. */
  async settle(): Promise<void> {
    await this.pool.query("TRUNCATE sessions, writebehind_offset, writebehind_lease");
    await this.pool.query("CHECKPOINT");
    while (/aof_rewrite_(in_progress|scheduled):1/.test(await this.redis.info("persistence"))) {
      await delay(LOOK_AGAIN_MS);
    }
  }

  /**
   * Writes events to the streams as writers do, but many in a pipeline, and keeps a copy.
   * @param name of the copy
   * @param rows what the table holds after these events
   */
  async fill(
    name: string,
    config: Config,
    events: Iterable<DraftEvent>,
    rows: number,
  ): Promise<Backlog> {
    this.step(`filling: ${name}`);
    const partitions = allPartitions(config, ENTITY);
    let count = 0;
    let largest = 0;
    await this.redis.unlink(...partitions.map(({ stream }) => stream));
    let pipeline = this.redis.pipeline();
    for (const event of events) {
      const { stream } = partitions[partitionOf(event.docId, partitions.length)]!;
      pipeline.xadd(stream, "*", ...fieldsOf(event));
      largest = Math.max(largest, event.payload?.length ?? 0);
      if (++count % CHUNK === 0) {
        await send(pipeline);
        pipeline = this.redis.pipeline();
      }
    }
    const { max_events, max_bytes } = config.streams;
    for (const { stream, settings } of partitions) {
      pipeline.hset(settings, { partitions: partitions.length, max_events, max_bytes, largest });
      for (const key of [stream, settings]) pipeline.copy(key, copyOf(name, key));
    }
    await send(pipeline);
    return { name, config, events: count, rows };
  }

  /** Puts a backlog back, into streams that nobody has drained yet, in front of empty tables. */
  async restore({ name, config }: Backlog): Promise<void> {
    // With the streams goes the number of partitions that the backlog before had fixed.
    const before = await this.redis.keys(`${config.streams.prefix}:*`);
    if (before.length > 0) await this.redis.unlink(...before);
    for (const { stream, settings } of allPartitions(config, ENTITY)) {
      for (const key of [stream, settings]) {
        await this.redis.copy(copyOf(name, key), key, "REPLACE");
      }
    }
    await this.settle();
  }

  /** The last id of each of a configuration's streams. */
  async ends(config: Config): Promise<Map<string, string>> {
    const ends = new Map<string, string>();
    for (const { stream } of allPartitions(config, ENTITY)) {
      ends.set(stream, await lastGeneratedId(this.redis, stream));
    }
    return ends;
  }

  /** @throws {Error} where the table does not hold as many rows as it must: the figure would be worthless */
  async checkRows(expected: number): Promise<void> {
    const { rows: [counted] } = await this.pool.query<{ rows: number }>(
      "SELECT count(*)::int AS rows FROM sessions",
    );
    if (counted!.rows !== expected) {
      throw new Error(`the table holds ${counted!.rows} rows after a drain, expected ${expected}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pipeline[Symbol.asyncDispose]();
  }
}

const copyOf = (backlog: string, key: string) => `bench:${backlog}:${key}`;

/** The fields of an event, as the scripts append them. */
export function fieldsOf({ docId, type, payload }: DraftEvent): string[] {
  const fields = ["ts", String(Date.now()), "doc_id", docId, "event_type", type];
  return payload === undefined ? fields : [...fields, "payload", payload];
}

/** Sends a pipeline. @throws the first error in it */
export async function send(pipeline: ChainableCommander): Promise<void> {
  for (const [error] of await pipeline.exec() ?? []) if (error) throw error;
}
