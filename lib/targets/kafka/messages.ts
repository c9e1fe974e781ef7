/**
 * Messages, and the partitions that they go to.
 * @module
 */

import { Buffer } from "node:buffer";

/** A message to be written. Its bytes may be views: they are copied when it is sent. */
export interface Message {
  topic: string;
  key: Buffer;
  /** `null` removes what has the key */
  value: Buffer | null;
  headers: [name: Buffer, value: Buffer][];
}

/** A message that was read. Its bytes are views of what the broker has sent. */
export interface ReadMessage {
  partition: number;
  offset: bigint;
  key: Buffer;
  value: Buffer | null;
  headers: Map<string, Buffer>;
}

/** About what a message takes besides its bytes, and what is around it in a request. */
const OVERHEAD_BYTES = 40;
export const AROUND_BYTES = 100;

/** About how many bytes a message takes. */
export function bytesOf({ key, value, headers }: Message): number {
  let bytes = OVERHEAD_BYTES + key.length + (value?.length ?? 0);
  for (const [name, text] of headers) bytes += name.length + text.length + 4;
  return bytes;
}

const SEED = 0x9747b28c;
const M = 0x5bd1e995;

/** Kafka's hash of a key, MurmurHash2, in 32 bits. The client's own takes a time that is square to the key's length. */
export function murmur2(key: Uint8Array): number {
  const { length } = key;
  const whole = length - length % 4;
  let h = SEED ^ length;
  for (let at = 0; at < whole; at += 4) {
    let k = key[at]! | key[at + 1]! << 8 | key[at + 2]! << 16 | key[at + 3]! << 24;
    k = Math.imul(k, M);
    k = Math.imul(k ^ k >>> 24, M);
    h = Math.imul(h, M) ^ k;
  }
  if (whole < length) {
    for (let at = length - 1; at >= whole; at--) h ^= key[at]! << 8 * (at - whole);
    h = Math.imul(h, M);
  }
  h = Math.imul(h ^ h >>> 13, M);
  return h ^ h >>> 15;
}

/** The partition of a key, as Java's default partitioner takes it. */
export function partitionFor(key: Uint8Array, partitions: number): number {
  return (murmur2(key) & 0x7fffffff) % partitions;
}

/** A text as bytes: of what is written again and again, once. */
export const utf8 = (text: string): Buffer => Buffer.from(text);
