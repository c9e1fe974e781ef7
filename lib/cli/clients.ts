/** `deno task redis-cli` and `deno task psql`: the servers' own clients, on the servers that every command uses. */

import type { Command } from "commander";
import type { Config } from "../config/load.ts";
import { usesPostgres } from "../config/servers.ts";
import { ConfigError, WriteBehindError } from "../core/errors.ts";
import { type Node, nodeOf } from "../redis/nodes.ts";
import { CONFIG, configured } from "./common.ts";

/** A program to run. Passwords go by its environment: everybody may see the arguments of a process. */
interface Client {
  program: string;
  args: string[];
  env: Record<string, string>;
}

/** Where redis-cli is to go; a socket's path stands in the place of a host. */
export function redisClient({ redis }: Config, { host, port }: Node, program: string): Client {
  const { db, username, password, tls, cluster } = redis;
  const { tls_ca_file, tls_cert_file, tls_key_file } = redis;
  return {
    program,
    args: [
      ...(host.startsWith("/") ? ["-s", host] : ["-h", host, "-p", String(port)]),
      ...(db === 0 ? [] : ["-n", String(db)]),
      ...(cluster === null ? [] : ["-c"]), // it goes where a key is
      ...(username === null ? [] : ["--user", username]),
      ...(tls ? ["--tls"] : []),
      ...(tls && tls_ca_file !== null ? ["--cacert", tls_ca_file] : []),
      ...(tls && tls_cert_file !== null ? ["--cert", tls_cert_file] : []),
      ...(tls && tls_key_file !== null ? ["--key", tls_key_file] : []),
    ],
    env: password === null ? {} : { REDISCLI_AUTH: password },
  };
}

/** Where psql is to go, in libpq's variables. */
export function postgresClient({ postgresql }: Config, program: string): Client {
  const { host, port, database, user, password, ssl, options } = postgresql;
  const { sslrootcert, sslcert, sslkey } = postgresql;
  const mode = ssl === true ? "verify-full" : ssl === false ? "disable" : ssl;
  return {
    program,
    args: [],
    env: {
      PGHOST: host,
      PGPORT: String(port),
      PGDATABASE: database,
      PGUSER: user,
      PGSSLMODE: mode,
      ...(password === null ? {} : { PGPASSWORD: password }),
      ...(sslrootcert === null ? {} : { PGSSLROOTCERT: sslrootcert }),
      ...(sslcert === null ? {} : { PGSSLCERT: sslcert }),
      ...(sslkey === null ? {} : { PGSSLKEY: sslkey }),
      ...(options ? { PGOPTIONS: options } : {}),
    },
  };
}

/** Runs a client in the terminal's own place, and ends with its status. */
async function run({ program, args, env }: Client, more: string[]): Promise<void> {
  // Ctrl-C is for the client, which ends a query by it.
  const ignore = () => {};
  Deno.addSignalListener("SIGINT", ignore);
  try {
    const client = new Deno.Command(program, {
      args: [...args, ...more],
      env,
      stdin: "inherit",
      stdout: "inherit",
      stderr: "inherit",
    }).spawn();
    Deno.exitCode = (await client.status).code;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new WriteBehindError(
      `there is no ${program} on the PATH: install it ` +
        `(Debian and Ubuntu: apt install ${PACKAGES[program]}), then run the same command again`,
      { cause: error },
    );
  } finally {
    Deno.removeSignalListener("SIGINT", ignore);
  }
}

const PACKAGES: Record<string, string> = {
  "redis-cli": "redis-tools",
  psql: "postgresql-client",
};

/** Adds both to the command line. What follows them goes to the client: its options too. */
export function addClients(program: Command): void {
  const client = (name: string, what: string, start: (config: Config) => Promise<Client>) =>
    program.command(name)
      .description(
        `${what}; what follows goes to it, such as ${name === "psql" ? '-c "…"' : "PING"}`,
      )
      .argument("[args...]")
      .option(...CONFIG)
      .allowUnknownOption()
      .passThroughOptions()
      .action(async (args: string[], { config: path }: { config?: string }) =>
        await run(await start(await configured(path, console.error)), args)
      );
  client("redis-cli", "redis-cli on the Redis that every command uses", async (config) => {
    const { findRedisClient } = await import("../dev/servers/binaries.ts");
    const { program, env } = await findRedisClient();
    const client = redisClient(config, await nodeOf(config), program);
    return { ...client, env: { ...env, ...client.env } };
  });
  client("psql", "psql on the PostgreSQL that every command uses", (config) => {
    if (usesPostgres(config)) return Promise.resolve(postgresClient(config, "psql"));
    throw new ConfigError("targets: the target is no PostgreSQL, which psql needs");
  });
}
