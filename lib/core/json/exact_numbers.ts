/**
 * Numbers that RedisJSON reads exactly: those that it would misread are spelled another way.
 * @module
 */

import { invalid } from "./invalid.ts";

export const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|[{}[\]:,]/g;
// A number that is not plainly exact: 16 or more digits, or an exponent.
export const LONG_NUMBER = /[\d.]{16,}|\d[eE]/;
export const NUMBER = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/;

/**
 * RedisJSON 2.x reads decimals by serde_json's fast method: up to 20 digits as one integer, then one
 * multiplication or division by a power of ten. About one double in ten comes out a unit in the last
 * place off. Where that would happen, another spelling of the same double is looked for: RedisJSON
 * prints doubles by their shortest spelling, so what is read back is what was meant.
 */
export function spellNumbers(text: string): string {
  return text.replace(TOKEN, (token) => {
    const first = token.charCodeAt(0);
    if (first !== 0x2d && (first < 0x30 || first > 0x39)) return token;
    if (!LONG_NUMBER.test(token)) return token;
    return spellNumber(token);
  });
}

const U64_MAX = 18446744073709551615n;
const I64_MIN = -9223372036854775808n;

function spellNumber(token: string): string {
  const [, sign = "", whole = "", fraction = "", exponentText = "0"] = token.match(NUMBER)!;
  const integer = fraction === "" && exponentText === "0";
  if (integer) {
    const value = BigInt(token);
    if (value >= I64_MIN && value <= U64_MAX) return token;
  }
  const digits = whole + fraction;
  const exponent = Number(exponentText) - fraction.length;
  const value = Number(token);
  if (!Number.isFinite(value) || canonical(digits, exponent) !== canonicalOf(Math.abs(value))) {
    throw invalid(
      `the number ${token.slice(0, 40)}`,
      "the document",
      "it would be rounded: use a string",
    );
  }
  const wanted = Math.abs(value);
  if (readBySerde(digits, exponent) === wanted) return token;
  const plain = BigInt(digits);
  for (const extra of [0, 1, 2, 3, -1, -2]) {
    const scaled = extra < 0 ? plain / 10n ** BigInt(-extra) : plain * 10n ** BigInt(extra);
    if (scaled > U64_MAX) continue;
    const unit = 10n ** BigInt(Math.max(0, scaled.toString().length - 17));
    for (let step = 0n; step <= 30n; step++) {
      for (const near of [scaled + step * unit, scaled - step * unit]) {
        const spelled = near.toString();
        if (near > 0n && readBySerde(spelled, exponent - extra) === wanted) {
          return `${sign}${spelled}e${exponent - extra}`;
        }
      }
    }
  }
  throw invalid(
    `the number ${token}`,
    "the document",
    "RedisJSON cannot hold it exactly: use a string",
  );
}

/** A decimal without sign as digits and exponent, with no zeros on either end. */
export function canonical(digits: string, exponent: number): string {
  const trimmed = digits.replace(/^0+/, "");
  const kept = trimmed.replace(/0+$/, "");
  return kept === "" ? "0" : `${kept}e${exponent + trimmed.length - kept.length}`;
}

/** The shortest spelling of a double that is not negative, canonical. */
function canonicalOf(value: number): string {
  const [mantissa = "", exponent = "0"] = value.toString().split("e");
  const [whole = "", fraction = ""] = mantissa.split(".");
  return canonical(whole + fraction, Number(exponent) - fraction.length);
}

/** What serde_json (`f64_from_parts`) makes of these digits times ten to the exponent. */
function readBySerde(digits: string, exponent: number): number {
  let significand = 0n;
  let used = 0;
  for (; used < digits.length; used++) {
    const next = significand * 10n + BigInt(digits.charCodeAt(used) - 48);
    if (next > U64_MAX) break;
    significand = next;
  }
  let power = exponent + digits.length - used;
  let value = Number(significand);
  while (power < -308) {
    value /= 1e308;
    power += 308;
    if (value === 0) return 0;
  }
  if (power > 308) return Infinity;
  return power >= 0 ? value * Number(`1e${power}`) : value / Number(`1e${-power}`);
}
