/** What a Redis holds of documents and events, and that a call was refused without a trace. */

import type { Redis } from "ioredis";
import assert from "node:assert/strict";
import { type Config, DocumentError, type DocumentErrorCode, documentKey } from "writebehind";

/** All documents, events and requests that Redis holds, byte for byte. */
export async function contents(redis: Redis): Promise<Map<string, string>> {
  const keys = (await redis.keys("*")).filter((key) =>
    !/^(stream:settings|metrics|log):/.test(key)
  );
  const dumps = await Promise.all(keys.map((key) => redis.dumpBuffer(key)));
  return new Map(keys.map((key, index) => [key, dumps[index]!.toString("base64")]));
}

/** Sees the call refused, and neither a document nor an event written. */
export async function refusedWith(
  redis: Redis,
  code: DocumentErrorCode,
  call: () => Promise<unknown>,
  message?: RegExp,
): Promise<void> {
  const before = await contents(redis);
  const error: unknown = await call().then(() => "no error", (error: unknown) => error);
  assert.deepEqual(await contents(redis), before, `something was written, with ${error}`);
  assert(error instanceof DocumentError, `not a DocumentError: ${error}`);
  assert.equal(error.code, code, error.message);
  if (message) assert.match(error.message, message);
}

/** The events of a stream, oldest first. */
export async function events(redis: Redis, stream = "stream:session") {
  const entries = await redis.xrange(stream, "-", "+");
  return entries.map(([id, list]) => {
    const fields: Record<string, string> = {};
    for (let index = 0; index < list.length; index += 2) fields[list[index]!] = list[index + 1]!;
    return { id, fields };
  });
}

/** The document's text as Redis has it. */
export async function stored(redis: Redis, config: Config, docId: string): Promise<string> {
  return await redis.call("JSON.GET", documentKey(config, "session", docId)) as string;
}
