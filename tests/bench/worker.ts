/**
 * What users would otherwise write in an afternoon: a consumer group, the last write of each key, one statement a
 * read, XACK.
 */

import type { Redis } from "ioredis";
import type { Pool } from "pg";

const STREAM = "stream:session";
const GROUP = "worker";
const COUNT = 1000;
const BLOCK_MS = 1000;

const UPSERT = `
INSERT INTO sessions (id, payload) SELECT * FROM unnest($1::text[], $2::jsonb[])
ON CONFLICT (id) DO UPDATE SET payload = excluded.payload`;

/** What a worker uses, and tells. */
export interface Work {
  redis: Redis;
  pool: Pool;
  /** ends it when it is aborted; without it, it ends when there is nothing left to read */
  signal?: AbortSignal;
  /** called with the last stream id of what was committed */
  onCommit?: (lastId: string) => void;
}

/** Carries inserts and updates on, and returns how many events it has read. */
export async function work({ redis, pool, signal, onCommit }: Work): Promise<number> {
  await redis.xgroup("CREATE", STREAM, GROUP, "0", "MKSTREAM").catch((error: Error) => {
    if (!error.message.startsWith("BUSYGROUP")) throw error;
  });
  let events = 0;
  // First what it was given before it died, and has not acknowledged.
  let from = "0";
  while (!signal?.aborted) {
    const who = ["GROUP", GROUP, "worker-1", "COUNT", COUNT] as const;
    const what = ["STREAMS", STREAM, from] as const;
    const reply = signal
      ? await redis.xreadgroup(...who, "BLOCK", BLOCK_MS, ...what)
      : await redis.xreadgroup(...who, ...what);
    const entries = reply?.[0]?.[1] ?? [];
    if (entries.length === 0) {
      if (from === ">" && !signal) break;
      from = ">";
      continue;
    }
    const last = new Map<string, string>();
    for (const [, fields] of entries) {
      const of = (name: string) => fields![fields!.indexOf(name) + 1]!;
      last.set(of("doc_id"), of("payload"));
    }
    await pool.query({
      name: "upsert",
      text: UPSERT,
      values: [[...last.keys()], [...last.values()]],
    });
    onCommit?.(entries.at(-1)![0]);
    await redis.xack(STREAM, GROUP, ...entries.map(([id]) => id));
    events += entries.length;
  }
  return events;
}
