/**
 * What a drain costs without the guarantees and the metrics: the same reader, the same coalescing and the
 * same form of SQL, with no owner, lease, consumer group, counters, log streams or freshness.
 */

import type { Pool } from "pg";
import { type Config, entityConfig } from "writebehind";
import type { Batch, PartitionKeys } from "writebehind/targets";
import { allPartitions } from "writebehind/redis/keys.ts";
import { coalesce } from "writebehind/sink/coalesce.ts";
import { batchLimits } from "writebehind/sink/limits.ts";
import { StreamReader } from "writebehind/sink/reader.ts";
import {
  type BatchValues,
  batchValues,
  insertSql,
  valuesOf,
} from "writebehind/targets/postgres/statements.ts";

/** Rows that are new, as in row 1. */
const bareSql = (table: string) => `
WITH moved AS (
  INSERT INTO writebehind_offset (stream, last_id) VALUES ($1, $2)
  ON CONFLICT (stream) DO UPDATE SET last_id = excluded.last_id
)
${insertSql(table, 3, "true", "many")}`;

/** Drains the first partition of an entity, and returns the events applied. */
export async function bareDrain(pool: Pool, config: Config, entity: string): Promise<number> {
  const keys = allPartitions(config, entity)[0]!;
  const { table } = entityConfig(config, entity);
  const { events: batchSize } = batchLimits(config);
  const reader = new StreamReader(config, keys);
  const connection = await pool.connect();
  try {
    await connection.query("SET enable_seqscan = off");
    let events = 0;
    let trimming = Promise.resolve();
    let next = readBatch(reader, "0-0", batchSize);
    for (;;) {
      const work = await next;
      if (work === null) {
        await trimming;
        return events;
      }
      const { batch, values, free } = work;
      next = readBatch(reader, batch.lastId, batchSize);
      await connection.query({
        name: "bare drain",
        text: bareSql(table),
        values: [keys.stream, batch.lastId, ...valuesOf(values)],
      });
      free();
      events += batch.events;
      // As in the drain itself, nobody waits for it while there is more to do.
      trimming = trim(reader, keys, batch.lastId);
    }
  } finally {
    connection.release(true);
    reader.close();
  }
}

async function readBatch(
  reader: StreamReader,
  position: string,
  size: number,
): Promise<{ batch: Batch; values: BatchValues; free(): void } | null> {
  const { items, free } = await reader.read(position, size, {
    wait: false,
    slot: () => Promise.resolve(),
  });
  if (items.length === 0) return null;
  const batch = await coalesce(items, (docIds) => reader.documents(docIds));
  return { batch, values: batchValues(batch, false), free };
}

async function trim(
  reader: StreamReader,
  { stream }: PartitionKeys,
  offset: string,
): Promise<void> {
  await (await reader.connection()).xtrim(stream, "MINID", offset);
}
