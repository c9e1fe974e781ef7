/**
 * The names of the keys in Redis, and the partition that a document belongs to.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import type { Config, TargetConfig } from "../config/config.ts";
import { keyFamilies } from "../config/key_names.ts";
import { entityConfig } from "../config/lookups.ts";
import { hasPartition } from "../config/ranges.ts";
import { checkRanges, type Shape, shapeOf } from "../config/shapes.ts";

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

/** The target whose names are those of a pipeline that has one only. */
const FIRST = "postgresql";

/**
 * The consumer group in which a target's sinks show lag and workers to Redis tools; nothing depends on it.
 * @param target its name in the configuration
 */
export function groupOf(target: string): string {
  return target === FIRST ? "writebehind" : `writebehind:${target}`;
}

/**
 * The hash in which a target's sinks report how fresh it is, for people.
 * @param target its name in the configuration
 */
export function gaugesOf({ gauges }: PartitionKeys, target: string): string {
  return target === FIRST ? gauges : `${gauges}:${target}`;
}

/** The Redis keys of one partition of one entity. In a cluster they share a slot. */
export interface PartitionKeys {
  /** the entity's name */
  entity: string;
  /** its number, from 0 */
  partition: number;
  /** how many there are, and how they are named */
  shape: Shape;
  /** the events: `stream:session`, or `stream:{session-0}` */
  stream: string;
  /** a hash of what all writers must agree on: partitions and the stream's limits */
  settings: string;
  /** a copy of the offset for people */
  lastId: string;
  /** what {@linkcode gaugesOf} begins with */
  gauges: string;
  /** whether the configuration has a cache of its documents; only then the keys that follow are used */
  cached: boolean;
  /** a hash: which documents have an event that a cache's target has not applied, and which event that is */
  notes: string;
  /** a sorted set: when documents and receipts of requests are due to go, in ms since 1970 */
  due: string;
  /** what comes before a document's id in its key */
  documentPrefix: string;
  /** what comes before its id in the key that says that a cache's target was just asked for it */
  askedPrefix: string;
  /** what comes before a request id in its key */
  requestPrefix: string;
}

/** Whether a stream is one of an entity's, by whatever number of partitions. */
export function isStreamOf(config: Config, entity: string, stream: string): boolean {
  const { streams } = keyFamilies(config.streams);
  const tag = stream.startsWith(streams) ? stream.slice(streams.length) : "";
  return tag === entity ||
    tag.startsWith(`{${entity}-`) && /^\d+\}$/.test(tag.slice(entity.length + 2));
}

/**
 * The keys of one partition of an entity.
 * @param shape how the entity is split; by default as the configuration, or Redis, says
 */
export function partitionKeys(
  config: Config,
  entity: string,
  partition: number,
  shape: Shape = shapeOf(config, entity),
): PartitionKeys {
  const split = shape.tagged;
  const tag = split ? `{${entity}-${partition}}` : entity;
  const families = keyFamilies(config.streams);
  return {
    entity,
    partition,
    shape,
    stream: families.streams + tag,
    settings: families.settings + tag,
    lastId: families.lastIds + tag,
    gauges: families.gauges + tag,
    cached: entityConfig(config, entity).cache.enabled,
    notes: families.notes + tag,
    due: families.due + tag,
    askedPrefix: `${families.asked}${tag}:`,
    documentPrefix: split ? `${entity}:${tag}:` : `${entity}:`,
    requestPrefix: `${families.requests}${tag}:`,
  };
}

/** The counters of the documents that readers have found in an entity's cache, and of those that they have not. */
export function looksOf({ streams }: Config, entity: string): { hits: string; misses: string } {
  const { looks } = keyFamilies(streams);
  return { hits: `${looks}${entity}:hits`, misses: `${looks}${entity}:misses` };
}

/** An index of RediSearch, and what the keys of its documents begin with. */
export interface IndexName {
  name: string;
  prefixes: string[];
}

/**
 * The indexes of an entity: one; in a cluster one a partition, since an index has the documents of its own node only. Its
 * name has the partition's slot, and so its node: `idx:sessions:{session-0}`.
 * @param shape as in {@linkcode partitionKeys}
 */
export function indexesOf(config: Config, entity: string, shape?: Shape): IndexName[] {
  const { index_name: name } = entityConfig(config, entity);
  const partitions = allPartitions(config, entity, shape);
  if (config.redis.cluster === null) {
    return [{ name, prefixes: partitions.map(({ documentPrefix }) => documentPrefix) }];
  }
  return partitions.map(({ partition, documentPrefix }) => (
    { name: `${name}:{${entity}-${partition}}`, prefixes: [documentPrefix] }
  ));
}

/**
 * All partitions of an entity, in order.
 * @param shape as in {@linkcode partitionKeys}
 */
export function allPartitions(
  config: Config,
  entity: string,
  shape: Shape = shapeOf(config, entity),
): PartitionKeys[] {
  return Array.from(
    { length: shape.partitions },
    (_, partition) => partitionKeys(config, entity, partition, shape),
  );
}

/**
 * The partitions of an entity that a target has, in order: all, or those of its range.
 * @param target its name
 * @param shape as in {@linkcode partitionKeys}
 * @throws {ConfigError} where the ranges of targets do not have each partition exactly once
 */
export function partitionsOf(
  config: Config,
  entity: string,
  target: string,
  shape: Shape = shapeOf(config, entity),
): PartitionKeys[] {
  checkRanges(config, entity, shape);
  return allPartitions(config, entity, shape)
    .filter(({ partition }) => hasPartition(config.targets, target, partition));
}

/** The targets of the configuration that have a partition. */
export function targetsWith(
  { targets }: Config,
  { partition }: Pick<PartitionKeys, "partition">,
): TargetConfig[] {
  return targets.filter(({ name }) => hasPartition(targets, name, partition));
}

/** The keys of the partition that a document belongs to. */
export function keysOfDocument(
  config: Config,
  entity: string,
  docId: string,
  shape: Shape = shapeOf(config, entity),
): PartitionKeys {
  return partitionKeys(config, entity, partitionOf(docId, shape.partitions), shape);
}

/** Things by the partition that their ids hash to. */
export function byPartition<Thing>(
  partitions: readonly PartitionKeys[],
  things: readonly Thing[],
  idOf: (thing: Thing) => string,
): [PartitionKeys, Thing[]][] {
  const groups = Map.groupBy(things, (thing) => partitionOf(idOf(thing), partitions.length));
  return [...groups].map(([partition, own]) => [partitions[partition]!, own]);
}

/** Ids of documents, each once, by the partition that they hash to: those partitions alone are worked out. */
export function idsByPartition(
  config: Config,
  entity: string,
  docIds: readonly string[],
  shape: Shape = shapeOf(config, entity),
): [PartitionKeys, string[]][] {
  // Mostly there is one, for which nothing is grouped.
  const [only] = docIds;
  if (only !== undefined && docIds.length === 1) {
    return [[keysOfDocument(config, entity, only, shape), [only]]];
  }
  const groups = Map.groupBy(new Set(docIds), (id) => partitionOf(id, shape.partitions));
  return [...groups].map(([partition, own]) => [
    partitionKeys(config, entity, partition, shape),
    own,
  ]);
}

/**
 * The Redis key of a document: `session:<id>`, or `session:{session-3}:<id>` with several partitions, or in a cluster.
 *
 * @example
 * ```ts
 * import { equal } from "node:assert/strict";
 * import { documentKey, parseConfig } from "writebehind";
 *
 * const [one, four] = ["{}", "streams: { partitions: 4 }"].map((text) => parseConfig(text, "yaml"));
 * equal(documentKey(one!, "session", "app-1"), "session:app-1");
 * equal(documentKey(four!, "session", "app-1"), "session:{session-0}:app-1");
 * ```
 */
export function documentKey(config: Config, entity: string, docId: string): string {
  checkArguments("documentKey", { config, entity, docId });
  return keysOfDocument(config, entity, docId).documentPrefix + docId;
}
