/**
 * What a drain costs without the guarantees and the metrics: the same reader, the same coalescing and the
 * same form of SQL, with no owner, lease, consumer group, counters, log streams or freshness.
 */

import type { Pool } from "pg";
import { type Config, entityConfig } from "../../lib/config.ts";
import { allPartitions, type PartitionKeys } from "../../lib/events.ts";
import { coalesce } from "../../lib/sink/batch.ts";
import { StreamReader } from "../../lib/sink/reader.ts";
import { bytesArray, timeArray, versionArray } from "../../lib/targets/binary.ts";
import type { Batch } from "../../lib/targets/target.ts";

function bareSql(table: string): string {
  return `
WITH moved AS (
  INSERT INTO writebehind_offset (stream, last_id) VALUES ($1, $2)
  ON CONFLICT (stream) DO UPDATE SET last_id = excluded.last_id
), written AS (
  INSERT INTO "${table}" AS t (id, payload, created_at, updated_at, version)
  SELECT e.id, e.payload::jsonb,
         coalesce(e.created, (SELECT created_at FROM "${table}" WHERE id = e.id), e.updated),
         e.updated, e.version
    FROM unnest($3::text[], $4::text[], $5::int8[], $6::timestamptz[], $7::timestamptz[])
         AS e (id, payload, version, created, updated)
  ON CONFLICT (id) DO UPDATE
     SET payload = excluded.payload, created_at = excluded.created_at,
         updated_at = excluded.updated_at, version = excluded.version
)
DELETE FROM "${table}" AS t USING unnest($8::text[]) AS e (id) WHERE t.id = e.id`;
}

/** Drains the first partition of an entity, and returns the events applied. */
export async function bareDrain(pool: Pool, config: Config, entity: string): Promise<number> {
  const keys = allPartitions(config, entity)[0]!;
  const sql = bareSql(entityConfig(config, entity).table);
  const { batch_size } = config.write_behind;
  const reader = new StreamReader(config, keys);
  const connection = await pool.connect();
  try {
    await connection.query("SET enable_seqscan = off");
    let events = 0;
    let trimming = Promise.resolve();
    let next = readBatch(reader, "0-0", batch_size);
    for (;;) {
      const batch = await next;
      if (batch === null) {
        await trimming;
        return events;
      }
      next = readBatch(reader, batch.lastId, batch_size);
      const { upserts, removals } = batch;
      await connection.query({
        name: "bare drain",
        text: sql,
        values: [
          keys.stream,
          batch.lastId,
          bytesArray("text", upserts.map(({ id }) => id)),
          bytesArray("text", upserts.map(({ payload }) => payload)),
          versionArray(upserts),
          timeArray(upserts.map(({ created }) => created)),
          timeArray(upserts.map(({ updated }) => updated)),
          bytesArray("text", removals.map(({ id }) => id)),
        ],
      });
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
): Promise<Batch | null> {
  const { items } = await reader.read(position, size, false);
  if (items.length === 0) return null;
  return coalesce(items, (docIds) => reader.documents(docIds));
}

async function trim(
  reader: StreamReader,
  { stream }: PartitionKeys,
  offset: string,
): Promise<void> {
  await (await reader.connection()).xtrim(stream, "MINID", offset);
}
