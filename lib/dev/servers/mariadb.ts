/** One MariaDB server, where its programs are installed. */

import { join } from "node:path";
import { findMariadb } from "./binaries.ts";
import { privateFolder, writePrivateFile } from "./passwords.ts";
import { endProcess, type ProcessIdentity } from "./processes.ts";
import { HOST, killServer, type Server, type ServerOptions, startServer } from "./server.ts";

/** A MariaDB server that this project started. */
export interface MariadbServer extends Server {
  readonly user: string;
  readonly password: string;
}

/** Options of {@linkcode startMariadb}. */
export interface MariadbOptions extends ServerOptions {
  /** Letters and digits: the password of the user `app`. */
  password: string;
  /** Made where it is missing, and all that the user may use. @default {none: the user may do everything} */
  database?: string;
  /** `mariadbd` arguments that win over ours, such as `["--max-allowed-packet=1M"]`. */
  extraArgs?: readonly string[];
}

/** How long a server may take to stop, in milliseconds, before it is killed. */
const STOP_MS = 10_000;
const USER = "app";

/**
 * Starts a MariaDB on 127.0.0.1 and waits until it takes connections. Debian's package is `mariadb-server`.
 *
 * @throws {NoEmbeddedServerError} where `mariadbd` is not on the PATH
 * @throws {Error} when it does not get ready, with the end of its log
 */
export async function startMariadb(options: MariadbOptions): Promise<MariadbServer> {
  const { password, port, database, extraArgs = [] } = options;
  const program = await findMariadb();
  const dir = await privateFolder(options.dir);
  const data = join(dir, "data");
  const as = Deno.uid() === 0 ? ["--user=root"] : [];
  // One that starts removes what looks like a temporary table in its folder, also that of another server.
  const temporary = join(dir, "tmp");
  await Deno.mkdir(temporary, { recursive: true });
  const begun = await Deno.stat(data).then(() => true, () => false); // it is made then, or told why not
  if (!begun) await initialise([...as, `--datadir=${data}`, `--tmpdir=${temporary}`]);
  const users = join(dir, "users.sql");
  await writePrivateFile(
    users,
    [
      `CREATE OR REPLACE USER '${USER}'@'%' IDENTIFIED BY '${password}'`,
      // Its own default is latin1.
      ...(database === undefined ? [`GRANT ALL ON *.* TO '${USER}'@'%' WITH GRANT OPTION`] : [
        `CREATE DATABASE IF NOT EXISTS ${database} CHARACTER SET utf8mb4`,
        `GRANT ALL ON ${database}.* TO '${USER}'@'%'`,
      ]),
    ].map((sql) => `${sql};\n`).join(""),
  );
  const log = join(dir, "mariadb.log");
  const server = await startServer(
    {
      title: "MariaDB",
      log,
      cwd: dir,
      command: (port) => [
        program,
        "--no-defaults",
        ...as,
        `--datadir=${data}`,
        `--tmpdir=${temporary}`,
        `--port=${port}`,
        `--bind-address=${HOST}`,
        "--socket=s", // in its data: a socket's path must be short, and a checkout's may be long
        `--pid-file=${join(dir, "pid")}`,
        `--init-file=${users}`,
        "--skip-name-resolve",
        "--skip-log-bin",
        ...extraArgs,
      ],
      lacks: async () =>
        (await Deno.readTextFile(log)).includes("ready for connections")
          ? undefined
          : "does not take connections",
      portTaken: "Address already in use",
      giveUp: "SIGKILL",
    },
    port,
  );
  return {
    ...server,
    host: HOST,
    url: `mysql://${USER}:${password}@${HOST}:${server.port}/${database ?? ""}`,
    user: USER,
    password,
    dir,
    stop: () => stopMariadb(server),
    kill: (signal) => killServer(server, signal),
  };
}

/** Shuts down a MariaDB server by its identity, also one that another process started. */
export function stopMariadb(server: ProcessIdentity): Promise<void> {
  return endProcess(server, "SIGTERM", STOP_MS);
}

async function initialise(as: readonly string[]): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command("mariadb-install-db", {
    args: [
      "--no-defaults",
      ...as,
      "--auth-root-authentication-method=socket",
      "--skip-test-db",
    ],
    stdin: "null",
  }).output();
  if (success) return;
  const said = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("").trim();
  throw new Error(`mariadb-install-db has failed: ${said}`);
}
