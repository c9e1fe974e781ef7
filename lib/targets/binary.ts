/**
 * PostgreSQL's binary format of one-dimensional arrays. A parameter given as a Buffer goes out as it is,
 * so a whole column travels as one parameter, and payloads are copied, never parsed.
 * Layout: the PostgreSQL sources, `array_recv`, `timestamptz_recv`.
 * @module
 */

/** Gives memory for a value. */
export type Allocate = (bytes: number) => Buffer;

/** Memory of an arena that is kept, at most: a few large batches should not hold it for ever. */
const KEPT_BYTES = 16 << 20;

/** Memory that is used again for each batch: new memory would wait for the garbage collector. */
export class Arena {
  #buffer = Buffer.alloc(0);
  #used = 0;

  /** Takes all memory back. */
  clear(): void {
    this.#used = 0;
    if (this.#buffer.length > KEPT_BYTES) this.#buffer = Buffer.alloc(0);
  }

  readonly allocate: Allocate = (bytes) => {
    if (this.#used + bytes > this.#buffer.length) {
      // What was given out keeps its memory; the next batch finds room for all of it.
      this.#buffer = Buffer.allocUnsafeSlow(this.#buffer.length + bytes);
      this.#used = 0;
    }
    return this.#buffer.subarray(this.#used, this.#used += bytes);
  };
}

const HEADER_BYTES = 20;
const OIDS = { text: 25, int8: 20, bytea: 17, timestamptz: 1184 } as const;
const POSTGRES_EPOCH_MS = 946_684_800_000;

function header(buffer: Buffer, oid: number, length: number, nulls: boolean): void {
  buffer.writeInt32BE(length === 0 ? 0 : 1, 0);
  buffer.writeInt32BE(nulls ? 1 : 0, 4);
  buffer.writeInt32BE(oid, 8);
  if (length === 0) return;
  buffer.writeInt32BE(length, 12);
  buffer.writeInt32BE(1, 16);
}

const empty = (oid: number) => {
  const buffer = Buffer.alloc(12);
  header(buffer, oid, 0, false);
  return buffer;
};

/**
 * An array of texts or byte strings; `null` is NULL.
 * @param allocate where the array is to be
 */
export function bytesArray(
  type: "text" | "bytea",
  values: (Buffer | null)[],
  allocate: Allocate = Buffer.allocUnsafe,
): Buffer {
  const oid = OIDS[type];
  if (values.length === 0) return empty(oid);
  let size = HEADER_BYTES;
  for (const value of values) size += 4 + (value === null ? 0 : value.length);
  const buffer = allocate(size);
  header(buffer, oid, values.length, values.includes(null));
  let at = HEADER_BYTES;
  for (const value of values) {
    if (value === null) {
      at = buffer.writeInt32BE(-1, at);
      continue;
    }
    at = buffer.writeInt32BE(value.length, at);
    buffer.set(value, at);
    at += value.length;
  }
  return buffer;
}

/** Versions: milliseconds · 2^20 + sequence, written as two halves, since doubles cannot hold them. */
export function versionArray(
  values: { ms: number; seq: number }[],
  allocate: Allocate = Buffer.allocUnsafe,
): Buffer {
  if (values.length === 0) return empty(OIDS.int8);
  const buffer = allocate(HEADER_BYTES + 12 * values.length);
  header(buffer, OIDS.int8, values.length, false);
  let at = HEADER_BYTES;
  for (const { ms, seq } of values) {
    at = buffer.writeInt32BE(8, at);
    at = buffer.writeUInt32BE(Math.floor(ms / 4096), at);
    at = buffer.writeUInt32BE((ms % 4096) * 2 ** 20 + seq, at);
  }
  return buffer;
}

/** Times in ms since 1970; `null` is NULL. */
export function timeArray(
  values: (number | null)[],
  allocate: Allocate = Buffer.allocUnsafe,
): Buffer {
  if (values.length === 0) return empty(OIDS.timestamptz);
  const nulls = values.reduce<number>((count, value) => value === null ? count + 1 : count, 0);
  const buffer = allocate(HEADER_BYTES + 12 * values.length - 8 * nulls);
  header(buffer, OIDS.timestamptz, values.length, nulls > 0);
  let at = HEADER_BYTES;
  for (const value of values) {
    if (value === null) {
      at = buffer.writeInt32BE(-1, at);
      continue;
    }
    const microseconds = (value - POSTGRES_EPOCH_MS) * 1000;
    const high = Math.floor(microseconds / 2 ** 32);
    at = buffer.writeInt32BE(8, at);
    at = buffer.writeInt32BE(high, at);
    at = buffer.writeUInt32BE(microseconds - high * 2 ** 32, at);
  }
  return buffer;
}
