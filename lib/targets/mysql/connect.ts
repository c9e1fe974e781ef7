/**
 * Connecting to MySQL and MariaDB.
 * @module
 */

import mysql, {
  type Connection,
  type Pool,
  type PoolConnection,
  type ResultSetHeader,
} from "mysql2/promise";
import type { Config, TargetConfig } from "../../config/config.ts";
import { databaseTrust, type NamedKey, serversObjection } from "../../config/tls.ts";
import { ConfigError, ConnectionError, reasonOf } from "../../core/errors.ts";
import { isMysqlError } from "./errors.ts";
import { guarded } from "./tls.ts";

export type { Connection, Pool, PoolConnection, ResultSetHeader };

/** Where the server is. */
export type MysqlAddress = Extract<TargetConfig, { kind: "mysql" }>;

/** What the statements depend on. */
export interface Flavor {
  readonly mariadb: boolean;
  /** the collation that compares texts byte for byte, spaces at their end too */
  readonly collation: string;
  /** bytes of a statement, at most */
  readonly maxPacket: number;
}

/** The oldest versions that have JSON_TABLE, window functions and the collation. */
const OLDEST = { mariadb: [10, 6, 0], mysql: [8, 0, 17] } as const;

/** How long a query may take that writes no rows and waits for nobody, in ms. */
const PATIENCE_MS = 5000;

/** What all our queries rely on, whatever the server's and the user's settings say. */
const settings = (mariadb: boolean): string[] => [
  "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', " +
  "time_zone = '+00:00', autocommit = 1, foreign_key_checks = 1, unique_checks = 1, " +
  `sql_safe_updates = 0, sql_select_limit = DEFAULT, lock_wait_timeout = 5${
    mariadb ? ", max_statement_time = 0" : ""
  }`,
  "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
];

/** The address for people, without secrets. */
export function addressOf({ host, port, database }: MysqlAddress): string {
  return `MySQL at ${host}:${port}/${database}`;
}

/**
 * Connects: a pool, whose first connection has been made and checked.
 * @throws {ConnectionError} with the address and the reason: refused, authentication, no such database, too old
 * @throws {ConfigError} where the target's `sslrootcert`, `sslcert` or `sslkey` is none
 */
export async function connectMysql(
  target: MysqlAddress,
  { entities, streams }: Config,
): Promise<{ pool: Pool; flavor: Flavor }> {
  const { host, port, database, user, password } = target;
  const trust = host.startsWith("/") ? null : databaseTrust(keysOf(target), target);
  const pool = mysql.createPool({
    ...(host.startsWith("/") ? { socketPath: host } : { host, port }),
    database,
    user,
    ...(password === null ? {} : { password }),
    ...(trust === null ? {} : { ssl: guarded(trust) }),
    charset: "utf8mb4",
    // A batch is one message, so that no transaction stands open while this process is stopped.
    multipleStatements: true,
    supportBigNumbers: true,
    bigNumberStrings: true,
    jsonStrings: true,
    dateStrings: true,
    connectTimeout: 10_000,
    // The sink of an entity keeps one connection a partition, beside those for queries.
    connectionLimit: 10 + entities.length * streams.partitions,
    enableKeepAlive: true,
    keepAliveInitialDelay: 10_000,
  });
  try {
    const flavor = await flavorOf(pool);
    // Each later connection has them before anything else is sent on it.
    pool.on("connection", (connection: unknown) => {
      const { query, destroy } = connection as {
        query(sql: string, done: (error: unknown) => void): void;
        destroy(): void;
      };
      for (const sql of settings(flavor.mariadb)) {
        query.call(connection, sql, (error) => {
          if (error) destroy.call(connection);
        });
      }
    });
    return { pool, flavor };
  } catch (error) {
    await pool.end().catch(() => {}); // the error is told
    if (error instanceof ConfigError) throw error;
    throw new ConnectionError(
      `Cannot connect to ${addressOf(target)}: ${explained(error, target)}`,
      {
        cause: error,
      },
    );
  }
}

async function flavorOf(pool: Pool): Promise<Flavor> {
  const connection = await pool.getConnection();
  try {
    const { version, packet } = (await rowsOf<{ version: string; packet: string }>(
      connection,
      "SELECT VERSION() AS version, @@max_allowed_packet AS packet",
    ))[0]!;
    const mariadb = /mariadb/i.test(version);
    const numbers = /^(?:5\.5\.5-)?(\d+)\.(\d+)\.(\d+)/.exec(version)?.slice(1).map(Number) ?? [];
    const oldest = OLDEST[mariadb ? "mariadb" : "mysql"];
    const differs = oldest.findIndex((number, at) => number !== numbers[at]);
    if (differs !== -1 && !(numbers[differs]! > oldest[differs]!)) {
      throw new ConfigError(
        `the server is ${
          mariadb ? "MariaDB" : "MySQL"
        } ${version}, and MySQL 8.0.17 or MariaDB 10.6 is needed, or newer`,
      );
    }
    for (const sql of settings(mariadb)) await connection.query(sql);
    return {
      mariadb,
      collation: mariadb ? "utf8mb4_nopad_bin" : "utf8mb4_0900_bin",
      maxPacket: Number(packet),
    };
  } finally {
    connection.release();
  }
}

const REMEDIES: Record<number, string> = {
  1044: "grant it to the user: GRANT ALL ON that database",
  1049: "create it: CREATE DATABASE … CHARACTER SET utf8mb4",
  1040: "raise max_connections, or start fewer sinks",
};
const ACCESS_DENIED = 1045;
/** MySQL's own; MariaDB says the one above. */
const TLS_DEMANDED = 3159;

const keysOf = ({ name }: MysqlAddress): NamedKey => (key) => `targets.${name}.${key}`;

function explained(error: unknown, target: MysqlAddress): string {
  const reason = reasonOf(error);
  const named = keysOf(target);
  const shown = target.sslcert !== null;
  const own = { certificate: named("sslcert"), key: named("sslkey") };
  const objection = serversObjection(reason, shown, own);
  if (objection !== null) return objection;
  if ((error as { code?: string }).code === "HANDSHAKE_NO_SSL_SUPPORT") {
    return `the server speaks no TLS: give it a certificate (ssl_cert, ssl_key), or set ${
      named("ssl")
    } to disable`;
  }
  if (!isMysqlError(error)) return reason;
  const { errno } = error;
  // The server tells no more.
  const denied = target.ssl === "disable"
    ? "ssl where the server demands TLS"
    : shown
    ? `that the server takes the certificate of ${own.certificate} for this user`
    : "sslcert where the server demands a certificate of this user";
  const remedy = errno === ACCESS_DENIED
    ? `check user and password of this target, and ${denied}`
    : errno === TLS_DEMANDED
    ? `set ${named("ssl")} to verify-full`
    : REMEDIES[errno];
  return remedy === undefined ? reason : `${reason}; ${remedy}`;
}

/** The rows of a query on a connection. */
export async function rowsOf<Row>(
  connection: Pick<Connection, "query">,
  sql: string,
  values: unknown[] = [],
): Promise<Row[]> {
  const [rows] = await connection.query(sql, values);
  return rows as Row[];
}

/** How many rows a statement has found to change. */
export async function changedBy(
  connection: Pick<Connection, "query">,
  sql: string,
  values: unknown[] = [],
): Promise<number> {
  const [result] = await connection.query(sql, values);
  return (result as ResultSetHeader).affectedRows;
}

/**
 * Works on any connection of the pool, abandoned after a while: nobody may hang on a dead connection.
 * @param patienceMs how long it may take, in ms
 */
export async function patiently<T>(
  pool: Pool,
  work: (connection: PoolConnection) => Promise<T>,
  patienceMs: number = PATIENCE_MS,
): Promise<T> {
  const connection = await pool.getConnection();
  const late = setTimeout(() => connection.destroy(), patienceMs);
  let broken = true;
  try {
    const result = await work(connection);
    broken = false;
    return result;
  } catch (error) {
    broken = !isMysqlError(error) || !await rolledBack(connection);
    throw error;
  } finally {
    clearTimeout(late);
    if (broken) connection.destroy();
    else connection.release();
  }
}

/** Ends a transaction that may be open. */
export async function rolledBack(connection: Connection): Promise<boolean> {
  try {
    await connection.query("ROLLBACK");
    return true;
  } catch {
    // The server rolls back what a lost connection has left.
    return false;
  }
}
