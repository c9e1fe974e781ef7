/**
 * When two JSON texts are equal: as values, numbers as decimals, whatever the order of keys.
 * @module
 */

import type { Json } from "./encode.ts";
import { canonical, LONG_NUMBER, NUMBER, TOKEN } from "./exact_numbers.ts";

/**
 * JSON text in one form for equal values: keys sorted, numbers as decimals without zeros on either end,
 * -0 as 0. Neither Redis's nor PostgreSQL's spelling matters then.
 * @param text valid JSON
 */
export function canonicalJson(text: string): string {
  const numbers: string[] = [];
  // Numbers travel as strings, since parsing would round them.
  const marked = text.replace(TOKEN, (token) => {
    const first = token.charCodeAt(0);
    if (first !== 0x2d && (first < 0x30 || first > 0x39)) return token;
    return `{"":${numbers.push(canonicalNumber(token)) - 1}}`;
  });
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
  return write(JSON.parse(marked));
}

function canonicalNumber(token: string): string {
  const [, sign = "", whole = "", fraction = "", exponent = "0"] = token.match(NUMBER)!;
  const value = canonical(whole + fraction, Number(exponent) - fraction.length);
  return value === "0" ? value : sign + value;
}

/** Whether two JSON texts are equal as values. */
export function equalJson(a: string, b: string): boolean {
  if (a === b) return true;
  // Parsing rounds long numbers, so these are compared as decimals.
  if (LONG_NUMBER.test(a) || LONG_NUMBER.test(b)) return canonicalJson(a) === canonicalJson(b);
  return equalValues(JSON.parse(a), JSON.parse(b));
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
