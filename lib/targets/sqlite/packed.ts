/**
 * Rows in a few pieces of memory, which change hands between threads without being copied once more.
 * @module
 */

import { versionHigh, versionLow } from "../../core/stream_ids.ts";
import type { BatchRows } from "../batch.ts";

/** Byte strings, one behind the other. */
export interface Packed {
  bytes: Uint8Array<ArrayBuffer>;
  /** of each, in bytes; -1 for `null` */
  lengths: Int32Array<ArrayBuffer>;
}

/** Rows to be written and removed, as columns. */
export interface PackedRows {
  ids: Packed;
  payloads: Packed;
  versions: BigInt64Array<ArrayBuffer>;
  /** ms since 1970; NaN where it is not known */
  created: Float64Array<ArrayBuffer>;
  updated: Float64Array<ArrayBuffer>;
  removedIds: Packed;
  removedVersions: BigInt64Array<ArrayBuffer>;
}

/**
 * Copies byte strings into memory of their own.
 * @param bytesOf gives the bytes of one of `values`; asked for one by one, twice each
 */
export function pack<T>(
  values: readonly T[],
  bytesOf: (value: T) => Uint8Array | null,
): Packed {
  const lengths = new Int32Array(values.length);
  let size = 0;
  values.forEach((value, index) => {
    const bytes = bytesOf(value);
    lengths[index] = bytes === null ? -1 : bytes.length;
    size += bytes?.length ?? 0;
  });
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const value of values) {
    const own = bytesOf(value);
    if (own === null) continue;
    bytes.set(own, at);
    at += own.length;
  }
  return { bytes, lengths };
}

/** The byte strings again, as views. */
export function* unpack({ bytes, lengths }: Packed): Generator<Uint8Array | null> {
  let at = 0;
  for (const length of lengths) yield length < 0 ? null : bytes.subarray(at, at += length);
}

/** Those of a list that has no `null`. */
export function unpackAll(packed: Packed): Generator<Uint8Array> {
  return unpack(packed) as Generator<Uint8Array>;
}

/** Versions as halves of integers, since doubles cannot hold them. The lower half is first on all that Deno runs on. */
function versionsOf(rows: readonly { ms: number; seq: number }[]): BigInt64Array<ArrayBuffer> {
  const halves = new Uint32Array(2 * rows.length);
  rows.forEach(({ ms, seq }, index) => {
    halves[2 * index] = versionLow(ms, seq);
    halves[2 * index + 1] = versionHigh(ms);
  });
  return new BigInt64Array(halves.buffer);
}

/** Rows as columns. */
export function packRows({ upserts, removals }: BatchRows): PackedRows {
  return {
    ids: pack(upserts, ({ id }) => id),
    payloads: pack(upserts, ({ payload }) => payload),
    versions: versionsOf(upserts),
    created: Float64Array.from(upserts, ({ created }) => created ?? NaN),
    updated: Float64Array.from(upserts, ({ updated }) => updated),
    removedIds: pack(removals, ({ id }) => id),
    removedVersions: versionsOf(removals),
  };
}

/** The ids and versions of rows to look for; as for removals, no payload is needed. */
export const packLook = ({ upserts, removals }: BatchRows): [PackedRows, PackedRows] => [
  packRows({ upserts: [], removals: upserts }),
  packRows({ upserts: [], removals }),
];

/** The memory that goes over to the other thread. */
export function memoryOf(...packed: (Packed | PackedRows)[]): ArrayBuffer[] {
  return packed.flatMap((one) =>
    Object.values(one).flatMap((part) =>
      ArrayBuffer.isView(part) ? [part.buffer as ArrayBuffer] : memoryOf(part as Packed)
    )
  );
}
