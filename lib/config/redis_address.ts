/**
 * The address of a Redis as a URL, read and written.
 *
 * Parameters: the IANA registration of `redis`, redis-py's and Lettuce's words.
 * @module
 */

import { ConfigError } from "../core/errors.ts";
import {
  bracketed,
  checkPair,
  decoded,
  filesOf,
  hostOf,
  loginOf,
  noAddress,
  notOneHost,
  orNull,
  parameters,
  parametersFor,
  parametersOf,
  partsOf,
  portOf,
  SENTINEL_NAME,
} from "./address_parts.ts";
import type { Config } from "./config.ts";

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
  name: SENTINEL_NAME,
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
