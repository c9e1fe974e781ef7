/**
 * Servers of one's own, to be broken: nobody else's data is near, and they are gone with the process.
 * @module
 */

import { parseConfig } from "../../config/load.ts";
import { type ResolvedServers, resolveServers, type ServerSettings } from "../../config/servers.ts";
import { NoEmbeddedServerError } from "./binaries.ts";
import { ServersFolder } from "./folder.ts";
import { freePort } from "./processes.ts";
import { crashPostgres, type Progress, startServices, stopServices } from "./services.ts";

/** The servers, and what may be done to them. */
export interface OwnServers extends ResolvedServers, AsyncDisposable {
  /**
   * Stops PostgreSQL like a crash.
   * @returns whether it did: a server that is not ours is left alone
   */
  stopPostgres(): Promise<boolean>;
  /** Starts it again, on its port, with its data. */
  startPostgres(): Promise<void>;
}

/**
 * Starts a Redis with a replica, and a PostgreSQL, all empty. Disposing of them removes their data; where the process
 * ends without that, they end as well. Where no embedded servers exist for this machine, they are those that every
 * command uses, and nothing of them is stopped.
 * @throws {NoEmbeddedServerError} where there are neither
 */
export async function startOwnServers(
  { config, onProgress = () => {} }: { config: ServerSettings; onProgress?: Progress },
): Promise<OwnServers> {
  const folder = new ServersFolder("writebehind-own-");
  const ports = parseConfig(
    `redis: { port: ${freePort()} }\npostgresql: { port: ${freePort()} }`,
    "servers of one's own",
  );
  const options = { root: folder.path, config: ports, onProgress, env: () => undefined };
  try {
    const { redisUrl, databaseUrl, source } = await startServices(options);
    return {
      redisUrl,
      databaseUrl,
      source,
      stopPostgres: () => crashPostgres(options),
      startPostgres: async () => void await startServices(options),
      [Symbol.asyncDispose]: async () => {
        await stopServices(options);
        await folder[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await folder[Symbol.asyncDispose]();
    if (!(error instanceof NoEmbeddedServerError)) throw error;
    onProgress(`no servers of one's own exist here, so nothing can be stopped: ${error.message}`);
  }
  return {
    ...await resolveServers(config),
    stopPostgres: () => Promise.resolve(false),
    startPostgres: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
