/**
 * The servers of this checkout as one thing: a Redis primary with a replica, a PostgreSQL, and a MariaDB where it is
 * asked for. Whoever starts them again finds the running ones; the last process to let go of them stops them.
 * @module
 */

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { CHECKOUT, servicesFolder } from "../../config/checkout.ts";
import { parseConfig } from "../../config/load.ts";
import {
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
import { type Progress, withLock } from "./lock.ts";
import { ownServicesFolder, readPasswords } from "./passwords.ts";
import { isAlive } from "./processes.ts";
import { Start, stopServer } from "./start.ts";

export type { Progress };

/** Options of {@linkcode startServices}. */
export interface ServicesOptions {
  /** The folder under which `.services` holds data and record. @default {this checkout} */
  root?: string;
  /** Names the ports to prefer, and the addresses to use where no embedded server exists. */
  config?: ServerSettings | undefined;
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
      await rm(join(servicesFolder(root), name), { recursive: true, force: true });
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
