/**
 * Moving the keys of an entity to their new names: documents, and the receipts of requests. Each batch is one step, and
 * a key that was moved is found at its new name, so it may be stopped anywhere and run again.
 * @module
 */

import { Buffer, isUtf8 } from "node:buffer";
import type { Config } from "../../config/load.ts";
import type { Shape } from "../../config/shapes.ts";
import { ConfigError } from "../../core/errors.ts";
import { failpoint } from "../../core/failpoints.ts";
import { MAX_ID_BYTES } from "../../core/stream_ids.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { allPartitions, keysOfDocument, partitionOf } from "../../redis/keys.ts";
import { moveScript, runScript } from "../../redis/scripts/mod.ts";
import { valueOf } from "../../redis/streams.ts";

/** What moves. */
export interface Move {
  redis: RedisConnection;
  config: Config;
  entity: string;
  from: Shape;
  to: Shape;
}

/** Keys that Redis looks at in one step of a scan. */
const SCANNED = 2000;
/** Keys that one script renames: Redis does nothing else meanwhile. */
const RENAMED = 250;

/** Keys with a prefix, in chunks. One that is there all the time comes at least once. */
async function* keysOfType(
  redis: RedisConnection,
  prefix: string,
  type: string,
): AsyncGenerator<string[]> {
  let cursor = "0";
  do {
    const match = ["MATCH", `${prefix}*`, "COUNT", String(SCANNED), "TYPE", type];
    const [next, names] = await redis.callBuffer("SCAN", cursor, ...match) as [Buffer, Buffer[]];
    cursor = next.toString();
    yield names.filter((name) => isUtf8(name)).map((name) => name.toString());
  } while (cursor !== "0");
}

const isId = (id: string) =>
  id !== "" && !id.includes("\0") && Buffer.byteLength(id) <= MAX_ID_BYTES;

/** The id of a document by its key, where that is its place among those of a shape; else `null`. */
function idOf({ config, entity }: Move, shape: Shape, key: string): string | null {
  const named = (id: string) =>
    isId(id) && keysOfDocument(config, entity, id, shape).documentPrefix + id === key ? id : null;
  if (!shape.tagged) return named(key.slice(entity.length + 1));
  return named(key.slice(key.indexOf("}:") + 2));
}

/** Where a document's key goes; `null` where it stays, or is none of the entity's documents. */
function newKeyOf(move: Move, key: string): string | null {
  const { config, entity, from, to } = move;
  // Names of both may look alike: what is at its new place has moved.
  if (to.tagged && idOf(move, to, key) !== null) return null;
  const id = idOf(move, from, key);
  return id === null ? null : keysOfDocument(config, entity, id, to).documentPrefix + id;
}

/**
 * Counts the documents.
 * @throws {ConfigError} where a document's id is like a tag, so that its names with a tag and without would be mixed up
 */
export async function countDocuments(move: Move, signal: AbortSignal): Promise<number> {
  const { redis, entity, from, to } = move;
  let count = 0;
  for await (const keys of keysOfType(redis, `${entity}:`, "ReJSON-RL")) {
    signal.throwIfAborted();
    for (const key of keys) {
      const id = idOf(move, from, key);
      if (id === null) continue;
      count++;
      if (from.tagged === to.tagged || !id.startsWith(`{${entity}-`)) continue;
      throw new ConfigError(
        `the id ${
          JSON.stringify(id.slice(0, 60))
        } of ${entity} begins as the names of partitions do, so that they ` +
          "could not be told apart: give that document another id first",
      );
    }
  }
  return count;
}

/** Renames keys, some at a time; the batches of one chunk go out together. */
async function rename(redis: RedisConnection, pairs: [string, string][]): Promise<number> {
  const batches = Array.from(
    { length: Math.ceil(pairs.length / RENAMED) },
    (_, index) => pairs.slice(RENAMED * index, RENAMED * (index + 1)).flat(),
  );
  const moved = await Promise.all(
    batches.map((keys) => runScript(redis, moveScript, keys, []) as Promise<number>),
  );
  return moved.reduce((sum, count) => sum + count, 0);
}

/**
 * Moves all documents.
 * @param onMoved is called with how many were moved so far
 */
export async function moveDocuments(
  move: Move,
  signal: AbortSignal,
  onMoved: (count: number) => void,
): Promise<number> {
  let moved = 0;
  for await (const keys of keysOfType(move.redis, `${move.entity}:`, "ReJSON-RL")) {
    signal.throwIfAborted();
    const pairs = keys.flatMap((key): [string, string][] => {
      const to = newKeyOf(move, key);
      return to === null || to === key ? [] : [[key, to]];
    });
    if (pairs.length === 0) continue;
    moved += await rename(move.redis, pairs);
    onMoved(moved);
    await failpoint?.("repartition documents");
  }
  return moved;
}

/**
 * Moves the receipts of requests, with the time that they have left, to where their documents are. An older version has
 * not noted the document: its receipts are copied to all partitions.
 */
export async function moveRequests(move: Move, signal: AbortSignal): Promise<void> {
  const { redis, config, entity, from, to } = move;
  const olds = allPartitions(config, entity, from);
  const news = allPartitions(config, entity, to);
  const family = olds[0]!.requestPrefix.split(":")[0]!;
  for await (const keys of keysOfType(redis, `${family}:`, "hash")) {
    signal.throwIfAborted();
    const own = keys.flatMap((key) => {
      const old = olds.find(({ requestPrefix }) => key.startsWith(requestPrefix));
      return old ? [{ key, old, name: key.slice(old.requestPrefix.length) }] : [];
    });
    if (own.length === 0) continue;
    const pipeline = redis.pipeline();
    for (const { key } of own) pipeline.hget(key, "doc_id");
    const ids = ((await pipeline.exec()) ?? []).map(valueOf) as (string | null)[];
    const pairs: [string, string][] = [];
    for (const [index, { key, old, name }] of own.entries()) {
      const id = ids[index] ?? null;
      if (id === null) await copyToAll(redis, key, news.map((one) => one.requestPrefix + name));
      // One that is not in its document's old partition has moved.
      else if (partitionOf(id, from.partitions) === old.partition) {
        const there = keysOfDocument(config, entity, id, to).requestPrefix + name;
        if (there !== key) pairs.push([key, there]);
      }
    }
    await rename(redis, pairs);
    await failpoint?.("repartition requests");
  }
}

/** Members of the due times that are moved at a time. */
const DUE_CHUNK = 500;

/** Moves the times at which documents and receipts of requests are due to where those are. */
export async function moveDueTimes(move: Move, signal: AbortSignal): Promise<void> {
  const { redis, config, entity, from, to } = move;
  const news = allPartitions(config, entity, to);
  const isNew = new Set(news.map(({ due }) => due));
  for (const old of allPartitions(config, entity, from)) {
    for (let cursor = "0";;) {
      signal.throwIfAborted();
      const [next, pairs] = await redis.zscan(old.due, cursor, "COUNT", DUE_CHUNK);
      const pipeline = redis.pipeline();
      for (let index = 0; index < pairs.length; index += 2) {
        const [member, score] = [pairs[index]!, pairs[index + 1]!];
        const name = member.slice(1);
        // A receipt's member has its old key: where that is told by no document, all partitions look for it.
        const members: [due: string, member: string][] = member.startsWith("d")
          ? [[keysOfDocument(config, entity, name, to).due, member]]
          : name.startsWith(old.requestPrefix)
          ? news.map((one) => [
            one.due,
            `r${one.requestPrefix}${name.slice(old.requestPrefix.length)}`,
          ])
          : [];
        for (const [due, moved] of members) {
          pipeline.zadd(due, score, moved);
          const { settings } = news.find((one) => one.due === due)!;
          pipeline.hset(settings, "due", 1);
        }
        const stays = members.some(([due, moved]) => due === old.due && moved === member);
        if (members.length > 0 && !stays) pipeline.zrem(old.due, member);
      }
      for (const reply of (await pipeline.exec()) ?? []) valueOf(reply);
      cursor = next;
      if (cursor === "0") break;
    }
    if (!isNew.has(old.due)) await redis.unlink(old.due);
  }
}

async function copyToAll(redis: RedisConnection, key: string, places: string[]): Promise<void> {
  const pipeline = redis.pipeline();
  for (const place of places) if (place !== key) pipeline.copy(key, place);
  if (!places.includes(key)) pipeline.del(key);
  for (const reply of (await pipeline.exec()) ?? []) valueOf(reply);
}
