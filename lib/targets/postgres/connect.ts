/**
 * Connecting to PostgreSQL.
 * @module
 */

import type { TLSSocket } from "node:tls";
import type { EventEmitter } from "node:events";
import { nextTick } from "node:process";
// @ts-types="@types/pg"
import pg, { type PoolClient } from "pg";
import type { PostgresTargetConfig } from "../../config/config.ts";
import type { Config } from "../../config/load.ts";
import {
  answerTo,
  databaseTrust,
  type NamedKey,
  serversObjection,
  type Trust,
} from "../../config/tls.ts";
import { ConfigError, ConnectionError, reasonOf } from "../../core/errors.ts";
import type { PostgresPool } from "./pool.ts";
import { afterwards, patiently, settle } from "./sessions.ts";

/** Tables are named without a schema, so a table that the search path does not show, and that is there once, is added. */
const SEARCH_PATH = `
WITH hidden AS (
  SELECT min(n.nspname::text) AS schema
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relname = ANY($2) AND c.relkind IN ('r', 'p') AND to_regclass(quote_ident(c.relname)) IS NULL
     AND n.nspname NOT LIKE 'pg\\_%'
   GROUP BY c.relname
  HAVING count(*) = 1
)
SELECT wanted, format('ALTER ROLE %I IN DATABASE %I SET search_path = %s', current_user, current_database(), wanted) AS mend
  FROM (SELECT coalesce(quote_ident($1), concat_ws(', ',
                 nullif(current_setting('search_path'), ''),
                 (SELECT string_agg(DISTINCT quote_ident(schema), ', ') FROM hidden))) AS wanted) AS path
 WHERE wanted <> current_setting('search_path') AND ($1::text IS NOT NULL OR EXISTS (SELECT FROM hidden))`;

/** What pg has, and its types do not. */
interface OwnClient {
  connection: EventEmitter & { stream: TLSSocket };
}

/** A client that sends no password to a server that is not trusted. */
function guardedClient(trust: Trust): typeof pg.Client {
  return class extends pg.Client {
    constructor(config?: string | pg.ClientConfig) {
      super(config);
      const { connection } = this as unknown as OwnClient;
      connection.on("sslconnect", () => trust.guard(connection.stream));
    }
  };
}

/** How long connections may take to close, in ms; then their sockets are destroyed. */
const CLOSE_MS = 2000;

/** How pg gives a connection to a callback. */
type Taken = Parameters<pg.Pool["connect"]>[0];

class DisposablePool extends pg.Pool implements AsyncDisposable {
  /** of connections that nobody has taken out, and of those that are being closed */
  #idle = new Map<PoolClient, TLSSocket>();

  constructor(options: pg.PoolConfig) {
    super(options);
    this.on("acquire", (client) => this.#idle.delete(client));
    this.on("release", (_, client) => {
      this.#idle.set(client, (client as unknown as OwnClient).connection.stream);
    });
    this.on("remove", (client) => this.#idle.delete(client));
  }

  /** What pg says of a pool that is closed is an error like any other. */
  override connect(): Promise<PoolClient>;
  override connect(callback: Taken): void;
  override connect(callback?: Taken): Promise<PoolClient> | void {
    if (!this.ending) return callback ? super.connect(callback) : super.connect();
    const { host, port, database } = this.options;
    const error = new ConnectionError(
      `The pool for PostgreSQL at ${host}:${port}/${database} was ended before: nothing was sent`,
    );
    if (!callback) return Promise.reject(error);
    nextTick(callback, error, undefined, () => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.ending) return;
    // One that has silently died never says that it has ended, and pg would wait for that.
    const timer = setTimeout(() => {
      for (const socket of this.#idle.values()) socket.destroy();
    }, CLOSE_MS);
    try {
      await this.end();
    } finally {
      clearTimeout(timer);
    }
  }
}

const OF_SECTION: NamedKey = (key) => `postgresql.${key}`;

/** The files that `postgresql` may name for all targets. */
const FILES = ["sslrootcert", "sslcert", "sslkey"] as const;

/** How messages name the keys of a target: where they are written, or where one helps that target alone. */
export function keysOf(target: PostgresTargetConfig, section: Config["postgresql"]): NamedKey {
  const files = FILES.filter((key) => section[key] !== null);
  return (key) => {
    const isOwn = key in target || target.host !== undefined && !files.some((file) => file === key);
    return isOwn ? `targets.${target.name}.${key}` : OF_SECTION(key);
  };
}

/**
 * Connects to PostgreSQL: a pool, whose first connection has been made and checked.
 * @throws {ConnectionError} with the address and the reason: refused, authentication, no such database,
 * older than 16
 * @throws {ConfigError} where `postgresql.sslrootcert`, `sslcert` or `sslkey` is none
 */
export async function connectPostgres(
  config: Config,
  named: NamedKey = OF_SECTION,
): Promise<PostgresPool> {
  const { host, port, database, user, password, options, application_name, schema } =
    config.postgresql;
  const trust = host.startsWith("/") ? null : databaseTrust(named, config.postgresql);
  const tables = ["writebehind_offset", ...config.entities.map(({ table }) => table)];
  const pool = new DisposablePool({
    host,
    port,
    database,
    user,
    ...(password === null ? {} : { password }),
    ...(trust === null ? { ssl: false } : { ssl: trust.options, Client: guardedClient(trust) }),
    ...(options === null ? {} : { options }),
    // A sink keeps a few connections for its batches and one for its leases, beside those for queries.
    max: 10 + config.entities.length * (config.write_behind.connections + 1),
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    application_name,
    onConnect: async (client) => {
      const { isPooled } = await settle(client, "queries");
      const { rows: [path] } = await patiently<{ wanted: string; mend: string }>(
        client,
        SEARCH_PATH,
        [
          schema,
          tables,
        ],
      );
      if (path === undefined) return;
      if (isPooled) {
        throw new ConfigError(
          `behind a pooler no search path can be set for a session: ${afterwards(path.mend)}`,
        );
      }
      await patiently(client, "SELECT set_config('search_path', $1, false)", [path.wanted]);
    },
  });
  // The pool replaces a connection that breaks while idle; without a listener it would end the process.
  pool.on("error", () => {});
  // Nobody listens to a connection between the pool and the caller that takes it. A query on it reports the loss.
  pool.on("connect", (client) => client.on("error", () => {}));
  try {
    const { rows } = await pool.query<
      { version: string; number: number; encoding: string; schema: string | null }
    >(
      `SELECT current_setting('server_version') AS version,
              current_setting('server_version_num')::int AS number,
              current_setting('server_encoding') AS encoding,
              to_regnamespace(quote_ident($1))::text AS schema`,
      [schema],
    );
    const { version, number, encoding, schema: found } = rows[0]!;
    if (number < 160000) throw new Error(`it is version ${version}, and 16 or newer is needed`);
    if (encoding !== "UTF8") {
      throw new Error(
        `the encoding of the database ${database} is ${encoding}, which cannot hold all documents; use one ` +
          "made with ENCODING 'UTF8'",
      );
    }
    if (schema !== null && found === null) {
      throw new Error(
        `there is no schema ${schema} in the database ${database}: create it, or set postgresql.schema`,
      );
    }
    return pool;
  } catch (cause) {
    await pool[Symbol.asyncDispose]();
    const why = await explainPostgres(cause, config, named);
    throw new ConnectionError(`Cannot use PostgreSQL at ${host}:${port}: ${why}`, { cause });
  }
}

async function explainPostgres(
  error: unknown,
  config: Config,
  named: NamedKey,
): Promise<string> {
  const { host, port, database, user } = config.postgresql;
  const { code, routine } = error as { code?: string; routine?: string };
  const reason = reasonOf(error);
  const { sslcert } = config.postgresql;
  const objection = serversObjection(reason, sslcert !== null, {
    certificate: named("sslcert"),
    key: named("sslkey"),
  });
  if (objection !== null) return objection;
  if (code === "ECONNREFUSED") {
    return `connection refused: nothing listens there; start PostgreSQL, or set ${
      named("host")
    } and ${named("port")}`;
  }
  // Poolers and hosted servers have words of their own for it.
  if (routine === PG_HBA || /\b(ssl|tls)|insecure/i.test(reason)) {
    if (reason === "The server does not support SSL connections") {
      return `the server speaks no TLS: turn its ssl on, or set ${named("ssl")} to disable`;
    }
    if (
      databaseTrust(named, config.postgresql) === null &&
      await answerTo(host, port, SSL_REQUEST) === "S"
    ) {
      const or = named("ssl") === OF_SECTION("ssl")
        ? ", or sslmode=verify-full in DATABASE_URL"
        : "";
      return `${reason}: the server speaks TLS, set ${named("ssl")} to verify-full${or}`;
    }
    return reason;
  }
  if (code === "28P01" || code === "28000") {
    const certificate = sslcert === null
      ? ""
      : `, and that the certificate of ${named("sslcert")} is of ${user}`;
    return `authentication failed for user ${user}: check ${named("user")} and ${
      named("password")
    }${certificate}`;
  }
  if (code === "3D000") {
    return `there is no database ${database}: create it, or set ${named("database")}`;
  }
  if (/must be a string/.test(reason)) {
    return `the server wants a password for user ${user}: set ${named("password")}`;
  }
  return reason;
}

/** Where the server decides by its pg_hba.conf, whatever the language of its messages. */
const PG_HBA = "ClientAuthentication";

/** libpq's question whether the server speaks TLS; `S` is yes. */
const SSL_REQUEST = "\x00\x00\x00\x08\x04\xd2\x16\x2f";
