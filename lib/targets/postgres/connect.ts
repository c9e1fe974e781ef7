/**
 * Connecting to PostgreSQL.
 * @module
 */

import pg from "pg";
import type { Config } from "../../config/load.ts";
import { ConnectionError, reasonOf } from "../../core/errors.ts";
import type { PostgresPool } from "./pool.ts";

class DisposablePool extends pg.Pool implements AsyncDisposable {
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.ending) await this.end();
  }
}

/**
 * Connects to PostgreSQL: a pool, whose first connection has been made and checked.
 * @throws {ConnectionError} with the address and the reason: refused, authentication, no such database,
 * older than 16
 */
export async function connectPostgres(config: Config): Promise<PostgresPool> {
  const { host, port, database, user, password, ssl, options, application_name } =
    config.postgresql;
  const pool = new DisposablePool({
    host,
    port,
    database,
    user,
    ...(password === null ? {} : { password }),
    ssl,
    ...(options === null ? {} : { options }),
    // A sink keeps one connection a partition and one for its leases, beside those for queries.
    max: 11 + config.entities.length * config.streams.partitions,
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    application_name,
    // We read dates and bytes in these formats, whatever the role's settings say.
    onConnect: async (client) => {
      await client.query("SET datestyle = 'ISO'; SET bytea_output = 'hex'; SET timezone = 'UTC'");
    },
  });
  // The pool replaces a connection that breaks while idle; without a listener it would end the process.
  pool.on("error", () => {});
  // Nobody listens to a connection between the pool and the caller that takes it. A query on it reports the loss.
  pool.on("connect", (client) => client.on("error", () => {}));
  try {
    const { rows } = await pool.query<{ version: string; number: number; encoding: string }>(
      `SELECT current_setting('server_version') AS version,
              current_setting('server_version_num')::int AS number,
              current_setting('server_encoding') AS encoding`,
    );
    const { version, number, encoding } = rows[0]!;
    if (number < 160000) throw new Error(`it is version ${version}, and 16 or newer is needed`);
    if (encoding !== "UTF8") {
      throw new Error(
        `the encoding of the database ${database} is ${encoding}, which cannot hold all documents; use one ` +
          "made with ENCODING 'UTF8'",
      );
    }
    return pool;
  } catch (cause) {
    await pool.end();
    throw new ConnectionError(
      `Cannot use PostgreSQL at ${host}:${port}: ${explainPostgres(cause, config)}`,
      { cause },
    );
  }
}

function explainPostgres(error: unknown, config: Config): string {
  const { database, user } = config.postgresql;
  const code = (error as { code?: string }).code;
  if (code === "ECONNREFUSED") {
    return "connection refused: nothing listens there; start PostgreSQL, or set postgresql.host and " +
      "postgresql.port";
  }
  if (code === "28P01" || code === "28000") {
    return `authentication failed for user ${user}: check postgresql.user and postgresql.password`;
  }
  if (code === "3D000") {
    return `there is no database ${database}: create it, or set postgresql.database`;
  }
  if (/must be a string/.test(reasonOf(error))) {
    return `the server wants a password for user ${user}: set postgresql.password`;
  }
  return reasonOf(error);
}
