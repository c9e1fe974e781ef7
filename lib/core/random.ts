/**
 * A seeded random generator: the same seed gives the same run.
 * @module
 */

import { checkArguments } from "./arguments.ts";

/** Gives the next pseudo-random number, from 0 up to but not 1. */
export type Random = () => number;

/**
 * A random generator: the same seed gives the same numbers. Not for secrets.
 * Source: sfc32, by Chris Doty-Humphrey, in PractRand.
 * @param seed a whole number, of which 53 bits count
 *
 * @example
 * ```ts
 * import { deepEqual } from "node:assert/strict";
 * import { seededRandom } from "writebehind";
 *
 * const [one, other] = [seededRandom(7), seededRandom(7)];
 * deepEqual([one(), one()], [other(), other()]);
 * ```
 */
export function seededRandom(seed: number): Random {
  checkArguments("seededRandom", { seed });
  let a = seed | 0;
  let b = Math.floor(seed / 2 ** 32) | 0;
  let c = 0x9e3779b9 | 0;
  let counter = 1;
  const next = () => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return (sum >>> 0) / 2 ** 32;
  };
  // Similar seeds need some rounds before their numbers differ.
  for (let round = 0; round < 15; round++) next();
  return next;
}

/** A whole number from 0 up to but not `end`. */
export function below(random: Random, end: number): number {
  return Math.floor(random() * end);
}
