/**
 * When two JSON texts are equal: as values, numbers as decimals, whatever the order of keys.
 * @module
 */

import type { Json } from "./encode.ts";
import { parseJson } from "./parse.ts";
import { decimalOf, LONG_NUMBER } from "./exact_numbers.ts";
import { END, JsonReader, NUMBER } from "./reader.ts";

/**
 * JSON text in one form for equal values: keys sorted, numbers as decimals without zeros on either end,
 * -0 as 0. So the spelling of Redis or PostgreSQL does not matter.
 * @param text valid JSON
 */
export function canonicalJson(text: string): string {
  const numbers: string[] = [];
  const parts: string[] = [];
  const reader = new JsonReader(text);
  let from = 0;
  // Numbers travel as strings, since parsing would round them.
  for (let kind = reader.next(); kind !== END; kind = reader.next()) {
    if (kind !== NUMBER) continue;
    const place = numbers.push(canonicalNumber(reader.token)) - 1;
    parts.push(text.slice(from, reader.start), `{"":${place}}`);
    from = reader.end;
  }
  const write = (value: Json): string => {
    if (Array.isArray(value)) return `[${value.map(write).join(",")}]`;
    if (typeof value !== "object" || value === null) return JSON.stringify(value);
    const keys = Object.keys(value);
    if (keys.length === 1 && keys[0] === "" && typeof value[""] === "number") {
      return numbers[value[""]]!;
    }
    return `{${
      keys.sort().map((key) => `${JSON.stringify(key)}:${write(value[key]!)}`).join(",")
    }}`;
  };
  return write(parseJson(parts.join("") + text.slice(from)));
}

function canonicalNumber(token: string): string {
  const { sign, digits, exponent } = decimalOf(token);
  return digits === "" ? "0" : `${sign}${digits}e${exponent}`;
}

/**
 * Whether two JSON texts are equal as values: numbers as decimals, keys in any order.
 *
 * @example
 * ```ts
 * import { equal } from "node:assert/strict";
 *
 * equal(equalJson('{"a": 1.0, "b": -0}', '{"b":0,"a":1}'), true);
 * equal(equalJson("9007199254740993", "9007199254740992"), false);
 * ```
 */
export function equalJson(a: string, b: string): boolean {
  if (a === b) return true;
  // Parsing rounds long numbers, so these are compared as decimals.
  if (LONG_NUMBER.test(a) || LONG_NUMBER.test(b)) return canonicalJson(a) === canonicalJson(b);
  return equalValues(parseJson(a), parseJson(b));
}

function equalValues(a: Json, b: Json): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a)) {
    return Array.isArray(b) && a.length === b.length &&
      a.every((item, index) => equalValues(item, b[index]!));
  }
  if (Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && equalValues(a[key]!, b[key]!));
}
