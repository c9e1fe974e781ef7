/**
 * Which servers a command uses, and the record of those that this checkout runs. Light on purpose: every
 * process of the pipeline reads it, the sink's as well.
 * @module
 */

import { join } from "node:path";
import {
  databaseUrlOf,
  redisUrlOf,
  type ResolvedServers,
  type ServerSettings,
  serversFromEnvironment,
} from "../../config/servers.ts";
import { ConfigError } from "../../core/errors.ts";
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
