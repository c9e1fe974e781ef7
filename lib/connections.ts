/**
 * Connections that fail fast: to a server that is there, new enough and able to do the job, or not at all.
 * @module
 */

import { nextTick } from "node:process";
import { Redis, type RedisOptions } from "ioredis";
import pg from "pg";
import type { Config } from "./config.ts";
import { durabilityOf, DurableLane } from "./durability.ts";
import { ConfigError, ConnectionError, reasonOf } from "./errors.ts";
import { Counters } from "./metrics/counters.ts";
import { ReplyTimeouts, WatchedCommand } from "./reply_timeouts.ts";

/** Options of ioredis that a caller may add; replies always come in their RESP2 shapes. */
export type ConnectionOptions = Omit<RedisOptions, "replyMapping">;

/** A connection to Redis: an ioredis client with what belongs to the connection. */
export class RedisConnection extends Redis {
  /** What this connection counts, sent about once a second. */
  readonly counters: Counters;
  /** Document calls that wait for their reply. */
  callsInFlight = 0;
  #config: Config;
  #timeouts: ReplyTimeouts;
  /** calls gathered in this turn of the event loop, and how many of them go out before the turn ends */
  #gathered = 0;
  #sendAt = 2;
  #lane: Promise<DurableLane> | undefined;

  constructor(config: Config, options: ConnectionOptions = {}) {
    super({ ...redisOptions(config), ...options });
    this.#config = config;
    const { commandTimeout = config.redis.command_timeout_ms } = this.options;
    this.#timeouts = new ReplyTimeouts(commandTimeout);
    this.counters = new Counters(config, this);
    // Without a listener ioredis prints to the console; commands report the failure themselves.
    this.on("error", () => {});
  }

  /**
   * Runs a document call's script by its hash, as `evalsha` does at twice the cost: here calls of one turn
   * of the event loop go out together, and one timer watches over all of them.
   */
  evalshaTogether(sha: string, keys: string[], args: string[]): Promise<unknown> {
    this.#gather();
    const command = new WatchedCommand(
      "evalsha",
      [sha, String(keys.length), ...keys, ...args],
      { replyEncoding: "utf8", keyPrefix: this.options.keyPrefix },
    );
    this.sendCommand(command);
    this.#timeouts.add(command);
    return command.promise;
  }

  /**
   * Holds back what follows in this turn of the event loop, since a write to the socket costs more than all
   * else that a command does. It is the socket itself that holds it, so that it is lost with the socket, and
   * never sent over another. A call that is alone goes out at once, and so does the first quarter of many: Redis
   * works on it while the next ones are made, always as many as all before.
   */
  #gather(): void {
    const { stream } = this;
    if (this.#gathered === 0) {
      if (this.callsInFlight < 2) return;
      this.#sendAt = Math.max(2, this.callsInFlight >> 2);
      stream.cork();
      // Behind all that the replies of this turn set off.
      nextTick(() => {
        this.#gathered = 0;
        stream.uncork();
      });
    } else if (this.#gathered === this.#sendAt) {
      this.#sendAt *= 2;
      stream.uncork();
      stream.cork();
    }
    this.#gathered++;
  }

  /** The connection for writes that wait for durability, made when first needed: WAIT holds up all behind it. */
  durableLane(): Promise<DurableLane> {
    const { wait_timeout_ms, aof_rewrite_timeout_secs } = this.#config.zero_data_loss;
    const timeout = this.#config.redis.command_timeout_ms + wait_timeout_ms +
      1000 * aof_rewrite_timeout_secs;
    const options = { commandTimeout: timeout, socketTimeout: timeout };
    this.#lane ??= openRedis(this.#config, options).then(
      (redis) => new DurableLane(redis, this.#config),
      (error) => {
        this.#lane = undefined;
        throw error;
      },
    );
    return this.#lane;
  }

  /** Sends the counters, then closes. */
  async close(): Promise<void> {
    await this.counters.close();
    const lane = await this.#lane?.catch(() => undefined);
    lane?.close();
    this.disconnect();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function redisOptions(config: Config): ConnectionOptions {
  const { host, port, db, username, password, tls, command_timeout_ms } = config.redis;
  return {
    host,
    port,
    db,
    ...(username === null ? {} : { username }),
    ...(password === null ? {} : { password }),
    ...(tls ? { tls: {} } : {}),
    lazyConnect: true,
    connectTimeout: Math.min(command_timeout_ms, 10_000),
    commandTimeout: command_timeout_ms,
    // A connection that went silent is closed, or it would hold up every later call.
    socketTimeout: command_timeout_ms,
    // A write is sent once, or its caller is told: never again by itself, never from a queue.
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    enableOfflineQueue: false,
    retryStrategy: (times) => Math.min(50 * 2 ** Math.min(times, 6), 2000),
    connectionName: "writebehind",
  };
}

const addressOf = (config: Config) => `${config.redis.host}:${config.redis.port}`;

/** Connects and waits until Redis takes commands. */
async function openRedis(config: Config, options: ConnectionOptions): Promise<RedisConnection> {
  const redis = new RedisConnection(config, options);
  let reason: unknown;
  const remember = (error: unknown) => reason = error;
  redis.on("error", remember);
  try {
    await redis.connect();
    await redis.ping();
  } catch (cause) {
    redis.disconnect();
    throw new ConnectionError(
      `Cannot connect to Redis at ${addressOf(config)}: ${explainRedis(reason ?? cause)}`,
      { cause },
    );
  }
  redis.off("error", remember);
  return redis;
}

function explainRedis(error: unknown): string {
  const reason = reasonOf(error);
  if (/ECONNREFUSED|refused/.test(reason)) {
    return "connection refused: nothing listens there; start Redis, or set redis.host and redis.port";
  }
  if (/WRONGPASS|NOAUTH|AUTH/.test(reason)) {
    return "authentication failed: check redis.username and redis.password";
  }
  if (/loading/i.test(reason)) return "Redis is still loading its data: try again in a moment";
  if (/DB index/.test(reason)) return `${reason}: check redis.db`;
  return reason;
}

/**
 * A connection for a sink. Once lost it stays closed, so that its owner notices and checks what stands
 * behind the address now.
 */
export function openReader(config: Config): Promise<RedisConnection> {
  return openRedis(config, { retryStrategy: () => null });
}

/** The commands that the pipeline sends, with arguments of the right shape. */
const COMMANDS: string[][] = [
  ["JSON.SET", "k", "$", "{}"],
  ["JSON.MERGE", "k", "$", "{}"],
  ["JSON.GET", "k"],
  ["JSON.MGET", "k", "$"],
  ["JSON.DEBUG", "MEMORY", "k"],
  ["DEL", "k"],
  ["DUMP", "k"],
  ["XADD", "k", "*", "f", "v"],
  ["XRANGE", "k", "-", "+"],
  ["XREAD", "STREAMS", "k", "0"],
  ["XTRIM", "k", "MINID", "0"],
  ["XSETID", "k", "0-1"],
  ["XLEN", "k"],
  ["EVALSHA", "0", "0"],
  ["HSET", "k", "f", "v"],
  ["MEMORY", "USAGE", "k"],
  ["FT.SEARCH", "i", "*"],
];
const ASK_PERMISSIONS = `
local denied = {}
for _, command in ipairs(cjson.decode(ARGV[1])) do
  local ok, allowed = pcall(redis.acl_check_cmd, unpack(command))
  if ok and not allowed then denied[#denied + 1] = command[1] end
end
return denied`;

/**
 * Connects to Redis and checks that it can do what the configuration asks.
 * @param options more options of ioredis; they win over ours
 * @throws {ConnectionError} with the address and the reason: refused, authentication, older than 7.2,
 * no RedisJSON or RediSearch, commands that the user may not run, a `maxmemory-policy` that may evict a stream
 * @throws {ConfigError} where `zero_data_loss` asks for what the server cannot give, with the key and a value that works
 */
export async function connectRedis(
  config: Config,
  options: ConnectionOptions = {},
): Promise<RedisConnection> {
  const redis = await openRedis(config, options);
  try {
    await checkRedis(redis, config);
    return redis;
  } catch (error) {
    redis.disconnect();
    if (error instanceof ConfigError || error instanceof ConnectionError) throw error;
    throw new ConnectionError(
      `Cannot use Redis at ${addressOf(config)}: ${reasonOf(error)}`,
      { cause: error },
    );
  }
}

async function checkRedis(redis: RedisConnection, config: Config): Promise<void> {
  const fail = (reason: string) => {
    throw new ConnectionError(`Cannot use Redis at ${addressOf(config)}: ${reason}`);
  };
  // ioredis goes on with database 0 where the server has no such database.
  if (config.redis.db !== 0) {
    await redis.select(config.redis.db).catch((error) => fail(explainRedis(error)));
  }
  const info = parseInfo(await redis.info());
  const version = info.get("redis_version") ?? "0";
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major < 7 || major === 7 && minor < 2) {
    fail(`it is version ${version}, and 7.2 or newer is needed`);
  }
  const [hasJson, hasSearch] = await Promise.all(
    ["JSON.GET", "FT.SEARCH"].map((command) => hasCommand(redis, command)),
  );
  if (!hasJson) fail("it has no RedisJSON; use Redis Stack or Redis 8");
  if (!hasSearch) fail("it has no RediSearch; use Redis Stack or Redis 8");
  const denied = await redis.eval(
    ASK_PERMISSIONS,
    0,
    JSON.stringify(COMMANDS),
  ) as string[];
  if (denied.length > 0) {
    fail(`the user may not run ${denied.join(", ")}; grant them by ACL SETUSER`);
  }
  const policy = info.get("maxmemory_policy") ?? "noeviction";
  if (policy.startsWith("allkeys-")) {
    fail(`maxmemory-policy ${policy} may evict a stream with all its events; set it to noeviction`);
  }
  const durability = durabilityOf(config);
  const slaves = Number(info.get("connected_slaves") ?? 0);
  if (durability.replicas > slaves) {
    throw new ConfigError(
      `zero_data_loss.replicas: expected at most ${slaves}, the replicas that ` +
        `${addressOf(config)} has, got ${durability.replicas}; ` +
        (slaves > 0 ? `use replicas: ${slaves}` : "use wait_for_replicas: false, or add a replica"),
    );
  }
  if (durability.fsync && info.get("aof_enabled") !== "1") {
    throw new ConfigError(
      `zero_data_loss.wait_for_aof_rewrite: expected false, since ${addressOf(config)} has ` +
        "its append-only file off; use wait_for_aof_rewrite: false, or set appendonly yes",
    );
  }
}

async function hasCommand(redis: Redis, command: string): Promise<boolean> {
  const [details] = await redis.command("INFO", command) as [unknown];
  return details !== null && details !== undefined;
}

function parseInfo(text: string): Map<string, string> {
  return new Map(
    text.split("\r\n").filter((line) => line.includes(":")).map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon), line.slice(colon + 1)];
    }),
  );
}

/** A pool of connections to PostgreSQL that can be disposed of. */
export class PostgresPool extends pg.Pool {
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.ending) await this.end();
  }
}

/**
 * Connects to PostgreSQL: a pool, whose first connection has been made and checked.
 * @throws {ConnectionError} with the address and the reason: refused, authentication, no such database,
 * older than 16
 */
export async function connectPostgres(config: Config): Promise<PostgresPool> {
  const { host, port, database, user, password, ssl } = config.postgresql;
  const pool = new PostgresPool({
    host,
    port,
    database,
    user,
    ...(password === null ? {} : { password }),
    ssl,
    // A sink keeps one connection a partition, beside those for leases and queries.
    max: 10 + config.entities.length * config.streams.partitions,
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    application_name: "writebehind",
  });
  // A connection that breaks while idle is replaced by the pool; without a listener it ends the process.
  pool.on("error", () => {});
  // The pool does not listen for a connection that it hands out, and the taker only a moment later; queries
  // report what is lost.
  pool.on("connect", (client) => client.on("error", () => {}));
  try {
    const { rows } = await pool.query<{ version: string; number: number }>(
      "SELECT current_setting('server_version') AS version, " +
        "current_setting('server_version_num')::int AS number",
    );
    const { version, number } = rows[0]!;
    if (number < 160000) throw new Error(`it is version ${version}, and 16 or newer is needed`);
    return pool;
  } catch (cause) {
    await pool.end();
    throw new ConnectionError(
      `Cannot use PostgreSQL at ${host}:${port}: ${explainPostgres(cause, config)}`,
      { cause },
    );
  }
}

function explainPostgres(error: unknown, config: Config): string {
  const { database, user } = config.postgresql;
  const code = (error as { code?: string }).code;
  if (code === "ECONNREFUSED") {
    return "connection refused: nothing listens there; start PostgreSQL, or set postgresql.host and " +
      "postgresql.port";
  }
  if (code === "28P01" || code === "28000") {
    return `authentication failed for user ${user}: check postgresql.user and postgresql.password`;
  }
  if (code === "3D000") {
    return `there is no database ${database}: create it, or set postgresql.database`;
  }
  if (/must be a string/.test(reasonOf(error))) {
    return `the server wants a password for user ${user}: set postgresql.password`;
  }
  return reasonOf(error);
}
