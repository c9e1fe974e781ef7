/**
 * Which servers a command uses, and the record of those that this checkout runs. Light on purpose: every
 * process of the pipeline reads it, the sink's as well.
 * @module
 */
import { join } from "node:path";
import type { Config } from "../config.ts";
import { ConfigError } from "../errors.ts";
import { CHECKOUT } from "./checkout.ts";
import { isAlive, type ProcessIdentity } from "./processes.ts";

/** The embedded servers, in the order in which they are stopped. */
export const SERVICE_NAMES = ["replica", "redis", "postgres"] as const;
export type ServiceName = typeof SERVICE_NAMES[number];

/** A server as it stands in the record. */
export interface RecordedServer extends ProcessIdentity {
  readonly port: number;
  /** With its password. */
  readonly url: string;
}

/** The servers that were started here, and the processes that use them. */
export interface Registry {
  readonly servers: Partial<Record<ServiceName, RecordedServer>>;
  /** Processes that started the servers or found them running; the last one to leave stops them. */
  readonly holders: readonly ProcessIdentity[];
}

/** The part of the configuration that says where the servers are. */
export type ServerSettings = Pick<Config, "redis" | "postgresql">;

/** Where an address comes from. */
export type ServerSource = "environment" | "embedded" | "config";

/** The two servers that a command uses. */
export interface ResolvedServers {
  /** With its password. */
  readonly redisUrl: string;
  /** With its password. */
  readonly databaseUrl: string;
  readonly source: { readonly redis: ServerSource; readonly database: ServerSource };
}

/** Returns the folder with the record and the data of a checkout's servers. */
export function servicesFolder(root = CHECKOUT): string {
  return join(root, ".services");
}

/** Reads the record, whatever has become of the processes in it. */
export async function readRegistry(root = CHECKOUT): Promise<Registry> {
  const path = join(servicesFolder(root), "state.json");
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return { servers: {}, holders: [] };
    throw error;
  }
  try {
    const { servers, holders } = JSON.parse(text) as Registry;
    return { servers: { ...servers }, holders: [...holders] };
  } catch (cause) {
    throw new ConfigError(`${path} is not the record of running servers: remove it`, { cause });
  }
}

/** Writes the record, or removes it when nothing is left in it. */
export async function writeRegistry(registry: Registry, root = CHECKOUT): Promise<void> {
  const path = join(servicesFolder(root), "state.json");
  if (Object.keys(registry.servers).length === 0) {
    await Deno.remove(path).catch(() => {});
    return;
  }
  // Renamed when complete: a reader never sees half of it.
  const draft = `${path}.${crypto.randomUUID()}`;
  await Deno.writeTextFile(draft, JSON.stringify(registry, null, 2), { mode: 0o600 });
  await Deno.rename(draft, path);
}

/** Returns the recorded servers that still run: the very processes, not later ones with their pids. */
export async function runningServices(
  { root = CHECKOUT }: { root?: string } = {},
): Promise<Registry["servers"]> {
  const { servers } = await readRegistry(root);
  return Object.fromEntries(Object.entries(servers).filter(([, server]) => isAlive(server)));
}

/**
 * Decides which servers to use: REDIS_URL and DATABASE_URL; else the embedded servers that this checkout
 * runs; else the addresses in the configuration.
 *
 * @throws {ConfigError} when a variable holds no address, or when one of the embedded servers has ended
 * while the other runs: taking the other's place from the configuration would mix up two pipelines
 */
export async function resolveServers(
  config: ServerSettings,
  { root = CHECKOUT, env = (name) => Deno.env.get(name) }: {
    root?: string;
    env?: (name: string) => string | undefined;
  } = {},
): Promise<ResolvedServers> {
  const given = serversFromEnvironment(env);
  const { servers } = await readRegistry(root);
  const running = await runningServices({ root });
  for (const name of ["redis", "postgres"] as const) {
    const otherRuns = name === "redis" ? running.postgres : running.redis;
    const needed = name === "redis" ? !given.redis : !given.database;
    if (needed && servers[name] && !running[name] && otherRuns) {
      throw new ConfigError(
        `of the embedded servers, ${name === "redis" ? "Redis" : "PostgreSQL"} has ended and the ` +
          "other still runs: `deno task services` starts it again, `deno task services stop` stops both",
      );
    }
  }
  const pick = (givenUrl: string | undefined, embedded: string | undefined, configured: string) =>
    givenUrl
      ? [givenUrl, "environment"] as const
      : embedded
      ? [embedded, "embedded"] as const
      : [configured, "config"] as const;
  const [redisUrl, redis] = pick(given.redis, running.redis?.url, redisUrlOf(config));
  const [databaseUrl, database] = pick(
    given.database,
    running.postgres?.url,
    databaseUrlOf(config),
  );
  return { redisUrl, databaseUrl, source: { redis, database } };
}

/**
 * Returns the addresses that REDIS_URL and DATABASE_URL name.
 *
 * @throws {ConfigError} when one of them holds no address
 */
export function serversFromEnvironment(
  env: (name: string) => string | undefined,
): { redis?: string; database?: string } {
  return {
    redis: urlFrom("REDIS_URL", env("REDIS_URL"), ["redis:", "rediss:"]),
    database: urlFrom("DATABASE_URL", env("DATABASE_URL"), ["postgresql:", "postgres:"]),
  };
}

/** One line with the addresses, without their passwords, and where they come from. */
export function describeServers({ redisUrl, databaseUrl, source }: ResolvedServers): string {
  const origin = (from: ServerSource, variable: string) =>
    ({ environment: variable, embedded: "embedded", config: "config file" })[from];
  return `Redis ${redacted(redisUrl)} (${origin(source.redis, "REDIS_URL")}), ` +
    `PostgreSQL ${redacted(databaseUrl)} (${origin(source.database, "DATABASE_URL")})`;
}

/** The addresses of a configuration, with their passwords: what REDIS_URL and DATABASE_URL would be. */
export function addressesOf(
  config: ServerSettings,
): Pick<ResolvedServers, "redisUrl" | "databaseUrl"> {
  return { redisUrl: redisUrlOf(config), databaseUrl: databaseUrlOf(config) };
}

/** What to lay over a configuration (`configWith`) so that it names the resolved servers. */
export function serverOverrides({ redisUrl, databaseUrl }: ResolvedServers): {
  redis: Pick<Config["redis"], "host" | "port" | "db" | "username" | "password" | "tls">;
  postgresql: Config["postgresql"];
} {
  const redis = new URL(redisUrl);
  const database = new URL(databaseUrl);
  const text = (part: string) => part === "" ? null : decodeURIComponent(part);
  const host = (url: URL) => url.hostname.replace(/^\[|\]$/g, "") || "localhost";
  const sslmode = database.searchParams.get("sslmode") ?? "disable";
  return {
    redis: {
      host: host(redis),
      port: Number(redis.port || 6379),
      db: Number(redis.pathname.slice(1) || 0),
      username: text(redis.username),
      password: text(redis.password),
      tls: redis.protocol === "rediss:",
    },
    postgresql: {
      host: host(database),
      port: Number(database.port || 5432),
      database: text(database.pathname.slice(1)) ?? text(database.username) ?? "postgres",
      user: text(database.username) ?? "postgres",
      password: text(database.password),
      ssl: !["disable", "allow", "prefer"].includes(sslmode),
    },
  };
}

function urlFrom(name: string, text: string | undefined, schemes: string[]): string | undefined {
  if (!text) return undefined;
  // The text itself is not shown: it may hold a password.
  if (!URL.canParse(text) || !schemes.includes(new URL(text).protocol)) {
    throw new ConfigError(
      `${name} holds no address: expected ${schemes[0]}//user:password@host:port/…`,
    );
  }
  return text;
}

function redisUrlOf({ redis }: ServerSettings): string {
  const url = new URL(`${redis.tls ? "rediss" : "redis"}://${bracketed(redis.host)}:${redis.port}`);
  if (redis.username !== null) url.username = encodeURIComponent(redis.username);
  if (redis.password !== null) url.password = encodeURIComponent(redis.password);
  if (redis.db !== 0) url.pathname = `/${redis.db}`;
  return url.href;
}

function databaseUrlOf({ postgresql }: ServerSettings): string {
  const { host, port, database, user, password, ssl } = postgresql;
  const url = new URL(`postgresql://${bracketed(host)}:${port}/${encodeURIComponent(database)}`);
  url.username = encodeURIComponent(user);
  if (password !== null) url.password = encodeURIComponent(password);
  if (ssl) url.searchParams.set("sslmode", "require");
  return url.href;
}

function bracketed(host: string): string {
  return host.includes(":") ? `[${host}]` : host;
}

function redacted(address: string): string {
  const url = new URL(address);
  if (url.password) url.password = "***";
  url.search = ""; // May hold a password as well.
  return url.href;
}
