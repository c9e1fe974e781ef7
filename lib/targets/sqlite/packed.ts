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
 * @param bytesOf gives the bytes of one of `values`; asked for one by one
 */
export function pack<T>(
  values: readonly T[],
  bytesOf: (value: T) => Uint8Array | null,
): Packed {
  const lengths = new Int32Array(values.length);
  const parts: (Uint8Array | null)[] = [];
  let size = 0;
  for (const value of values) {
    const part = bytesOf(value);
    lengths[parts.length] = part === null ? -1 : part.length;
    size += part?.length ?? 0;
    parts.push(part);
  }
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    if (part === null) continue;
    bytes.set(part, at);
    at += part.length;
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
  let at = 0;
  for (const { ms, seq } of rows) {
    halves[at++] = versionLow(ms, seq);
    halves[at++] = versionHigh(ms);
  }
  return new BigInt64Array(halves.buffer);
}

/** Rows as columns. */
export function packRows({ upserts, removals }: BatchRows): PackedRows {
  const created = new Float64Array(upserts.length);
  const updated = new Float64Array(upserts.length);
  for (let index = 0; index < upserts.length; index++) {
    const upsert = upserts[index]!;
    created[index] = upsert.created ?? NaN;
    updated[index] = upsert.updated;
  }
  return {
    ids: pack(upserts, ({ id }) => id),
    payloads: pack(upserts, ({ payload }) => payload),
    versions: versionsOf(upserts),
    created,
    updated,
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
