/**
 * What to do when the stream has gone back: a stale replica was promoted, an old append-only file or
 * snapshot was loaded, everything was flushed, or somebody trimmed.
 *
 * Redis is the truth. Ids that the target has passed would be skipped, so the stream's last id is moved up to the
 * offset: new ids begin above it. Then every document that an entry at or below the offset names is resent from Redis.
 * @module
 */

import { failpoint } from "../core/failpoints.ts";
import { isFar } from "../core/stream_ids.ts";
import type { Redis } from "../redis/client.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { forwardScript, resendScript, runScript } from "../redis/scripts/mod.ts";
import { decodeEntry, type Entry, isEvent } from "./decode.ts";

/** How many entries are read at a time. */
const CHUNK = 500;

/** Whether the last entry that the target applied is still in the stream. */
export async function hasWitness(
  redis: Redis,
  { stream }: PartitionKeys,
  witness: string,
): Promise<boolean> {
  if (witness === "0-0") return true;
  return (await redis.xrange(stream, witness, witness)).length > 0;
}

/**
 * Moves a stream's last id up to an offset, so that new ids begin above it. Not to one that no version can hold: the
 * stream may be mended just now, and events would get such ids again. A sink moves that offset back.
 */
export async function forward(
  redis: RedisConnection,
  { stream }: PartitionKeys,
  offset: string,
): Promise<void> {
  if (isFar(offset)) return;
  await runScript(redis, forwardScript, [stream], [offset]);
}

/**
 * Rewinds a stream that has gone back. It only appends, so it may be stopped and run again.
 * @param offset the last stream id that the target holds
 * @param applied an entry of this stream: it and those before it are in the target for sure; `0-0` for none
 * @returns how many documents were resent
 */
export async function rewind(
  redis: RedisConnection,
  keys: PartitionKeys,
  offset: string,
  applied = "0-0",
): Promise<number> {
  const { stream } = keys;
  await forward(redis, keys, offset);
  await failpoint?.("forwarded");
  if (isFar(offset)) return 0; // what is resent would get such an id as well
  let after = applied === "0-0" ? "-" : `(${applied}`;
  let sent = 0;
  for (;;) {
    const entries = await redis.xrangeBuffer(stream, after, offset, "COUNT", CHUNK) as Entry[];
    const ids = new Map<string, Buffer>();
    for (const event of entries.map(decodeEntry).filter(isEvent)) ids.set(event.key, event.docId);
    for (const id of ids.values()) await resend(redis, keys, id.toString());
    sent += ids.size;
    if (entries.length < CHUNK) return sent;
    after = `(${entries.at(-1)![0].toString("latin1")}`;
  }
}

/**
 * Resends a document: appends its present state as a new event, or a delete if it is gone.
 * @param expected the JSON text that it must still have, `null` where it must still be missing;
 * `undefined` takes any state
 * @returns the event's stream id, or `null` where the document has changed and nothing was appended; so it is
 * where a cache has evicted it
 */
export async function resend(
  redis: RedisConnection,
  { documentPrefix, stream, settings, cached, notes }: PartitionKeys,
  docId: string,
  expected?: string | null,
): Promise<string | null> {
  const id = await runScript(
    redis,
    resendScript,
    [documentPrefix + docId, stream, settings, ...cached ? [notes] : []],
    [
      docId,
      String(Date.now()),
      expected === undefined ? "" : expected ?? "-",
    ],
  );
  return id === "" ? null : String(id);
}
