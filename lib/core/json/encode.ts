/**
 * What may be stored: JSON that neither RedisJSON nor PostgreSQL changes. Everything else is refused
 * before it is sent.
 * @module
 */

import { DocumentError } from "../errors.ts";
import { LONG_NUMBER, type Spelled, spellNumbers } from "./exact_numbers.ts";
import { invalid, type Step } from "./invalid.ts";
import {
  ARRAY,
  ARRAY_END,
  END,
  JsonReader,
  NUMBER,
  OBJECT,
  OBJECT_END,
  STRING,
  WORD,
} from "./reader.ts";

/** A JSON value. */
export type Json = null | boolean | number | string | Json[] | JsonObject;
/** A JSON object: what a document is. */
export interface JsonObject {
  /** a value; a key whose value is `undefined` is left out, as `JSON.stringify` does */
  [key: string]: Json | undefined;
}

/** A document ready to be sent: the text of the caller, for the event, and the spelling that RedisJSON is to read. */
export interface EncodedJson extends Spelled {
  text: string;
}

/** How deep RedisJSON 2.x nests (its parser's recursion limit). */
export const MAX_DEPTH = 127;

/**
 * Checks a document and turns it into JSON text.
 * @param document an object, or the text of one. Text keeps its spelling, such as integers above 2^53.
 * @param maxBytes the largest text allowed, in bytes of UTF-8
 * @throws {DocumentError} `too_large`, or `invalid` with the path of the value and what to do
 *
 * @example What would be changed is refused
 * ```ts
 * import { equal, throws } from "node:assert/strict";
 *
 * equal(encodeJson('{"n": 9007199254740993}', 100).text, '{"n": 9007199254740993}');
 * throws(() => encodeJson({ name: "a\u0000b" }, 100), /U\+0000/);
 * ```
 */
export function encodeJson(document: JsonObject | string, maxBytes: number): EncodedJson {
  return typeof document === "string"
    ? encodeText(document, maxBytes)
    : encodeObject(document, maxBytes);
}

function encodeText(text: string, maxBytes: number): EncodedJson {
  checkLength(text, maxBytes);
  const document = parsed(text);
  const seen = { longNumber: false };
  // Written as JSON.stringify writes it, a text has no key twice, and no number that parsing would hide.
  const plain = isPlain(document, 0, seen) && !text.includes("\\u") &&
    JSON.stringify(document) === text;
  return spelled(text, plain ? seen.longNumber : checkText(text));
}

const spelled = (text: string, longNumber: boolean): EncodedJson => ({
  text,
  ...(longNumber ? spellNumbers(text) : { spelled: text, additions: [] }),
});

function encodeObject(document: JsonObject, maxBytes: number): EncodedJson {
  const seen = { longNumber: false };
  // Nearly every document is plain. One that is not is walked again, to say where and why.
  if (typeof document !== "object" || !isPlain(document, 0, seen)) {
    checkObject(document);
    // The look ended early, at a property that is undefined for one: there may be more numbers.
    seen.longNumber = true;
  }
  const text = JSON.stringify(document);
  // By now, everything that PostgreSQL cannot hold or that is not Unicode is escaped.
  if (text.includes("\\u")) checkObject(document);
  checkLength(text, maxBytes);
  return spelled(text, seen.longNumber);
}

function checkLength(text: string, maxBytes: number): void {
  // A UTF-16 unit is 1 to 3 bytes of UTF-8, so most texts need no counting.
  if (text.length * 3 <= maxBytes) return;
  const bytes = Buffer.byteLength(text);
  if (bytes <= maxBytes) return;
  throw new DocumentError(
    "too_large",
    `Cannot store the document: it has ${bytes} bytes and documents.max_bytes is ${maxBytes}; ` +
      "split it, or raise the limit",
  );
}

/** Whether a value is certainly JSON, its strings aside. Quick: where it is unsure, it says no. */
function isPlain(value: unknown, depth: number, seen: { longNumber: boolean }): boolean {
  switch (typeof value) {
    case "string":
    case "boolean":
      return true;
    case "number":
      if (Number.isSafeInteger(value)) return true;
      if (!Number.isFinite(value)) return false;
      seen.longNumber ||= LONG_NUMBER.test(String(value));
      return true;
    case "undefined":
      // Absent as a property; as an item of an array it would become null.
      return false;
    case "object":
      break;
    default:
      return false;
  }
  if (value === null) return depth > 0;
  if (depth >= MAX_DEPTH) return false;
  if (Array.isArray(value)) {
    if (depth === 0) return false;
    for (let index = 0; index < value.length; index++) {
      if (!isPlain(value[index], depth + 1, seen)) return false;
    }
    return true;
  }
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return false;
  for (const key in value) {
    if (!isPlain((value as Record<string, unknown>)[key], depth + 1, seen)) return false;
  }
  return true;
}

/** Checks a document that came as JavaScript. */
function checkObject(document: unknown): void {
  if (typeof document !== "object" || document === null || Array.isArray(document)) {
    throw notAnObject(
      document === null ? "null" : Array.isArray(document) ? "array" : typeof document,
    );
  }
  const path: Step[] = [];
  try {
    checkValue(document, path);
  } catch (error) {
    if (!(error instanceof NotStorable)) throw error;
    if (path.length === 0 && error.what.startsWith("a ")) throw notAnObject(error.what.slice(2));
    throw invalid(error.what, path, error.advice);
  }
}

/** Why a value cannot be stored; the caller, who knows the path, makes an error of it. */
class NotStorable {
  constructor(readonly what: string, readonly advice: string) {}
}

/** Walks a value once. `path` leads to where the walk is, also when this throws. */
function checkValue(value: unknown, path: Step[]): void {
  switch (typeof value) {
    case "string":
      return checkString(value);
    case "number":
      if (Number.isFinite(value)) return;
      throw new NotStorable(`${value} is not a JSON number`, "use null or a string");
    case "boolean":
      return;
    case "object":
      break;
    default:
      throw new NotStorable(`${typeof value} is not JSON`, "convert it first");
  }
  if (value === null) return;
  if (path.length >= MAX_DEPTH) throw TOO_DEEP;
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      path.push(index);
      checkValue(value[index], path);
      path.pop();
    }
    return;
  }
  const prototype = Object.getPrototypeOf(value);
  const plain = prototype === null || Object.getPrototypeOf(prototype) === null;
  if (!plain || "toJSON" in value && typeof value.toJSON === "function") {
    throw new NotStorable(
      `a ${value.constructor?.name ?? "object"} is not JSON`,
      "convert it first, such as a Date by toISOString()",
    );
  }
  for (const key in value) {
    path.push(key);
    checkString(key);
    const item = (value as Record<string, unknown>)[key];
    // As in JSON.stringify, a property that is undefined is absent.
    if (item !== undefined) checkValue(item, path);
    path.pop();
  }
}

function checkString(text: string): void {
  if (text.includes("\0")) throw new NotStorable("U+0000", "PostgreSQL cannot hold it: remove it");
  if (!text.isWellFormed()) throw LONE_SURROGATE;
}

const LONE_SURROGATE = new NotStorable(
  "a lone surrogate",
  "it is not Unicode text: use toWellFormed()",
);
const TOO_DEEP = new NotStorable(`more than ${MAX_DEPTH} nested levels`, "flatten it");
const notAnObject = (what: string) =>
  new DocumentError("invalid", `Cannot store the document: expected a JSON object, got ${what}`);

/** Parses a document that came as text. */
function parsed(text: string): JsonObject {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (cause) {
    throw invalid((cause as Error).message, pathOfMistake(text), "correct the text", cause);
  }
  if (typeof document === "object" && document !== null && !Array.isArray(document)) {
    return document as JsonObject;
  }
  throw notAnObject(
    Array.isArray(document) ? "array" : document === null ? "null" : typeof document,
  );
}

/** Where the first token is that JSON does not have, such as `NaN`; where there is none, where the text ends. */
function pathOfMistake(text: string): Step[] {
  const reader = new JsonReader(text);
  for (let kind = reader.next(); kind !== END; kind = reader.next()) {
    if (kind !== WORD && kind !== NUMBER && kind !== STRING) continue;
    try {
      JSON.parse(reader.token);
    } catch {
      // This is the place; the refusal has the parser's reason.
      return reader.path(kind === STRING && reader.isKey ? reader.depth - 1 : undefined);
    }
  }
  return reader.path();
}

/** Checks a text that is JSON for all that parsing hides. Returns whether it has a number that is not plainly exact. */
function checkText(text: string): boolean {
  let longNumber = false;
  const wellFormed = text.isWellFormed();
  // The syntax is known to be right, so tokens are enough to find keys and levels.
  const reader = new JsonReader(text);
  const keysOfLevels: (Set<string> | null)[] = [];
  for (let kind = reader.next(); kind !== END; kind = reader.next()) {
    if (kind === OBJECT || kind === ARRAY) {
      keysOfLevels.push(kind === OBJECT ? new Set() : null);
      if (reader.depth > MAX_DEPTH) {
        throw invalid(TOO_DEEP.what, reader.path(MAX_DEPTH), TOO_DEEP.advice);
      }
    } else if (kind === OBJECT_END || kind === ARRAY_END) keysOfLevels.pop();
    longNumber ||= kind === NUMBER && LONG_NUMBER.test(reader.token);
    if (kind !== STRING) continue;
    if (reader.escaped || !wellFormed) checkToken(reader);
    if (!reader.isKey) continue;
    const { token } = reader;
    const key = reader.escaped ? JSON.parse(token) as string : token.slice(1, -1);
    const keys = keysOfLevels.at(-1)!;
    if (keys.has(key)) throw invalid("a duplicate key", reader.path(), "keep one of them");
    keys.add(key);
  }
  return longNumber;
}

/** Checks a string that may hide what cannot be stored. */
function checkToken(reader: JsonReader): void {
  try {
    checkString(JSON.parse(reader.token));
  } catch (error) {
    if (!(error instanceof NotStorable)) throw error;
    throw invalid(error.what, reader.path(), error.advice);
  }
}
