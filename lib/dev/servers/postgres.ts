/** One embedded PostgreSQL server. */

import { join } from "node:path";
import { type Cluster, prepareCluster } from "./cluster.ts";
import {
  endProcess,
  freePort,
  isAlive,
  logTail,
  type ProcessIdentity,
  processStartTime,
  signalProcess,
  startDetached,
} from "./processes.ts";
import { delay } from "../../core/delay.ts";

/** A PostgreSQL server that this project started. */
export interface PostgresServer extends ProcessIdentity {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
  /** The address with its password: never to be shown. */
  readonly url: string;
  /** The folder with its data and its log. */
  readonly dir: string;
  /** Shuts it down, then kills it when it does not obey; does nothing when it has ended. */
  stop(mode?: StopMode): Promise<void>;
  /** Sends a signal to the postmaster; SIGKILL returns when it has ended. */
  kill(signal?: Deno.Signal): Promise<void>;
}

/** `fast` disconnects everyone and writes a checkpoint; `immediate` leaves recovery to the next start. */
export type StopMode = "fast" | "immediate";

/** What an embedded PostgreSQL may be told. */
export interface PostgresOptions {
  /** The server's own folder; made where it is missing. Starting again on it keeps its data. */
  dir: string;
  /** The port to prefer; another is taken where it is busy. */
  port?: number;
  /** Settings on top of PostgreSQL's own defaults, such as `{ statement_timeout: "5s" }`. */
  extraSettings?: Readonly<Record<string, string | number>>;
  /** How long the server may take to be ready, in milliseconds. @default {60000} */
  deadlineMs?: number;
}

/** The superuser and the database of every embedded server: the config file's defaults. */
export const EMBEDDED_DATABASE = { user: "redis", password: "redis", database: "redisdemo" };

const HOST = "127.0.0.1";
const BIND_ATTEMPTS = 5;

/** How long a server that was told to stop may take, in milliseconds, before it is killed. */
const STOP_MS = 20_000;

/**
 * Starts a PostgreSQL on 127.0.0.1 and waits until it takes connections. As root it runs under an
 * unprivileged account, because PostgreSQL refuses to be root.
 *
 * @throws {NoEmbeddedServerError} where none is installed
 * @throws {Error} when it does not get ready, with the end of its log
 */
export async function startPostgres(options: PostgresOptions): Promise<PostgresServer> {
  const cluster = await prepareCluster(options.dir, EMBEDDED_DATABASE);
  const deadline = Date.now() + (options.deadlineMs ?? 60_000);
  for (let attempt = 1;;) {
    const port = freePort(attempt === 1 ? options.port : undefined);
    const server = await startPostmaster(cluster, port, options.extraSettings ?? {});
    const failure = await becomesReady(server, cluster, deadline);
    if (!failure) return postgresServer(server, port, cluster.dir);
    await stopPostgres(server, "immediate");
    const tail = await logTail(cluster.log);
    const predecessorLingers = await lingers(cluster, tail);
    const portTaken = tail.includes("could not create any TCP/IP sockets");
    if (predecessorLingers && Date.now() < deadline) await delay(50);
    else if (portTaken && attempt < BIND_ATTEMPTS) attempt++;
    else throw new Error(`PostgreSQL on ${HOST}:${port} ${failure}; the end of its log:\n${tail}`);
  }
}

/** Shuts down a PostgreSQL server by its identity, also one that another process started. */
export function stopPostgres(server: ProcessIdentity, mode: StopMode = "fast"): Promise<void> {
  return endProcess(server, mode === "fast" ? "SIGINT" : "SIGQUIT", STOP_MS);
}

async function startPostmaster(
  { program, data, log, account }: Cluster,
  port: number,
  extraSettings: Readonly<Record<string, string | number>>,
): Promise<ProcessIdentity> {
  await Deno.remove(log).catch(() => {}); // Only this start's lines explain a failure of this start.
  const settings = {
    listen_addresses: HOST,
    port,
    unix_socket_directories: "", // A socket's path must be short, and a checkout's may be long.
    ...extraSettings,
  };
  const args = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  return await startDetached(program("postgres"), ["-D", data, ...args], {
    log,
    account,
    cwd: data,
  });
}

/** Waits until the server takes connections; returns what is wrong when it does not. */
async function becomesReady(
  server: ProcessIdentity,
  { data }: Cluster,
  deadline: number,
): Promise<string | undefined> {
  while (Date.now() < deadline) {
    // As pg_ctl does: the first line is the postmaster's pid, the eighth its state.
    const lines = (await Deno.readTextFile(join(data, "postmaster.pid")).catch(() => "")).split(
      "\n",
    );
    if (lines[0] === String(server.pid) && lines[7]?.trim() === "ready") return undefined;
    if (!isAlive(server)) return "ended at once";
    await delay(20);
  }
  return "is not ready after its deadline";
}

/**
 * Tells whether the data folder is still held by what is left of a killed postmaster: itself, until it is
 * reaped, or its children, which take a moment to notice.
 */
async function lingers({ data }: Cluster, log: string): Promise<boolean> {
  if (/shared memory block .* is still in use/.test(log)) return true;
  if (!log.includes('lock file "postmaster.pid" already exists')) return false;
  const lock = await Deno.readTextFile(join(data, "postmaster.pid")).catch(() => "");
  return processStartTime(Number.parseInt(lock)) === undefined;
}

function postgresServer(identity: ProcessIdentity, port: number, dir: string): PostgresServer {
  const { user, password, database } = EMBEDDED_DATABASE;
  return {
    ...identity,
    ...EMBEDDED_DATABASE,
    host: HOST,
    port,
    url: `postgresql://${user}:${password}@${HOST}:${port}/${database}`,
    dir,
    stop: (mode) => stopPostgres(identity, mode),
    kill: async (signal = "SIGKILL") => {
      if (signal === "SIGKILL") await endProcess(identity, signal, STOP_MS);
      else signalProcess(identity, signal);
    },
  };
}
