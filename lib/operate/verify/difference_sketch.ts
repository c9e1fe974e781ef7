/**
 * Finds, in fixed memory, the ids that one walk has met and another has not.
 * @module
 */

import type { Buffer } from "node:buffer";

const SLOTS = 2 ** 18;
/** Larger than the rest of any hash, so that every id counts. */
const ONE = 2 ** 35;

/**
 * What is left of a set when ids are added and removed, in 2 MB. A hash of 53 bits assigns each id to one of
 * many sums. Adding the id adds the rest of its hash and a constant to the sum, and removing it subtracts them,
 * so a sum of 0 means that nothing is left. An id that was added is hidden only if the hashes of others that
 * were removed happen to cancel its own.
 */
export class DifferenceSketch {
  // Exact up to 2^53, so up to 2^35 ids.
  #sums = new Float64Array(SLOTS);

  add(id: Buffer): void {
    const hash = hashOf(id);
    this.#sums[slotOf(hash)]! += ONE + Math.floor(hash / SLOTS);
  }

  takeAway(id: Buffer): void {
    const hash = hashOf(id);
    this.#sums[slotOf(hash)]! -= ONE + Math.floor(hash / SLOTS);
  }

  get isEmpty(): boolean {
    return this.#sums.every((sum) => sum === 0);
  }

  /** Whether an id may be left; it may also be others that share its sum. */
  mayHold(id: Buffer): boolean {
    return this.#sums[slotOf(hashOf(id))] !== 0;
  }
}

/** The last bits of a hash. */
const slotOf = (hash: number) => (hash >>> 0) % SLOTS;

/** 53 bits: two hashes that multiply by different primes and are mixed at the end, as MurmurHash does. */
function hashOf(id: Buffer): number {
  let a = 0xdeadbeef;
  let b = 0x41c6ce57;
  for (let at = 0; at < id.length; at++) {
    const byte = id[at]!;
    a = Math.imul(a ^ byte, 2654435761);
    b = Math.imul(b ^ byte, 1597334677);
  }
  a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
  b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
  return 2 ** 21 * (b >>> 0) + (a >>> 11);
}
