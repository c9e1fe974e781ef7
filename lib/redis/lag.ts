/**
 * How far a target is behind its streams, exactly: by the entries that stand behind its offset.
 * @module
 */

import { WriteBehindError } from "../core/errors.ts";
import { compareStreamIds, partsOf } from "../core/stream_ids.ts";
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
  /** age of the oldest of them, in seconds, by the clock of the stream's own node, which made its times */
  seconds: number;
  /** entries that the stream has ever got up to the offset, by its own count, which a `DEL` or a promoted replica changes */
  entriesRead: number;
  /**
   * whether the offset was the newest: the stream still holds an entry at or before it, so none behind it was trimmed.
   * Where not, the target may have moved on since its offset was read.
   */
  certain: boolean;
}

/** Entries that Redis counts at a time, so that it answers others in between. */
const CHUNK = 1000;

/** `TIME` names no key, by which it would go to a stream's node. */
const TIME = "return redis.call('TIME')";

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
  const pipeline = redis.pipeline();
  for (const { stream, offset } of positions) {
    pipeline.eval(TIME, 1, stream).xinfo("STREAM", stream)
      .xrange(stream, `(${offset}`, "+", "COUNT", 1);
  }
  const replies = ((await pipeline.exec()) ?? []).values();
  const next = () => {
    const reply = replies.next().value;
    if (reply === undefined) throw new WriteBehindError("Redis gave no reply; try again");
    return reply;
  };
  return await Promise.all(positions.map((position) => {
    const [seconds, microseconds] = (valueOf(next()) as [string, string]).map(Number);
    const now = seconds! * 1000 + microseconds! / 1000;
    const info = infoOf(next());
    const [oldest] = valueOf(next()) as Entry[];
    return lagOf(redis, position, info, oldest && Math.max(0, now - timeOf(oldest)) / 1000);
  }));
}

/**
 * How many entries a stream has ever got up to an offset, as its consumer group is told; 0 where there is no stream.
 * @throws the error that Redis answers
 */
export async function readEntriesRead(redis: Redis, position: Position): Promise<number> {
  const reply = await redis.xinfo("STREAM", position.stream).catch((error) => {
    if (isNoKey(error)) return null;
    throw error;
  });
  if (reply === null) return 0;
  const { entriesRead } = await lagOf(redis, position, infoOf([null, reply]));
  return entriesRead;
}

/** A stream at one moment. */
interface Info {
  /** entries that it has ever got */
  added: number;
  length: number;
  /** ids of its first and last entry; `0-0` where it has none */
  first: string;
  last: string;
}

function infoOf(reply: [Error | null, unknown]): Info {
  if (isNoKey(reply[0])) return { added: 0, length: 0, first: "0-0", last: "0-0" };
  const info = pairsOf(valueOf(reply));
  const idOf = (entry: unknown) => (entry as Entry | null)?.[0] ?? "0-0";
  return {
    added: Number(info.get("entries-added")),
    length: Number(info.get("length")),
    first: idOf(info.get("first-entry")),
    last: idOf(info.get("last-entry")),
  };
}

async function lagOf(
  redis: Redis,
  position: Position,
  info: Info,
  seconds = 0,
): Promise<Lag> {
  const { offset } = position;
  const { added, length, first, last } = info;
  const behind = (events: number, certain: boolean): Lag => (
    { events, seconds, entriesRead: added - events, certain }
  );
  if (compareStreamIds(last, offset) <= 0) return { ...behind(0, true), seconds: 0 };
  if (compareStreamIds(first, offset) > 0) return behind(length, false);
  const events = first === offset ? length - 1 : await countBehind(redis, position, info);
  if (events !== null) return behind(events, true);
  // The target has moved on while it was counted: that is soon over.
  const [lag] = await readLag(redis, [position]);
  return lag!;
}

/** Entries that were counted before, of each connection's streams: from the same first one on, they are the same. */
const counted = new WeakMap<Redis, Map<string, { first: string; to: string; count: number }>>();

/**
 * How many entries of a stream are behind an offset; `null` where one of them was trimmed meanwhile. They are counted
 * from both sides at once, what is behind it and what is not, until the shorter is done: either may be millions.
 */
async function countBehind(
  redis: Redis,
  { stream, offset }: Position,
  { length, first, last }: Info,
): Promise<number | null> {
  const known = counted.getOrInsertComputed(redis, () => new Map());
  const before = known.get(stream);
  const passed = before?.first === first && compareStreamIds(before.to, offset) <= 0
    ? { ...before }
    : { first, to: "", count: 0 };
  const behind = { to: offset, count: 0 };
  for (;;) {
    const [left, right] = await Promise.all([
      // Once its first entries were trimmed, what was counted of them is worth nothing.
      passed.first === first ? countOn(redis, stream, passed, offset) : null,
      countOn(redis, stream, behind, last),
    ]);
    if (right.first === "" || compareStreamIds(right.first, offset) > 0) return null;
    if (right.done) return behind.count;
    if (left === null) continue;
    if (left.first !== first) passed.first = "";
    else if (left.done) {
      known.set(stream, passed);
      return length - passed.count;
    }
  }
}

/** Counts the next chunk of entries up to an id, and says whether it was the last, and which the stream's first is. */
async function countOn(
  redis: Redis,
  stream: string,
  side: { to: string; count: number },
  upTo: string,
): Promise<{ done: boolean; first: string }> {
  const range = [side.to === "" ? "-" : `(${side.to}`, upTo, String(CHUNK)];
  const reply = await runScript(redis, countScript, [stream], range);
  const [entries, last, first] = reply as [number, string, string];
  side.count += entries;
  if (entries > 0) side.to = last;
  return { done: entries < CHUNK || side.to === upTo, first };
}

function timeOf([id]: Entry): number {
  return partsOf(id).ms;
}
