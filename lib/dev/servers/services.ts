/**
 * The servers of this checkout as one thing: a Redis primary with a replica, a PostgreSQL, and a MariaDB where it is
 * asked for. Whoever starts them again finds the running ones; the last process to let go of them stops them.
 * @module
 */

import { join } from "node:path";
import { CHECKOUT, servicesFolder } from "../../config/checkout.ts";
import { parseConfig } from "../../config/load.ts";
import { answers } from "../../config/probe.ts";
import {
  type ProcessIdentity,
  readRecord,
  type RecordedServer,
  type ServersRecord,
  SERVICE_NAMES,
  type ServiceName,
  writeRecord,
} from "../../config/record.ts";
import {
  type ResolvedServers,
  resolveServers,
  type ServerSettings,
  serversFromEnvironment,
  usesPostgres,
} from "../../config/servers.ts";
import { delay } from "../../core/delay.ts";
import { NoEmbeddedServerError } from "./binaries.ts";
import { type Progress, withLock } from "./lock.ts";
import { startMariadb, stopMariadb } from "./mariadb.ts";
import { ownServicesFolder, type Passwords, readPasswords } from "./passwords.ts";
import { startPostgres, stopPostgres } from "./postgres.ts";
import { DATABASE } from "./postgres_roles.ts";
import { isAlive, processStartTime } from "./processes.ts";
import { startRedis, stopRedis } from "./redis.ts";
import { HOST } from "./server.ts";

export type { Progress };

/** Options of {@linkcode startServices}. */
export interface ServicesOptions {
  /** The folder under which `.services` holds data and record. @default {this checkout} */
  root?: string;
  /** Names the ports to prefer, and the addresses to use where no embedded server exists. */
  config?: ServerSettings;
  /** What is to run beside Redis and PostgreSQL. @default {nothing} */
  more?: readonly "mysql"[];
  onProgress?: Progress;
  /** Reads an environment variable. */
  env?: (name: string) => string | undefined;
}

/** The servers after a start. */
export interface Services extends ResolvedServers {
  /** Those that this call started; the others ran already, or are somebody else's. */
  readonly started: readonly ServiceName[];
  /** Of MariaDB, where it runs: `mysql://…`, with its password. */
  readonly mysqlUrl?: string;
}

const TITLES: Record<ServiceName, string> = {
  redis: "Redis",
  replica: "Redis replica",
  postgres: "PostgreSQL",
  mysql: "MariaDB",
};
/** The port that clients of MySQL expect. */
const MYSQL_PORT = 3306;

/** Returns the recorded servers that still run: the very processes, not later ones with their pids. */
export async function runningServices(
  { root }: { root?: string } = {},
): Promise<ServersRecord["servers"]> {
  const { servers } = await readRecord(root);
  return Object.fromEntries(Object.entries(servers).filter(([, server]) => isAlive(server)));
}

/**
 * Starts what is not running yet, and counts this process among those that need the servers until it calls
 * `releaseServices` or ends. A server that REDIS_URL or DATABASE_URL names is not started, nor a PostgreSQL where no
 * target is one.
 *
 * @throws {NoEmbeddedServerError} where no embedded server exists and none answers at the config's address
 * @throws {Error} when a server does not get ready, with the end of its log; what this call started is stopped
 */
export async function startServices(options: ServicesOptions = {}): Promise<Services> {
  const { root = CHECKOUT, config = parseConfig("", "the defaults"), more = [] } = options;
  const { onProgress = () => {} } = options;
  const env = options.env ?? ((name: string) => Deno.env.get(name));
  const database = usesPostgres(config);
  const given = serversFromEnvironment(env, { database });
  const started = await locked({ root, onProgress }, async () => {
    const passwords = await readPasswords(root);
    const start = new Start(root, config, onProgress, await readRecord(root), passwords);
    try {
      const starting = [
        given.redis ? undefined : start.redisWithReplica(),
        given.database || !database ? undefined : start.postgres(),
        more.includes("mysql") ? start.mysql() : undefined,
      ];
      // Waits for all of them, so that none is still starting while a failure is handled.
      for (const result of await Promise.allSettled(starting)) {
        if (result.status === "rejected") throw result.reason;
      }
    } catch (error) {
      await start.undo();
      throw error;
    }
    start.hold();
    return start.started;
  });
  const { mysql } = await runningServices({ root });
  return {
    ...await resolveServers(config, { root, env }),
    started,
    ...(mysql ? { mysqlUrl: mysql.url } : {}),
  };
}

/** One start under the lock; keeps the record up to date as each server gets ready. */
class Start {
  readonly started: ServiceName[] = [];
  readonly #root: string;
  readonly #config: ServerSettings;
  readonly #onProgress: Progress;
  readonly #servers: Partial<Record<ServiceName, RecordedServer>>;
  #holders: readonly ProcessIdentity[];
  readonly #passwords: Passwords;

  constructor(
    root: string,
    config: ServerSettings,
    onProgress: Progress,
    found: ServersRecord,
    passwords: Passwords,
  ) {
    this.#root = root;
    this.#config = config;
    this.#onProgress = onProgress;
    this.#servers = { ...found.servers };
    this.#holders = found.holders.filter(isAlive);
    this.#passwords = passwords;
  }

  async redisWithReplica(): Promise<void> {
    const { redis: password } = this.#passwords;
    const fresh = await this.#ensure(
      "redis",
      this.#config.redis,
      (options) => startRedis({ ...options, password }),
    );
    const { redis: primary, replica } = this.#servers;
    if (!primary) return; // The config's own Redis serves.
    // A replica of a primary that has ended may not find the new one: its port and history are different.
    if (fresh && replica) await stopRedis(replica);
    const replicaOf = { host: HOST, port: primary.port };
    await this.#ensure(
      "replica",
      {},
      (options) => startRedis({ ...options, replicaOf, password }),
    );
  }

  async postgres(): Promise<void> {
    const passwords = this.#passwords;
    await this.#ensure(
      "postgres",
      this.#config.postgresql,
      (options) => startPostgres({ ...options, passwords }),
    );
  }

  async mysql(): Promise<void> {
    const { application: password } = this.#passwords;
    await this.#ensure(
      "mysql",
      { port: MYSQL_PORT },
      (options) => startMariadb({ ...options, password, database: DATABASE }),
    );
  }

  /** Counts this process among the holders. */
  hold(): void {
    const me = { pid: Deno.pid, startTime: processStartTime(Deno.pid) ?? "" };
    this.#holders = [...this.#holders.filter(({ pid }) => pid !== me.pid), me];
    this.#save();
  }

  /** Stops what was started. */
  async undo(): Promise<void> {
    for (const name of this.started) {
      await stopServer(name, this.#servers[name]!);
      delete this.#servers[name];
    }
    this.#save();
  }

  /**
   * Starts a server that does not run.
   * @param address the port to prefer; with a host, also the server to use where no embedded one exists
   * @returns whether it had to be started
   */
  async #ensure(
    name: ServiceName,
    address: { host?: string; port?: number },
    start: (options: { dir: string; port?: number }) => Promise<RecordedServer>,
  ): Promise<boolean> {
    const recorded = this.#servers[name];
    if (recorded && isAlive(recorded)) return false;
    const since = performance.now();
    try {
      const dir = join(servicesFolder(this.#root), name);
      // On its old port again, where clients look for it.
      const preferred = recorded?.port ?? address.port;
      const { pid, startTime, port, url, ownerUrl } = await start({ dir, port: preferred });
      this.#servers[name] = { pid, startTime, port, url, ...(ownerUrl ? { ownerUrl } : {}) };
      this.started.push(name);
      this.#save();
      const seconds = ((performance.now() - since) / 1000).toFixed(1);
      this.#onProgress(`${TITLES[name]} started on ${HOST}:${port} in ${seconds} s`);
      return true;
    } catch (error) {
      const { host, port } = address;
      if (!(error instanceof NoEmbeddedServerError) || !host || !port) throw error;
      if (!await answers(host, port)) throw error;
      this.#onProgress(`no embedded ${TITLES[name]} exists here; using the one on ${host}:${port}`);
      return false;
    }
  }

  #save(): void {
    writeRecord({ servers: this.#servers, holders: this.#holders }, this.#root);
  }
}

/** What happened to the servers when a process released them. */
export interface Release {
  readonly stopped: readonly ServiceName[];
  /** The pids of the processes that still use them. */
  readonly heldBy: readonly number[];
}

/** Lets go of the servers: stops them, unless another living process that started them needs them. */
export function releaseServices(options: StopOptions = {}): Promise<Release> {
  return locked(options, async (root) => {
    const { servers, holders } = await readRecord(root);
    const others = holders.filter((holder) => holder.pid !== Deno.pid && isAlive(holder));
    if (others.length === 0) return { stopped: await stopAll(servers, root), heldBy: [] };
    writeRecord({ servers, holders: others }, root);
    return { stopped: [], heldBy: others.map(({ pid }) => pid) };
  });
}

/** Stops the recorded servers, whoever uses them, the replica first; returns those that ran. */
export function stopServices(options: StopOptions = {}): Promise<readonly ServiceName[]> {
  return locked(options, async (root) => stopAll((await readRecord(root)).servers, root));
}

/**
 * Empties the servers of this checkout: those that run are stopped, and start again, on their ports, with fresh data.
 * Those who use them stay counted. The passwords stay.
 * @returns those that run again
 */
export function resetServices(options: ServicesOptions = {}): Promise<readonly ServiceName[]> {
  return locked(options, async (root) => {
    const { config = parseConfig("", "the defaults"), onProgress = () => {} } = options;
    const record = await readRecord(root);
    const running = SERVICE_NAMES.filter((name) => isRunning(record.servers[name]));
    for (const name of running) await stopServer(name, record.servers[name]!);
    for (const name of SERVICE_NAMES) {
      await Deno.remove(join(servicesFolder(root), name), { recursive: true })
        .catch((error) => {
          if (!(error instanceof Deno.errors.NotFound)) throw error;
        });
    }
    const start = new Start(root, config, onProgress, record, await readPasswords(root));
    if (running.includes("redis")) await start.redisWithReplica();
    if (running.includes("postgres")) await start.postgres();
    if (running.includes("mysql")) await start.mysql();
    return start.started;
  });
}

const isRunning = (server: RecordedServer | undefined) => server !== undefined && isAlive(server);

async function stopAll(servers: ServersRecord["servers"], root: string): Promise<ServiceName[]> {
  const running = SERVICE_NAMES.filter((name) => isRunning(servers[name]));
  for (const name of running) await stopServer(name, servers[name]!);
  writeRecord({ servers: {}, holders: [] }, root);
  return running;
}

function stopServer(name: ServiceName, server: RecordedServer): Promise<void> {
  switch (name) {
    case "postgres":
      return stopPostgres(server);
    case "mysql":
      return stopMariadb(server);
    default:
      return stopRedis(server);
  }
}

/**
 * Starts the servers and keeps them until `signal` is raised or another command has stopped them, then lets
 * go of them.
 *
 * @param onReady called with the servers once they run
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
  const running = async () => Object.keys((await readRecord(options.root)).servers).length > 0;
  while (!ownNone && !signal.aborted && await running()) await delay(200, signal);
  return await releaseServices(options);
}

type StopOptions = Pick<ServicesOptions, "root" | "onProgress">;

/** Runs `task` while no other command of the checkout starts or stops servers. */
async function locked<T>(
  { root = CHECKOUT, onProgress = () => {} }: StopOptions,
  task: (root: string) => Promise<T>,
): Promise<T> {
  return await withLock(join(await ownServicesFolder(root), "lock"), onProgress, () => task(root));
}
