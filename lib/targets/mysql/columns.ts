/**
 * The typed columns of an entity's table in MySQL and MariaDB, as generated columns.
 * @module
 */

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
import type { Flavor } from "./connect.ts";
import { CHECK_FAILED, DENIED, isMysqlError, LOCK_WAIT } from "./errors.ts";
import { type Connection, patiently, type Pool, rowsOf } from "./pool.ts";

/** How long a change of the columns may take, in ms: it writes the table anew. */
const PATIENCE_MS = 24 * 60 * 60 * 1000;
/** Batches queue up behind a change that waits for the table. */
const LOCK_SECONDS = 5;

const typeSql = ({ type, index }: ColumnConfig): string => {
  switch (type) {
    case "text":
      return index ? `VARCHAR(${INDEXED_CHARACTERS})` : "LONGTEXT";
    case "integer":
      return "BIGINT";
    case "number":
      return "DOUBLE";
    case "decimal":
      return "DECIMAL(65,30)";
    case "boolean":
      return "BOOLEAN";
    case "timestamp_ms":
      return "DATETIME(3)";
  }
};

/** The JSON at a path. A place leads into an array only: MariaDB takes any other value for an array of one. */
function jsonSql(path: string): string {
  const guards: string[] = [];
  let prefix = "$";
  for (const step of stepsOf(path)) {
    if (typeof step === "number") {
      guards.push(`JSON_TYPE(JSON_EXTRACT(payload, '${prefix}')) = 'ARRAY'`);
    }
    prefix += typeof step === "number" ? `[${step}]` : `.${step}`;
  }
  return guards.reduceRight(
    (value, guard) => `IF(${guard}, ${value}, NULL)`,
    `JSON_EXTRACT(payload, '${path}')`,
  );
}

/** A text that is compared with one of JSON's, whatever the collation of the connection or the table. */
const literal = (text: string) => `_utf8mb4'${text}' COLLATE utf8mb4_bin`;

/** Digits or an exponent that a double may not hold. */
const HUGE = "[eE][+]?0*(30[89]|3[1-9][0-9]|[4-9][0-9][0-9]|[0-9]{4,})|[0-9]{308}";

/**
 * The value of a column; NULL where the document has none of its type. MariaDB fails at a document of more than 32
 * levels, unless it is asked before whether it can read it.
 */
function valueSql({ type, path, index }: ColumnConfig, { mariadb }: Flavor): string {
  const json = jsonSql(path);
  // A fifth of the time; MySQL's cuts a text, or wants to know its length.
  const text = mariadb ? `JSON_VALUE(payload, '${path}')` : `JSON_UNQUOTE(${json})`;
  const double = `(${text} + 0e0)`;
  const decimal = `CAST(${text} AS DECIMAL(65,30))`;
  // A cast fails where the value does not fit: so it is looked at first, which only CASE promises.
  const where = (condition: string, value: string) => `CASE WHEN ${condition} THEN ${value} END`;
  const numberWhere = (condition: string, value: string) =>
    where(
      `JSON_TYPE(${json}) IN ('INTEGER', 'UNSIGNED INTEGER', 'DOUBLE', 'DECIMAL')`,
      where(`${text} NOT REGEXP ${literal(HUGE)}`, where(condition, value)),
    );
  const value = () => {
    switch (type) {
      case "text": {
        const short = index ? ` AND CHAR_LENGTH(${text}) <= ${INDEXED_CHARACTERS}` : "";
        return where(`JSON_TYPE(${json}) = 'STRING'${short}`, text);
      }
      case "integer":
        return numberWhere(
          // What is nearly 0 would be 0 as a decimal.
          `ABS(${double}) < 1e19 AND (ABS(${double}) >= 1 OR ${double} = 0)`,
          where(
            `${decimal} = TRUNCATE(${decimal}, 0) AND ${decimal} BETWEEN -9223372036854775808 AND 9223372036854775807`,
            `CAST(${decimal} AS SIGNED)`,
          ),
        );
      case "number":
        return numberWhere("TRUE", double);
      case "decimal":
        return numberWhere(`ABS(${double}) < 1e34`, decimal);
      case "boolean":
        return where(
          `JSON_TYPE(${json}) = 'BOOLEAN'`,
          `${json} = ${mariadb ? literal("true") : "true"}`,
        );
      case "timestamp_ms":
        // In decimals of three digits: anything finer would depend on how a session rounds.
        return numberWhere(
          `${double} BETWEEN ${TIMES.first} AND ${TIMES.last}`,
          `TIMESTAMP'1970-01-01 00:00:00.000' + INTERVAL CAST(TRUNCATE(${decimal}, 0) / 1000 AS DECIMAL(20,3)) SECOND`,
        );
    }
  };
  return where("JSON_VALID(payload)", value());
}

/** Whether a document has no value there. One that cannot be read has one. */
const absentSql = ({ path }: ColumnConfig) =>
  `(JSON_VALID(payload) AND COALESCE(JSON_TYPE(${jsonSql(path)}), 'NULL') = 'NULL')`;

/** The statement that makes changes, if there are any: it writes the table anew once. */
function statementsOf(
  table: string,
  { dropped, added }: ColumnChanges,
  flavor: Flavor,
): string[] {
  const actions = [
    ...dropped.checks.map((name) => `DROP CONSTRAINT \`${name}\``),
    ...dropped.indexes.map((name) => `DROP INDEX \`${name}\``),
    ...dropped.columns.map((name) => `DROP COLUMN \`${name}\``),
    ...added.columns.map((column) =>
      `ADD COLUMN \`${column.name}\` ${typeSql(column)} GENERATED ALWAYS AS (${
        valueSql(column, flavor)
      }) STORED COMMENT '${markOf(column)}'`
    ),
    ...added.checks.map((column) =>
      `ADD CONSTRAINT \`${checkName(table, column)}\` CHECK (\`${column.name}\` IS NOT NULL OR ${
        absentSql(column)
      })`
    ),
    ...added.indexes.map((column) =>
      `ADD INDEX \`${indexName(table, column)}\` (\`${column.name}\`)`
    ),
  ];
  return actions.length === 0 ? [] : [`ALTER TABLE \`${table}\`\n  ${actions.join(",\n  ")}`];
}

/** What is to be done with the columns of a table; `null` where it is not there. */
async function find(
  connection: Connection,
  table: string,
  columns: readonly ColumnConfig[],
): Promise<ColumnChanges | null> {
  const notes = await rowsOf<{ name: string; note: string }>(
    connection,
    `SELECT column_name AS name, column_comment AS note
       FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ?`,
    [table],
  );
  if (notes.length === 0) return null;
  const named = async (sql: string) =>
    (await rowsOf<{ name: string }>(connection, sql, [table])).map(({ name }) => name);
  const indexes = await named(
    `SELECT DISTINCT index_name AS name FROM information_schema.statistics
      WHERE table_schema = DATABASE() AND table_name = ?`,
  );
  const checks = await named(
    `SELECT constraint_name AS name FROM information_schema.table_constraints
      WHERE table_schema = DATABASE() AND table_name = ? AND constraint_type = 'CHECK'`,
  );
  return changesOf(columns, foundColumns(notes, indexes, checks));
}

/** The statements that give a table its columns which is just made. */
export function freshColumns(
  table: string,
  columns: readonly ColumnConfig[],
  flavor: Flavor,
): string[] {
  return statementsOf(table, changesOf(columns, []), flavor);
}

/** The typed columns of a configuration's entities. */
export class MysqlColumns implements Columns {
  #pool: Pool;
  #config: Config;
  #flavor: Flavor;

  constructor(pool: Pool, config: Config, flavor: Flavor) {
    this.#pool = pool;
    this.#config = config;
    this.#flavor = flavor;
  }

  #find(entity: string): Promise<ColumnChanges | null> {
    const { table, columns } = entityConfig(this.#config, entity);
    return patiently(this.#pool, (connection) => find(connection, table, columns));
  }

  async differences(entity: string): Promise<string[]> {
    return (await this.#find(entity))?.differences ?? [];
  }

  async statements(entity: string): Promise<string[]> {
    const { table } = entityConfig(this.#config, entity);
    const changes = await this.#find(entity);
    if (changes === null) return [];
    refuseTaken(table, changes);
    const statements = statementsOf(table, changes, this.#flavor);
    return statements.length === 0
      ? []
      : [`SET SESSION lock_wait_timeout = ${LOCK_SECONDS}`, ...statements];
  }

  async blocked(entity: string): Promise<BlockedColumn[]> {
    const { table } = entityConfig(this.#config, entity);
    const checks = (await this.#find(entity))?.added.checks ?? [];
    return await patiently(this.#pool, async (connection) => {
      const blocked: BlockedColumn[] = [];
      for (const column of checks) {
        const rows = `\`${table}\` WHERE (${valueSql(column, this.#flavor)}) IS NULL AND NOT ${
          absentSql(column)
        }`;
        const [counted] = await rowsOf<{ count: unknown }>(
          connection,
          `SELECT COUNT(*) AS count FROM ${rows}`,
        );
        const count = Number(counted!.count);
        if (count === 0) continue;
        const first = await rowsOf<{ id: string }>(
          connection,
          `SELECT id FROM ${rows} ORDER BY id LIMIT ${BLOCKING_IDS}`,
        );
        const { name, type } = column;
        blocked.push({ column: name, type, rows: count, ids: first.map(({ id }) => id) });
      }
      return blocked;
    }, PATIENCE_MS);
  }

  async migrate(entity: string): Promise<void> {
    const { table } = entityConfig(this.#config, entity);
    const statements = await this.statements(entity);
    try {
      await patiently(this.#pool, async (connection) => {
        for (const statement of statements) await connection.query(statement);
      }, PATIENCE_MS);
    } catch (error) {
      throw explained(error, table);
    }
  }
}

function explained(error: unknown, table: string): unknown {
  if (!isMysqlError(error)) return error;
  const { errno, message } = error;
  if (DENIED.includes(errno)) {
    return new ConnectionError(
      `The user may not change the table ${table}: ${message}. Let an administrator run the SQL above`,
      { cause: error },
    );
  }
  if (errno === LOCK_WAIT) {
    return new ConnectionError(
      `The table ${table} was not free for ${LOCK_SECONDS} s: a transaction that does not end holds it ` +
        "(see SHOW PROCESSLIST). Nothing was changed; try again",
      { cause: error },
    );
  }
  return CHECK_FAILED.includes(errno)
    ? new ConnectionError(rowsCame(table, message), { cause: error })
    : error;
}
