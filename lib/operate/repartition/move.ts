/**
 * Which keys of an entity get which new names: documents, the receipts of requests, and the times at which those are due.
 * What was moved is found at its new name, so it may be stopped anywhere and run again.
 * @module
 */

import { Buffer, isUtf8 } from "node:buffer";
import type { Shape } from "../../config/shapes.ts";
import { ConfigError } from "../../core/errors.ts";
import { failpoint } from "../../core/failpoints.ts";
import { MAX_ID_BYTES } from "../../core/stream_ids.ts";
import { keysBehind } from "../../redis/documents.ts";
import { allPartitions, keysOfDocument, partitionOf } from "../../redis/keys.ts";
import { textOfRecord } from "../../redis/shape.ts";
import { valueOf } from "../../redis/streams.ts";
import {
  type Change,
  change,
  inLanes,
  isCluster,
  Patience,
  patiently,
  type Scope,
} from "./changes.ts";
import { transfer, type Way } from "./transfer.ts";

/** What moves. */
export interface Move extends Scope {
  from: Shape;
  to: Shape;
}

/** What the settings say as long as keys move. */
export const markOf = ({ from, to }: Pick<Move, "from" | "to">): string =>
  textOfRecord({ shape: from, to, moving: true });

/** Keys that Redis looks at in one step of a scan. */
const SCANNED = 2000;
/** Old partitions of a cluster that are walked over at a time. */
const WALKS = 4;

/**
 * Walks over keys of an entity, in chunks. One that is there all the time comes at least once.
 * @param family what the keys of all partitions begin with
 * @param prefixes what those of the old partitions begin with: in a cluster each of them is a slot, which may move
 */
async function walk(
  move: Move,
  { family, prefixes, type }: { family: string; prefixes: string[]; type: string },
  each: (keys: string[]) => Promise<void>,
): Promise<void> {
  const { redis, signal } = move;
  const textsOf = (names: Buffer[]) => names.filter((one) => isUtf8(one)).map(String);
  if (!isCluster(move)) {
    let cursor = "0";
    do {
      signal.throwIfAborted();
      const match = ["MATCH", `${family}*`, "COUNT", String(SCANNED), "TYPE", type];
      const [next, names] = await redis.callBuffer("SCAN", cursor, ...match) as [Buffer, Buffer[]];
      cursor = next.toString();
      await each(textsOf(names));
    } while (cursor !== "0");
    return;
  }
  await inLanes(move, WALKS, prefixes, async (prefix) => {
    const patience = new Patience(move);
    for (let keys = keysBehind(redis, prefix, type);;) {
      const names = await keys.next().catch(async (error) => {
        await patience.over(error);
        keys = keysBehind(redis, prefix, type);
      });
      if (names === undefined) continue;
      if (names.done) return;
      signal.throwIfAborted();
      patience.renew();
      await each(textsOf(names.value));
    }
  });
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
function wayOf(move: Move, key: string): Way | null {
  const { config, entity, from, to } = move;
  // Names of both may look alike: what is at its new place has moved.
  if (to.tagged && idOf(move, to, key) !== null) return null;
  const id = idOf(move, from, key);
  if (id === null) return null;
  const [old, now] = [from, to].map((shape) => keysOfDocument(config, entity, id, shape));
  const name = now!.documentPrefix + id;
  return name === key ? null : { from: { in: old!, key }, to: [{ in: now!, key: name }] };
}

/** Walks over all documents of an entity; others that look like them come too. */
function walkDocuments(move: Move, each: (keys: string[]) => Promise<void>): Promise<void> {
  const { config, entity, from } = move;
  const prefixes = allPartitions(config, entity, from).map(({ documentPrefix }) => documentPrefix);
  return walk(move, { family: `${entity}:`, prefixes, type: "ReJSON-RL" }, each);
}

/**
 * Counts the documents.
 * @throws {ConfigError} where a document's id is like a tag, so that its names with a tag and without would be mixed up
 */
export async function countDocuments(move: Move): Promise<number> {
  const { entity, from, to } = move;
  let count = 0;
  await walkDocuments(move, (keys) => {
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
    return Promise.resolve();
  });
  return count;
}

/**
 * Moves all documents.
 * @param onMoved is called with how many were moved so far
 */
export async function moveDocuments(
  move: Move,
  onMoved: (count: number) => void,
): Promise<number> {
  let moved = 0;
  await walkDocuments(move, async (keys) => {
    const ways = keys.flatMap((key) => wayOf(move, key) ?? []);
    if (ways.length === 0) return;
    const count = await transfer(move, markOf(move), ways);
    moved += count;
    onMoved(moved);
    await failpoint?.("repartition documents");
  });
  return moved;
}

/**
 * Moves the receipts of requests, with the time that they have left, to where their documents are. An older version has
 * not noted the document: its receipts are copied to all partitions.
 */
export async function moveRequests(move: Move): Promise<void> {
  const { redis, config, entity, from, to } = move;
  const olds = allPartitions(config, entity, from);
  const news = allPartitions(config, entity, to);
  const prefixes = olds.map(({ requestPrefix }) => requestPrefix);
  const family = `${prefixes[0]!.split(":")[0]}:`;
  await walk(move, { family, prefixes, type: "hash" }, async (keys) => {
    const own = keys.flatMap((key) => {
      const old = olds.find(({ requestPrefix }) => key.startsWith(requestPrefix));
      return old ? [{ key, old, name: key.slice(old.requestPrefix.length) }] : [];
    });
    if (own.length === 0) return;
    const ids = await patiently(move, async () => {
      const pipeline = redis.pipeline();
      for (const { key } of own) pipeline.hget(key, "doc_id");
      return ((await pipeline.exec()) ?? []).map(valueOf) as (string | null)[];
    });
    const ways = own.flatMap(({ key, old, name }, index): Way[] => {
      const id = ids[index] ?? null;
      // One that is not in its document's old partition has moved.
      if (id !== null && partitionOf(id, from.partitions) !== old.partition) return [];
      const places = id === null ? news : [keysOfDocument(config, entity, id, to)];
      const way = {
        from: { in: old, key },
        to: places.map((one) => ({ in: one, key: one.requestPrefix + name })),
      };
      return way.to.length === 1 && way.to[0]!.key === key ? [] : [way];
    });
    await transfer(move, markOf(move), ways);
    await failpoint?.("repartition requests");
  });
}

/** Members of the due times that are looked at, and changes that are made, at a time. */
const DUE_CHUNK = 500;

/** Moves the times at which documents and receipts of requests are due to where those are. */
export async function moveDueTimes(move: Move): Promise<void> {
  const { redis, config, entity, from, to, signal } = move;
  const news = allPartitions(config, entity, to);
  const isNew = new Set(news.map(({ due }) => due));
  for (const old of allPartitions(config, entity, from)) {
    for (let cursor = "0";;) {
      signal.throwIfAborted();
      const [next, pairs] = await patiently(
        move,
        () => redis.zscan(old.due, cursor, "COUNT", DUE_CHUNK),
      );
      const [added, removed]: [Change[], Change[]] = [[], []];
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
        const stays = members.some(([due, moved]) => due === old.due && moved === member);
        for (const [due, moved] of members) added.push(["ZADD", due, score, moved]);
        if (members.length > 0 && !stays) removed.push(["ZREM", old.due, member]);
      }
      // One Redis does nothing else meanwhile.
      for (const changes of [added, removed]) {
        while (changes.length > 0) await change(move, [changes.splice(0, DUE_CHUNK)]);
      }
      await failpoint?.("repartition due");
      cursor = next;
      if (cursor === "0") break;
    }
    if (!isNew.has(old.due)) await change(move, [[["UNLINK", old.due]]]);
  }
}
