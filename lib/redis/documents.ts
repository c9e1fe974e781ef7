/**
 * Reading the present state of documents.
 * @module
 */

import type { Redis } from "ioredis";
import type { RespConnection } from "./resp.ts";
import { readScript } from "./scripts/mod.ts";

/**
 * Reads documents in one round trip, until they are too many bytes.
 * @param redis a connection to the node that holds the keys
 * @param keys of documents in one partition
 * @param maxBytes after so many, no further document is read
 * @returns their JSON texts in the order of `keys`, `null` for one that is missing; fewer where they are
 * too many bytes, but at least one
 */
export async function readDocuments(
  redis: Redis | RespConnection,
  keys: readonly (string | Buffer)[],
  maxBytes: number,
): Promise<(Buffer | null)[]> {
  const args = [readScript.source, String(keys.length), ...keys, String(maxBytes)];
  const texts =
    await ("callBuffer" in redis
      ? redis.callBuffer("EVAL", ...args)
      : redis.call(["EVAL", ...args])) as Buffer[];
  return texts.map((text) => text.length === 0 ? null : text);
}
