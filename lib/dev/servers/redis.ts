/** One embedded Redis Stack server. */

import { join } from "node:path";
import { isInfoOf, redisInfo } from "../../config/probe.ts";
import { findRedis, libraryPath, type RedisBinaries } from "./binaries.ts";
import { privateFolder, writePrivateFile } from "./passwords.ts";
import { endProcess, type ProcessIdentity } from "./processes.ts";
import { HOST, killServer, type Server, type ServerOptions, startServer } from "./server.ts";

/** A Redis server that this project started. */
export type RedisServer = Server;

/** Options of {@linkcode startRedis}. */
export interface RedisOptions extends ServerOptions {
  /** The primary of which the server is to be a replica; it is attached when `startRedis` returns. */
  replicaOf?: { host: string; port: number } | undefined;
  /** Letters and digits: what clients, and a replica of this server, need; also its primary's. @default {none} */
  password?: string;
  /** `redis-server` arguments that win over ours, such as `["--appendfsync", "always"]`. */
  extraArgs?: readonly string[] | undefined;
  /** The programs to run. @default {those that {@linkcode findRedis} finds} */
  binaries?: RedisBinaries;
}

/** How long a server may take to stop, in milliseconds, before it is killed. */
const STOP_MS = 10_000;

/**
 * Starts a Redis with RedisJSON and RediSearch on 127.0.0.1 and waits until it answers.
 *
 * @throws {NoEmbeddedServerError} where no such Redis is installed
 * @throws {Error} when it does not get ready, with the end of its log
 */
export async function startRedis(options: RedisOptions): Promise<RedisServer> {
  const binaries = options.binaries ?? await findRedis();
  const dir = await privateFolder(options.dir);
  const { password = "" } = options;
  const secrets = password === "" ? [] : await secretArgs(dir, password);
  const server = await startServer(
    {
      title: "Redis",
      log: join(dir, "redis.log"),
      cwd: dir,
      env: libraryPath(binaries),
      command: (port) => [
        binaries.server,
        ...redisArgs(options, dir, port, secrets),
        ...binaries.modules.flatMap((module) => ["--loadmodule", module]),
      ],
      lacks: (server, port) => lacks(server, port, options),
      portTaken: "Address already in use",
      giveUp: "SIGKILL",
    },
    options.port,
  );
  return {
    ...server,
    host: HOST,
    url: `redis://${password === "" ? "" : `:${password}@`}${HOST}:${server.port}`,
    dir,
    stop: () => stopRedis(server),
    kill: (signal) => killServer(server, signal),
  };
}

/** Shuts down a Redis server by its identity, also one that another process started. */
export function stopRedis(server: ProcessIdentity): Promise<void> {
  return endProcess(server, "SIGTERM", STOP_MS);
}

/** Hands over a password in a file, since everybody may see the arguments of a process. */
async function secretArgs(dir: string, password: string): Promise<string[]> {
  const path = join(dir, "secrets.conf");
  await writePrivateFile(path, `requirepass ${password}\nmasterauth ${password}\n`);
  return ["--include", path];
}

function redisArgs(
  options: RedisOptions,
  dir: string,
  port: number,
  secrets: readonly string[],
): string[] {
  const { replicaOf, extraArgs = [] } = options;
  return [
    ["--port", String(port)],
    ["--bind", HOST],
    ["--dir", dir],
    ["--save", ""],
    ["--appendonly", "yes"],
    ["--maxmemory-policy", "noeviction"],
    ["--enable-debug-command", "no"],
    // A replica attaches at once, and a lost one is noticed within seconds.
    ["--repl-diskless-sync-delay", "0"],
    ["--repl-ping-replica-period", "2"],
    ["--repl-timeout", "15"],
    ["--shutdown-timeout", "3"],
    replicaOf ? ["--replicaof", `${replicaOf.host} ${replicaOf.port}`] : [],
    secrets,
    extraArgs,
  ].flat();
}

async function lacks(
  server: ProcessIdentity,
  port: number,
  { replicaOf, extraArgs, password = "" }: RedisOptions,
): Promise<string | undefined> {
  const info = await redisInfo(port, password).catch(() => ""); // Nothing listens there yet.
  if (info === "") return "does not answer";
  // This is how a server answers that demands a password.
  if (info.startsWith("-NOAUTH") && extraArgs?.includes("--requirepass")) return undefined;
  // Another server may have won the port between its choice and its use.
  if (!isInfoOf(server, info)) return "found its port taken";
  if (!info.includes("\nloading:0\r")) return "is still loading";
  // Until its first append-only file is written, it can neither confirm a WAITAOF nor shut down.
  const attached = !replicaOf ||
    ["master_link_status:up", "aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"]
      .every((line) => info.includes(line));
  return attached ? undefined : "is not attached to its primary";
}
