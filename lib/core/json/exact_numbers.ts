/**
 * Numbers that RedisJSON holds exactly.
 *
 * RedisJSON 2.x reads decimals by serde_json's fast method: up to 20 digits as one integer, then one multiplication
 * or division by a power of ten. About one double in ten comes out wrong by one unit in the last place. Such a number
 * is spelled another way, which an exact reader and RedisJSON read alike. About one in a thousand has no such spelling:
 * a neighbour that has one is written, and JSON.NUMINCRBY adds the rest. So a later version that reads exactly, a
 * replica and an append-only file all hold the same value.
 * Source: serde_json, `de.rs` (`f64_from_parts`).
 * @module
 */

import { invalid } from "./invalid.ts";
import { END, JsonReader, NUMBER } from "./reader.ts";

/** Where this does not match (16 digits, or an exponent), all numbers of a text are exact as they are. */
export const LONG_NUMBER = /[\d.]{16}|\d[eE]/;

/** What is to be added to a number of the document once it is written. */
export interface Addition {
  /** JSONPath, as RedisJSON takes it */
  path: string;
  /** a JSON number */
  delta: string;
}

/** A document's text as it is to be written, and what is to be added then. */
export interface Spelled {
  spelled: string;
  additions: Addition[];
}

/**
 * Spells the numbers of a JSON text so that RedisJSON holds them exactly.
 * @throws {DocumentError} `invalid` for a number that is no double, or that RedisJSON would misread and cannot be corrected
 */
export function spellNumbers(text: string): Spelled {
  const additions: Addition[] = [];
  const reader = new JsonReader(text);
  const parts: string[] = [];
  let from = 0;
  for (let kind = reader.next(); kind !== END; kind = reader.next()) {
    if (kind !== NUMBER || reader.end - reader.start < 3) continue;
    const { token } = reader;
    if (!LONG_NUMBER.test(token)) continue;
    const spelling = spell(token);
    if (spelling === null) {
      throw invalid(
        `the number ${token.slice(0, 40)}`,
        reader.path(),
        "it would be rounded: use a string",
      );
    }
    const { base, delta } = spelling;
    if (delta !== null) {
      const path = reader.redisPath();
      if (path === null) {
        throw invalid(
          `the number ${token}`,
          reader.path(),
          "RedisJSON misreads it, and cannot find it behind such a key: use a string, or another key",
        );
      }
      additions.push({ path, delta });
    }
    if (base !== token) {
      parts.push(text.slice(from, reader.start), base);
      from = reader.end;
    }
  }
  return { spelled: parts.length === 0 ? text : parts.join("") + text.slice(from), additions };
}

/** A decimal: its digits without zeros on either end ("" for 0), times ten to the exponent. */
interface Decimal {
  sign: "" | "-";
  digits: string;
  exponent: number;
}

/** Takes a JSON number apart. */
export function decimalOf(token: string): Decimal {
  const sign = token.startsWith("-") ? "-" : "";
  const e = token.search(/[eE]/);
  const mantissa = token.slice(sign.length, e < 0 ? undefined : e);
  const point = mantissa.indexOf(".");
  const all = point < 0 ? mantissa : mantissa.slice(0, point) + mantissa.slice(point + 1);
  let first = 0;
  while (all.charCodeAt(first) === 0x30) first++;
  let last = all.length;
  while (last > first && all.charCodeAt(last - 1) === 0x30) last--;
  const fraction = point < 0 ? 0 : mantissa.length - point - 1;
  const exponent = (e < 0 ? 0 : Number(token.slice(e + 1))) - fraction + all.length - last;
  return { sign, digits: all.slice(first, last), exponent };
}

/** How a number is written: `base`, plus `delta` where that is not exact; `null` for a number that is no double. */
function spell(token: string): { base: string; delta: string | null } | null {
  const { sign, digits, exponent } = decimalOf(token);
  if (digits === "" || isInteger(token)) return { base: token, delta: null };
  const wanted = Math.abs(Number(token));
  if (!Number.isFinite(wanted) || digits.length > 17) return null;
  const shortest = decimalOf(String(wanted));
  if (shortest.digits !== digits || shortest.exponent !== exponent) return null;
  if (readBySerde(digitsOf(token), exponentOf(token)) === wanted) {
    return { base: token, delta: null };
  }
  const base = spellingOf(wanted);
  if (base !== null) return { base: sign + base, delta: null };
  for (let distance = 1n; distance <= 16n; distance++) {
    for (const neighbour of [neighbourOf(wanted, distance), neighbourOf(wanted, -distance)]) {
      const base = neighbour > 0 && Number.isFinite(neighbour) ? spellingOf(neighbour) : null;
      if (base === null) continue;
      const missing = wanted - neighbour;
      const delta = exponential(Math.abs(missing));
      const read = Math.sign(missing) * readText(delta);
      // Even if it is read slightly wrong, it is too small to matter.
      if (neighbour + read !== wanted || neighbour + missing !== wanted) continue;
      return { base: sign + base, delta: (missing < 0) === (sign === "-") ? delta : `-${delta}` };
    }
  }
  return null;
}

/** Whether a number is an integer that RedisJSON holds as one: of 64 bits, without point or exponent. */
function isInteger(token: string): boolean {
  if (token.length > 20 || /[.eE]/.test(token)) return false;
  const value = BigInt(token);
  return value >= I64_MIN && value <= U64_MAX;
}

const U64_MAX = 18446744073709551615n;
const I64_MIN = -9223372036854775808n;

const digitsOf = (token: string) => token.replace(/^-|[eE].*$/g, "").replace(".", "");
function exponentOf(token: string): number {
  const e = token.search(/[eE]/);
  const mantissa = e < 0 ? token : token.slice(0, e);
  const point = mantissa.indexOf(".");
  return (e < 0 ? 0 : Number(token.slice(e + 1))) - (point < 0 ? 0 : mantissa.length - point - 1);
}

/** A double's shortest spelling, with an exponent, so that RedisJSON does not take it for an integer. */
function exponential(value: number): string {
  const { digits, exponent } = decimalOf(String(value));
  return `${digits}e${exponent}`;
}

const readText = (text: string) => readBySerde(digitsOf(text), exponentOf(text));

/** A spelling of a positive double that an exact reader and RedisJSON read alike; `null` where none is near. */
function spellingOf(wanted: number): string | null {
  const { digits, exponent } = decimalOf(String(wanted));
  const plain = BigInt(digits);
  for (const extra of [0, 1, 2, 3, -1, -2]) {
    const scaled = extra < 0 ? plain / 10n ** BigInt(-extra) : plain * 10n ** BigInt(extra);
    if (scaled > U64_MAX) continue;
    const unit = 10n ** BigInt(Math.max(0, scaled.toString().length - 17));
    for (let step = 0n; step <= 30n; step++) {
      for (const near of step === 0n ? [scaled] : [scaled + step * unit, scaled - step * unit]) {
        if (near <= 0n) continue;
        const spelled = `${near}e${exponent - extra}`;
        if (readBySerde(near.toString(), exponent - extra) !== wanted) continue;
        if (Number(spelled) === wanted) return spelled;
      }
    }
  }
  return null;
}

const bits = new BigUint64Array(1);
const doubles = new Float64Array(bits.buffer);

/** The double that is `distance` units in the last place away. */
function neighbourOf(value: number, distance: bigint): number {
  doubles[0] = value;
  bits[0]! += BigInt.asUintN(64, distance);
  return doubles[0];
}

/** What serde_json makes of these digits times ten to the exponent. */
function readBySerde(digits: string, exponent: number): number {
  let from = 0;
  while (digits.charCodeAt(from) === 0x30) from++;
  // What does not fit 64 bits is cut off.
  let used = Math.min(digits.length, from + 20);
  let significand = BigInt(digits.slice(from, used) || "0");
  if (significand > U64_MAX) significand = BigInt(digits.slice(from, --used));
  let power = exponent + digits.length - used;
  let value = Number(significand);
  if (value === 0) return 0;
  while (power < -308) {
    value /= 1e308;
    power += 308;
    if (value === 0) return 0;
  }
  if (power > 308) return Infinity;
  return power >= 0 ? value * Number(`1e${power}`) : value / Number(`1e${-power}`);
}
