/** One embedded PostgreSQL server. */

import { join } from "node:path";
import { type Passwords, readPasswords } from "./passwords.ts";
import { prepareData } from "./postgres_data.ts";
import { APPLICATION, DATABASE, OWNER } from "./postgres_roles.ts";
import { endProcess, type ProcessIdentity, processStartTime } from "./processes.ts";
import { HOST, killServer, type Server, type ServerOptions, startServer } from "./server.ts";

/** A PostgreSQL server that this project started. */
export interface PostgresServer extends Server {
  /** The application's role: it may make databases and roles, and is no superuser. */
  readonly user: string;
  readonly password: string;
  readonly database: string;
  /** The address of the owner, a superuser, with its password: never to be shown. */
  readonly ownerUrl: string;
  stop(mode?: StopMode): Promise<void>;
}

/** `fast` disconnects everyone and writes a checkpoint; `immediate` is like a crash: the next start repairs the data. */
export type StopMode = "fast" | "immediate";

/** Options of {@linkcode startPostgres}. */
export interface PostgresOptions extends ServerOptions {
  /** Settings on top of PostgreSQL's own defaults, such as `{ statement_timeout: "5s" }`. */
  extraSettings?: Readonly<Record<string, string | number>>;
  /** Those that its roles get. @default {those of this checkout} */
  passwords?: Passwords;
}

/** How long a server may take to stop, in milliseconds, before it is killed. */
const STOP_MS = 20_000;

/**
 * Starts a PostgreSQL on 127.0.0.1 and waits until it takes connections. As root it runs
 * under an unprivileged account, since PostgreSQL refuses to run as root.
 *
 * @throws {NoEmbeddedServerError} where none is installed
 * @throws {Error} when it does not get ready, with the end of its log
 */
export async function startPostgres(options: PostgresOptions): Promise<PostgresServer> {
  const passwords = options.passwords ?? await readPasswords();
  const { dir, data, account, program } = await prepareData(options.dir, passwords);
  // As pg_ctl does: the first line is the postmaster's pid, the eighth its state; none is there at first.
  const lockFile = async () =>
    (await Deno.readTextFile(join(data, "postmaster.pid")).catch(() => "")).split("\n"); // not there
  const server = await startServer(
    {
      title: "PostgreSQL",
      log: join(dir, "postgres.log"),
      cwd: data,
      account,
      command: (port) => [program, "-D", data, ...settings(port, options)],
      lacks: async ({ pid }) => {
        const lines = await lockFile();
        const ready = lines[0] === String(pid) && lines[7]?.trim() === "ready";
        return ready ? undefined : "is not ready";
      },
      portTaken: "could not create any TCP/IP sockets",
      // What is left of a killed postmaster: itself, until it is reaped, or its children, which take a
      // moment to notice.
      mustWait: async (log) =>
        /shared memory block .* is still in use/.test(log) ||
        log.includes('lock file "postmaster.pid" already exists') &&
          processStartTime(Number.parseInt((await lockFile())[0]!)) === undefined,
      giveUp: "SIGQUIT",
    },
    options.port,
  );
  const address = (user: string, password: string) =>
    `postgresql://${user}:${password}@${HOST}:${server.port}/${DATABASE}`;
  return {
    ...server,
    user: APPLICATION,
    password: passwords.application,
    database: DATABASE,
    host: HOST,
    url: address(APPLICATION, passwords.application),
    ownerUrl: address(OWNER, passwords.owner),
    dir,
    stop: (mode) => stopPostgres(server, mode),
    kill: (signal) => killServer(server, signal),
  };
}

/** Shuts down a PostgreSQL server by its identity, also one that another process started. */
export function stopPostgres(server: ProcessIdentity, mode: StopMode = "fast"): Promise<void> {
  return endProcess(server, mode === "fast" ? "SIGINT" : "SIGQUIT", STOP_MS);
}

function settings(port: number, { extraSettings }: PostgresOptions): string[] {
  const all = {
    listen_addresses: HOST,
    port,
    unix_socket_directories: "", // A socket's path must be short, and a checkout's may be long.
    ...extraSettings,
  };
  return Object.entries(all).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
}
