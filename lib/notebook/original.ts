/**
 * The original project's producer and consumer, in TypeScript: what our wire format must work with, and
 * what the benchmark is measured against. Row by row, with its counter, log and offset writes an event.
 * @module
 */

import type { Redis } from "ioredis";
import type { Pool } from "../targets/postgres/pool.ts";

const LOG_MAX = 10_000;

/** `_push_stream` after a JSON command, as two commands: the original had no atomic step. */
export async function produce(
  redis: Redis,
  docId: string,
  type: "insert" | "update" | "delete",
  document?: unknown,
): Promise<void> {
  if (type === "delete") await redis.call("JSON.DEL", `session:${docId}`);
  else await redis.call("JSON.SET", `session:${docId}`, "$", JSON.stringify(document));
  await redis.xadd(
    "stream:session",
    "*",
    ...["ts", String(Date.now()), "doc_id", docId, "event_type", type],
  );
}

/** `RedisWriteBehind`: reads from `lastid`, takes each document's state from Redis, one row at a time. */
export async function consume(redis: Redis, pool: Pool, batchSize: number): Promise<number> {
  const stream = "stream:session";
  const lastIdKey = `stream:lastid:${stream}`;
  let consumed = 0;
  for (;;) {
    const lastId = await redis.get(lastIdKey) ?? "0-0";
    const reply = await redis.xread("COUNT", batchSize, "STREAMS", stream, lastId);
    const entries = reply?.[0]?.[1] ?? [];
    if (entries.length === 0) return consumed;
    for (const [id, fields] of entries) {
      const { doc_id: docId, event_type: type } = Object.fromEntries(
        Array.from({ length: fields.length / 2 }, (_, i) => [fields[2 * i], fields[2 * i + 1]]),
      ) as { doc_id: string; event_type: string };
      if (type === "delete") {
        await pool.query("DELETE FROM sessions WHERE id = $1", [docId]);
      } else {
        const payload = await redis.call("JSON.GET", `session:${docId}`) as string | null;
        await pool.query(
          `INSERT INTO sessions (id, payload) VALUES ($1, $2)
           ON CONFLICT (id) DO UPDATE SET payload = EXCLUDED.payload`,
          [docId, payload ?? "{}"],
        );
      }
      await redis.xadd(
        "log:postgres:success",
        "MAXLEN",
        "~",
        LOG_MAX,
        "*",
        ...["doc_id", docId, "event_type", type],
      );
      await redis.incr("metrics:postgres_success");
      await redis.set(lastIdKey, id);
      consumed++;
    }
  }
}
