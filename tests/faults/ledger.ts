/**
 * What PostgreSQL itself saw of the sink: triggers note every row that a batch brings, also one that the
 * version guard then leaves alone, and every move of an offset.
 */

import assert from "node:assert/strict";
import type { Pool } from "pg";
import { compareStreamIds } from "writebehind/core/stream_ids.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { lastGeneratedId, pairsOf } from "writebehind/redis/streams.ts";
import { documentsOf, type Pipeline, rowsOf, sorted } from "../support/pipeline.ts";
import type { Author } from "./author.ts";

/** Begins to note; call it once for a database. */
export async function keepLedger({ pool }: { pool: Pool }): Promise<void> {
  await pool.query(`
    CREATE TABLE ledger_rows (
      place BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id TEXT, version BIGINT);
    CREATE TABLE ledger_moves (
      place BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stream TEXT, left_id TEXT, to_id TEXT);
    -- Before the insert: ON CONFLICT DO UPDATE ... WHERE fires this one for each row, whatever comes of it.
    CREATE FUNCTION note_row() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN INSERT INTO ledger_rows (id, version) VALUES (new.id, new.version); RETURN new; END $$;
    CREATE TRIGGER note_row BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION note_row();
    CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN INSERT INTO ledger_moves (stream, left_id, to_id)
            VALUES (new.stream, old.last_id, new.last_id); RETURN new; END $$;
    CREATE TRIGGER note_move AFTER UPDATE ON writebehind_offset
      FOR EACH ROW WHEN (old.last_id <> new.last_id) EXECUTE FUNCTION note_move();`);
}

/** Forgets what was noted. */
export async function clearLedger({ pool }: { pool: Pool }): Promise<void> {
  await pool.query("TRUNCATE ledger_rows; TRUNCATE ledger_moves");
}

/** What went wrong, in numbers that must all be 0. */
export interface Verdict {
  /** events that the stream has had and the target has not counted as applied or parked */
  lost: number;
  /** rows that came twice with the same version, and events that were counted twice */
  twice: number;
  /** rows that came after a newer version of theirs, and batches that did not begin where the last one ended */
  outOfOrder: number;
}

/** What was noted of rows and offsets, which holds also where a stream was taken away under the sinks. */
export async function noted({ pool, config }: Pipeline): Promise<Omit<Verdict, "lost">> {
  const { rows: [rows] } = await pool.query<{ twice: string; backwards: string }>(`
    SELECT count(*) FILTER (WHERE nth > 1) AS twice,
           count(*) FILTER (WHERE version < previous) AS backwards
      FROM (SELECT version, row_number() OVER (PARTITION BY id, version ORDER BY place) AS nth,
                   lag(version) OVER (PARTITION BY id ORDER BY place) AS previous
              FROM ledger_rows) AS noted`);
  let outOfOrder = Number(rows!.backwards);
  for (const { stream } of allPartitions(config, "session")) {
    const { rows: moves } = await pool.query<{ left_id: string; to_id: string }>(
      "SELECT left_id, to_id FROM ledger_moves WHERE stream = $1 ORDER BY place",
      [stream],
    );
    let at = "0-0";
    for (const { left_id, to_id } of moves) {
      if (left_id !== at || compareStreamIds(to_id, left_id) <= 0) outOfOrder++;
      at = to_id;
    }
  }
  return { twice: Number(rows!.twice), outOfOrder };
}

/** Judges what was noted since the ledger was begun or cleared, when the sink has drained everything. */
export async function judge(pipeline: Pipeline): Promise<Verdict> {
  const { pool, redis, config } = pipeline;
  const verdict = { lost: 0, ...await noted(pipeline) };
  for (const { stream } of allPartitions(config, "session")) {
    const { rows: [offset] } = await pool.query<{ last_id: string; events: string }>(
      "SELECT last_id, events FROM writebehind_offset WHERE stream = $1",
      [stream],
    );
    if ((offset?.last_id ?? "0-0") !== await lastGeneratedId(redis, stream)) verdict.lost++;
    const added = Number(pairsOf(await redis.xinfo("STREAM", stream)).get("entries-added"));
    const missing = added - Number(offset?.events ?? 0);
    if (missing > 0) verdict.lost += missing;
    else verdict.twice -= missing;
  }
  return verdict;
}

/** Rows by id with their versions. */
export async function versionsOf({ pool }: { pool: Pool }): Promise<Map<string, bigint>> {
  const { rows } = await pool.query<{ id: string; version: string }>(
    "SELECT id, version FROM sessions",
  );
  return new Map(rows.map(({ id, version }) => [id, BigInt(version)]));
}

/**
 * After everything was drained: the rows are the documents, they are what the author wrote last, in the
 * version that its receipt said, every event was applied once and in order, and no call has made two events.
 */
export async function assertExact(pipeline: Pipeline, author: Author): Promise<void> {
  const rows = sorted(await rowsOf(pipeline));
  assert.deepEqual(rows, sorted(await documentsOf(pipeline)), "rows are the documents");
  assert.deepEqual(rows, sorted(author.documents()), "rows are what was written last");
  const versions = await versionsOf(pipeline);
  for (const [id, { document, version }] of author.written) {
    if (document !== null) assert.equal(versions.get(id), version, `the version of ${id}`);
  }
  assert.deepEqual(await judge(pipeline), { lost: 0, twice: 0, outOfOrder: 0 });
  let added = 0;
  for (const { stream } of allPartitions(pipeline.config, "session")) {
    added += Number(pairsOf(await pipeline.redis.xinfo("STREAM", stream)).get("entries-added"));
  }
  assert.equal(added, author.events, "one event for each call");
}
