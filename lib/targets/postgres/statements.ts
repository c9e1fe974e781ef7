/**
 * The statements of the PostgreSQL target, and their parameters.
 * @module
 */

import type { PoolClient } from "./pool.ts";
import { storable } from "../common.ts";
import type { Batch, BatchRows, Parked, Removal, Upsert } from "../batch.ts";
import { type Arena, bytesArray, timeArray, versionArray } from "./arrays.ts";

/** How many rows a statement writes or removes: of one alone PostgreSQL makes a simpler plan. */
type Count = "one" | "many";

/** Arrays as rows. In the select list PostgreSQL unnests them row by row; in FROM it would store them first. */
function unnested(first: number, count: Count, columns: [name: string, type: string][]): string {
  const selected = columns.map(([name, type], index) => {
    const array = `$${first + index}::${type}[]`;
    return `${count === "one" ? `(${array})[1]` : `unnest(${array})`} AS ${name}`;
  });
  return `(SELECT ${selected.join(", ")}) AS e`;
}

/** Rows to write. The payloads come last, since pg copies everything before them again when its buffer has to grow. */
const rowsSql = (first: number, count: Count) =>
  unnested(first, count, [
    ["id", "text"],
    ["version", "int8"],
    ["created", "timestamptz"],
    ["updated", "timestamptz"],
    ["payload", "text"],
  ]);

/**
 * Writes rows that are expected to exist, by the query `updated`, and by `added` for those that do not; `only` is
 * a condition that must hold. An older version never replaces a newer one. An update event does not know when
 * its document was created, so the row keeps its value.
 */
const writeSql = (table: string, first: number, only: string, count: Count) =>
  `updated AS (
  UPDATE "${table}" AS t
     SET payload = e.payload::jsonb, created_at = coalesce(e.created, t.created_at),
         updated_at = e.updated, version = e.version
    FROM ${rowsSql(first, count)}
   WHERE t.id = e.id AND t.version < e.version AND ${only}
  RETURNING 1
), added AS (
  INSERT INTO "${table}" AS t (id, payload, created_at, updated_at, version)
  SELECT e.id, e.payload::jsonb, coalesce(e.created, e.updated), e.updated, e.version
    FROM ${rowsSql(first, count)}
   -- Asked first, and once: mostly all rows were there, and none is looked for again.
   WHERE (SELECT count(*) FROM updated) < cardinality($${first}::text[]) AND ${only}
     AND NOT EXISTS (SELECT FROM "${table}" WHERE id = e.id)
  -- Others may write to the table too.
  ON CONFLICT (id) DO UPDATE
     SET payload = excluded.payload, updated_at = excluded.updated_at, version = excluded.version
   WHERE t.version < excluded.version
  RETURNING 1
)`;

/**
 * Writes rows that are expected to be new, without looking for them. A row that exists fails the statement
 * (23505); then the whole batch is written again by {@linkcode writeSql}.
 */
export const insertSql = (table: string, first: number, only: string, count: Count) =>
  `INSERT INTO "${table}" (id, payload, created_at, updated_at, version)
  SELECT e.id, e.payload::jsonb, coalesce(e.created, e.updated), e.updated, e.version
    FROM ${rowsSql(first, count)}
   WHERE ${only}`;

/** Removes rows, as the query `removed`. */
const removeSql = (table: string, first: number, only: string, count: Count) =>
  `removed AS (
  DELETE FROM "${table}" AS t
   USING ${unnested(first, count, [["id", "text"], ["version", "int8"]])}
   WHERE t.id = e.id AND t.version < e.version AND ${only}
  RETURNING 1
)`;

/** Parks events, as the query `parked`. */
const parkSql = (first: number) => {
  const $ = (index: number) => `$${first + index}`;
  return `parked AS (
  INSERT INTO writebehind_dead_letter AS d
         (entity, stream, stream_id, doc_id, event_type, ts, payload, fields, sqlstate, reason)
  SELECT ${$(0)}, $1, e.stream_id, e.doc_id, e.event_type, e.ts, e.payload,
         -- A row may have any number of fields, which arrays of arrays cannot: one array, cut by its length.
         CASE WHEN e.fields_to > e.fields_from
              THEN (${$(9)}::bytea[])[e.fields_from + 1 : e.fields_to] END,
         e.sqlstate, e.reason
    FROM unnest(${$(1)}::text[], ${$(2)}::bytea[], ${$(3)}::text[], ${$(4)}::int8[],
                ${$(5)}::bytea[], ${$(6)}::text[], ${$(7)}::text[], ${$(8)}::int4[],
                ${$(10)}::int4[])
         AS e (stream_id, doc_id, event_type, ts, payload, sqlstate, reason, fields_from, fields_to)
   WHERE EXISTS (SELECT FROM moved)
  ON CONFLICT (stream, stream_id) DO UPDATE
     SET attempts = d.attempts + 1, last_at = now(), reason = excluded.reason, state = 'parked'
)`;
};

/** The parked events `d` of the documents `$2`, as the end of a query; `ofStream` is a condition on their stream. */
export const parkedOfSql = (ofStream: string): string =>
  `FROM unnest($2::bytea[]) AS e (id)
  JOIN writebehind_dead_letter d
    ON ${ofStream} AND d.fingerprint = sha256(e.id) AND d.doc_id = e.id
 WHERE d.state = 'parked'`;

/** How many rows a part of a batch has, and its parameters: none where it has no rows. */
interface PartValues {
  rows: number;
  values: Buffer[];
}

/** The parts of a batch. */
export interface BatchValues {
  inserted: PartValues;
  written: PartValues;
  removed: PartValues;
}

/** The parameters of all parts, in the order in which {@linkcode applySql} takes them. */
export const valuesOf = ({ inserted, written, removed }: BatchValues): Buffer[] => [
  ...inserted.values,
  ...written.values,
  ...removed.values,
];

/** Distinguishes the texts of one table: which parts they have, and whether of more than one row. */
export const variantOf = ({ inserted, written, removed }: BatchValues): string =>
  [inserted, written, removed].map(({ rows }) => Math.min(rows, 2)).join("");

const countOf = ({ rows }: PartValues): Count => rows === 1 ? "one" : "many";

/** Whether a batch writes rows that are expected to be new, and does nothing else. */
const addsOnly = ({ inserted, written, removed }: BatchValues, parking: boolean): boolean =>
  inserted.rows > 0 && written.rows + removed.rows === 0 && !parking;

/** How each batch statement begins, so that one under way can be told from others. */
export const BATCH_BEGINS = "WITH moved AS (";

/**
 * The batch statement of a table. The offset moves only if it is as expected, the epoch is ours and nobody has
 * changed what is parked; everything else happens only if the offset moved.
 *
 * It tells how many rows were written and removed. Where it adds rows only, PostgreSQL's own count of them tells, which
 * saves a fifth of its time for a single row. A part with nothing to do has no query, since each takes
 * about 0.2 ms, as long as writing a row.
 */
export function applySql(table: string, values: BatchValues, parking: boolean): string {
  const { inserted, written, removed } = values;
  const only = "EXISTS (SELECT FROM moved)";
  const moving = `
${BATCH_BEGINS}
  UPDATE writebehind_offset
     SET last_id = $4, witness = $4, events = events + $5, updated_at = clock_timestamp()
   WHERE stream = $1 AND last_id = $2 AND epoch = $3 AND parked_version = $6
  RETURNING 1
)`;
  let first = 7;
  const insert = () => insertSql(table, first, only, countOf(inserted));
  if (addsOnly(values, parking)) return `${moving}\n${insert()}`;
  const parts = [moving];
  if (inserted.rows > 0) parts.push(`inserted AS (\n  ${insert()}\n  RETURNING 1\n)`);
  first += inserted.values.length;
  if (written.rows > 0) parts.push(writeSql(table, first, only, countOf(written)));
  first += written.values.length;
  if (removed.rows > 0) parts.push(removeSql(table, first, only, countOf(removed)));
  first += removed.values.length;
  if (parking) parts.push(parkSql(first));
  return `${parts.join(", ")}
SELECT (SELECT count(*) FROM moved)::int AS moved,
       ${countSql(inserted, "inserted")} + ${countSql(written, "updated", "added")} AS written,
       ${countSql(removed, "removed")} AS removed`;
}

/** How many rows the queries of a part have returned. */
const countSql = ({ rows }: PartValues, ...queries: string[]): string =>
  rows === 0 ? "0" : queries.map((query) => `(SELECT count(*) FROM ${query})::int`).join(" + ");

/**
 * Which rows are not as the batch that ends at one of `$2` should have left them, if the partition is still there. Each row is
 * looked up by its id, whatever the planner believes of the table. The others' parameters are of
 * {@linkcode lookValues}.
 */
export const swallowedSql = (table: string): string => {
  const there =
    "EXISTS (SELECT FROM writebehind_offset WHERE stream = $1 AND last_id = ANY ($2::text[]) AND epoch = $3)";
  return missedSql(table, 4, there);
};

/**
 * Which rows are missing, or older than written, or still there after a removal.
 * @param first the number of the first parameter of {@linkcode lookValues}
 * @param only a condition that must hold
 */
export const missedSql = (table: string, first: number, only = "true"): string => {
  const look = (first: number, missed: string) => `
  SELECT e.id
    FROM unnest($${first}::text[], $${first + 1}::int8[]) AS e (id, version),
         LATERAL (SELECT max(version) AS version FROM "${table}" WHERE id = e.id) t
   WHERE (${missed}) AND ${only}`;
  return `${look(first, "t.version IS NULL OR t.version < e.version")}
UNION ALL${look(first + 2, "t.version < e.version")}`;
};

/** Reads a row of the table. */
export const anyRowSql = (table: string): string =>
  `SELECT id, coalesce(payload::text, 'null') AS payload FROM "${table}" LIMIT 1`;

/** The ids and versions of rows. */
export const lookValues = ({ upserts, removals }: BatchRows): Buffer[] => [
  ...removalValues(upserts),
  ...removalValues(removals),
];

/**
 * Does all that a batch does to rows, then fails on purpose: the foreign key of our own is checked when the
 * statement ends, after the table's triggers and foreign keys. What is deferred to the commit is not tried.
 */
export const probeSql = (table: string) => `
WITH ${writeSql(table, 1, "true", "many")}, ${removeSql(table, 6, "true", "many")}
INSERT INTO writebehind_probe (id, parent)
SELECT 1, 2 + (SELECT count(*) FROM updated) + (SELECT count(*) FROM added)
            + (SELECT count(*) FROM removed)`;

const upsertValues = (upserts: Upsert[], arena?: Arena) => [
  bytesArray("text", upserts, ({ id }) => id, arena),
  versionArray(upserts, arena),
  timeArray(upserts, ({ created }) => created, arena),
  timeArray(upserts, ({ updated }) => updated, arena),
  bytesArray("text", upserts, ({ payload }) => payload, arena),
];

const removalValues = (removals: Removal[], arena?: Arena) => [
  bytesArray("text", removals, ({ id }) => id, arena),
  versionArray(removals, arena),
];

/** The parameters of {@linkcode probeSql}. */
export const rowValues = (upserts: Upsert[], removals: Removal[]): Buffer[] => [
  ...upsertValues(upserts),
  ...removalValues(removals),
];

/**
 * The parameters of {@linkcode applySql} that hold rows.
 * @param noneNew whether no row is expected to be new
 */
export function batchValues(
  { upserts, removals }: Batch,
  noneNew: boolean,
  arena?: Arena,
): BatchValues {
  const [expectedNew, others]: [Upsert[], Upsert[]] = [[], []];
  for (const upsert of upserts) (upsert.fresh && !noneNew ? expectedNew : others).push(upsert);
  const part = <Row>(
    rows: Row[],
    valuesOf: (rows: Row[], arena?: Arena) => Buffer[],
  ): PartValues => ({
    rows: rows.length,
    values: rows.length > 0 ? valuesOf(rows, arena) : [],
  });
  return {
    inserted: part(expectedNew, upsertValues),
    written: part(others, upsertValues),
    removed: part(removals, removalValues),
  };
}

/** Writes and removes rows, nothing else; parameters as of {@linkcode probeSql}. */
export const writeRowsSql = (table: string) =>
  `WITH ${writeSql(table, 1, "true", "many")}, ${removeSql(table, 6, "true", "many")} SELECT`;

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
  await connection.query(writeRowsSql(table), rowValues(upserts, removals));
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
  return [
    entity,
    parked.map(({ streamId }) => streamId),
    bytesArray("bytea", parked, ({ id }) => id),
    parked.map(({ type }) => storable(type)),
    parked.map(({ ts }) => ts),
    bytesArray("bytea", parked, ({ payload }) => payload),
    parked.map(({ sqlstate }) => sqlstate),
    parked.map(({ reason }) => storable(reason)),
    from,
    bytesArray("bytea", fields, (field) => field),
    to,
  ];
}
