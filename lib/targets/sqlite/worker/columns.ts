/**
 * The typed columns of an entity's table, as generated columns. They are virtual, since SQLite adds no stored one to a
 * table that is there: a value is made where it is read, and kept where it has an index.
 * @module
 */

import type { ColumnConfig } from "../../../config/config.ts";
import {
  type BlockedColumn,
  BLOCKING_IDS,
  changesOf,
  checkName,
  type ColumnChanges,
  foundColumns,
  INDEXED_CHARACTERS,
  indexName,
  markOf,
  refuseTaken,
  rowsCame,
  TIMES,
} from "../../columns.ts";
import { SqliteError } from "../errors.ts";
import type { Database } from "./database.ts";

const CHECK_FAILED = "CHECK constraint failed";

const TYPES: Record<ColumnConfig["type"], string> = {
  text: "TEXT",
  integer: "INTEGER",
  number: "REAL",
  // There are no decimals: the digits.
  decimal: "TEXT",
  boolean: "INTEGER",
  // As all times are kept.
  timestamp_ms: "TEXT",
};

/** The value of a column; NULL where the document has none of its type. */
function valueSql({ type, path, index }: ColumnConfig): string {
  const [kind, value] = [`json_type(payload, '${path}')`, `payload ->> '${path}'`];
  const isNumber = `${kind} IN ('integer', 'real')`;
  switch (type) {
    case "text": {
      const short = index ? ` AND length(${value}) <= ${INDEXED_CHARACTERS}` : "";
      return `CASE WHEN ${kind} = 'text'${short} THEN ${value} END`;
    }
    case "integer":
      // Past 64 bits it is a double, and both ends as doubles also stand for what lies a little beyond them.
      return `CASE WHEN (${kind} = 'integer' AND typeof(${value}) = 'integer' OR ${isNumber} AND
        ${value} > -9223372036854775808.0 AND ${value} < 9223372036854775808.0)
        AND ${value} = CAST(${value} AS INTEGER) THEN CAST(${value} AS INTEGER) END`;
    case "number":
      return `CASE WHEN ${isNumber} AND abs(CAST(${value} AS REAL)) <= 1.7976931348623157e308
        THEN CAST(${value} AS REAL) END`;
    case "decimal":
      return `CASE WHEN ${isNumber} THEN payload -> '${path}' END`;
    case "boolean":
      return `CASE ${kind} WHEN 'true' THEN 1 WHEN 'false' THEN 0 END`;
    case "timestamp_ms":
      return `CASE WHEN ${isNumber} AND ${value} BETWEEN ${TIMES.first} AND ${TIMES.last}
        THEN strftime('%Y-%m-%dT%H:%M:%fZ', CAST(${value} AS INTEGER) / 1000.0, 'unixepoch') END`;
  }
}

/** Whether a document has no value there. */
const absentSql = ({ path }: ColumnConfig) =>
  `coalesce(json_type(payload, '${path}'), 'null') = 'null'`;

/** The statements that make changes, in order. A CHECK belongs to its column, and comes and goes with it. */
function statementsOf(table: string, { dropped, added }: ColumnChanges): string[] {
  return [
    ...dropped.indexes.map((name) => `DROP INDEX "${name}"`),
    ...dropped.columns.map((name) => `ALTER TABLE "${table}" DROP COLUMN "${name}"`),
    ...added.columns.map((column) => {
      const { name, type } = column;
      const check = added.checks.includes(column)
        ? `\n  CONSTRAINT "${checkName(table, column)}" CHECK ("${name}" IS NOT NULL OR ${
          absentSql(column)
        })`
        : "";
      return `ALTER TABLE "${table}" ADD COLUMN "${name}" ${TYPES[type]} CONSTRAINT "${
        markOf(column)
      }"\n  GENERATED ALWAYS AS (${valueSql(column)}) VIRTUAL${check}`;
    }),
    ...added.indexes.map((column) =>
      `CREATE INDEX "${indexName(table, column)}" ON "${table}" ("${column.name}")`
    ),
  ];
}

/** What is to be done with the columns of a table; `null` where it is not there. */
function find(
  db: Database,
  table: string,
  columns: readonly ColumnConfig[],
): ColumnChanges | null {
  const made = db.get<{ sql: string }>(
    "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?",
    table,
  );
  if (made === undefined) return null;
  const marks = new Map(
    [...made.sql.matchAll(/"(\w+)" \w+ CONSTRAINT "(writebehind: [^"]+)"/g)]
      .map(([, name, mark]) => [name!, mark!]),
  );
  const checks = [...made.sql.matchAll(/CONSTRAINT "(\w+)" CHECK/g)].map(([, name]) => name!);
  const names = db.all<{ name: string }>("SELECT name FROM pragma_table_xinfo(?)", table);
  const indexes = db.all<{ name: string }>("SELECT name FROM pragma_index_list(?)", table);
  const found = foundColumns(
    names.map(({ name }) => ({ name, note: marks.get(name) ?? null })),
    indexes.map(({ name }) => name),
    checks,
  );
  return changesOf(columns, found, { checkIsOfColumn: true });
}

/** How the columns of a table differ from those of a configuration, for people. */
export function differences(
  db: Database,
  table: string,
  columns: readonly ColumnConfig[],
): string[] {
  return find(db, table, columns)?.differences ?? [];
}

/** The statements that make them alike. */
export function statements(
  db: Database,
  table: string,
  columns: readonly ColumnConfig[],
): string[] {
  const changes = find(db, table, columns);
  if (changes === null) return [];
  refuseTaken(table, changes);
  return statementsOf(table, changes);
}

/** Rows that block them. */
export function blocked(
  db: Database,
  table: string,
  columns: readonly ColumnConfig[],
): BlockedColumn[] {
  const found: BlockedColumn[] = [];
  for (const column of find(db, table, columns)?.added.checks ?? []) {
    const rows = `"${table}" WHERE (${valueSql(column)}) IS NULL AND NOT (${absentSql(column)})`;
    const { count } = db.get<{ count: number }>(`SELECT count(*) AS count FROM ${rows}`)!;
    if (count === 0) continue;
    const ids = db.all<{ id: string }>(`SELECT id FROM ${rows} ORDER BY id LIMIT ${BLOCKING_IDS}`);
    const { name, type } = column;
    found.push({ column: name, type, rows: count, ids: ids.map(({ id }) => id) });
  }
  return found;
}

/** Makes them alike: all of it, or nothing. */
export function migrateColumns(
  db: Database,
  table: string,
  columns: readonly ColumnConfig[],
): void {
  if (statements(db, table, columns).length === 0) return;
  db.transaction(() => addColumns(db, table, columns));
}

/** The same in a transaction of the caller's. */
export function addColumns(db: Database, table: string, columns: readonly ColumnConfig[]): void {
  try {
    for (const statement of statements(db, table, columns)) db.run(statement);
  } catch (error) {
    // It has no code of its own there, and names no column.
    if (!(error instanceof SqliteError) || !error.message.startsWith(CHECK_FAILED)) throw error;
    throw new SqliteError(rowsCame(table, error.message), error.errcode);
  }
}
