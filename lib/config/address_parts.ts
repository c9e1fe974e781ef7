/**
 * Server addresses as URLs: their parts, how they are read and written, and how they are shown without passwords. An
 * unknown parameter is refused: ignoring it silently could send a command to another place.
 * @module
 */

import { isIPv6 } from "node:net";
import { ConfigError } from "../core/errors.ts";

/** Lettuce's word for what sentinels call the primary: it names a place, as a host does. */
export const SENTINEL_NAME = "sentinelMasterId";

/** An address as it may be shown: without passwords. */
export function shown(address: string): string {
  const parts = splitAddress(address);
  if (parts === null) return "(no address)";
  const login = `${parts.user}${parts.password === "" ? "" : ":***"}`;
  // Of the parameters, others may hold a password as well.
  const given = new Map(parts.parameters);
  const host = given.get("host");
  const id = given.get(SENTINEL_NAME);
  const socket = host !== undefined && /^(\/|%2f)/i.test(host);
  const place = socket ? "" : `${parts.host}${parts.port === "" ? "" : `:${parts.port}`}`;
  return `${parts.scheme}://${login === "" ? "" : `${login}@`}${place}${parts.path}` +
    (host ? `?host=${safelyDecoded(host)}` : "") +
    (id ? `?${SENTINEL_NAME}=${safelyDecoded(id)}` : "");
}

/**
 * The parts of an address as they are written. `URL` would drop tabs and line breaks, take a part of a password for
 * a path, and correct hosts; here nothing is changed or guessed.
 */
export interface Parts {
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
export function noAddress(name: string, scheme: string, why: string): ConfigError {
  const expected = scheme === "unix://" ? "unix:///path" : `${scheme}user:password@host:port/…`;
  return new ConfigError(
    `${name} holds no address: ${why}; expected ${expected}, with special characters of the ` +
      "password as %XX",
  );
}

export function partsOf(name: string, text: string, schemes: string[]): Parts {
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
export function parametersOf(
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
export function decoded(name: string, text: string): string {
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

/** `null` for a part that is not there. */
export const orNull = (part: string): string | null => part === "" ? null : part;
/** A host as an address has it. */
export const bracketed = (host: string): string =>
  host.includes(":") ? `[${host}]` : encodeURIComponent(host);

/** Whether it is one host: a name, an address, or the path of a socket. Anything else could change an address. */
export function isHost(text: string): boolean {
  if (text.startsWith("/")) return /^[^\s\p{Cc}]+$/u.test(text);
  return /^[\p{L}\p{M}\p{N}._-]+$/u.test(text) || (isIPv6(text) && !text.includes("%"));
}

export function hostOf(name: string, host: string): string {
  if (isHost(host)) return host;
  throw notOneHost(name);
}

/** The host is not shown: behind a mistake, it may be a part of the password. */
export function notOneHost(name: string): ConfigError {
  return new ConfigError(
    `${name}: expected one host: a name, an address without a zone, or the path of a socket`,
  );
}

export function portOf(name: string, text: string, byDefault: number): number {
  if (text === "") return byDefault;
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port > 0 && port < 65536) return port;
  throw new ConfigError(`${name}: expected a port from 1 to 65535`);
}

/** The files that parameters name, by their keys in the configuration. */
export function filesOf<Key extends string>(
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
export function checkPair(
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

/** The files of an address as its parameters, the other way round than {@linkcode filesOf}. */
export function parametersFor<Key extends string>(
  address: Partial<Readonly<Record<NoInfer<Key>, string | null>>>,
  words: Readonly<Record<Key, string>>,
): Record<string, string | null> {
  const keys = Object.keys(words) as Key[];
  return Object.fromEntries(keys.map((key) => [words[key], address[key] ?? null]));
}

/** Parameters of an address. `URLSearchParams` would write a space as +, which libpq takes literally. */
export function parameters(given: Record<string, string | null>): string {
  const list = Object.entries(given)
    .flatMap(([name, value]) => value === null ? [] : [`${name}=${encodeURIComponent(value)}`]);
  return list.length === 0 ? "" : `?${list.join("&")}`;
}

export function loginOf(user: string | null, password: string | null): string {
  if (user === null && password === null) return "";
  const secret = password === null ? "" : `:${encodeURIComponent(password)}`;
  return `${encodeURIComponent(user ?? "")}${secret}@`;
}
