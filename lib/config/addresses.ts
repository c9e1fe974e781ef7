/**
 * Server addresses as URLs: reading them, writing them, and showing them without passwords. An unknown parameter is
 * refused: ignoring it silently could send a command to another place.
 *
 * Parameters: libpq's manual, "Connection URIs", and the IANA registration of `redis`.
 * @module
 */

import { isIPv6 } from "node:net";
import { ConfigError } from "../core/errors.ts";
import type { Config, MysqlTargetConfig } from "./config.ts";

/** Where a Redis is: keys of the section `redis`. */
export type RedisAddress =
  & Pick<Config["redis"], "host" | "port" | "db" | "username" | "password" | "tls">
  & Partial<Pick<Config["redis"], "tls_ca_file" | "tls_cert_file" | "tls_key_file">>
  & Partial<
    Pick<
      Config["redis"],
      | "sentinels"
      | "sentinel_name"
      | "sentinel_username"
      | "sentinel_password"
      | "sentinel_tls"
      | "cluster"
    >
  >;
/** Where a database is: keys of the section `postgresql`; keys that the address does not name are absent. */
export type DatabaseAddress =
  & Pick<Config["postgresql"], "host" | "port" | "database" | "user" | "password" | "ssl">
  & Partial<
    Pick<
      Config["postgresql"],
      "sslrootcert" | "sslcert" | "sslkey" | "options" | "application_name"
    >
  >;

/**
 * Reads an address of Redis: `redis://`, `rediss://` (TLS) or `unix://` (a socket's path), or Lettuce's
 * `redis-sentinel://host:port,host:port/db?sentinelMasterId=name`, or `redis-cluster://host:port,host:port` for nodes of
 * a cluster, each with `rediss` for TLS.
 * @param name the variable that holds it, for messages; its value is never shown
 * @throws {ConfigError} where it is no address, or has a parameter that is not known
 */
export function parseRedisUrl(name: string, text: string): RedisAddress {
  const [, scheme, kind, login = "", list = "", rest = ""] = SEVERAL.exec(text) ?? [];
  if (scheme === undefined) return redisAddress(name, text, ["host", "port"]).address;
  const plain = `${scheme}://${login}localhost${rest}`;
  if (kind === "cluster") {
    return { ...redisAddress(name, plain, []).address, cluster: placesOf(name, list, 6379) };
  }
  const { address, given } = redisAddress(name, plain, Object.values(SENTINEL_WORDS));
  const id = given.get(SENTINEL_WORDS.name);
  if (id === undefined) {
    throw new ConfigError(
      `${name}: expected sentinelMasterId, what the sentinels call the primary`,
    );
  }
  return {
    ...address,
    sentinels: placesOf(name, list, 26379),
    sentinel_name: id,
    sentinel_username: given.get(SENTINEL_WORDS.username) ?? null,
    sentinel_password: given.get(SENTINEL_WORDS.password) ?? null,
    sentinel_tls: given.get(SENTINEL_WORDS.tls) === "true",
  };
}

/** An address of sentinels, or of a cluster: their list stands where others have a host and a port. */
const SEVERAL = /^(rediss?)-(sentinel|cluster):\/\/([^/?]*@)?([^/?]*)(.*)$/s;

function placesOf(name: string, list: string, usualPort: number) {
  return list.split(",").map((place) => {
    const { host, port } = partsOf(name, `redis://${place}`, ["redis"]);
    if (host === "" || host.startsWith("/")) throw notOneHost(name);
    return { host, port: portOf(name, port, usualPort) };
  });
}

/** Lettuce's word for what sentinels call the primary, and our own for what else is theirs. */
const SENTINEL_WORDS = {
  name: "sentinelMasterId",
  username: "sentinelUsername",
  password: "sentinelPassword",
  tls: "sentinelTls",
} as const;

function redisAddress(
  name: string,
  text: string,
  more: string[],
): { address: RedisAddress; given: Map<string, string> } {
  const url = partsOf(name, text, ["redis", "rediss", "unix"]);
  const given = parametersOf(name, url, [
    ...["db", "username", "user", "password", ...more],
    ...Object.values(REDIS_FILES),
  ]);
  const files = filesOf(given, REDIS_FILES);
  const [file] = Object.keys(files) as (keyof typeof REDIS_FILES)[];
  const tls = url.scheme === "rediss";
  if (file !== undefined && !tls && given.get(SENTINEL_WORDS.tls) !== "true") {
    throw new ConfigError(
      `${name}: ${REDIS_FILES[file]} is possible only with rediss://, which is TLS`,
    );
  }
  checkPair(name, files.tls_cert_file, files.tls_key_file, "ssl_certfile", "ssl_keyfile");
  const socket = url.scheme === "unix";
  if (socket && `${url.host}${url.port}` !== "") {
    throw noAddress(name, "unix://", "a socket has a path, and neither host nor port");
  }
  const path = decoded(name, url.path);
  const db = given.get("db") ?? (socket ? "0" : path.slice(1) || "0");
  if (!/^\d{1,4}$/.test(db)) throw new ConfigError(`${name}: expected a number for db`);
  const address = {
    host: given.get("host") ?? (socket ? hostOf(name, path) : url.host || "localhost"),
    port: portOf(name, given.get("port") ?? url.port, 6379),
    db: Number(db),
    username: given.get("username") ?? given.get("user") ?? orNull(url.user),
    password: given.get("password") ?? orNull(url.password),
    tls,
    ...files,
  };
  return { address, given };
}

/** The files of TLS, and redis-py's words for them. */
const REDIS_FILES = {
  tls_ca_file: "ssl_ca_certs",
  tls_cert_file: "ssl_certfile",
  tls_key_file: "ssl_keyfile",
} as const;

/** The files of TLS, and libpq's words for them. */
const DATABASE_FILES = {
  sslrootcert: "sslrootcert",
  sslcert: "sslcert",
  sslkey: "sslkey",
} as const;

/** The files that parameters name, by their keys in the configuration. */
function filesOf<Key extends string>(
  given: ReadonlyMap<string, string>,
  words: Readonly<Record<Key, string>>,
): Partial<Record<Key, string>> {
  const files: Partial<Record<Key, string>> = {};
  for (const key of Object.keys(words) as Key[]) {
    const file = given.get(words[key]);
    if (file !== undefined) files[key] = file;
  }
  return files;
}

/** A certificate is of no use without its key, nor a key without its certificate. */
function checkPair(
  name: string,
  certificate: string | undefined,
  key: string | undefined,
  ...[ofCertificate, ofKey]: [string, string]
): void {
  if ((certificate === undefined) === (key === undefined)) return;
  throw new ConfigError(
    certificate === undefined
      ? `${name}: ${ofKey} needs ${ofCertificate} beside it`
      : `${name}: ${ofCertificate} needs ${ofKey} beside it`,
  );
}

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

/** The address of a section `redis`, with its password. */
export function redisUrlOf(address: RedisAddress): string {
  const { host, port, db, username, password, tls, sentinels = null, cluster = null } = address;
  if (sentinels === null && cluster === null && host.startsWith("/")) {
    const given = { username, password, db: db === 0 ? null : String(db) };
    return `unix://${host.split("/").map(encodeURIComponent).join("/")}${parameters(given)}`;
  }
  const servers = (cluster ?? sentinels ?? [{ host, port }]).map((at) =>
    `${bracketed(at.host)}:${at.port}`
  );
  const { sentinel_name, sentinel_username, sentinel_password, sentinel_tls = false } = address;
  const ofSentinels: Record<string, string | null> = sentinels === null ? {} : {
    [SENTINEL_WORDS.name]: sentinel_name ?? null,
    [SENTINEL_WORDS.username]: sentinel_username ?? null,
    [SENTINEL_WORDS.password]: sentinel_password ?? null,
    [SENTINEL_WORDS.tls]: sentinel_tls ? "true" : null,
  };
  const encrypted = tls || sentinels !== null && sentinel_tls;
  const files = encrypted ? parametersFor(address, REDIS_FILES) : {};
  const kind = cluster !== null ? "-cluster" : sentinels !== null ? "-sentinel" : "";
  const scheme = `${tls ? "rediss" : "redis"}${kind}`;
  const given = parameters({ ...ofSentinels, ...files });
  return `${scheme}://${loginOf(username, password)}${servers}${db === 0 ? "" : `/${db}`}${given}`;
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

/** The files of an address as its parameters, the other way round than {@linkcode filesOf}. */
function parametersFor<Key extends string>(
  address: Partial<Readonly<Record<NoInfer<Key>, string | null>>>,
  words: Readonly<Record<Key, string>>,
): Record<string, string | null> {
  const keys = Object.keys(words) as Key[];
  return Object.fromEntries(keys.map((key) => [words[key], address[key] ?? null]));
}

/** Parameters of an address. `URLSearchParams` would write a space as +, which libpq takes literally. */
function parameters(given: Record<string, string | null>): string {
  const list = Object.entries(given)
    .flatMap(([name, value]) => value === null ? [] : [`${name}=${encodeURIComponent(value)}`]);
  return list.length === 0 ? "" : `?${list.join("&")}`;
}

function loginOf(user: string | null, password: string | null): string {
  if (user === null && password === null) return "";
  const secret = password === null ? "" : `:${encodeURIComponent(password)}`;
  return `${encodeURIComponent(user ?? "")}${secret}@`;
}

/** An address as it may be shown: without passwords. */
export function shown(address: string): string {
  const parts = splitAddress(address);
  if (parts === null) return "(no address)";
  const login = `${parts.user}${parts.password === "" ? "" : ":***"}`;
  // Of the parameters, others may hold a password as well.
  const given = new Map(parts.parameters);
  const host = given.get("host");
  const id = given.get(SENTINEL_WORDS.name);
  const socket = host !== undefined && /^(\/|%2f)/i.test(host);
  const place = socket ? "" : `${parts.host}${parts.port === "" ? "" : `:${parts.port}`}`;
  return `${parts.scheme}://${login === "" ? "" : `${login}@`}${place}${parts.path}` +
    (host ? `?host=${safelyDecoded(host)}` : "") +
    (id ? `?${SENTINEL_WORDS.name}=${safelyDecoded(id)}` : "");
}

/**
 * The parts of an address as they are written. `URL` would drop tabs and line breaks, take a part of a password for
 * a path, and correct hosts; here nothing is changed or guessed.
 */
interface Parts {
  readonly scheme: string;
  /** "" for none; also the others */
  readonly user: string;
  readonly password: string;
  readonly host: string;
  readonly port: string;
  /** with its slash */
  readonly path: string;
  readonly parameters: readonly (readonly [name: string, value: string])[];
}

function splitAddress(text: string): Parts | null {
  const [, scheme, authority = "", path = "", query = ""] =
    /^([a-z]+(?:-sentinel|-cluster)?):\/\/([^/?]*)(\/[^?]*)?(?:\?(.*))?$/s.exec(text) ?? [];
  if (scheme === undefined) return null;
  const at = authority.lastIndexOf("@");
  const [user, password] = cut(authority.slice(0, Math.max(at, 0)), ":");
  const place = authority.slice(at + 1);
  // The colons of an IPv6 address stand in brackets.
  const [, literal, , numeric = ""] = /^\[([^\]]*)\](:(.*))?$/s.exec(place) ?? [];
  const [host, port] = literal === undefined ? cut(place, ":") : [`[${literal}]`, numeric];
  const parameters = query.split("&").filter((part) => part !== "").map((part) => cut(part, "="));
  return { scheme, user, password, host, port, path, parameters };
}

/** The text before a separator, and behind it. */
function cut(text: string, separator: string): [before: string, behind: string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + separator.length)];
}

/** The message never has the address, nor a part of it that may belong to a password. */
function noAddress(name: string, scheme: string, why: string): ConfigError {
  const expected = scheme === "unix://" ? "unix:///path" : `${scheme}user:password@host:port/…`;
  return new ConfigError(
    `${name} holds no address: ${why}; expected ${expected}, with special characters of the ` +
      "password as %XX",
  );
}

function partsOf(name: string, text: string, schemes: string[]): Parts {
  const [first] = schemes;
  const refuse = (why: string) => noAddress(name, `${first}://`, why);
  if (/\p{Cc}|^\s|\s$/u.test(text)) throw refuse("it has a tab, a line break or a blank around it");
  const parts = splitAddress(text);
  if (parts === null || !schemes.includes(parts.scheme)) {
    throw refuse(`it does not begin with ${schemes.map((scheme) => `${scheme}://`).join(" or ")}`);
  }
  if (text.includes("#")) throw refuse("it has a #, which is written as %23");
  const { user, password, host, port, path } = parts;
  if ([path, ...parts.parameters.flat()].some((part) => part.includes("@"))) {
    throw refuse(
      "it has an @ behind the host; in a password / is written as %2F, ? as %3F, @ as %40",
    );
  }
  if (port.includes(",")) throw notOneHost(name);
  return {
    ...parts,
    user: decoded(name, user),
    password: decoded(name, password),
    host: host === "" ? "" : hostOf(name, decoded(name, host).replace(/^\[|\]$/g, "")),
  };
}

/** Parameters by name; an empty one is as none. */
function parametersOf(
  name: string,
  { parameters }: Parts,
  known: string[],
): Map<string, string> {
  const given = new Map<string, string>();
  for (const [key, text] of parameters) {
    const parameter = decoded(name, key);
    if (!known.includes(parameter)) {
      // Behind a password, it may be a part of it.
      const called = given.has("password") || !/^\w{1,40}$/.test(parameter) ? "" : ` ${parameter}`;
      throw new ConfigError(
        `${name}: the parameter${called} is not known here; known are ${known.join(", ")}`,
      );
    }
    const value = decoded(name, text);
    if (parameter === "host" && value !== "") hostOf(name, value);
    if (value !== "") given.set(parameter, value);
  }
  return given;
}

/** A part of an address with its %XX decoded; a bare % is left as it is. */
function decoded(name: string, text: string): string {
  const value = safelyDecoded(text);
  if (value.includes("\0")) {
    throw new ConfigError(`${name}: %00 is possible in no part of an address`);
  }
  return value;
}

function safelyDecoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // it was not encoded
  }
}

const orNull = (part: string) => part === "" ? null : part;
const bracketed = (host: string) => host.includes(":") ? `[${host}]` : encodeURIComponent(host);

/** Whether it is one host: a name, an address, or the path of a socket. Anything else could change an address. */
export function isHost(text: string): boolean {
  if (text.startsWith("/")) return /^[^\s\p{Cc}]+$/u.test(text);
  return /^[\p{L}\p{M}\p{N}._-]+$/u.test(text) || (isIPv6(text) && !text.includes("%"));
}

function hostOf(name: string, host: string): string {
  if (isHost(host)) return host;
  throw notOneHost(name);
}

/** The host is not shown: behind a mistake, it may be a part of the password. */
function notOneHost(name: string): ConfigError {
  return new ConfigError(
    `${name}: expected one host: a name, an address without a zone, or the path of a socket`,
  );
}

function portOf(name: string, text: string, byDefault: number): number {
  if (text === "") return byDefault;
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port > 0 && port < 65536) return port;
  throw new ConfigError(`${name}: expected a port from 1 to 65535`);
}
