/**
 * Reads the configuration file, checks it, and reports everything that is wrong with it at once.
 * @module
 */

import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import {
  type Document,
  type ErrorCode,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  visit,
} from "yaml";
import type { z } from "zod";
import { ConfigError } from "../core/errors.ts";
import type { EventType } from "../core/stream_ids.ts";
import { type Config, configSchema, type DeepPartial, type EntityConfig } from "./schema.ts";

export {
  type Config,
  type DeepPartial,
  type EntityConfig,
  type SearchFieldConfig,
} from "./schema.ts";
type Path = readonly PropertyKey[];

interface Problem {
  /** 1-based; 0 where the problem is in no file */
  readonly line: number;
  readonly text: string;
}

const DEFAULT_FILE = "config/config.yaml";
const MAX_FILE_BYTES = 2 ** 20;
const REDACTED = "[redacted]";

/** What each config was made from: `configWith` starts there, so that derived defaults follow. */
const sources = new WeakMap<Config, unknown>();

/** The defaults, which also are the list of all known keys. */
const defaults: unknown = configSchema.parse({});

/**
 * Reads and checks the configuration.
 *
 * @param path the YAML file; by default `config/config.yaml` of this project, whatever the working
 *   directory is
 * @returns every key of the file, absent ones with their defaults, deeply frozen. `password` is
 *   readable but not enumerable: a copy by spreading lacks it, and displays show it redacted.
 * @throws {ConfigError} when the file cannot be read, or with all of its problems, one a line
 */
export async function loadConfig(path?: string): Promise<Config> {
  const file = path ?? fileURLToPath(new URL(`../../${DEFAULT_FILE}`, import.meta.url));
  const name = path ?? DEFAULT_FILE;
  return parseConfig(await readText(file, name), name);
}

/**
 * Checks a configuration given as YAML text.
 *
 * @param fileName the name that stands in the messages
 * @throws {ConfigError} with all problems, one a line
 */
export function parseConfig(text: string, fileName: string): Config {
  const yaml = readYaml(text);
  const { value, problems } = check(yaml.value, yaml.lineOf);
  // What follows a syntax error is read differently from what was meant: not worth a report.
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
 */
export function configWith(config: Config, overrides: DeepPartial<Config>): Config {
  if (!sources.has(config)) {
    throw new ConfigError(
      "configWith takes a config made by loadConfig, parseConfig or configWith",
    );
  }
  const raw = merge(sources.get(config), overrides);
  const { value, problems } = check(raw, () => 0);
  if (value === undefined) throw new ConfigError(problems.map(({ text }) => text).join("\n"));
  return finish(value, raw);
}

/**
 * The entity of that name.
 *
 * @throws {ConfigError} when the config has none; the message lists those that it has
 */
export function entityConfig(config: Config, name: string): EntityConfig {
  const entity = config.entities.find((entity) => entity.name === name);
  if (entity !== undefined) return entity;
  const known = config.entities.map((entity) => entity.name).join(", ");
  throw new ConfigError(
    `no entity ${JSON.stringify(name)} in the configuration; its entities are: ${known}`,
  );
}

/**
 * Whether changes of an entity's documents are forwarded to the target, as
 * `dummy_data.perform_write_behind` says (the original's place for it).
 * @param verb one kind of change; all of them when left out
 */
export function isForwarded(config: Config, entity: string, verb?: EventType): boolean {
  entityConfig(config, entity);
  const forwarded = config.dummy_data.perform_write_behind;
  return verb === undefined ? Object.values(forwarded).every(Boolean) : forwarded[verb];
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
    // Reading a directory fails with an error of no class of its own.
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

/** Not `readFile`: a device or a pipe may never end. */
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

/** Words of our own, since the parser's messages quote the file, and with it passwords. */
const YAML_PROBLEMS: Partial<Record<ErrorCode, string>> = {
  BAD_DQ_ESCAPE: "unknown escape (\\) within double quotes; use single quotes",
  BAD_INDENT: "the indentation does not fit the lines above",
  BAD_SCALAR_START: "text that starts with this character must be in quotes",
  BLOCK_AS_IMPLICIT_KEY: "a key within a value; put text with a colon in quotes",
  MULTIPLE_DOCS: "a second document (---) begins here; keep one",
  RESOURCE_EXHAUSTION: "nested too deeply",
  TAB_AS_INDENT: "indented by a tab; use spaces",
  TAG_RESOLVE_FAILED: "unknown tag; put text that starts with ! in quotes",
};
const YAML_PROBLEM = "cannot be understood here; is a colon, quote, bracket or space missing?";
const ALIAS_PROBLEM = "an alias without an anchor above it; put text that starts with * in quotes";
const ALIAS_FLOOD = "aliases that unfold to too much";

interface Yaml {
  readonly value: unknown;
  readonly syntax: Problem[];
  readonly repeated: Problem[];
  /** The line of the key, or of the nearest one around it that the file has. */
  readonly lineOf: (path: Path) => number;
}

function readYaml(text: string): Yaml {
  const counter = new LineCounter();
  const lineAt = (offset = 0) => counter.linePos(offset).line || 1;
  const syntax: Problem[] = [];
  const complain = (offset: number | undefined, text: string) =>
    void syntax.push({ line: lineAt(offset), text: `YAML: ${text}` });
  const repeated: Problem[] = [];
  const lines = new Map<string, number>();
  const lineOf = (path: Path): number =>
    lines.get(formatPath(path)) ?? (path.length === 0 ? 1 : lineOf(path.slice(0, -1)));

  const document = parseDocument(text, {
    lineCounter: counter,
    prettyErrors: false,
    stringKeys: true,
    uniqueKeys: false, // looked at below, with the path
  });
  for (const { code, pos } of [...document.errors, ...document.warnings]) {
    const open = openQuote(document, pos[0]);
    if (open !== undefined) complain(open, "a quote that opens here is not closed");
    else complain(pos[0], YAML_PROBLEMS[code] ?? YAML_PROBLEM);
  }
  const walk = (node: unknown, path: Path) => {
    if (isSeq(node)) {
      for (const [index, item] of node.items.entries()) {
        const at = [...path, index];
        lines.set(formatPath(at), isNode(item) ? lineAt(item.range?.[0]) : lineOf(path));
        walk(item, at);
      }
    }
    if (!isMap(node)) return;
    node.items = node.items.filter(({ key }) => isScalar(key)); // others are reported by now
    for (const { key, value } of node.items) {
      if (!isScalar(key)) continue;
      const at = [...path, String(key.value)];
      const line = lineAt(key.range?.[0]);
      const first = lines.get(formatPath(at));
      if (first !== undefined) {
        const text = `${formatPath(at)}: stands already in line ${first}; keep one`;
        repeated.push({ line, text });
      }
      lines.set(formatPath(at), line);
      walk(value, at);
    }
  };
  walk(document.contents, []);

  let alias: number | undefined;
  visit(document, {
    Alias(_, node) {
      alias ??= node.range?.[0];
      if (node.resolve(document) === undefined) complain(node.range?.[0], ALIAS_PROBLEM);
    },
  });
  let value: unknown;
  try {
    value = document.toJS();
  } catch (error) {
    if (!(error instanceof ReferenceError)) throw error;
    if (syntax.length === 0) complain(alias, ALIAS_FLOOD);
  }
  return { value, syntax, repeated, lineOf };
}

/** A quote that is never closed is reported by the parser where the text ends. */
function openQuote(document: Document, end: number): number | undefined {
  let start: number | undefined;
  visit(document, {
    Scalar(_, { type, range }) {
      if (type?.startsWith("QUOTE") && range?.[1] === end && range[0] < end) start = range[0];
    },
  });
  return start;
}

function check(
  raw: unknown,
  lineOf: (path: Path) => number,
): { value?: z.output<typeof configSchema>; problems: Problem[] } {
  const { success, data, error } = configSchema.safeParse(raw);
  if (success) return { value: data, problems: [] };
  const problems = error.issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => {
        const path = [...issue.path, key];
        return { line: lineOf(path), text: `${formatPath(path)}: unknown key${suggestion(path)}` };
      });
    }
    const got = issue.code === "custom" ? "" : `, got ${describe(at(raw, issue.path), issue)}`;
    const where = formatPath(issue.path) || "the file";
    return [{ line: lineOf(issue.path), text: `${where}: ${issue.message}${got}` }];
  });
  return { problems };
}

/** What stands in the file, shown only where it cannot be a secret. */
function describe(value: unknown, issue: z.core.$ZodIssue): string {
  if (value === null) return "null";
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : "a list";
  if (typeof value === "object") return "keys with values";
  const secret = issue.path.includes("password") || /:\/\/|@/.test(String(value)) ||
    (issue.code === "invalid_type" && issue.expected === "object");
  const shown = typeof value === "string" ? JSON.stringify(value) : String(value);
  const short = shown.length > 60 ? `${shown.slice(0, 60)}…` : shown;
  const quote = typeof value !== "string" && issue.code === "invalid_type" &&
    issue.expected === "string";
  const kind = typeof value === "string" ? "text" : `a ${typeof value}`;
  return (secret ? kind : short) + (quote ? "; quote it" : "");
}

/** The known keys beside it that are nearest; else the sections where a key of that name belongs. */
function suggestion(path: Path): string {
  const key = String(path.at(-1)).toLowerCase();
  // Every item of a list has the keys of the first.
  const parent = path.slice(0, -1).map((part) => typeof part === "number" ? 0 : part);
  const near = Object.keys(Object(at(defaults, parent)))
    .map((name) => ({ name, far: distance(key, name) }))
    .filter(({ name, far }) =>
      far < name.length && far <= Math.max(2, Math.floor(name.length / 3))
    );
  const least = Math.min(...near.map(({ far }) => far));
  const nearest = near.filter(({ far }) => far === least).map(({ name }) => name);
  const names = nearest.length > 0 ? nearest : Object.entries(Object(defaults))
    .filter(([, section]) => Object.hasOwn(Object(section), key))
    .map(([section]) => `${section}.${key}`);
  return names.length > 0 ? `; did you mean ${names.join(" or ")}?` : "";
}

function at(value: unknown, path: Path): unknown {
  return path.reduce<unknown>(
    (inner, key) => Object.getOwnPropertyDescriptor(Object(inner), key)?.value,
    value,
  );
}

/** Levenshtein's: characters to insert, delete or replace. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, char] of [...a].entries()) {
    let [above, left] = [i, i + 1];
    row = row.map((cell, j) => {
      if (j > 0) left = Math.min(cell + 1, left + 1, above + (char === b[j - 1] ? 0 : 1));
      above = cell;
      return left;
    });
  }
  return row.at(-1) ?? 0;
}

/** Keys are cut at the first character that no key of ours has: `password:secret` is one key. */
function formatPath(path: Path): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === "number") return `${text}[${part}]`;
    const key = String(part).replace(/[^\w.-].*$/s, "…");
    return text === "" ? key : `${text}.${key}`;
  }, "");
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

function finish(config: z.output<typeof configSchema>, source: unknown): Config {
  hidePassword(config.postgresql);
  hidePassword(config.redis);
  sources.set(deepFreeze(config), structuredClone(source));
  return config;
}

/** Not enumerable, so that no dump, table, copy or assertion shows it; the rest is for displays. */
function hidePassword(section: { password: string | null }): void {
  const shown = () => ({ ...section, password: section.password === null ? null : REDACTED });
  const show = (_: unknown, options: Deno.InspectOptions) => Deno.inspect(shown(), options);
  Object.defineProperties(section, {
    password: { value: section.password, enumerable: false },
    toJSON: { value: shown },
    [Symbol.for("Deno.customInspect")]: { value: show },
  });
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null) Object.values(value).forEach(deepFreeze);
  return Object.freeze(value);
}
