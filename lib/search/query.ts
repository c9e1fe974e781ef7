/**
 * Builds queries from filters, and escapes everything that RediSearch would take for syntax.
 * @module
 */

import type { Config } from "../config/load.ts";
import { SearchError } from "./error.ts";

/** What a search looks for: documents that meet all of it. An empty filter meets all documents. */
export interface SearchFilter {
  /** TEXT fields: these whole words in this order, whatever punctuation is between them */
  text?: Record<string, string>;
  /** TAG fields: the whole value, or one of several; upper and lower case are the same */
  tag?: Record<string, string | string[]>;
  /** NUMERIC fields: least and greatest value, both included; infinite ones leave an end open */
  numeric?: Record<string, [min: number, max: number]>;
}

/** Every ASCII character that is not part of a word to RediSearch. */
const PUNCTUATION = /[!-/:-@[-^`{-~]/g;

const fieldInQuery = (name: string) => `@${name.replace(PUNCTUATION, "\\$&")}`;

/**
 * The filter in RediSearch's language, dialect 2, with the values as parameters.
 * @returns null where nothing can match
 * @throws {SearchError} `unknown_field`, `invalid`
 *
 * @example
 * ```ts
 * import { deepEqual } from "node:assert/strict";
 * import { parseConfig } from "writebehind";
 *
 * const config = parseConfig("", "yaml");
 * deepEqual(buildQuery(config, { tag: { device_type: ["ios", "a|b"] } }), {
 *   query: "@device_type:{$p0|$p1}",
 *   params: ["p0", "ios", "p1", "a|b"],
 * });
 * ```
 */
export function buildQuery(
  config: Config,
  { text = {}, tag = {}, numeric = {} }: SearchFilter,
): { query: string; params: string[] } | null {
  const parts: string[] = [];
  const params: string[] = [];
  // A parameter's value is never read as a query.
  const parameter = (value: string) => {
    const name = `p${params.length / 2}`;
    params.push(name, value);
    return `$${name}`;
  };
  for (const [name, value] of Object.entries(text)) {
    checkField(config, name, "TEXT");
    if (!isText(value)) throw wrong(name, "text", value);
    const words = wordsOf(value);
    if (words.length === 0) return null;
    parts.push(`${fieldInQuery(name)}:"${words.join(" ")}"`);
  }
  for (const [name, value] of Object.entries(tag)) {
    checkField(config, name, "TAG");
    // RediSearch has no entry for an empty tag, and U+0000 would end the value.
    const given = [value].flat();
    if (!given.every(isText)) throw wrong(name, "text, or a list of text", value);
    const values = given.filter((one) => one !== "" && !one.includes("\0"));
    if (values.length === 0) return null;
    // A backslash escapes the character after it, also in parameters.
    const alternatives = values.map((one) => parameter(one.replaceAll("\\", "\\\\")));
    parts.push(`${fieldInQuery(name)}:{${alternatives.join("|")}}`);
  }
  for (const [name, ends] of Object.entries(numeric)) {
    checkField(config, name, "NUMERIC");
    if (!Array.isArray(ends) || ends.length !== 2 || !ends.every(isNumber)) {
      throw wrong(name, "two numbers", ends);
    }
    const [min, max] = ends.map((end) => parameter(numberInQuery(end)));
    parts.push(`${fieldInQuery(name)}:[${min} ${max}]`);
  }
  return { query: parts.length === 0 ? "*" : parts.join(" "), params };
}

const isText = (value: unknown) => typeof value === "string";
const isNumber = (value: unknown) => typeof value === "number" && !Number.isNaN(value);

function wrong(name: string, expected: string, got: unknown): SearchError {
  return new SearchError(
    "invalid",
    `Cannot search by ${name}: expected ${expected}, got ${Deno.inspect(got).slice(0, 60)}`,
  );
}

function numberInQuery(value: number): string {
  return Number.isFinite(value) ? String(value) : value > 0 ? "+inf" : "-inf";
}

/**
 * The words of a text, cut as RediSearch cuts a document's: by punctuation, without control characters
 * and without a backslash before a letter.
 */
function wordsOf(text: string): string[] {
  return text
    .replaceAll("\t", " ")
    .replace(/\\(?=[\w\u0080-\uffff])/g, "")
    .replace(PUNCTUATION, " ")
    // deno-lint-ignore no-control-regex -- these are what RediSearch leaves out of a word
    .replace(/[\x00-\x1f\x7f]/g, "")
    .split(" ")
    .filter((word) => word !== "");
}

function checkField({ search_index }: Config, name: string, type: string): void {
  const field = search_index.fields.find((field) => field.name === name);
  if (field?.type === type) return;
  const fields = search_index.fields.map(({ name, type }) => `${name} (${type})`).join(", ");
  throw new SearchError(
    "unknown_field",
    `Cannot search by ${JSON.stringify(name)} as ${type}: search_index.fields has ${fields}`,
  );
}
