/** A whole pipeline for tests: servers of their own, a configuration that names them, connections. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import type { Pool } from "pg";
import {
  type Config,
  configWith,
  connectPostgres,
  connectRedis,
  createTable,
  type DeepPartial,
  parseConfig,
  type RedisConnection,
  RedisWriteBehind,
  type SinkStatus,
} from "writebehind";
import { canonicalJson } from "writebehind/core/json/equality.ts";
import { PostgresOffsets } from "writebehind/targets/postgres/offsets.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { testDatabase, type TestServers, testServers } from "./servers.ts";

export interface Pipeline extends AsyncDisposable {
  servers: TestServers;
  config: Config;
  redis: RedisConnection;
  pool: Pool;
  /** the same servers under a changed configuration */
  with(overrides: DeepPartial<Config>): Config;
}

/** Starts servers and connects; everything is gone at the end of the scope. */
export async function testPipeline(
  overrides: DeepPartial<Config> = {},
  options: Parameters<typeof testServers>[0] = {},
): Promise<Pipeline> {
  await using stack = new AsyncDisposableStack();
  const servers = stack.use(await testServers(options));
  const pipeline = stack.use(await pipelineOn(servers, overrides));
  await createTable(pipeline.pool, pipeline.config, "session");
  const owned = stack.move();
  return { ...pipeline, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Connects to servers that run, and to a database in which nothing was made yet. */
export async function pipelineOn(
  servers: TestServers,
  overrides: DeepPartial<Config> = {},
): Promise<Pipeline> {
  await using stack = new AsyncDisposableStack();
  const database = stack.use(await testDatabase(servers.postgres));
  const { host, port, user, password } = servers.postgres;
  const servedAt: DeepPartial<Config> = {
    redis: { host: servers.redis.host, port: servers.redis.port },
    postgresql: { host, port, user, password, database: database.name },
    write_behind: { retry_base_ms: 5, retry_max_ms: 100 },
  };
  const config = configWith(configWith(parseConfig("", "test.yaml"), servedAt), overrides);
  const redis = stack.use(await connectRedis(config));
  const pool = stack.use(await connectPostgres(config));
  const owned = stack.move();
  return {
    servers,
    config,
    redis,
    pool,
    with: (more) => configWith(config, more),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Empties Redis and the tables, so that tests of one file start alike. */
export async function reset({ redis, pool }: Pipeline): Promise<void> {
  await redis.counters.flush();
  await redis.flushall();
  await pool.query(
    "TRUNCATE sessions; TRUNCATE writebehind_offset; TRUNCATE writebehind_lease; TRUNCATE writebehind_dead_letter",
  );
}

/** Runs the steps on one pipeline, each on an emptied one. */
export async function withPipeline(
  t: Deno.TestContext,
  steps: Record<string, (pipeline: Pipeline) => Promise<void>>,
  prepare: (pipeline: Pipeline) => Promise<unknown> = () => Promise.resolve(),
): Promise<void> {
  await using pipeline = await testPipeline();
  for (const [name, step] of Object.entries(steps)) {
    await reset(pipeline);
    await prepare(pipeline);
    await t.step(name, () => step(pipeline));
  }
}

/** The last stream id that PostgreSQL holds of a stream; `0-0` for none. */
export function offsetOf(pool: Pool, stream: string): Promise<string> {
  return new PostgresOffsets(pool).offset({ stream });
}

/** Applies all events that are there. */
export async function drain(
  { redis, pool, config }: Pick<Pipeline, "redis" | "pool" | "config">,
): Promise<SinkStatus> {
  await using sink = new RedisWriteBehind(redis, pool, config, "session");
  return await sink.drain();
}

/** The rows are the documents. */
export async function assertEqual(pipeline: Pipeline): Promise<void> {
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
}

/** Documents in Redis by id, as canonical JSON. */
export async function documentsOf(
  { redis, config }: Pipeline,
  entity = "session",
): Promise<Map<string, string>> {
  const documents = new Map<string, string>();
  for (const { documentPrefix } of allPartitions(config, entity)) {
    const pattern = `${documentPrefix.replaceAll(/[{}]/g, "\\$&")}*`;
    const keys = await redis.at(documentPrefix).keys(pattern);
    for (const key of keys) {
      const text = await redis.call("JSON.GET", key) as string | null;
      // One that a cache has evicted since is not there.
      if (text !== null) documents.set(key.slice(documentPrefix.length), canonicalJson(text));
    }
  }
  return documents;
}

/** Rows in PostgreSQL by id, as canonical JSON. */
export async function rowsOf({ pool }: Pick<Pipeline, "pool">): Promise<Map<string, string>> {
  const { rows } = await pool.query<{ id: string; payload: string }>(
    "SELECT id, payload::text AS payload FROM sessions",
  );
  return new Map(rows.map(({ id, payload }) => [id, canonicalJson(payload)]));
}

/** The same map in the order of its keys, for comparing. */
export function sorted(map: Map<string, string>): [string, string][] {
  return [...map].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}
