/** One embedded Redis Stack server. */

import { Redis } from "ioredis";
import { join } from "node:path";
import { findRedis, type RedisBinaries } from "./binaries.ts";
import {
  endProcess,
  freePort,
  isAlive,
  logTail,
  type ProcessIdentity,
  signalProcess,
  startDetached,
} from "./processes.ts";
import { delay } from "../../core/delay.ts";

/** A Redis server that this project started. */
export interface RedisServer extends ProcessIdentity {
  readonly host: string;
  readonly port: number;
  readonly url: string;
  /** The folder with its append-only file and its log. */
  readonly dir: string;
  /** Shuts it down in order, or by SIGKILL when it does not obey; does nothing when it has ended. */
  stop(): Promise<void>;
  /** Sends a signal; SIGKILL returns when the process has ended. */
  kill(signal?: Deno.Signal): Promise<void>;
}

/** What an embedded Redis may be told. */
export interface RedisOptions {
  /** The server's own folder; made where it is missing. Starting again on it loads its append-only file. */
  dir: string;
  /** The port to prefer; another is taken where it is busy. */
  port?: number;
  /** The primary of which the server is to be a replica; it is attached when `startRedis` returns. */
  replicaOf?: { host: string; port: number };
  /** Whether to keep an append-only file. @default {true} */
  appendonly?: boolean;
  /** When the append-only file reaches the disk. @default {"everysec"} */
  appendfsync?: "always" | "everysec" | "no";
  /** Further `redis-server` arguments, such as `["--maxmemory", "100mb"]`. */
  extraArgs?: readonly string[];
  /** The programs to run; found by themselves when absent. */
  binaries?: RedisBinaries;
  /** How long the server may take to be ready, in milliseconds. @default {30000} */
  deadlineMs?: number;
}

const HOST = "127.0.0.1";
const BIND_ATTEMPTS = 5;

/** How long a server that was told to stop may take, in milliseconds, before it is killed. */
const STOP_MS = 10_000;

/**
 * Starts a Redis with RedisJSON and RediSearch on 127.0.0.1 and waits until it answers.
 *
 * @throws {NoEmbeddedServerError} where no such Redis is installed
 * @throws {Error} when it does not get ready, with the end of its log
 */
export async function startRedis(options: RedisOptions): Promise<RedisServer> {
  const binaries = options.binaries ?? await findRedis();
  await Deno.mkdir(options.dir, { recursive: true });
  const dir = await Deno.realPath(options.dir);
  const log = join(dir, "redis.log");
  const deadline = Date.now() + (options.deadlineMs ?? 30_000);
  for (let attempt = 1;; attempt++) {
    const port = freePort(attempt === 1 ? options.port : undefined);
    await Deno.writeTextFile(log, "");
    const server = await startDetached(
      binaries.server,
      [...redisArgs(options, dir, port), ...binaries.modules.flatMap((m) => ["--loadmodule", m])],
      { log, cwd: dir, env: libraryPath(binaries) },
    );
    const failure = await becomesReady(server, port, options, deadline);
    if (!failure) return redisServer(server, port, dir);
    await endProcess(server, "SIGKILL", 0);
    const tail = await logTail(log);
    if (!tail.includes("Address already in use") || attempt === BIND_ATTEMPTS) {
      throw new Error(`Redis on ${HOST}:${port} ${failure}; the end of its log:\n${tail}`);
    }
  }
}

/** Shuts down a Redis server by its identity, also one that another process started. */
export function stopRedis(server: ProcessIdentity): Promise<void> {
  return endProcess(server, "SIGTERM", STOP_MS);
}

function redisServer(identity: ProcessIdentity, port: number, dir: string): RedisServer {
  return {
    ...identity,
    host: HOST,
    port,
    url: `redis://${HOST}:${port}`,
    dir,
    stop: () => stopRedis(identity),
    kill: async (signal = "SIGKILL") => {
      if (signal === "SIGKILL") await endProcess(identity, signal, STOP_MS);
      else signalProcess(identity, signal);
    },
  };
}

function redisArgs(options: RedisOptions, dir: string, port: number): string[] {
  const { replicaOf, appendonly = true, appendfsync = "everysec", extraArgs = [] } = options;
  return [
    ["--port", String(port)],
    ["--bind", HOST],
    ["--dir", dir],
    ["--save", ""],
    ["--appendonly", appendonly ? "yes" : "no"],
    ["--appendfsync", appendfsync],
    ["--maxmemory-policy", "noeviction"],
    ["--enable-debug-command", "local"],
    // A replica attaches at once, and a lost one is noticed within seconds.
    ["--repl-diskless-sync-delay", "0"],
    ["--repl-ping-replica-period", "2"],
    ["--repl-timeout", "15"],
    ["--shutdown-timeout", "3"],
    replicaOf ? ["--replicaof", `${replicaOf.host} ${replicaOf.port}`] : [],
    extraArgs,
  ].flat();
}

function libraryPath({ libraries }: RedisBinaries): Record<string, string> {
  if (!libraries) return {};
  const inherited = Deno.env.get("LD_LIBRARY_PATH");
  return { LD_LIBRARY_PATH: inherited ? `${libraries}:${inherited}` : libraries };
}

/** Waits until the server answers; returns what is wrong when it does not. */
async function becomesReady(
  server: ProcessIdentity,
  port: number,
  { replicaOf, extraArgs }: RedisOptions,
  deadline: number,
): Promise<string | undefined> {
  let state = "does not answer";
  while (Date.now() < deadline) {
    if (!isAlive(server)) return "ended at once";
    try {
      const info = await askInfo(port);
      // Another server may have won the port between its choice and its use.
      const mine = info.includes(`process_id:${server.pid}\r`);
      const loaded = info.includes("\nloading:0\r");
      // With its first append-only file written: until then it can neither confirm a WAITAOF nor shut down.
      const attached = !replicaOf ||
        ["master_link_status:up", "aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"]
          .every((line) => info.includes(line));
      if (mine && loaded && attached) return undefined;
      state = !mine ? "found its port taken" : !loaded ? "is still loading" : "is not attached";
    } catch (error) {
      // A server that was told to demand a password answers just so.
      if (extraArgs?.includes("--requirepass") && String(error).includes("NOAUTH")) {
        return undefined;
      }
    }
    await delay(20);
  }
  return `${state} after its deadline`;
}

async function askInfo(port: number): Promise<string> {
  const client = new Redis({
    host: HOST,
    port,
    enableReadyCheck: false,
    maxRetriesPerRequest: 0,
    retryStrategy: null,
    connectTimeout: 2_000,
  });
  client.on("error", () => {}); // The rejected call says the same.
  const ended = new Promise((resolve) => client.once("end", resolve));
  try {
    return await client.info();
  } finally {
    // On a connection that failed, disconnect() would only leave a timer behind.
    if (client.status === "ready" || client.status === "connect") client.disconnect();
    await ended;
  }
}
