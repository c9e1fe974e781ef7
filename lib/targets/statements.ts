/**
 * The statements of the PostgreSQL target, and their parameters.
 * @module
 */

import type { PoolClient } from "pg";
import { bytesArray, timeArray, versionArray } from "./binary.ts";
import type { Batch, Parked, Removal, Upsert } from "./target.ts";

/** Writes rows; `only` is a condition that must hold. An older version never replaces a newer one. */
const writeSql = (table: string, first: number, only: string) => `
  INSERT INTO "${table}" AS t (id, payload, created_at, updated_at, version)
  SELECT e.id, e.payload::jsonb,
         -- An update does not know when its document was created: the row does.
         coalesce(e.created, (SELECT created_at FROM "${table}" WHERE id = e.id), e.updated),
         e.updated, e.version
    FROM unnest($${first}::text[], $${first + 1}::text[], $${first + 2}::int8[],
                $${first + 3}::timestamptz[], $${first + 4}::timestamptz[])
         AS e (id, payload, version, created, updated)
   WHERE ${only}
  ON CONFLICT (id) DO UPDATE
     SET payload = excluded.payload, created_at = excluded.created_at,
         updated_at = excluded.updated_at, version = excluded.version
   WHERE t.version < excluded.version
  RETURNING 1`;

/**
 * Writes rows that are expected to be new. ON CONFLICT costs PostgreSQL a second WAL record a row (about a
 * sixth of the time of a batch); without it a row that exists fails the statement (23505), and the batch is
 * given once more to the careful one.
 */
const insertSql = (table: string, first: number, only: string) => `
  INSERT INTO "${table}" (id, payload, created_at, updated_at, version)
  SELECT e.id, e.payload::jsonb, e.created, e.updated, e.version
    FROM unnest($${first}::text[], $${first + 1}::text[], $${first + 2}::int8[],
                $${first + 3}::timestamptz[], $${first + 4}::timestamptz[])
         AS e (id, payload, version, created, updated)
   WHERE ${only}`;

/** Removes rows. */
const removeSql = (table: string, first: number, only: string) => `
  DELETE FROM "${table}" AS t
   USING unnest($${first}::text[], $${first + 1}::int8[]) AS e (id, version)
   WHERE t.id = e.id AND t.version < e.version AND ${only}
  RETURNING 1`;

const PARK_SQL = `, parked AS (
  INSERT INTO writebehind_dead_letter AS d
         (entity, stream, stream_id, doc_id, event_type, ts, payload, fields, sqlstate, reason)
  SELECT $19, $1, e.stream_id, e.doc_id, e.event_type, e.ts, e.payload,
         -- A row may have any number of fields, which arrays of arrays cannot: one array, cut by its length.
         CASE WHEN e.fields_to > e.fields_from
              THEN ($28::bytea[])[e.fields_from + 1 : e.fields_to] END,
         e.sqlstate, e.reason
    FROM unnest($20::text[], $21::bytea[], $22::text[], $23::int8[], $24::bytea[],
                $25::text[], $26::text[], $27::int4[], $29::int4[])
         AS e (stream_id, doc_id, event_type, ts, payload, sqlstate, reason, fields_from, fields_to)
   WHERE EXISTS (SELECT FROM moved)
  ON CONFLICT (stream, stream_id) DO UPDATE
     SET attempts = d.attempts + 1, last_at = now(), reason = excluded.reason, state = 'parked'
)`;

/**
 * The batch statement of a table. The offset moves only where it stands as expected, the epoch is ours and
 * nobody has changed what is parked; everything else happens only where it moved.
 */
export const applySql = (table: string, parking: boolean) => `
WITH moved AS (
  UPDATE writebehind_offset
     SET last_id = $4, witness = $4, events = events + $5, updated_at = clock_timestamp()
   WHERE stream = $1 AND last_id = $2 AND epoch = $3 AND parked_version = $6
  RETURNING 1
), inserted AS (${insertSql(table, 7, "EXISTS (SELECT FROM moved)")}
), written AS (${writeSql(table, 12, "EXISTS (SELECT FROM moved)")}
), removed AS (${removeSql(table, 17, "EXISTS (SELECT FROM moved)")}
)${parking ? PARK_SQL : ""}
SELECT (SELECT count(*) FROM moved)::int AS moved,
       (SELECT epoch FROM writebehind_offset WHERE stream = $1) AS epoch`;

/**
 * Does all that a batch does to rows, then fails on purpose: the foreign key is checked when the statement
 * ends, behind the table's own triggers and foreign keys. (Constraints that are deferred to the commit are
 * not tried.)
 */
export const probeSql = (table: string) => `
WITH written AS (${writeSql(table, 1, "true")}
), removed AS (${removeSql(table, 6, "true")}
)
INSERT INTO writebehind_probe (id, parent)
SELECT 1, 2 + (SELECT count(*) FROM written) + (SELECT count(*) FROM removed)`;

const upsertValues = (upserts: Upsert[]) => [
  bytesArray("text", upserts.map(({ id }) => id)),
  bytesArray("text", upserts.map(({ payload }) => payload)),
  versionArray(upserts),
  timeArray(upserts.map(({ created }) => created)),
  timeArray(upserts.map(({ updated }) => updated)),
];

/** The parameters of {@linkcode probeSql}. */
export const rowValues = (upserts: Upsert[], removals: Removal[]): Buffer[] => [
  ...upsertValues(upserts),
  bytesArray("text", removals.map(({ id }) => id)),
  versionArray(removals),
];

/**
 * The parameters of {@linkcode applySql} that hold rows.
 * @param careful whether no row is expected to be new
 */
export function batchValues({ upserts, removals }: Batch, careful: boolean): Buffer[] {
  const fresh = careful ? [] : upserts.filter(({ created }) => created !== null);
  const others = fresh.length === 0 ? upserts : upserts.filter(({ created }) => created === null);
  return [...upsertValues(fresh), ...rowValues(others, removals)];
}

/**
 * Writes and removes rows as a batch does, in a transaction of the caller's, which holds the partition's
 * offset row.
 */
export async function writeRows(
  connection: PoolClient,
  table: string,
  upserts: Upsert[],
  removals: Removal[],
): Promise<void> {
  await connection.query(
    `WITH written AS (${writeSql(table, 1, "true")}
     ), removed AS (${removeSql(table, 6, "true")}
     ) SELECT`,
    rowValues(upserts, removals),
  );
}

/** The parameters of {@linkcode applySql} that hold what is parked. */
export function parkedValues(entity: string, parked: Parked[]): unknown[] {
  const fields: Buffer[] = [];
  const from: number[] = [];
  const to: number[] = [];
  for (const { fields: own } of parked) {
    from.push(fields.length);
    fields.push(...own ?? []);
    to.push(fields.length);
  }
  const clean = (text: string) => text.replaceAll("\0", "").toWellFormed();
  return [
    entity,
    parked.map(({ streamId }) => streamId),
    bytesArray("bytea", parked.map(({ id }) => id)),
    parked.map(({ type }) => clean(type)),
    parked.map(({ ts }) => ts),
    bytesArray("bytea", parked.map(({ payload }) => payload)),
    parked.map(({ sqlstate }) => sqlstate),
    parked.map(({ reason }) => clean(reason)),
    from,
    bytesArray("bytea", fields),
    to,
  ];
}
