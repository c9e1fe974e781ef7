/** What the commands share. */

import { InvalidArgumentError } from "commander";
import { type Config, configWith, loadConfig, targetConfig } from "../config/load.ts";
import { shown } from "../config/address_parts.ts";
import { parseRedisUrl, redisUrlOf } from "../config/redis_address.ts";
import {
  describeServers,
  type ResolvedServers,
  resolveServers,
  serverOverrides,
} from "../config/servers.ts";
import { ConfigError } from "../core/errors.ts";
import { within } from "../core/promises.ts";
import { hideSecrets } from "./log.ts";

/** Loads the configuration with the servers that this command is to use, and says which they are. */
export async function configured(
  path: string | undefined,
  say: (line: string) => void = console.log,
): Promise<Config> {
  const config = await loadConfig(path);
  return using(config, await resolveServers(config), say);
}

/**
 * The same for a command that writes made-up documents: a Redis that only the file names may be anybody's.
 * @param url in place of the Redis that would be used
 * @throws {ConfigError} where only the file names the Redis, and `url` does not
 */
export async function configuredToWrite(
  path?: string,
  url?: string,
  options?: Parameters<typeof resolveServers>[1],
): Promise<Config> {
  const config = await loadConfig(path);
  if (url !== undefined) parseRedisUrl("--url", url);
  const servers = await resolveServers(config, options);
  const { source } = servers;
  if (url !== undefined) {
    const named = { redisUrl: url, source: { ...source, redis: "option" as const } };
    return using(config, { ...servers, ...named }, console.log);
  }
  if (source.redis !== "config") return using(config, servers, console.log);
  throw new ConfigError(
    `only the configuration file names ${
      shown(redisUrlOf(config.redis))
    }, and made-up documents would ` +
      "be written there: say so by --url and the address, or start servers of this checkout by deno task services",
  );
}

function using(config: Config, servers: ResolvedServers, say: (line: string) => void): Config {
  say(describeServers(servers));
  const resolved = configWith(config, serverOverrides(servers));
  hideSecrets(resolved);
  return resolved;
}

/** Prints lines for people: on standard error with `--json`, which leaves standard output to the JSON. */
export function sayFor({ json }: { json?: boolean | undefined }): (line: string) => void {
  return json ? console.error : console.log;
}

/**
 * Waits for work, but no longer than so many ms.
 * @param close gets what comes too late, and is nobody's
 * @throws {Error} where it takes longer
 */
export function answered<T>(
  work: Promise<T>,
  patienceMs: number,
  close: (result: T) => void = () => {},
): Promise<T> {
  return within(patienceMs, work, () => {
    work.then(close, () => {}); // too late to matter
    return new Error(`no answer within ${patienceMs / 1000} s`);
  });
}

/**
 * The targets that a command works with, one after the other: the one that was named, else the first; where that has
 * some of the partitions, all that have.
 */
export function targetNames(config: Config, named?: string): string[] {
  const one = targetConfig(config, named);
  if (named !== undefined || one.partitions === undefined) return [one.name];
  return config.targets.flatMap(({ name, partitions }) => partitions === undefined ? [] : [name]);
}

/** What `--json` prints of them: of one target its report alone. */
export function perTarget(reports: [target: string, report: object][]): object {
  const [[, only] = []] = reports.length === 1 ? reports : [];
  return only ?? { targets: reports.map(([target, report]) => ({ target, ...report })) };
}

/** Reads an option's number. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < 0) {
    throw new InvalidArgumentError("Expected a number that is not negative.");
  }
  return value;
}

/** An address to serve at. */
export interface Address {
  /** loopback where it is left out */
  hostname?: string;
  port: number;
}

/** Reads an option's `port` or `address:port`. */
export function address(text: string): Address {
  const at = text.lastIndexOf(":");
  if (at < 0) return { port: port(text) };
  const hostname = text.slice(0, at).replace(/^\[(.*)\]$/, "$1");
  if (hostname === "") throw new InvalidArgumentError("Expected a port, or an address:port.");
  return { hostname, port: port(text.slice(at + 1)) };
}

/** Reads an option's port. */
export function port(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 65535) {
    throw new InvalidArgumentError("Expected a port, 0 to 65535.");
  }
  return Number(text);
}

export const CONFIG = [
  "--config <file>",
  "the configuration file (default: config/config.yaml)",
] as const;
export const ENTITY = ["--entity <name>", "the entity", "session"] as const;
export const JSON_OUTPUT = ["--json", "print JSON instead of lines for people"] as const;

// Characters that a terminal obeys, or shows out of order.
const UNPRINTABLE = /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const escaped = (character: string) =>
  `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;

/** Any text as one quoted line that no terminal interprets. */
export function quoted(text: string): string {
  return JSON.stringify(text).replace(UNPRINTABLE, escaped);
}

/** A message as one line that no terminal interprets. */
export function oneLine(text: string): string {
  const line = text.split(/[\r\n]+/).map((part) => part.trim()).filter(Boolean).join("; ");
  // deno-lint-ignore no-control-regex
  return line.replace(/[\u0000-\u001f]/g, escaped).replace(UNPRINTABLE, escaped);
}
