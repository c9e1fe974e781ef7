/**
 * The servers of this checkout as one thing: a Redis primary with a replica, and a PostgreSQL. Whoever starts
 * them again finds the running ones; the last process to let go of them stops them.
 * @module
 */

import { join } from "node:path";
import {
  type ResolvedServers,
  type ServerSettings,
  serversFromEnvironment,
} from "../../config/servers.ts";
import { NoEmbeddedServerError } from "./binaries.ts";
import { CHECKOUT } from "./checkout.ts";
import { type Progress, withLock } from "./lock.ts";
import { EMBEDDED_DATABASE, startPostgres, stopPostgres } from "./postgres.ts";
import { isAlive, type ProcessIdentity, processStartTime } from "./processes.ts";
import { startRedis, stopRedis } from "./redis.ts";
import {
  readRegistry,
  type RecordedServer,
  type Registry,
  resolveServers,
  SERVICE_NAMES,
  type ServiceName,
  servicesFolder,
  writeRegistry,
} from "./registry.ts";
import { delay } from "../../core/delay.ts";

export type { Progress };

/** What `startServices` may be told. */
export interface ServicesOptions {
  /** The folder under which `.services` holds data and record. @default {this checkout} */
  root?: string;
  /** Names the ports to prefer, and the addresses to use where no embedded server exists. */
  config?: ServerSettings;
  onProgress?: Progress;
  /** Reads an environment variable. */
  env?: (name: string) => string | undefined;
}

/** The servers after a start. */
export interface Services extends ResolvedServers {
  /** Those that this call started; the others ran already, or are somebody else's. */
  readonly started: readonly ServiceName[];
}

const TITLES: Record<ServiceName, string> = {
  redis: "Redis",
  replica: "Redis replica",
  postgres: "PostgreSQL",
};

const DEFAULT_SETTINGS: ServerSettings = {
  redis: {
    host: "127.0.0.1",
    port: 6379,
    db: 0,
    username: null,
    password: null,
    tls: false,
    max_in_flight: 1000,
    command_timeout_ms: 5000,
  },
  postgresql: { host: "127.0.0.1", port: 5432, ...EMBEDDED_DATABASE, ssl: false },
};

/**
 * Starts what is not running yet, and counts this process among those that need the servers until it calls
 * `releaseServices` or ends. A server that REDIS_URL or DATABASE_URL names is not started.
 *
 * @throws {NoEmbeddedServerError} where no embedded server exists and none answers at the config's address
 * @throws {Error} when a server does not get ready, with the end of its log; what this call started is stopped
 */
export async function startServices(options: ServicesOptions = {}): Promise<Services> {
  const { root = CHECKOUT, config = DEFAULT_SETTINGS, onProgress = () => {} } = options;
  const env = options.env ?? ((name: string) => Deno.env.get(name));
  const given = serversFromEnvironment(env);
  const started = await withLock(lockFile(root), onProgress, async () => {
    const start = new Start(root, config, onProgress, await readRegistry(root));
    try {
      const starting = [
        given.redis ? undefined : start.redisWithReplica(),
        given.database ? undefined : start.postgres(),
      ];
      // All of them, so that nothing is still starting when a failure is dealt with.
      for (const result of await Promise.allSettled(starting)) {
        if (result.status === "rejected") throw result.reason;
      }
      await start.hold();
    } catch (error) {
      await start.undo();
      throw error;
    }
    return start.started;
  });
  return { ...await resolveServers(config, { root, env }), started };
}

/** One start under the lock; keeps the record up to date as each server gets ready. */
class Start {
  readonly started: ServiceName[] = [];
  readonly #root: string;
  readonly #config: ServerSettings;
  readonly #onProgress: Progress;
  readonly #holders: readonly ProcessIdentity[];
  readonly #servers: Partial<Record<ServiceName, RecordedServer>>;
  #writing: Promise<void> = Promise.resolve();

  constructor(root: string, config: ServerSettings, onProgress: Progress, found: Registry) {
    this.#root = root;
    this.#config = config;
    this.#onProgress = onProgress;
    this.#servers = { ...found.servers };
    this.#holders = found.holders.filter(isAlive);
  }

  async redisWithReplica(): Promise<void> {
    const port = this.#config.redis.port;
    const fresh = await this.#ensure("redis", port, (options) => startRedis(options));
    const primary = this.#servers.redis;
    if (!primary) return; // The config's own Redis serves.
    const replica = this.#servers.replica;
    // One that follows a primary that has ended may not find the new one: another port, another history.
    if (fresh && replica) await stopRedis(replica);
    await this.#ensure(
      "replica",
      undefined,
      (options) => startRedis({ ...options, replicaOf: { host: "127.0.0.1", port: primary.port } }),
    );
  }

  async postgres(): Promise<void> {
    await this.#ensure(
      "postgres",
      this.#config.postgresql.port,
      (options) => startPostgres(options),
    );
  }

  /** Counts this process among the holders. */
  hold(): Promise<void> {
    const me = { pid: Deno.pid, startTime: processStartTime(Deno.pid) ?? "" };
    return this.#write([...this.#holders.filter(({ pid }) => pid !== me.pid), me]);
  }

  /** Stops what was started. */
  async undo(): Promise<void> {
    for (const name of SERVICE_NAMES.filter((name) => this.started.includes(name))) {
      const server = this.#servers[name];
      if (server) await stopServer(name, server);
      delete this.#servers[name];
    }
    await this.#write(this.#holders);
  }

  /** Tells whether the server had to be started. */
  async #ensure(
    name: ServiceName,
    port: number | undefined,
    start: (options: { dir: string; port?: number }) => Promise<RecordedServer>,
  ): Promise<boolean> {
    const recorded = this.#servers[name];
    if (recorded && isAlive(recorded)) return false;
    const since = performance.now();
    try {
      const dir = join(servicesFolder(this.#root), name);
      // On its old port again, where clients look for it.
      const preferred = recorded?.port ?? port;
      const { pid, startTime, port: taken, url } = await start({ dir, port: preferred });
      this.#servers[name] = { pid, startTime, port: taken, url };
      this.started.push(name);
      await this.#write(this.#holders);
      const seconds = ((performance.now() - since) / 1000).toFixed(1);
      this.#onProgress(`${TITLES[name]} started on 127.0.0.1:${taken} in ${seconds} s`);
      return true;
    } catch (error) {
      if (!(error instanceof NoEmbeddedServerError) || name === "replica") throw error;
      const { host, port } = name === "redis" ? this.#config.redis : this.#config.postgresql;
      if (!await answers(host, port)) throw error;
      this.#onProgress(`no embedded ${TITLES[name]} exists here; using the one on ${host}:${port}`);
      return false;
    }
  }

  /** Two servers may get ready at once: their writes take turns, and the last one holds both. */
  #write(holders: readonly ProcessIdentity[]): Promise<void> {
    this.#writing = this.#writing.then(() =>
      writeRegistry({ servers: { ...this.#servers }, holders }, this.#root)
    );
    return this.#writing;
  }
}

/** Tells whether anything listens at an address. */
async function answers(hostname: string, port: number): Promise<boolean> {
  try {
    (await Deno.connect({ hostname, port })).close();
    return true;
  } catch {
    return false;
  }
}

/** What became of the servers when a process let go of them. */
export interface Release {
  readonly stopped: readonly ServiceName[];
  /** The pids of the processes for whose sake they were left running. */
  readonly heldBy: readonly number[];
}

/** Lets go of the servers: stops them, unless another living process that started them needs them. */
export function releaseServices(
  { root = CHECKOUT, onProgress = () => {} }: Pick<ServicesOptions, "root" | "onProgress"> = {},
): Promise<Release> {
  return withLock(lockFile(root), onProgress, async () => {
    const { servers, holders } = await readRegistry(root);
    const others = holders.filter((holder) => holder.pid !== Deno.pid && isAlive(holder));
    if (others.length > 0) {
      await writeRegistry({ servers, holders: others }, root);
      return { stopped: [], heldBy: others.map(({ pid }) => pid) };
    }
    return { stopped: await stopAll(servers, root), heldBy: [] };
  });
}

/** Stops the recorded servers, whoever uses them, the replica first; returns those that ran. */
export function stopServices(
  { root = CHECKOUT, onProgress = () => {} }: Pick<ServicesOptions, "root" | "onProgress"> = {},
): Promise<readonly ServiceName[]> {
  return withLock(
    lockFile(root),
    onProgress,
    async () => stopAll((await readRegistry(root)).servers, root),
  );
}

/**
 * Stops PostgreSQL alone, at once and without a word to its clients, as a crash would; `startServices`
 * brings it back on the same port.
 * @returns whether it ran
 */
export function crashPostgres({ root = CHECKOUT }: { root?: string } = {}): Promise<boolean> {
  return withLock(lockFile(root), () => {}, async () => {
    const { postgres } = (await readRegistry(root)).servers;
    if (!postgres || !isAlive(postgres)) return false;
    await stopPostgres(postgres, "immediate");
    return true;
  });
}

async function stopAll(servers: Registry["servers"], root: string): Promise<ServiceName[]> {
  const stopped: ServiceName[] = [];
  for (const name of SERVICE_NAMES) {
    const server = servers[name];
    if (!server || !isAlive(server)) continue;
    await stopServer(name, server);
    stopped.push(name);
  }
  await writeRegistry({ servers: {}, holders: [] }, root);
  return stopped;
}

function stopServer(name: ServiceName, server: RecordedServer): Promise<void> {
  return name === "postgres" ? stopPostgres(server) : stopRedis(server);
}

/**
 * Starts the servers and keeps them until `signal` is raised or another command has stopped them, then lets
 * go of them.
 *
 * @param onReady is told the servers once they run
 */
export async function runServices(
  { signal, onReady, ...options }: ServicesOptions & {
    signal: AbortSignal;
    onReady?: (services: Services) => void;
  },
): Promise<Release> {
  const services = await startServices(options);
  onReady?.(services);
  const ownNone = !Object.values(services.source).includes("embedded");
  const running = async () => Object.keys((await readRegistry(options.root)).servers).length > 0;
  while (!ownNone && !signal.aborted && await running()) await delay(200);
  return await releaseServices(options);
}

function lockFile(root: string): string {
  return join(servicesFolder(root), "lock");
}
