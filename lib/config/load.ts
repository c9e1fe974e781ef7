/**
 * Reads the configuration file, checks it, and reports all of its problems at once.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { ConfigError } from "../core/errors.ts";
import { check } from "./check.ts";
import type { Config, DeepPartial } from "./config.ts";
import { isSecret } from "./secrets.ts";
import { shareShapes } from "./shapes.ts";
import { readYaml } from "./yaml.ts";

export type * from "./config.ts";
export { entityConfig, isForwarded, sourceConfig, targetConfig } from "./lookups.ts";

const DEFAULT_FILE = "config/config.yaml";
const MAX_FILE_BYTES = 2 ** 20;
const REDACTED = "[redacted]";

/** The source of each config: `configWith` starts from it, so that derived defaults follow the change. */
const sources = new WeakMap<Config, unknown>();

/**
 * Reads and checks the configuration.
 *
 * @param path the YAML file; by default `config/config.yaml` of this project, whatever the working
 *   directory is
 * @returns every key of the file, absent ones with their defaults, deeply frozen. `password` is
 *   readable but not enumerable: a copy by spreading lacks it, and displays show it redacted.
 * @throws {ConfigError} when the file cannot be read, or with all of its problems, one a line
 *
 * @example
 * ```ts
 * import { loadConfig } from "writebehind";
 *
 * const config = await loadConfig();
 * console.log(config.redis.host, config.write_behind.batch_bytes);
 * ```
 */
export async function loadConfig(path?: string): Promise<Config> {
  checkArguments("loadConfig", { path });
  const file = path ?? fileURLToPath(new URL(`../../${DEFAULT_FILE}`, import.meta.url));
  const name = path ?? DEFAULT_FILE;
  return parseConfig(await readText(file, name), name);
}

/**
 * Checks a configuration given as YAML text.
 *
 * @param text YAML; the empty text is all defaults
 * @param fileName the file's name in messages
 * @throws {ConfigError} with all problems, one a line
 *
 * @example
 * ```ts
 * import { equal, throws } from "node:assert/strict";
 * import { parseConfig } from "writebehind";
 *
 * const config = parseConfig("streams: { partitions: 4 }", "my.yaml");
 * equal(config.streams.partitions, 4);
 * equal(config.redis.port, 6379);
 * throws(() => parseConfig("streams: { partition: 4 }", "my.yaml"), /did you mean partitions/);
 * ```
 */
export function parseConfig(text: string, fileName: string): Config {
  checkArguments("parseConfig", { text, name: fileName });
  const yaml = readYaml(text);
  const { value, problems } = check(yaml.value, yaml.lineOf);
  // After a syntax error the rest is misread, so its problems are not worth reporting.
  const end = Math.min(Infinity, ...yaml.syntax.map(({ line }) => line));
  const all = [...yaml.syntax, ...[...yaml.repeated, ...problems].filter(({ line }) => line < end)];
  if (all.length > 0 || value === undefined) {
    const list = all.sort((a, b) => a.line - b.line).map(({ line, text }) => `${line}: ${text}`);
    const rest = end === Infinity ? "" : "\n(what follows is checked when the YAML is mended)";
    throw new ConfigError(
      [...new Set(list)].map((line) => `${fileName}:${line}`).join("\n") + rest,
    );
  }
  return finish(value, yaml.value);
}

/**
 * A copy of a config with some keys changed, checked and frozen like the first.
 *
 * @param config from `loadConfig`, `parseConfig` or `configWith`
 * @param overrides the keys to change, at their places; a list replaces the whole list
 * @throws {ConfigError} with all problems, one a line
 *
 * @example
 * ```ts
 * import { equal } from "node:assert/strict";
 * import { configWith, loadConfig } from "writebehind";
 *
 * const config = configWith(await loadConfig(), { write_behind: { batch_size: 500 } });
 * equal(config.write_behind.batch_size, 500);
 * ```
 */
export function configWith(config: Config, overrides: DeepPartial<Config>): Config {
  checkArguments("configWith", { config, overrides });
  if (!sources.has(config)) {
    throw new ConfigError(
      "configWith takes a config made by loadConfig, parseConfig or configWith",
    );
  }
  const raw = merge(sources.get(config), overrides);
  const { value, problems } = check(raw, () => 0);
  if (value === undefined) throw new ConfigError(problems.map(({ text }) => text).join("\n"));
  const finished = finish(value, raw);
  // Another Redis, or other names, may be split otherwise.
  const { redis, streams } = overrides;
  if (redis === undefined && streams === undefined) shareShapes(finished, config);
  return finished;
}

async function readText(file: string, name: string): Promise<string> {
  const refuse = (what: string, cause?: unknown) =>
    new ConfigError(
      `${name}: ${what}; give the path of a YAML file like this project's ${DEFAULT_FILE}`,
      { cause },
    );
  let bytes: Uint8Array;
  try {
    bytes = await readAtMost(file, MAX_FILE_BYTES + 1);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw refuse(`no such file (${resolve(file)})`, error);
    }
    // Reading a directory fails with an error that has no class of its own.
    if (error instanceof Error && /directory/i.test(error.message)) {
      throw refuse("is a directory", error);
    }
    throw refuse(`cannot be read (${error instanceof Error ? error.message : error})`, error);
  }
  if (bytes.length > MAX_FILE_BYTES) throw refuse(`larger than ${MAX_FILE_BYTES} bytes`);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw refuse("is not UTF-8 text", error);
  }
}

/** Instead of `readFile`, since a device or a pipe may never end. */
async function readAtMost(file: string, limit: number): Promise<Uint8Array> {
  using handle = await Deno.open(file);
  const buffer = new Uint8Array(limit);
  let length = 0;
  while (length < limit) {
    const read = await handle.read(buffer.subarray(length));
    if (read === null) break;
    length += read;
  }
  return buffer.subarray(0, length);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function merge(base: unknown, changes: unknown): unknown {
  if (changes === undefined) return base;
  if (!isRecord(changes)) return changes;
  const result: Record<string, unknown> = isRecord(base) ? { ...base } : {};
  for (const [key, value] of Object.entries(changes)) result[key] = merge(result[key], value);
  return result;
}

function finish(config: Config, source: unknown): Config {
  for (const section of [config.postgresql, config.redis, ...config.targets]) hideSecrets(section);
  sources.set(deepFreeze(config), structuredClone(source));
  shareShapes(config);
  return config;
}

/** Makes the passwords not enumerable, so that no dump, table, copy or assertion shows them. */
function hideSecrets(section: object): void {
  const secrets = Object.entries(section).filter(([key]) => isSecret(key));
  if (secrets.length === 0) return;
  const hidden = secrets.map(([key, value]) => [key, value === null ? null : REDACTED]);
  const shown = () => ({ ...section, ...Object.fromEntries(hidden) });
  const show = (_: unknown, options: Deno.InspectOptions) => Deno.inspect(shown(), options);
  Object.defineProperties(section, {
    ...Object.fromEntries(secrets.map(([key, value]) => [key, { value, enumerable: false }])),
    toJSON: { value: shown },
    [Symbol.for("Deno.customInspect")]: { value: show },
  });
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null) Object.values(value).forEach(deepFreeze);
  return Object.freeze(value);
}
