/**
 * Server addresses: where they come from, and how they are shown.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { resolve } from "node:path";
import { ConfigError } from "../core/errors.ts";
import { shown } from "./address_parts.ts";
import { type DatabaseAddress, databaseUrlOf, parseDatabaseUrl } from "./database_address.ts";
import { parseRedisUrl, type RedisAddress, redisUrlOf } from "./redis_address.ts";
import type { Config, TargetConfig } from "./load.ts";
import { answers, redisServes } from "./probe.ts";
import { readRecord, type RecordedServer } from "./record.ts";

/** The part of the configuration that says where the servers are. */
export type ServerSettings =
  & Pick<Config, "redis" | "postgresql">
  & Partial<Pick<Config, "targets">>;

/** Whether a target is the database of the section `postgresql`. */
export function usesPostgres({ targets }: ServerSettings): boolean {
  return targets === undefined || targets.some(isSection);
}

/** Whether it is the database of the section, and none of its own. */
function isSection(target: TargetConfig): boolean {
  return target.kind === "postgresql" && target.host === undefined &&
    target.port === undefined && target.database === undefined;
}

/** Where an address comes from: `REDIS_URL` or `DATABASE_URL`, `--url`, this checkout's servers, or the file. */
export type ServerSource = "environment" | "option" | "embedded" | "config";

/** The servers that a command uses: Redis, and the targets. */
export interface ResolvedServers {
  /** `redis://…`, `rediss://…`, or that of sentinels or of a cluster, with its password. */
  readonly redisUrl: string;
  /** `postgresql://…`, with its password. */
  readonly databaseUrl: string;
  /** The targets in their order, for people; `null` is the database of `databaseUrl`, the only one by default. */
  readonly targets?: readonly (string | null)[];
  /** Where each of them comes from. */
  readonly source: { readonly redis: ServerSource; readonly database: ServerSource };
}

/**
 * Returns the addresses that REDIS_URL and DATABASE_URL name.
 *
 * @param options.database whether a database is asked for. @default {true}
 * @throws {ConfigError} when one of them holds no address
 */
export function serversFromEnvironment(
  env: (name: string) => string | undefined,
  { database: wanted = true }: { database?: boolean } = {},
): { redis?: string | undefined; database?: string | undefined } {
  const redis = env("REDIS_URL") || undefined;
  const database = wanted && env("DATABASE_URL") || undefined;
  // Parsed here, so that the message names the variable.
  if (redis) parseRedisUrl("REDIS_URL", redis);
  if (database) parseDatabaseUrl("DATABASE_URL", database);
  return { redis, database };
}

/**
 * Decides which servers to use: REDIS_URL and DATABASE_URL; else the embedded servers that this checkout
 * runs; else the addresses in the configuration. Where the target is no PostgreSQL, none is asked for.
 *
 * @param options.root the folder of the checkout. @default {this one}
 * @param options.env reads an environment variable
 * @throws {ConfigError} when a variable holds no address, or when one of the embedded servers has ended
 * while the other runs: taking the other's place from the configuration would mix up two pipelines
 *
 * @example
 * ```ts
 * import { configWith, loadConfig, resolveServers, serverOverrides } from "writebehind";
 *
 * const config = await loadConfig();
 * const servers = await resolveServers(config);
 * const resolved = configWith(config, serverOverrides(servers));
 * console.log(resolved.redis.port);
 * ```
 */
export async function resolveServers(
  config: ServerSettings,
  options: {
    root?: string;
    env?: (name: string) => string | undefined;
  } = {},
): Promise<ResolvedServers> {
  checkArguments("resolveServers", { settings: config, options });
  const { root, env = (name) => Deno.env.get(name) } = options;
  checkArguments("resolveServers", { root });
  const database = usesPostgres(config);
  const given = serversFromEnvironment(env, { database });
  const { servers: { redis, postgres } } = await readRecord(root);
  const [redisRuns, postgresRuns] = await Promise.all([
    redis !== undefined && redisServes(redis),
    database && postgres !== undefined && answers("127.0.0.1", postgres.port),
  ]);
  const mustRun = (title: string) =>
    new ConfigError(
      `of the embedded servers, ${title} has ended and the other still runs: \`deno task services\` ` +
        "starts it again, `deno task services stop` stops both",
    );
  if (!given.redis && redis && !redisRuns && postgresRuns) throw mustRun("Redis");
  if (database && !given.database && postgres && !postgresRuns && redisRuns) {
    throw mustRun("PostgreSQL");
  }
  const [redisUrl, redisSource] = firstOf(
    given.redis,
    redisRuns && redis,
    redisUrlOf(config.redis),
  );
  const [databaseUrl, databaseSource] = firstOf(
    given.database,
    postgresRuns && postgres,
    databaseUrlOf(config.postgresql),
  );
  const source = { redis: redisSource, database: databaseSource };
  const targets = config.targets?.map((target) => nameOf(target, config));
  return { redisUrl, databaseUrl, ...targets ? { targets } : {}, source };
}

/** A target for people, without its password; `null` for the database of the section. */
function nameOf(target: TargetConfig, { postgresql }: ServerSettings): string | null {
  switch (target.kind) {
    case "postgresql": {
      if (isSection(target)) return null;
      const { host, port, database, user } = { ...postgresql, ...target };
      return `PostgreSQL ${user}@${host}:${port}/${database}`;
    }
    case "sqlite":
      return `SQLite ${resolve(target.path)}`;
    case "mysql":
      return `MySQL ${target.user}@${target.host}:${target.port}/${target.database}`;
    case "kafka":
      return `Kafka ${target.brokers.join()}${target.prefix && ` (topics ${target.prefix}*)`}`;
  }
}

function firstOf(
  given: string | undefined,
  running: RecordedServer | false | undefined,
  configured: string,
): [url: string, source: ServerSource] {
  if (given) return [given, "environment"];
  return running ? [running.url, "embedded"] : [configured, "config"];
}

/**
 * One line with the addresses, without their passwords, and where they come from.
 *
 * @example
 * ```ts
 * import { equal } from "node:assert/strict";
 * import { describeServers } from "writebehind";
 *
 * const line = describeServers({
 *   redisUrl: "redis://:secret@cache:6379",
 *   databaseUrl: "postgresql://app:secret@db:5432/shop",
 *   source: { redis: "environment", database: "config" },
 * });
 * equal(
 *   line,
 *   "Redis redis://:***@cache:6379 (REDIS_URL), " +
 *     "PostgreSQL postgresql://app:***@db:5432/shop (config file)",
 * );
 * ```
 */
export function describeServers(
  servers: ResolvedServers,
): string {
  checkArguments("describeServers", { servers });
  const { redisUrl, databaseUrl, targets = [null], source } = servers;
  const origin = (from: ServerSource, variable: string) =>
    ({ environment: variable, option: "--url", embedded: "embedded", config: "config file" })[from];
  const named = targets.map((target) =>
    target === null
      ? `PostgreSQL ${shown(databaseUrl)} (${origin(source.database, "DATABASE_URL")})`
      : `${target} (config file)`
  );
  return [`Redis ${shown(redisUrl)} (${origin(source.redis, "REDIS_URL")})`, ...named].join(", ");
}

/** The addresses of a configuration, with their passwords: what REDIS_URL and DATABASE_URL would be. */
export function addressesOf(
  config: ServerSettings,
): Pick<ResolvedServers, "redisUrl" | "databaseUrl"> {
  return { redisUrl: redisUrlOf(config.redis), databaseUrl: databaseUrlOf(config.postgresql) };
}

/**
 * What to lay over a configuration (`configWith`) so that it names the resolved servers.
 *
 * @example
 * ```ts
 * import { equal } from "node:assert/strict";
 * import { configWith, loadConfig, serverOverrides } from "writebehind";
 *
 * const overrides = serverOverrides({
 *   redisUrl: "rediss://cache:6380",
 *   databaseUrl: "postgresql://app@db:5432/shop",
 *   source: { redis: "environment", database: "environment" },
 * });
 * equal(configWith(await loadConfig(), overrides).redis.tls, true);
 * ```
 */
export function serverOverrides(servers: ResolvedServers): {
  redis: RedisAddress;
  postgresql: DatabaseAddress;
} {
  checkArguments("serverOverrides", { servers });
  const { redisUrl, databaseUrl } = servers;
  return {
    // A server that is named wins over sentinels, or a cluster, that only the file names.
    redis: {
      ...{ sentinels: null, sentinel_name: null, cluster: null },
      ...parseRedisUrl("REDIS_URL", redisUrl),
    },
    postgresql: parseDatabaseUrl("DATABASE_URL", databaseUrl),
  };
}
