/**
 * How far the target is behind Redis.
 * @module
 */

import type { Redis } from "ioredis";

/** The flat pairs of a reply, such as that of XINFO, by name. */
export function pairsOf(reply: unknown): Map<string, unknown> {
  const flat = reply as unknown[];
  const map = new Map<string, unknown>();
  for (let index = 0; index + 1 < flat.length; index += 2) {
    map.set(String(flat[index]), flat[index + 1]);
  }
  return map;
}

/** The id of the last event that a stream ever got; `0-0` where there is no stream. */
export async function lastGeneratedId(redis: Redis, stream: string): Promise<string> {
  try {
    return String(pairsOf(await redis.xinfo("STREAM", stream)).get("last-generated-id"));
  } catch (error) {
    if (/no such key/.test((error as Error).message)) return "0-0";
    throw error;
  }
}
