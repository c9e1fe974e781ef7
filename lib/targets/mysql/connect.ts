/**
 * Connecting to MySQL and MariaDB.
 * @module
 */

import mysql from "mysql2/promise";
import type { Config, TargetConfig } from "../../config/config.ts";
import { partitionsAtMost } from "../../config/shapes.ts";
import { databaseTrust, type NamedKey, serversObjection } from "../../config/tls.ts";
import { ConfigError, ConnectionError, reasonOf } from "../../core/errors.ts";
import { isMysqlError, remedyOf } from "./errors.ts";
import { type Connection, PATIENCE_MS, patiently, Pool, rowsOf } from "./pool.ts";
import { guarded } from "./tls.ts";

/** Where the server is. */
export type MysqlAddress = Extract<TargetConfig, { kind: "mysql" }>;

/** What the statements depend on. */
export interface Flavor {
  readonly mariadb: boolean;
  /** the collation that compares texts byte for byte, spaces at their end too */
  readonly collation: string;
  /** bytes of a statement, at most; the server's administrator may change it at any time */
  maxPacket: number;
}

/** The oldest versions that have JSON_TABLE, window functions and the collation. */
const OLDEST = { mariadb: [10, 6, 0], mysql: [8, 0, 17] } as const;

/** How long a connection may take until the server has taken the login, in ms. */
const CONNECT_MS = 10_000;

/** How long a session may be idle until the server closes it, in seconds: what a server has by itself. */
const IDLE_SECONDS = 28_800;

/**
 * What all our queries rely on, whatever the server's and the user's settings say. The driver tells the server its
 * charset when it logs in, which `init_connect` and `character_set_client_handshake` can overrule.
 */
const settings = (mariadb: boolean): string =>
  "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', " +
  "time_zone = '+00:00', autocommit = 1, completion_type = 'NO_CHAIN', foreign_key_checks = 1, " +
  "unique_checks = 1, sql_safe_updates = 0, sql_select_limit = DEFAULT, sql_big_selects = 1, " +
  // A session of ours may have nothing to do for long, and holds the lock of its partition.
  `lock_wait_timeout = 5, wait_timeout = ${IDLE_SECONDS}${
    mariadb ? ", max_statement_time = 0" : ""
  }; SET NAMES utf8mb4; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE`;

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
  config: Config,
): Promise<{ pool: Pool; flavor: Flavor }> {
  const { host, port, database, user, password } = target;
  const trust = host.startsWith("/") ? null : databaseTrust(keysOf(target), target);
  const pool = new Pool(mysql.createPool({
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
    connectTimeout: CONNECT_MS,
    // The sink of an entity keeps one connection a partition, and its own, beside those for queries.
    connectionLimit: 10 + config.entities.length * (1 + partitionsAtMost(config)),
    enableKeepAlive: true,
    keepAliveInitialDelay: 10_000,
  }));
  try {
    // The driver's own time ends first, and its error says more.
    const flavor = await patiently(pool, flavorOf, CONNECT_MS + PATIENCE_MS);
    pool.settings = settings(flavor.mariadb);
    pool.refused = (error) => refusedLogin(error, target);
    return { pool, flavor };
  } catch (error) {
    await pool.end();
    if (error instanceof ConfigError) throw error;
    throw refusedLogin(error, target);
  }
}

/** Tells of a connection that could not be made, with the address and what to do. */
const refusedLogin = (error: unknown, target: MysqlAddress): ConnectionError =>
  new ConnectionError(`Cannot connect to ${addressOf(target)}: ${explained(error, target)}`, {
    cause: error,
  });

/**
 * Takes over how large a statement may be now. Sessions keep what held when they began; one that sends more is closed
 * by the server, and the next one has what holds now.
 */
export async function refreshLimit(connection: Connection, flavor: Flavor): Promise<void> {
  const [row] = await rowsOf<{ packet: string }>(
    connection,
    "SELECT @@GLOBAL.max_allowed_packet AS packet",
  );
  flavor.maxPacket = Number(row!.packet);
}

async function flavorOf(connection: Connection): Promise<Flavor> {
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
  await connection.query(settings(mariadb));
  return {
    mariadb,
    collation: mariadb ? "utf8mb4_nopad_bin" : "utf8mb4_0900_bin",
    maxPacket: Number(packet),
  };
}

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
  const { code } = error as { code?: string };
  if (code === "ECONNREFUSED") {
    return `connection refused: nothing listens there; start MySQL or MariaDB, or set ${
      named("host")
    } and ${named("port")}`;
  }
  if (code === "HANDSHAKE_NO_SSL_SUPPORT") {
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
    : remedyOf(error);
  return remedy === undefined || reason.endsWith(remedy) ? reason : `${reason}; ${remedy}`;
}
