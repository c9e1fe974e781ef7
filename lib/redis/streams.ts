/**
 * What Redis knows of its streams, and how its replies are read.
 * @module
 */

import type { Redis } from "./client.ts";
import { LAST_STREAM_ID } from "../core/stream_ids.ts";
import type { PartitionKeys } from "./keys.ts";
import { lookScript, runScript } from "./scripts/mod.ts";

/** The flat pairs of a reply, such as XINFO's, by name. */
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
    if (isNoKey(error)) return "0-0";
    throw error;
  }
}

/**
 * The id of the last event in a stream; `0-0` where there is none. The stream's own last id may lie past it: it was moved
 * up where a target was added, or after a stream went back, so that new ids begin above it.
 */
export async function lastEntryId(redis: Redis, stream: string): Promise<string> {
  const [newest] = await redis.xrevrange(stream, "+", "-", "COUNT", 1);
  return newest?.[0] ?? "0-0";
}

/** Notes for the writers whether a stream's last id is past what a version can hold, and returns that id. */
export async function noteLastId(
  redis: Redis,
  { stream, settings }: PartitionKeys,
): Promise<string> {
  return String(await runScript(redis, lookScript, [stream, settings], [LAST_STREAM_ID]));
}

/** The reply, or the error that stands in its place. */
export function valueOf([error, value]: [Error | null, unknown]): unknown {
  if (error) throw error;
  return value;
}

/** Whether a reply says that there is no such key. */
export function isNoKey(error: unknown): boolean {
  return error instanceof Error && /no such key/.test(error.message);
}

/** A target's group in a reply of XINFO GROUPS. */
export function groupIn(reply: unknown, name: string): Map<string, unknown> | undefined {
  return (reply as unknown[]).map(pairsOf).find((group) => group.get("name") === name);
}
