/**
 * Refusing arguments that cannot be meant, before anything is done: a caller in JavaScript may give anything, and often
 * a promise that nobody has waited for.
 * @module
 */

import { ArgumentError } from "./errors.ts";

/** What an argument has to be; left out it is right too, where the call has a default. */
type Kind = [expected: string, fits: (value: unknown) => boolean];

const has = (value: unknown, key: string, type: string): boolean =>
  (typeof value === "object" || typeof value === "function") && value !== null &&
  typeof (value as Record<string, unknown>)[key] === type;
const optional = (fits: (value: unknown) => boolean) => (value: unknown) =>
  value === undefined || fits(value);
const isList = (value: unknown, fits?: (item: unknown) => boolean) =>
  Array.isArray(value) && (fits === undefined || value.every(fits));
const isText = (value: unknown) => typeof value === "string";
const isNumber = (value: unknown) => typeof value === "number" && !Number.isNaN(value);
const isCount = (value: unknown) => Number.isSafeInteger(value) && value as number >= 0;
const isTarget = (value: unknown) =>
  has(value, "batches", "object") || has(value, "query", "function");

const isPlain = (value: unknown) =>
  typeof value === "object" && value !== null && !Array.isArray(value) &&
  !(value instanceof Promise);
const OBJECT: Kind = ["an object", isPlain];
const TEXT: Kind = ["text", isText];
const NUMBER: Kind = ["a number", optional(isNumber)];
const CALLBACK: Kind = ["a function", optional((value) => typeof value === "function")];
const TARGET = "a target (openTarget), or a pool (connectPostgres)";

/** By the parameters' names, which mean the same in every call. */
const KINDS = {
  redis: ["a connection (connectRedis)", (value) => has(value, "counters", "object")],
  client: ["a connection (connectRedis)", (value) => has(value, "hget", "function")],
  target: [TARGET, isTarget],
  targets: ["a list of targets (openTarget)", (value) => isList(value, isTarget)],
  anyTargets: [TARGET, (value) => isTarget(value) || isList(value, isTarget)],
  through: [TARGET, optional((value) => isTarget(value) || isList(value, isTarget))],
  config: [
    "a configuration (loadConfig)",
    (value) => isList((value as { entities?: unknown } | undefined | null)?.entities),
  ],
  settings: ["a configuration (loadConfig)", (value) => has(value, "redis", "object")],
  servers: ["servers (resolveServers)", (value) => has(value, "source", "object")],
  overrides: OBJECT,
  options: OBJECT,
  selection: OBJECT,
  filter: OBJECT,
  entity: TEXT,
  name: TEXT,
  text: TEXT,
  query: TEXT,
  docId: TEXT,
  streamId: TEXT,
  root: ["text", optional(isText)],
  path: ["text", optional(isText)],
  appId: TEXT,
  machineId: TEXT,
  version: ["a bigint", (value) => typeof value === "bigint"],
  docIds: ["a list of ids", Array.isArray],
  mismatches: [
    "a list of documents (verify)",
    (value) => isList(value, (one) => has(one, "id", "string")),
  ],
  tag: ["an object", optional(isPlain)],
  numeric: ["an object", optional(isPlain)],
  words: ["an object", optional(isPlain)],
  returns: ["a list of text", optional((value) => isList(value, isText))],
  names: ["a list of text", optional((value) => isList(value, isText))],
  signal: ["an AbortSignal", optional((value) => has(value, "throwIfAborted", "function"))],
  random: CALLBACK,
  listener: ["a function", (value) => typeof value === "function"],
  condition: ["a function", (value) => typeof value === "function"],
  onProgress: CALLBACK,
  onOutcome: CALLBACK,
  onStep: CALLBACK,
  deadlineMs: NUMBER,
  settleMs: NUMBER,
  seed: NUMBER,
  id: ["a whole number", isCount],
  count: ["a whole number", isCount],
} satisfies Record<string, Kind>;

/** What callers call it, where the same name means something else elsewhere. */
const SHOWN: Partial<Record<keyof typeof KINDS, string>> = {
  client: "redis",
  anyTargets: "target",
  settings: "config",
  words: "text",
};

/** What was given instead, without showing its content: it may be a secret. */
function described(value: unknown): string {
  if (value instanceof Promise) return "a promise: await it";
  if (value === null || value === undefined || typeof value === "number") return String(value);
  if (Array.isArray(value)) return "a list";
  return typeof value === "string" ? "text" : `a value of type ${typeof value}`;
}

/**
 * Looks at arguments by their names.
 * @param call the function's name
 * @throws {ArgumentError}
 */
export function checkArguments(
  call: string,
  given: { [name in keyof typeof KINDS]?: unknown },
): void {
  for (const name in given) {
    const key = name as keyof typeof KINDS;
    const [expected, fits] = KINDS[key] as Kind;
    if (fits(given[key])) continue;
    const what = SHOWN[key] ?? key;
    throw new ArgumentError(`${call}: ${what}: expected ${expected}, got ${described(given[key])}`);
  }
}
