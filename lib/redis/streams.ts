/**
 * What Redis knows of its streams: their last ids, and how far a target is behind them.
 * @module
 */

import type { Redis } from "./client.ts";
import { WriteBehindError } from "../core/errors.ts";
import { LAST_STREAM_ID } from "../core/stream_ids.ts";
import { CONSUMER_GROUP, type PartitionKeys } from "./keys.ts";
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

/** Notes for the writers whether a stream's last id is past what a version can hold, and returns that id. */
export async function noteLastId(
  redis: Redis,
  { stream, settings }: PartitionKeys,
): Promise<string> {
  return String(await runScript(redis, lookScript, [stream, settings], [LAST_STREAM_ID]));
}

/** Where a target stands in a stream. */
export interface Position {
  stream: string;
  /** the last stream id that the target holds; `0-0` for none */
  offset: string;
}

/** What a target has not applied yet. */
export interface Lag {
  events: number;
  /** age of the oldest of them, in seconds, by the clock of Redis, which made the stream's times */
  seconds: number;
}

type Entries = [id: string, fields: string[]][];

/**
 * Reads the lag at some positions, in one round trip.
 * @returns in the order of `positions`
 * @throws the error that Redis answers
 */
export async function readLag(redis: Redis, positions: readonly Position[]): Promise<Lag[]> {
  const pipeline = redis.pipeline().time();
  for (const { stream, offset } of positions) {
    pipeline.xrange(stream, `(${offset}`, "+", "COUNT", 1)
      .xrange(stream, "-", offset, "COUNT", 2)
      .xlen(stream)
      .call("XINFO", "GROUPS", stream);
  }
  const replies = ((await pipeline.exec()) ?? []).values();
  const next = () => {
    const reply = replies.next().value;
    if (reply === undefined) throw new WriteBehindError("Redis gave no reply; try again");
    return reply;
  };
  const value = <T>() => valueOf(next()) as T;
  const [seconds, microseconds] = value<[string, string]>().map(Number) as [number, number];
  const now = seconds * 1000 + microseconds / 1000;
  return positions.map(({ offset }) => {
    const [waiting] = value<Entries>();
    const passed = value<Entries>().length;
    const length = value<number>();
    const known = lagOfGroup(next(), offset);
    if (waiting === undefined) return { events: 0, seconds: 0 };
    const age = (now - Number(waiting[0].split("-")[0])) / 1000;
    // Entries that are committed but not trimmed yet are counted in.
    return { events: known ?? Math.max(1, length - passed), seconds: Math.max(0, age) };
  });
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

/** The sink's group in a reply of XINFO GROUPS. */
export function groupIn(reply: unknown): Map<string, unknown> | undefined {
  return (reply as unknown[]).map(pairsOf).find((group) => group.get("name") === CONSUMER_GROUP);
}

/** The lag that Redis counts for the sink's group, if the group is at the offset. */
function lagOfGroup([error, groups]: [Error | null, unknown], offset: string): number | null {
  if (error) {
    if (isNoKey(error)) return null;
    throw error;
  }
  const group = groupIn(groups);
  const lag = group?.get("last-delivered-id") === offset ? group.get("lag") : null;
  return typeof lag === "number" ? lag : null;
}
