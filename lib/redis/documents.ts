/**
 * Reading the present state of documents.
 * @module
 */

import type { Redis } from "./client.ts";
import type { RedisConnection } from "./connection.ts";
import { Buffer, isUtf8 } from "node:buffer";
import { delay } from "../core/delay.ts";
import { ConnectionError, reasonOf } from "../core/errors.ts";
import { MAX_ID_BYTES } from "../core/stream_ids.ts";
import { type PartitionKeys, partitionOf } from "./keys.ts";
import type { RespConnection } from "./resp.ts";
import { readScript } from "./scripts/mod.ts";

/**
 * Reads documents of one partition in one round trip.
 * @param maxBytes once so many are read, no further document is
 * @returns their JSON texts in the order of `ids`, `null` for one that is missing; fewer if they are
 * too many bytes, but at least one
 */
export async function readDocuments(
  redis: Redis | RespConnection,
  { documentPrefix }: PartitionKeys,
  ids: readonly (string | Buffer)[],
  maxBytes: number,
): Promise<(Buffer | null)[]> {
  const prefix = Buffer.from(documentPrefix);
  const keys = ids.map((id) =>
    typeof id === "string" ? documentPrefix + id : Buffer.concat([prefix, id])
  );
  const args = [readScript.source, String(keys.length), ...keys, String(maxBytes)];
  const texts =
    await ("callBuffer" in redis
      ? redis.callBuffer("EVAL", ...args)
      : redis.call(["EVAL", ...args])) as Buffer[];
  return texts.map((text) => text.length === 0 ? null : text);
}

/** As {@linkcode readDocuments}, with the texts as strings. */
export async function readTexts(
  ...args: Parameters<typeof readDocuments>
): Promise<(string | null)[]> {
  return (await readDocuments(...args)).map((text) => text?.toString() ?? null);
}

/** Ids of documents, and how many keys under their prefix cannot be any. */
export interface DocumentIds {
  ids: Buffer[];
  foreign: number;
}

/** How often a scan asks whether a slot still moves, and how long it waits for that, in ms. */
const MOVING_MS = 100;
const MOVED_MS = 60_000;
/** Keys that Redis looks at in one step of a scan. */
const SCANNED = 1000;

/**
 * The ids of all documents of an entity, in chunks and in no order. A document may come twice: SCAN promises at least
 * once for those that are there all the time.
 * @param partitions all of the entity
 * @param among those whose documents are wanted. @default {all}
 */
export async function* documentIds(
  redis: RedisConnection,
  partitions: PartitionKeys[],
  among: PartitionKeys[] = partitions,
): AsyncGenerator<DocumentIds> {
  for (const { documentPrefix, partition } of among) {
    const canBe = (id: Buffer) =>
      id.length > 0 && id.length <= MAX_ID_BYTES && isUtf8(id) && !id.includes(0) &&
      partitionOf(id.toString(), partitions.length) === partition;
    for await (const names of keysBehind(redis, documentPrefix, "ReJSON-RL")) {
      const ids = names.map((name) => name.subarray(documentPrefix.length)).filter(canBe);
      yield { ids, foreign: names.length - ids.length };
    }
  }
}

/**
 * All keys of a type with a prefix, in chunks, as {@linkcode documentIds} has them. In a cluster they share a slot by it.
 * @param prefix no key is called so
 */
export async function* keysBehind(
  redis: RedisConnection,
  prefix: string,
  type: string,
): AsyncGenerator<Buffer[]> {
  const settled = () => ownerOf(redis, prefix);
  // Braces mean nothing special. With none escaped, Redis 7.4 looks at the keys of their slot alone.
  const match = `${prefix.replaceAll(/[[\]*?\\^]/g, "\\$&")}*`;
  const options = ["MATCH", match, "COUNT", String(SCANNED), "TYPE", type];
  // Of a slot that has moved meanwhile, all is looked at again where it is now.
  for (let node = await settled(), scanned; scanned !== node; node = await settled()) {
    scanned = node;
    let cursor = "0";
    do {
      const reply = await node.callBuffer("SCAN", cursor, ...options);
      const [next, names] = reply as [Buffer, Buffer[]];
      cursor = next.toString();
      yield names;
    } while (cursor !== "0");
  }
}

/**
 * The server that has all keys with a prefix. In a cluster, the key that is called so, and is not there, is asked for: a node
 * whose slot moves, or has moved, does not answer to it.
 */
async function ownerOf(redis: RedisConnection, prefix: string): Promise<RedisConnection> {
  const deadline = performance.now() + MOVED_MS;
  for (;;) {
    const node = redis.at(prefix);
    if (node === redis) return redis;
    try {
      await node.exists(prefix);
      return node;
    } catch (error) {
      if (!/^-?(MOVED|ASK) /.test(reasonOf(error))) throw error;
      if (performance.now() > deadline) {
        throw new ConnectionError(
          `the slot of ${prefix} still moves to another node after ${MOVED_MS} ms; run this again when ` +
            "it has moved",
          { cause: error },
        );
      }
    }
    await delay(MOVING_MS);
    await redis.exists(prefix); // it finds out who has the slot
  }
}
