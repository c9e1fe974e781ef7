/**
 * How far a target is behind its streams, exactly: by the entries that stand behind its offset.
 * @module
 */

import { WriteBehindError } from "../core/errors.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import type { Redis } from "./client.ts";
import { countScript, runScript } from "./scripts/mod.ts";
import { isNoKey, pairsOf, valueOf } from "./streams.ts";

/** Where a target stands in a stream. */
export interface Position {
  stream: string;
  /** the last stream id that the target holds; `0-0` for none */
  offset: string;
}

/** What a target has not applied yet. */
export interface Lag {
  /** entries of the stream behind the offset */
  events: number;
  /** age of the oldest of them, in seconds, by the clock of Redis, which made the stream's times */
  seconds: number;
  /**
   * whether the offset was the newest: the stream still holds an entry at or before it, so none behind it was trimmed.
   * Where not, the target may have moved on since its offset was read.
   */
  certain: boolean;
}

const NONE: Lag = { events: 0, seconds: 0, certain: true };

/** Entries that Redis counts at a time, so that it answers others in between. */
const CHUNK = 1000;

type Entry = [id: string, fields: string[]];

/**
 * Reads the lag at some positions: in one round trip, and another one where the target has committed what is not
 * trimmed yet.
 *
 * It is counted, not taken from `entries-added` or the consumer group: a `DEL`, a promoted replica, or whoever moves
 * the group changes those, and what stands behind the offset is all the same what it is.
 * @returns in the order of `positions`
 * @throws the error that Redis answers
 */
export async function readLag(redis: Redis, positions: readonly Position[]): Promise<Lag[]> {
  const pipeline = redis.pipeline().time();
  for (const { stream, offset } of positions) {
    pipeline.xinfo("STREAM", stream).xrange(stream, `(${offset}`, "+", "COUNT", 1);
  }
  const replies = ((await pipeline.exec()) ?? []).values();
  const next = () => {
    const reply = replies.next().value;
    if (reply === undefined) throw new WriteBehindError("Redis gave no reply; try again");
    return reply;
  };
  const [seconds, microseconds] = (valueOf(next()) as [string, string]).map(Number);
  const now = seconds! * 1000 + microseconds! / 1000;
  return await Promise.all(positions.map((position) => {
    const info = infoOf(next());
    const [oldest] = valueOf(next()) as Entry[];
    return lagOf(redis, position, info, oldest && Math.max(0, now - timeOf(oldest)) / 1000);
  }));
}

/** A stream at one moment; `null` where there is none, or nothing in it. */
interface Info {
  length: number;
  first: string;
  last: string;
}

function infoOf(reply: [Error | null, unknown]): Info | null {
  if (isNoKey(reply[0])) return null;
  const info = pairsOf(valueOf(reply));
  const idOf = (entry: unknown) => (entry as Entry | null)?.[0];
  const [first, last] = [idOf(info.get("first-entry")), idOf(info.get("last-entry"))];
  return first && last ? { length: Number(info.get("length")), first, last } : null;
}

async function lagOf(
  redis: Redis,
  position: Position,
  info: Info | null,
  seconds = 0,
): Promise<Lag> {
  const { stream, offset } = position;
  if (info === null || compareStreamIds(info.last, offset) <= 0) return NONE;
  const { length, first } = info;
  if (compareStreamIds(first, offset) > 0) return { events: length, seconds, certain: false };
  const passed = first === offset ? 1 : await countPassed(redis, stream, first, offset);
  if (passed !== null) return { events: length - passed, seconds, certain: true };
  // Trimmed while it was counted: that is soon over.
  const [lag] = await readLag(redis, [position]);
  return lag!;
}

/** Entries that were counted before, of each connection's streams: from the same first one on, they are the same. */
const counted = new WeakMap<Redis, Map<string, { first: string; to: string; count: number }>>();

/** How many entries of a stream are not behind an offset; `null` where it was trimmed meanwhile. */
async function countPassed(
  redis: Redis,
  stream: string,
  first: string,
  offset: string,
): Promise<number | null> {
  const known = counted.get(redis) ?? new Map();
  counted.set(redis, known);
  const before = known.get(stream);
  let { to, count } = before?.first === first && compareStreamIds(before.to, offset) <= 0
    ? before
    : { to: "", count: 0 };
  for (let found = CHUNK; found === CHUNK && to !== offset;) {
    const range = [to === "" ? "-" : `(${to}`, offset, String(CHUNK)];
    const reply = await runScript(redis, countScript, [stream], range);
    const [entries, last, firstNow] = reply as [number, string, string];
    if (firstNow !== first) return null;
    found = entries;
    count += entries;
    if (entries > 0) to = last;
  }
  known.set(stream, { first, to, count });
  return count;
}

function timeOf([id]: Entry): number {
  return Number(id.split("-")[0]);
}
