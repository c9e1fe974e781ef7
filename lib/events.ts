/**
 * The wire format: the names of keys, the fields of an event, and versions.
 * Field and key names are those of the original Python project, so that either side's producer works with
 * the other's consumer; `payload` is ours.
 * @module
 */

import type { Config } from "./config.ts";

/** What happened to a document. */
export type EventType = "insert" | "update" | "delete";

/** A document id has 1 to so many bytes of UTF-8. */
export const MAX_ID_BYTES = 512;

const SEQUENCE_BITS = 20n;
const MAX_SEQUENCE = (1n << SEQUENCE_BITS) - 1n;
const MAX_MILLISECONDS = (1n << 43n) - 1n;

/**
 * A stream id in one signed 64-bit integer: milliseconds · 2^20 + sequence, so that versions compare as
 * stream ids do.
 * @param streamId such as `1764000000000-0`
 * @returns the version, or `null` where the id does not fit: a sequence of 2^20 or more, or a time past
 * the year 2248.
 */
export function versionOf(streamId: string): bigint | null {
  const dash = streamId.indexOf("-");
  if (dash < 1) return null;
  const milliseconds = BigInt(streamId.slice(0, dash));
  const sequence = BigInt(streamId.slice(dash + 1));
  if (sequence > MAX_SEQUENCE || milliseconds > MAX_MILLISECONDS) return null;
  return (milliseconds << SEQUENCE_BITS) | sequence;
}

/** The stream id that a version was made from. */
export function streamIdOf(version: bigint): string {
  return `${version >> SEQUENCE_BITS}-${version & MAX_SEQUENCE}`;
}

/** Orders two stream ids as Redis does: negative where `a` comes first, 0 where they are equal. */
export function compareStreamIds(a: string, b: string): number {
  const [aMs = "0", aSeq = "0"] = a.split("-");
  const [bMs = "0", bSeq = "0"] = b.split("-");
  return compareDecimals(aMs, bMs) || compareDecimals(aSeq, bSeq);
}

/** Without leading zeros the longer one is the larger, and equal lengths compare as text. */
function compareDecimals(a: string, b: string): number {
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
}

const utf8 = new TextEncoder();

const CRC16_TABLE = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
  return crc & 0xffff;
});

/** CRC-16/XMODEM over the UTF-8 bytes, the checksum by which Redis Cluster places keys. */
export function crc16(text: string): number {
  let crc = 0;
  for (const byte of utf8.encode(text)) {
    crc = ((crc << 8) ^ CRC16_TABLE[((crc >> 8) ^ byte) & 0xff]!) & 0xffff;
  }
  return crc;
}

/** The partition that a document belongs to, from 0 to `partitions` - 1. */
export function partitionOf(docId: string, partitions: number): number {
  return partitions === 1 ? 0 : crc16(docId) % partitions;
}

/** The consumer group in which sinks show lag and workers to people's tools; it decides nothing. */
export const CONSUMER_GROUP = "writebehind";

/** The Redis keys of one partition of one entity. In a cluster they share a slot (with 2 partitions or more). */
export interface PartitionKeys {
  entity: string;
  partition: number;
  /** the events: `stream:session`, or `stream:{session-0}` */
  stream: string;
  /** a hash of what all writers must agree on: partitions and the stream's limits */
  settings: string;
  /** a copy of the offset for people */
  lastId: string;
  /** a hash in which the sink tells how fresh the target is, for people */
  gauges: string;
  /** what comes before a document's id in its key */
  documentPrefix: string;
  /** what comes before a request id in its key */
  requestPrefix: string;
}

/** The keys of one partition of an entity. */
export function partitionKeys(config: Config, entity: string, partition: number): PartitionKeys {
  const { prefix, partitions, last_id_key_prefix } = config.streams;
  const split = partitions > 1;
  const tag = split ? `{${entity}-${partition}}` : entity;
  const stream = `${prefix}:${tag}`;
  return {
    entity,
    partition,
    stream,
    settings: `${prefix}:settings:${tag}`,
    lastId: `${last_id_key_prefix}:${stream}`,
    gauges: `metrics:sink:${stream}`,
    documentPrefix: split ? `${entity}:${tag}:` : `${entity}:`,
    requestPrefix: `request:${tag}:`,
  };
}

/** All partitions of an entity, in order. */
export function allPartitions(config: Config, entity: string): PartitionKeys[] {
  return Array.from(
    { length: config.streams.partitions },
    (_, partition) => partitionKeys(config, entity, partition),
  );
}

/** The Redis key of a document: `session:<id>`, or `session:{session-3}:<id>` with several partitions. */
export function documentKey(config: Config, entity: string, docId: string): string {
  const partition = partitionOf(docId, config.streams.partitions);
  return partitionKeys(config, entity, partition).documentPrefix + docId;
}
