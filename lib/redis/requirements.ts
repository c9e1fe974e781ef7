/**
 * What a Redis server, and its user, must be able to do.
 * @module
 */

import type { Redis } from "ioredis";
import type { Config } from "../config/load.ts";
import { ConfigError, ConnectionError } from "../core/errors.ts";
import { durabilityOf } from "./durability.ts";
import { addressOf, explainRedis } from "./explain.ts";

/** The commands that the pipeline sends, with arguments of the right shape. */
const COMMANDS: string[][] = [
  ["JSON.SET", "k", "$", "{}"],
  ["JSON.MERGE", "k", "$", "{}"],
  ["JSON.GET", "k"],
  ["JSON.MGET", "k", "$"],
  ["JSON.NUMINCRBY", "k", "$", "1"],
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

export async function checkRedis(redis: Redis, config: Config): Promise<void> {
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
