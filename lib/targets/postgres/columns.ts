/**
 * The typed columns of an entity's table in PostgreSQL, as generated columns.
 * @module
 */

import type { Pool } from "./pool.ts";
import { stepsOf } from "../../config/columns.ts";
import { type ColumnConfig, type Config, entityConfig } from "../../config/load.ts";
import { ConnectionError } from "../../core/errors.ts";
import {
  type BlockedColumn,
  BLOCKING_IDS,
  changesOf,
  checkName,
  type ColumnChanges,
  type Columns,
  foundColumns,
  INDEXED_CHARACTERS,
  indexName,
  markOf,
  refuseTaken,
  rowsCame,
  TIMES,
} from "../columns.ts";
import {
  CHECK_VIOLATION,
  INSUFFICIENT_PRIVILEGE,
  isPostgresError,
  LOCK_NOT_AVAILABLE,
} from "./errors.ts";
import { DDL_LOCK, LOCK_SECONDS } from "./migrations/mod.ts";
import { patiently } from "./sessions.ts";

const TYPES: Record<ColumnConfig["type"], string> = {
  text: "TEXT",
  integer: "BIGINT",
  number: "DOUBLE PRECISION",
  decimal: "NUMERIC",
  boolean: "BOOLEAN",
  timestamp_ms: "TIMESTAMPTZ",
};

/**
 * The value at a path: `payload->'a'->'b'`; `as` is `->` for JSON, `->>` for its text. A place leads into an array only:
 * to `->` any scalar is an array of one.
 */
function at(path: string, as: "->" | "->>"): string {
  const steps = stepsOf(path);
  const chain = (length: number) =>
    steps.slice(0, length).reduce<string>(
      (value, step, index) =>
        value + (index === steps.length - 1 ? as : "->") +
        (typeof step === "number" ? step : `'${step}'`),
      "payload",
    );
  const guards = steps.flatMap((step, index) =>
    typeof step === "number" ? [`jsonb_typeof(${chain(index)}) = 'array'`] : []
  );
  const value = chain(steps.length);
  return guards.length === 0 ? value : `(CASE WHEN ${guards.join(" AND ")} THEN ${value} END)`;
}

/** The value of a column; NULL where the document has none of its type. */
function valueSql({ type, path, index }: ColumnConfig): string {
  const json = at(path, "->");
  const number = `(${json})::numeric`;
  // A cast fails where the value does not fit: so it is looked at first, which only CASE promises.
  const numberWhere = (condition: string, value: string) =>
    `CASE WHEN jsonb_typeof(${json}) = 'number' THEN CASE WHEN ${condition} THEN ${value} END END`;
  switch (type) {
    case "text": {
      const text = at(path, "->>");
      const short = index ? ` AND length(${text}) <= ${INDEXED_CHARACTERS}` : "";
      return `CASE WHEN jsonb_typeof(${json}) = 'string'${short} THEN ${text} END`;
    }
    case "integer":
      return numberWhere(
        `${number} BETWEEN -9223372036854775808 AND 9223372036854775807 AND ${number} = trunc(${number})`,
        `${number}::bigint`,
      );
    case "number":
      return numberWhere(
        `${number} = 0 OR abs(${number}) BETWEEN 5e-324 AND 1.7976931348623157e308`,
        `${number}::double precision`,
      );
    case "decimal":
      return `CASE WHEN jsonb_typeof(${json}) = 'number' THEN ${number} END`;
    case "boolean":
      return `CASE WHEN jsonb_typeof(${json}) = 'boolean' THEN (${json})::boolean END`;
    case "timestamp_ms":
      // to_timestamp takes a double of seconds, which loses microseconds in some centuries.
      return numberWhere(
        `${number} BETWEEN ${TIMES.first} AND ${TIMES.last}`,
        `(TIMESTAMP '1970-01-01' + trunc(${number})::double precision * INTERVAL '1 millisecond') AT TIME ZONE 'UTC'`,
      );
  }
}

/** Whether a document has no value there. */
const absentSql = ({ path }: ColumnConfig) => `coalesce(${at(path, "->")}, 'null') = 'null'`;

/** The statements that make changes, in order; one ALTER TABLE writes the table anew once. */
function statementsOf(table: string, { dropped, added }: ColumnChanges): string[] {
  const actions = [
    ...dropped.checks.map((name) => `DROP CONSTRAINT "${name}"`),
    ...dropped.columns.map((name) => `DROP COLUMN "${name}"`),
    ...added.columns.map((column) =>
      `ADD COLUMN "${column.name}" ${TYPES[column.type]} GENERATED ALWAYS AS (${
        valueSql(column)
      }) STORED`
    ),
    ...added.checks.map((column) =>
      `ADD CONSTRAINT "${checkName(table, column)}" CHECK ("${column.name}" IS NOT NULL OR ${
        absentSql(column)
      })`
    ),
  ];
  return [
    ...dropped.indexes.map((name) => `DROP INDEX "${name}"`),
    ...(actions.length > 0 ? [`ALTER TABLE "${table}"\n  ${actions.join(",\n  ")}`] : []),
    ...added.columns.map((column) =>
      `COMMENT ON COLUMN "${table}"."${column.name}" IS '${markOf(column)}'`
    ),
    ...added.indexes.map((column) =>
      `CREATE INDEX "${indexName(table, column)}" ON "${table}" ("${column.name}")`
    ),
  ];
}

/** The statements that give a table its columns which is just made. */
export function freshColumns(table: string, columns: readonly ColumnConfig[]): string[] {
  return statementsOf(table, changesOf(columns, []));
}

/** What PostgreSQL says of a table's columns, if it is there. */
const ASK = `
SELECT quote_ident(n.nspname) AS schema, quote_ident(current_user) AS role,
       (SELECT json_agg(json_build_object('name', a.attname, 'note', col_description(c.oid, a.attnum)))
          FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       ARRAY(SELECT x.relname::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
              WHERE i.indrelid = c.oid) AS indexes,
       ARRAY(SELECT k.conname::text FROM pg_constraint k
              WHERE k.conrelid = c.oid AND k.contype = 'c') AS checks
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = to_regclass($1)`;

interface Answer {
  schema: string;
  role: string;
  columns: { name: string; note: string | null }[];
  indexes: string[];
  checks: string[];
}

/** A table, and what is to be done with its columns. */
interface Found {
  table: string;
  schema: string;
  role: string;
  changes: ColumnChanges;
}

/** The typed columns of a configuration's entities. */
export class PostgresColumns implements Columns {
  #pool: Pool;
  #config: Config;

  constructor(pool: Pool, config: Config) {
    this.#pool = pool;
    this.#config = config;
  }

  /** `null` where there is no table yet. */
  async #find(entity: string): Promise<Found | null> {
    const { table, columns } = entityConfig(this.#config, entity);
    const { rows: [row] } = await patiently<Answer>(this.#pool, ASK, [`"${table}"`]);
    if (row === undefined) return null;
    const found = foundColumns(row.columns, row.indexes, row.checks);
    return { table, schema: row.schema, role: row.role, changes: changesOf(columns, found) };
  }

  async differences(entity: string): Promise<string[]> {
    return (await this.#find(entity))?.changes.differences ?? [];
  }

  async statements(entity: string): Promise<string[]> {
    const found = await this.#find(entity);
    const statements = found === null ? [] : scriptOf(found);
    return statements.length === 0 ? [] : ["BEGIN", ...statements, "COMMIT"];
  }

  async blocked(entity: string): Promise<BlockedColumn[]> {
    const found = await this.#find(entity);
    const blocked: BlockedColumn[] = [];
    for (const column of found?.changes.added.checks ?? []) {
      const rows = `${found!.schema}."${found!.table}" WHERE (${
        valueSql(column)
      }) IS NULL AND NOT (${absentSql(column)})`;
      // As long as it takes: it reads the whole table.
      const { rows: [counted] } = await this.#pool.query<{ count: string }>(
        `SELECT count(*) AS count FROM ${rows}`,
      );
      const count = Number(counted!.count);
      if (count === 0) continue;
      const { rows: first } = await this.#pool.query<{ id: string }>(
        `SELECT id FROM ${rows} ORDER BY id LIMIT ${BLOCKING_IDS}`,
      );
      const { name, type } = column;
      blocked.push({ column: name, type, rows: count, ids: first.map(({ id }) => id) });
    }
    return blocked;
  }

  async migrate(entity: string): Promise<void> {
    const found = await this.#find(entity);
    const statements = found === null ? [] : scriptOf(found);
    if (statements.length === 0) return;
    try {
      // Several statements in one simple query are one transaction: a process that dies leaves none open.
      await this.#pool.query(statements.map((statement) => `${statement};`).join("\n"));
    } catch (error) {
      throw explained(error, found!);
    }
  }
}

/** All that one transaction runs; nothing where nothing is to be changed. */
function scriptOf({ table, schema, changes }: Found): string[] {
  refuseTaken(table, changes);
  const statements = statementsOf(table, changes);
  if (statements.length === 0) return [];
  return [
    `SET LOCAL lock_timeout = '${LOCK_SECONDS}s'`,
    "SET LOCAL statement_timeout = 0",
    `SELECT pg_advisory_xact_lock(${DDL_LOCK})`,
    `SET LOCAL search_path TO ${schema}`,
    ...statements,
  ];
}

function explained(error: unknown, { table, role }: Found): unknown {
  if (!isPostgresError(error)) return error;
  switch (error.code) {
    case INSUFFICIENT_PRIVILEGE:
      return new ConnectionError(
        `The PostgreSQL user ${role} may not change the table ${table}: ${error.message}. Let its owner run the SQL above`,
        { cause: error },
      );
    case LOCK_NOT_AVAILABLE:
      return new ConnectionError(
        `The table ${table} was not free for ${LOCK_SECONDS} s: a transaction that does not end holds it (see ` +
          "pg_stat_activity), or another process changes it. Nothing was changed; try again",
        { cause: error },
      );
    case CHECK_VIOLATION:
      return new ConnectionError(rowsCame(table, error.message), { cause: error });
    default:
      return error;
  }
}
