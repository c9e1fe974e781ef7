/**
 * PostgreSQL's binary format of one-dimensional arrays. pg sends a parameter that is a Buffer unchanged, so a
 * whole column travels as one parameter, and payloads are copied, never parsed.
 * Layout: the PostgreSQL sources, `array_recv`, `timestamptz_recv`.
 * @module
 */

import { Buffer } from "node:buffer";
import { versionHigh, versionLow } from "../../core/stream_ids.ts";

/** The most memory that an arena keeps: a few large batches should not hold it for ever. */
const KEPT_BYTES = 16 << 20;
const FIRST_BYTES = 1 << 10;

/**
 * Memory in which arrays are written, one after the other. Each batch reuses it, since new memory would have
 * to wait for the garbage collector.
 */
export class Arena {
  #buffer = Buffer.alloc(0);
  /** where the array that is being written begins, and where its next value goes */
  #begin = 0;
  #end = 0;

  /** Makes all memory free again. */
  clear(): void {
    this.#begin = this.#end = 0;
    if (this.#buffer.length > KEPT_BYTES) this.#buffer = Buffer.alloc(0);
  }

  int32(value: number): void {
    this.#reserve(4);
    this.#end = this.#buffer.writeInt32BE(value, this.#end);
  }

  uint32(value: number): void {
    this.#reserve(4);
    this.#end = this.#buffer.writeUInt32BE(value, this.#end);
  }

  bytes(value: Buffer): void {
    this.#reserve(value.length);
    this.#buffer.set(value, this.#end);
    this.#end += value.length;
  }

  /** Ends an array, and returns what was written since the last one. */
  end(): Buffer {
    const array = this.#buffer.subarray(this.#begin, this.#end);
    this.#begin = this.#end;
    return array;
  }

  #reserve(bytes: number): void {
    if (this.#end + bytes <= this.#buffer.length) return;
    // Arrays that were handed out keep the old memory; the new one is large enough for the whole next batch.
    const larger = Buffer.allocUnsafeSlow(2 * this.#buffer.length + FIRST_BYTES + bytes);
    this.#buffer.copy(larger, 0, this.#begin, this.#end);
    this.#end -= this.#begin;
    this.#begin = 0;
    this.#buffer = larger;
  }
}

const OIDS = { text: 25, int8: 20, bytea: 17, timestamptz: 1184 } as const;
const POSTGRES_EPOCH_MS = 946_684_800_000;

/**
 * An array of texts or byte strings.
 * @param bytesOf gives the bytes of one of `values`; `null` is NULL
 * @param arena where the array is to be
 */
export function bytesArray<T>(
  type: "text" | "bytea",
  values: readonly T[],
  bytesOf: (value: T) => Buffer | null,
  arena = new Arena(),
): Buffer {
  return array(OIDS[type], values, arena, (value) => {
    // One by one, since views of all values at once would be most of a sink's memory.
    const bytes = bytesOf(value);
    arena.int32(bytes === null ? -1 : bytes.length);
    if (bytes !== null) arena.bytes(bytes);
  });
}

/** Versions, written as two halves, since doubles cannot hold them. */
export function versionArray(
  values: readonly { ms: number; seq: number }[],
  arena = new Arena(),
): Buffer {
  return array(OIDS.int8, values, arena, ({ ms, seq }) => {
    arena.int32(8);
    arena.uint32(versionHigh(ms));
    arena.uint32(versionLow(ms, seq));
  });
}

/**
 * An array of times.
 * @param timeOf gives the time of one of `values`, in ms since 1970; `null` is NULL
 */
export function timeArray<T>(
  values: readonly T[],
  timeOf: (value: T) => number | null,
  arena = new Arena(),
): Buffer {
  return array(OIDS.timestamptz, values, arena, (value) => {
    const time = timeOf(value);
    if (time === null) return arena.int32(-1);
    const microseconds = (time - POSTGRES_EPOCH_MS) * 1000;
    const high = Math.floor(microseconds / 2 ** 32);
    arena.int32(8);
    arena.int32(high);
    arena.uint32(microseconds - high * 2 ** 32);
  });
}

function array<T>(
  oid: number,
  values: readonly T[],
  arena: Arena,
  write: (value: T) => void,
): Buffer {
  arena.int32(values.length === 0 ? 0 : 1);
  // There may be NULLs; PostgreSQL finds out whether there are.
  arena.int32(1);
  arena.int32(oid);
  if (values.length > 0) {
    arena.int32(values.length);
    arena.int32(1);
    for (const value of values) write(value);
  }
  return arena.end();
}
