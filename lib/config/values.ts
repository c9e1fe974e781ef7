/**
 * The kinds of values that the configuration file has: what each may be, and what is expected where it is not.
 * @module
 */

import { z } from "zod";
import { isHost } from "./address_parts.ts";
import { secret, textOrNull } from "./secrets.ts";

/** The longest time that a timer or a server command takes, in ms: a signed 32-bit number. */
export const LONGEST_MS = 2 ** 31 - 1;
export const LONGEST_SECONDS = Math.floor(LONGEST_MS / 1000);
// deno-lint-ignore no-control-regex -- it is there to find control characters
const NO_SPACE = /^[^\s\u0000-\u001f\u007f-\u009f]+$/;

function range(min: number, max: number): string {
  if (max === Infinity || max === Number.MAX_SAFE_INTEGER) return ` of at least ${min}`;
  return ` from ${min} to ${max}`;
}

export function integer(min: number, max: number) {
  const error = `expected a whole number${range(min, max)}`;
  return z.int({ error }).min(min, { error }).max(max, { error });
}

export function whole(initial: number, min: number, max = Number.MAX_SAFE_INTEGER) {
  return integer(min, max).default(initial);
}

export function wholeOrAuto(initial: number, min: number, max: number) {
  const error = `expected a whole number${range(min, max)}, or auto`;
  return z.union([z.literal("auto"), z.int({ error }).min(min, { error }).max(max, { error })], {
    error,
  }).default(initial);
}

export function number(initial: number, min: number, max = Infinity) {
  const error = `expected a number${range(min, max)}`;
  return z.number({ error }).min(min, { error }).max(max, { error }).default(initial);
}

export function positive(initial: number, max: number) {
  const error = `expected a number above 0, at most ${max}`;
  return z.number({ error }).positive({ error }).max(max, { error }).default(initial);
}

export function flag(initial: boolean) {
  return z.boolean({ error: "expected true or false" }).default(initial);
}

export function text(expected: string, pattern: RegExp) {
  return z.string({ error: expected }).regex(pattern, { error: expected });
}

/** A whole number, or null for none. */
export function optionalWhole(min: number, max: number) {
  return integer(min, max).nullable().default(null);
}

export const filled = text("expected text that is not empty", /^[^\0]+$/);
export const nonEmpty = (initial: string) => filled.default(initial);
export const optionalText = textOrNull.default(null);

export const password = secret("password");
export const pathOrNull = text("expected the path of a file, or null", /^[^\0]+$/).nullable();
export const optionalPath = pathOrNull.default(null);
/** A part of a Redis key; braces would change the slot of the keys made from it. */
export const keyPart = (initial: string) =>
  text("expected text without spaces, control characters or braces", /^[^\s\p{Cc}{}]+$/u)
    .default(initial);
/** A URL is refused: it would be taken for a name, and its password would show in messages. */
const HOST = "expected one host: a name, an address, or the path of a socket, not a URL";
export const hostName = z.string({ error: HOST }).refine(isHost, { error: HOST });
export const host = hostName.default("localhost");
export const indexName = text("expected text without spaces or control characters", NO_SPACE);

/** A section of the file; one that is absent or empty gets all defaults. */
export function section<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.preprocess((value) => value ?? {}, mapping(shape));
}

export function mapping<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.strictObject(shape, { error: "expected keys with values" });
}
