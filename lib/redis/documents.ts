/**
 * Reading the present state of documents.
 * @module
 */

import type { Redis } from "./client.ts";
import { Buffer } from "node:buffer";
import type { PartitionKeys } from "./keys.ts";
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
