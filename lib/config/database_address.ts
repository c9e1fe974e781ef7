/**
 * The address of a database as a URL, read and written.
 *
 * Parameters: libpq's manual, "Connection URIs".
 * @module
 */

import { ConfigError } from "../core/errors.ts";
import {
  bracketed,
  checkPair,
  decoded,
  filesOf,
  loginOf,
  noAddress,
  orNull,
  parameters,
  parametersFor,
  parametersOf,
  partsOf,
  portOf,
} from "./address_parts.ts";
import type { Config, MysqlTargetConfig } from "./config.ts";

/** Where a database is: keys of the section `postgresql`; keys that the address does not name are absent. */
export type DatabaseAddress =
  & Pick<Config["postgresql"], "host" | "port" | "database" | "user" | "password" | "ssl">
  & Partial<
    Pick<
      Config["postgresql"],
      "sslrootcert" | "sslcert" | "sslkey" | "options" | "application_name"
    >
  >;

/** The files of TLS, and libpq's words for them. */
const DATABASE_FILES = {
  sslrootcert: "sslrootcert",
  sslcert: "sslcert",
  sslkey: "sslkey",
} as const;

/** The default of `application_name`. */
const DEFAULT_NAME = "writebehind";

/** What libpq's sslmode and node-postgres's ssl mean here. */
const SSL = new Map<string, Config["postgresql"]["ssl"]>([
  ...(["require", "verify-ca"] as const).map((mode) => [mode, mode] as const),
  ...["verify-full", "true", "1"].map((mode) => [mode, true] as const),
  ...["disable", "false", "0"].map((mode) => [mode, false] as const),
]);

/**
 * Reads an address of PostgreSQL: `postgresql://` or `postgres://`.
 * @param name the variable that holds it, for messages; its value is never shown
 * @throws {ConfigError} where it is no address, or has a parameter that is not known or not possible here
 */
export function parseDatabaseUrl(name: string, text: string): DatabaseAddress {
  const url = partsOf(name, text, ["postgresql", "postgres"]);
  const given = parametersOf(name, url, [
    ...["host", "port", "dbname", "user", "password", "sslmode", "ssl"],
    ...Object.values(DATABASE_FILES),
    ...["options", "application_name"],
  ]);
  const mode = given.get("sslmode") ?? given.get("ssl") ?? "disable";
  const ssl = SSL.get(mode);
  if (ssl === undefined) {
    const parameter = given.has("sslmode") ? "sslmode" : "ssl";
    const why = ["allow", "prefer"].includes(mode) ? ", since it may go on without TLS" : "";
    throw new ConfigError(
      `${name}: ${parameter}=${mode.slice(0, 20)} is not possible here${why}; use ` +
        "sslmode=disable, require, verify-ca or verify-full",
    );
  }
  const files = filesOf(given, DATABASE_FILES);
  const [file] = Object.keys(files);
  if (file !== undefined && !given.has("sslmode") && !given.has("ssl")) {
    throw new ConfigError(`${name}: ${file} needs an sslmode beside it, such as verify-full`);
  }
  checkPair(name, files.sslcert, files.sslkey, "sslcert", "sslkey");
  const user = given.get("user") ?? orNull(url.user) ?? "postgres";
  const options = given.get("options");
  const application_name = given.get("application_name");
  return {
    host: given.get("host") ?? (url.host || "localhost"),
    port: portOf(name, given.get("port") ?? url.port, 5432),
    database: given.get("dbname") ?? (decoded(name, url.path.slice(1)) || user),
    user,
    password: given.get("password") ?? orNull(url.password),
    ssl,
    ...files,
    ...(options === undefined ? {} : { options }),
    ...(application_name === undefined ? {} : { application_name }),
  };
}

/** A database that a target names, as its address says. */
export type TargetAddress =
  & Pick<MysqlTargetConfig, "host" | "port" | "database" | "user" | "password" | "ssl">
  & Partial<Pick<MysqlTargetConfig, keyof typeof DATABASE_FILES>>;

/**
 * Reads the address of a target: `postgresql://` as {@linkcode parseDatabaseUrl} does, or `mysql://`.
 * @param name the key that holds it, for messages; its value is never shown
 * @throws {ConfigError} where it is no address, or has a parameter that is not known or not possible here
 */
export function parseTargetUrl(
  name: string,
  text: string,
  kind: "postgresql" | "mysql",
): TargetAddress {
  if (kind === "postgresql") {
    const { ssl, options: _, application_name: __, ...address } = parseDatabaseUrl(name, text);
    return { ...address, ssl: ssl === true ? "verify-full" : ssl === false ? "disable" : ssl };
  }
  const url = partsOf(name, text, ["mysql", "mariadb"]);
  const given = parametersOf(name, url, ["ssl", ...Object.values(DATABASE_FILES)]);
  const ssl = given.get("ssl") ?? "disable";
  if (!isMode(ssl)) {
    throw new ConfigError(
      `${name}: ssl=${ssl.slice(0, 20)} is not possible here; use ssl=${MODES.join(", ")}`,
    );
  }
  const files = filesOf(given, DATABASE_FILES);
  checkPair(name, files.sslcert, files.sslkey, "sslcert", "sslkey");
  const database = decoded(name, url.path.slice(1));
  if (database === "" || url.user === "") {
    throw noAddress(name, "mysql://", database === "" ? "it names no database" : "it has no user");
  }
  const { user, password } = url;
  const port = portOf(name, url.port, 3306);
  const host = url.host || "localhost";
  return { host, port, database, user, password: orNull(password), ssl, ...files };
}

const MODES = ["disable", "require", "verify-ca", "verify-full"] as const;

function isMode(text: string): text is typeof MODES[number] {
  return (MODES as readonly string[]).includes(text);
}

/** The address of a section `postgresql`, with its password. */
export function databaseUrlOf(address: DatabaseAddress): string {
  const { host, port, database, user, password, ssl } = address;
  const { options, application_name } = address;
  const mode = ssl === true ? "verify-full" : ssl === false || ssl === "disable" ? null : ssl;
  const socket = host.startsWith("/");
  // Other programs would take these for the folder.
  const inQuery = database === "." || database === "..";
  const place = `${loginOf(user, password)}${socket ? "localhost" : bracketed(host)}:${port}`;
  const given = parameters({
    host: socket ? host : null,
    dbname: inQuery ? database : null,
    sslmode: mode,
    ...(mode === null ? {} : parametersFor(address, DATABASE_FILES)),
    options: options ?? null,
    application_name: application_name === DEFAULT_NAME ? null : application_name ?? null,
  });
  return `postgresql://${place}/${inQuery ? "" : encodeURIComponent(database)}${given}`;
}
