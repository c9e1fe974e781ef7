/**
 * Starting and stopping the servers of a checkout one by one, under the lock: the record tells of each as soon as it is ready.
 * @module
 */

import { join } from "node:path";
import { servicesFolder } from "../../config/checkout.ts";
import { answers } from "../../config/probe.ts";
import {
  type ProcessIdentity,
  type RecordedServer,
  type ServersRecord,
  type ServiceName,
  writeRecord,
} from "../../config/record.ts";
import type { ServerSettings } from "../../config/servers.ts";
import { NoEmbeddedServerError } from "./binaries.ts";
import type { Progress } from "./lock.ts";
import { startMariadb, stopMariadb } from "./mariadb.ts";
import type { Passwords } from "./passwords.ts";
import { startPostgres, stopPostgres } from "./postgres.ts";
import { DATABASE } from "./postgres_roles.ts";
import { isAlive, processStartTime } from "./processes.ts";
import { startRedis, stopRedis } from "./redis.ts";
import { HOST } from "./server.ts";

const TITLES: Record<ServiceName, string> = {
  redis: "Redis",
  replica: "Redis replica",
  postgres: "PostgreSQL",
  mysql: "MariaDB",
};
/** The port that clients of MySQL expect. */
const MYSQL_PORT = 3306;

/** One start under the lock; keeps the record up to date as each server gets ready. */
export class Start {
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

  /** Redis, and its replica. */
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
    start: (options: { dir: string; port?: number | undefined }) => Promise<RecordedServer>,
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

/** Stops a server that runs. */
export function stopServer(name: ServiceName, server: RecordedServer): Promise<void> {
  switch (name) {
    case "postgres":
      return stopPostgres(server);
    case "mysql":
      return stopMariadb(server);
    default:
      return stopRedis(server);
  }
}
