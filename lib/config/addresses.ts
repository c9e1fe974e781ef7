/**
 * Server addresses as URLs: reading them, writing them, and showing them without passwords. An unknown parameter is
 * refused: ignoring it silently could send a command to another place.
 *
 * Parameters: libpq's manual, "Connection URIs", and the IANA registration of `redis`.
 * @module
 */

import { ConfigError } from "../core/errors.ts";
import type { Config } from "./config.ts";

/** Where a Redis is: keys of the section `redis`. */
export type RedisAddress = Pick<
  Config["redis"],
  "host" | "port" | "db" | "username" | "password" | "tls"
>;
/** Where a database is: keys of the section `postgresql`; keys that the address does not name are absent. */
export type DatabaseAddress =
  & Pick<Config["postgresql"], "host" | "port" | "database" | "user" | "password" | "ssl">
  & Partial<Pick<Config["postgresql"], "options" | "application_name">>;

/**
 * Reads an address of Redis: `redis://`, `rediss://` (TLS) or `unix://` (a socket's path).
 * @param name the variable that holds it, for messages; its value is never shown
 * @throws {ConfigError} where it is no address, or has a parameter that is not known
 */
export function parseRedisUrl(name: string, text: string): RedisAddress {
  const url = urlOf(name, text, ["redis", "rediss", "unix"]);
  const given = parametersOf(name, url, ["db", "username", "user", "password", "host", "port"]);
  const socket = url.protocol === "unix:";
  const path = decoded(url.pathname);
  const db = given.get("db") ?? (socket ? "0" : path.slice(1) || "0");
  if (!/^\d{1,4}$/.test(db)) throw new ConfigError(`${name}: expected a number for db`);
  return {
    host: given.get("host") ?? (socket ? path : hostOf(url)),
    port: portOf(name, given.get("port") ?? url.port, 6379),
    db: Number(db),
    username: given.get("username") ?? given.get("user") ?? orNull(url.username),
    password: given.get("password") ?? orNull(url.password),
    tls: url.protocol === "rediss:",
  };
}

/** The default of `application_name`. */
const DEFAULT_NAME = "writebehind";

/** What libpq's sslmode and node-postgres's ssl mean here; `null` for what is not supported. */
const SSL: Record<string, boolean | null> = {
  ...{ disable: false, allow: null, prefer: null },
  ...{ require: true, "verify-ca": true, "verify-full": true, "no-verify": null },
  ...{ true: true, "1": true, false: false, "0": false },
};

/**
 * Reads an address of PostgreSQL: `postgresql://` or `postgres://`.
 * @param name the variable that holds it, for messages; its value is never shown
 * @throws {ConfigError} where it is no address, or has a parameter that is not known or not possible here
 */
export function parseDatabaseUrl(name: string, text: string): DatabaseAddress {
  const url = urlOf(name, text, ["postgresql", "postgres"]);
  const given = parametersOf(name, url, [
    ...["host", "port", "dbname", "user", "password", "sslmode", "ssl"],
    ...["options", "application_name"],
  ]);
  const mode = given.get("sslmode") ?? given.get("ssl") ?? "disable";
  const ssl = SSL[mode];
  if (ssl === undefined || ssl === null) {
    const parameter = given.has("sslmode") ? "sslmode" : "ssl";
    throw new ConfigError(
      `${name}: ${parameter}=${
        mode.slice(0, 20)
      } is not possible here; use sslmode=disable, or sslmode=require, ` +
        "which checks the server's certificate",
    );
  }
  const user = given.get("user") ?? orNull(url.username) ?? "postgres";
  const options = given.get("options");
  const application_name = given.get("application_name");
  return {
    host: given.get("host") ?? hostOf(url),
    port: portOf(name, given.get("port") ?? url.port, 5432),
    database: given.get("dbname") ?? (decoded(url.pathname.slice(1)) || user),
    user,
    password: given.get("password") ?? orNull(url.password),
    ssl,
    ...(options === undefined ? {} : { options }),
    ...(application_name === undefined ? {} : { application_name }),
  };
}

/** The address of a section `redis`, with its password. */
export function redisUrlOf({ host, port, db, username, password, tls }: RedisAddress): string {
  const socket = host.startsWith("/");
  const url = new URL(
    socket ? `unix://${host}` : `${tls ? "rediss" : "redis"}://${bracketed(host)}:${port}`,
  );
  if (socket) {
    url.search = parameters({ username, password, db: db === 0 ? null : String(db) });
    return url.href;
  }
  if (username !== null) url.username = encodeURIComponent(username);
  if (password !== null) url.password = encodeURIComponent(password);
  if (db !== 0) url.pathname = `/${db}`;
  return url.href;
}

/** The address of a section `postgresql`, with its password. */
export function databaseUrlOf(address: DatabaseAddress): string {
  const { host, port, database, user, password, ssl, options, application_name } = address;
  const socket = host.startsWith("/");
  // In a path these would mean the folder.
  const inQuery = database === "." || database === "..";
  const url = new URL(
    `postgresql://${socket ? "localhost" : bracketed(host)}:${port}/${
      inQuery ? "" : encodeURIComponent(database)
    }`,
  );
  url.username = encodeURIComponent(user);
  if (password !== null) url.password = encodeURIComponent(password);
  url.search = parameters({
    host: socket ? host : null,
    dbname: inQuery ? database : null,
    sslmode: ssl ? "require" : null,
    options: options ?? null,
    application_name: application_name === DEFAULT_NAME ? null : application_name ?? null,
  });
  return url.href;
}

/** Parameters of an address. `URLSearchParams` would write a space as +, which libpq takes literally. */
function parameters(given: Record<string, string | null>): string {
  return Object.entries(given)
    .flatMap(([name, value]) => value === null ? [] : [`${name}=${encodeURIComponent(value)}`])
    .join("&");
}

/** An address as it may be shown: without passwords. */
export function shown(address: string): string {
  const url = new URL(address);
  if (url.password) url.password = "***";
  if (url.searchParams.get("host")?.startsWith("/")) url.hostname = "";
  const host = url.searchParams.get("host");
  url.search = host ? `?host=${host}` : ""; // the others may hold a password as well
  return url.href;
}

function urlOf(name: string, given: string, schemes: string[]): URL {
  const [first] = schemes;
  // libpq allows a user without a host; URLs do not.
  const text = given.replace(/^([a-z]+:\/\/[^/?]*@)(?=\/|$)/, "$1localhost");
  const scheme = /^([a-z]+):\/\//.exec(text)?.[1];
  if (scheme === undefined || !schemes.includes(scheme) || !URL.canParse(text)) {
    // The text itself is not shown: it may hold a password.
    throw new ConfigError(
      `${name} holds no address: expected ${first}://user:password@host:port/…, with special characters of the ` +
        "password as %XX",
    );
  }
  return new URL(text);
}

function parametersOf(name: string, url: URL, known: string[]): Map<string, string> {
  const given = new Map<string, string>();
  for (const part of url.search.slice(1).split("&").filter((part) => part !== "")) {
    const [key = "", ...value] = part.split("=");
    const parameter = decoded(key);
    if (!known.includes(parameter)) {
      throw new ConfigError(
        `${name}: the parameter ${parameter.slice(0, 40)} is not known here; known are ${
          known.join(", ")
        }`,
      );
    }
    given.set(parameter, decoded(value.join("=")));
  }
  return given;
}

/** A part of an address with its %XX decoded; a bare % is left as it is. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // it was not encoded
  }
}

const orNull = (part: string) => part === "" ? null : decoded(part);
const hostOf = (url: URL) => decoded(url.hostname).replace(/^\[|\]$/g, "") || "localhost";
const bracketed = (host: string) => host.includes(":") ? `[${host}]` : host;

function portOf(name: string, text: string, byDefault: number): number {
  if (text === "") return byDefault;
  const port = Number(text);
  if (Number.isInteger(port) && port > 0 && port < 65536) return port;
  throw new ConfigError(`${name}: expected a port from 1 to 65535`);
}
