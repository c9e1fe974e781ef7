/**
 * What a Redis server, and its user, must be able to do.
 * @module
 */

import type { Redis } from "./client.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { ConfigError, ConnectionError } from "../core/errors.ts";
import { COUNTER_NAMES } from "./counters.ts";
import { durabilityOf } from "./durability.ts";
import { CLUSTER, explainRedis } from "./explain.ts";
import { allPartitions, indexesOf, looksOf } from "./keys.ts";

/**
 * The commands that writers send, by the keys that they touch, with arguments of the right shape. `KEY` is replaced by
 * the key.
 */
const WRITERS: Record<string, string[]> = {
  document: [
    "JSON.SET KEY $ {}",
    "JSON.MERGE KEY $ {}",
    "JSON.GET KEY",
    "JSON.MGET KEY $",
    "JSON.NUMINCRBY KEY $ 1",
    "JSON.DEBUG MEMORY KEY",
    "TYPE KEY",
    "DEL KEY",
    "DUMP KEY",
    "RESTORE KEY 0 x REPLACE",
  ],
  stream: [
    "XADD KEY * f v",
    "XREAD STREAMS KEY 0",
    "XSETID KEY 0-1",
    "XLEN KEY",
    "MEMORY USAGE KEY",
    "EXISTS KEY",
  ],
  settings: [
    "HSET KEY f v",
    "HSETNX KEY f v",
    "HGET KEY f",
    "HMGET KEY f",
    "HEXISTS KEY f",
    "EXISTS KEY",
  ],
  request: ["HSET KEY f v", "HMGET KEY f", "EXPIRE KEY 1"],
  counter: ["INCRBY KEY 1"],
  log: ["XADD KEY MAXLEN ~ 1 * f v"],
  cachedDocument: ["PERSIST KEY", "EXPIRE KEY 1", "PEXPIRE KEY 1", "PTTL KEY"],
  notes: ["HSET KEY f v", "HGET KEY f", "HEXISTS KEY f"],
  due: ["ZADD KEY 1 m", "ZREM KEY m"],
  clock: ["TIME"],
  asked: ["GET KEY", "SET KEY v", "DEL KEY"],
  none: ["EVALSHA 0 0", "EVAL x 0", "MULTI", "EXEC"],
  index: ["FT.SEARCH KEY *", "FT.INFO KEY"],
};

/** What writers send besides where the configuration asks for durability. */
const DURABLY = {
  any: ["SCRIPT", "LOAD", "x"],
  replicas: ["WAIT", "1", "1"],
  fsync: ["WAITAOF", "1", "0", "1"],
};

/** What sinks and the operator's commands send besides. */
const OTHERS: Record<string, string[]> = {
  settings: ["HGETALL KEY"],
  stream: [
    "XRANGE KEY - +",
    "XREVRANGE KEY + -",
    "XTRIM KEY MINID 0",
    "XINFO STREAM KEY",
    "XGROUP CREATE KEY g 0",
  ],
  copy: ["SET KEY v", "GET KEY"],
  cachedDocument: ["UNLINK KEY"],
  cachedSettings: ["HDEL KEY f"],
  due: ["ZSCORE KEY m", "ZRANGEBYSCORE KEY 0 1"],
  notes: ["HMGET KEY f", "HDEL KEY f", "HLEN KEY", "HSCAN KEY 0", "DEL KEY"],
  gauges: ["HSET KEY f v", "HGETALL KEY", "HMGET KEY f"],
  counter: ["GET KEY"],
  none: ["TIME", "SCAN 0", "DBSIZE", "CLIENT SETNAME x"],
};

/**
 * Whose rights a connection needs: those of a writer, who also reads and searches; of sinks and operators, who do that too, but
 * wait for no durability; or of both.
 */
export type Rights = "writer" | "operator" | "all";

/** Returns what the user may not run, and what the server does not know, as `{command, key}`. */
const ASK = `
local denied, unknown = {}, {}
for _, command in ipairs(cjson.decode(ARGV[1])) do
  local ok, allowed = pcall(redis.acl_check_cmd, unpack(command))
  if not ok then unknown[#unknown + 1] = command[1]
  elseif not allowed then denied[#denied + 1] = command end
end
return {cjson.encode(denied), cjson.encode(unknown)}`;

/** Partitions whose keys are checked: a user that may use these may use the others as well. */
const CHECKED_PARTITIONS = 16;

/** The commands with the keys of a configuration. */
function commandsOf(config: Config, rights: Rights): string[][] {
  const keys: [kind: string, key: string][] = [["none", ""]];
  for (const { name } of config.entities) {
    for (const partition of allPartitions(config, name).slice(0, CHECKED_PARTITIONS)) {
      const { stream, settings, lastId, gauges, documentPrefix, requestPrefix } = partition;
      keys.push(["document", `${documentPrefix}x`], ["stream", stream], ["settings", settings]);
      keys.push(["copy", lastId], ["gauges", gauges], ["request", `${requestPrefix}x`]);
      const { cached, notes, due, askedPrefix } = partition;
      if (!cached) continue;
      keys.push(["cachedDocument", `${documentPrefix}x`], ["cachedSettings", settings]);
      keys.push(["clock", ""], ["notes", notes], ["due", due], ["asked", `${askedPrefix}x`]);
    }
    if (entityConfig(config, name).cache.enabled) {
      for (const key of Object.values(looksOf(config, name))) keys.push(["counter", key]);
    }
    for (const index of indexesOf(config, name).slice(0, CHECKED_PARTITIONS)) {
      keys.push(["index", index.name]);
    }
  }
  for (const name of COUNTER_NAMES) {
    if (rights === "writer" && !name.startsWith("redis_")) continue;
    keys.push(["counter", `metrics:${name}`], ["log", config.streams.log_streams[name]]);
  }
  const commands = keys.flatMap(([kind, key]) =>
    [...WRITERS[kind] ?? [], ...rights === "writer" ? [] : OTHERS[kind] ?? []].map((command) =>
      command.split(" ").map((part) => part === "KEY" ? key : part)
    )
  );
  if (rights === "operator") return commands;
  const { replicas, fsync } = durabilityOf(config);
  if (replicas > 0 || fsync) commands.push(DURABLY.any);
  if (replicas > 0) commands.push(DURABLY.replicas);
  if (fsync) commands.push(DURABLY.fsync);
  return commands;
}

/** Lists the first few of many. */
function some(list: string[]): string {
  const unique = [...new Set(list)];
  const more = unique.length - 8;
  return unique.slice(0, 8).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** Checks that the server knows, and the user may run, what the pipeline sends, on the keys of the configuration. */
async function checkCommands(
  redis: Redis,
  config: Config,
  rights: Rights,
  fail: (reason: string) => void,
): Promise<void> {
  const commands = commandsOf(config, rights);
  const [denied, unknown] = (await redis.eval(ASK, 0, JSON.stringify(commands)) as string[])
    .map((list) => list === "{}" ? [] : JSON.parse(list)) as [string[][], string[]];
  if (unknown.includes("JSON.GET")) fail("it has no RedisJSON; use Redis Stack or Redis 8");
  if (unknown.includes("FT.SEARCH")) fail("it has no RediSearch; use Redis Stack or Redis 8");
  if (unknown.length > 0) {
    fail(`it does not know ${some(unknown)}; were they renamed? Rename them back`);
  }
  if (denied.length === 0) return;
  const known = new Set(commands.flat());
  const names = denied.map(([command, ...args]) => {
    const key = args.find((arg) => arg.includes(":") && known.has(arg));
    return key === undefined ? command! : `${command} on ${key}`;
  });
  fail(`the user may not run ${some(names)}; grant them by ACL SETUSER`);
}

/**
 * Checks one server, and its user.
 * @param learnShapes asks how entities are split, where the configuration does not say it: commands are checked on the keys
 * of the partitions
 * @throws {ConnectionError | ConfigError} with what is missing
 */
export async function checkServer(
  redis: Redis & { readonly address: string },
  config: Config,
  rights: Rights,
  learnShapes: () => Promise<void>,
): Promise<void> {
  const { address } = redis;
  const fail = (reason: string) => {
    throw new ConnectionError(`Cannot use Redis at ${address}: ${reason}`);
  };
  // If the server has no such database, ioredis silently goes on with database 0.
  if (config.redis.db !== 0) {
    await redis.select(config.redis.db).catch((error) => fail(explainRedis(error)));
  }
  const info = parseInfo(await redis.info());
  const version = info.get("redis_version") ?? "0";
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major < 7 || major === 7 && minor < 2) {
    fail(`it is version ${version}, and 7.2 or newer is needed`);
  }
  if (info.get("cluster_enabled") === "1" && config.redis.cluster === null) {
    fail(CLUSTER);
  }
  if (info.get("redis_mode") === "sentinel") {
    fail(
      "it is a sentinel, which has no data; name it in redis.sentinels, with redis.sentinel_name",
    );
  }
  await learnShapes();
  await checkCommands(redis, config, rights, fail);
  const policy = info.get("maxmemory_policy") ?? "noeviction";
  if (policy.startsWith("allkeys-")) {
    fail(`maxmemory-policy ${policy} may evict a stream with all its events; set it to noeviction`);
  }
  const durability = durabilityOf(config);
  const slaves = Number(info.get("connected_slaves") ?? 0);
  if (durability.replicas > slaves) {
    throw new ConfigError(
      `zero_data_loss.replicas: expected at most ${slaves}, the replicas that ` +
        `${address} has, got ${durability.replicas}; ` +
        (slaves > 0 ? `use replicas: ${slaves}` : "use wait_for_replicas: false, or add a replica"),
    );
  }
  if (durability.fsync && info.get("aof_enabled") !== "1") {
    throw new ConfigError(
      `zero_data_loss.wait_for_aof_rewrite: expected false, since ${address} has ` +
        "its append-only file off; use wait_for_aof_rewrite: false, or set appendonly yes",
    );
  }
}

function parseInfo(text: string): Map<string, string> {
  return new Map(
    text.split("\r\n").filter((line) => line.includes(":")).map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon), line.slice(colon + 1)];
    }),
  );
}
