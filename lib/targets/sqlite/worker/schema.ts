/**
 * The tables in the file: whether they can be used as they are, and bringing them up to date.
 * @module
 */

import type { ColumnConfig } from "../../../config/config.ts";
import { ConfigError, ConnectionError } from "../../../core/errors.ts";
import type { PartitionKeys } from "../../../redis/keys.ts";
import { HAD_ROWS, tableProblems } from "../../common.ts";
import { type RanMigration, refusalOf, type Schema, schemaOf } from "../../migrations.ts";
import { MIGRATIONS, RECORD } from "../migrations/mod.ts";
import { addColumns } from "./columns.ts";
import type { Columns, Database } from "./database.ts";

const OUR_TABLES = ["writebehind_offset", "writebehind_dead_letter"];

/** What a sink writes, and by which columns. */
const COLUMNS = ["id", "payload", "created_at", "updated_at", "version"];

/**
 * Sees that the tables can be used as they are.
 * @param what whose tables these are, for people
 * @throws {ConnectionError} where they cannot, with what to do
 */
export function check(db: Database, table: string, what: string): void {
  const refusal = refusalOf(readSchema(db, table), what);
  if (refusal !== null) throw new ConnectionError(refusal);
}

/**
 * Makes an entity's table and ours where they are missing, and brings older ones up to date: all that is to be done
 * in one transaction.
 * @param columns typed columns, for a table that is made
 * @param what whose tables these are, for people
 * @param claimed the entity's partitions, where they are about to be claimed
 * @returns tables of ours that somebody had dropped: they are made anew
 * @throws {ConnectionError} where a newer version has changed them so that this one cannot work with them
 * @throws {ConfigError} where the entity's table cannot hold documents, or is gone
 */
export function migrate(
  db: Database,
  table: string,
  columns: readonly ColumnConfig[],
  what: string,
  claimed: PartitionKeys[],
): string[] {
  checkTable(db, table, claimed);
  const gone = goneTables(db);
  const refused = (schema: Schema) => {
    if (schema.state === "newer, refused") throw new ConnectionError(refusalOf(schema, what)!);
    return schema;
  };
  if (refused(readSchema(db, table)).pending.length === 0) return [];
  db.transaction(() => {
    // Another process may have been first.
    const { pending, oldest } = refused(readSchema(db, table));
    const isNew = !has(db, table);
    db.script(RECORD);
    for (const migration of pending) {
      // Of ours, some may be left where another was dropped.
      if (!migration.adds || !hasColumn(db, ...migration.adds)) {
        db.script(migration.sql.replaceAll("{table}", `"${table}"`));
      }
      db.run(
        "INSERT OR REPLACE INTO writebehind_migration (number, table_name, oldest) VALUES (?, ?, ?)",
        migration.number,
        migration.of === "ours" ? "" : table,
        migration.oldest,
      );
      // Sinks that run lose their partitions. Those that may go on take them again; older ones are refused then.
      if (migration.oldest > oldest) db.run("UPDATE writebehind_offset SET epoch = epoch + 1");
    }
    if (isNew) addColumns(db, table, columns);
  });
  return gone;
}

/** Tables of ours that somebody has dropped. */
export function goneTables(db: Database): string[] {
  const made = has(db, "writebehind_migration") && ranFor(db, "").length > 0;
  return made ? OUR_TABLES.filter((name) => !has(db, name)) : [];
}

function readSchema(db: Database, table: string): Schema {
  const recorded = has(db, "writebehind_migration");
  const ours = OUR_TABLES.every((name) => has(db, name));
  const entity = has(db, table);
  // What is on record does not hold for tables that somebody has dropped since.
  const of = [...ours ? [""] : [], ...entity ? [table] : []];
  const ran = recorded ? of.flatMap((name) => ranFor(db, name)) : [];
  return schemaOf(MIGRATIONS, ran, ours && entity);
}

function ranFor(db: Database, name: string): RanMigration[] {
  return db.all<{ number: number; oldest: number }>(
    "SELECT number, oldest FROM writebehind_migration WHERE table_name = ?",
    name,
  );
}

function hasColumn(db: Database, table: string, column: string): boolean {
  return db.get("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", table, column) !== undefined;
}

export function has(db: Database, table: string): boolean {
  return db.get("SELECT 1 FROM sqlite_master WHERE name = ?", table) !== undefined;
}

interface Column extends Columns {
  name: string;
  type: string;
}

/**
 * Sees that a table, where it is there, can hold documents; and that one that is not there is not missed: where an
 * offset says that it had rows, it is not made anew without a word.
 */
function checkTable(db: Database, table: string, claimed: PartitionKeys[]): void {
  const made = db.get<{ type: string; sql: string }>(
    "SELECT type, sql FROM sqlite_master WHERE name = ?",
    table,
  );
  if (made === undefined) {
    if (!has(db, "writebehind_offset")) return;
    const had = new Set(
      db.all<{ stream: string }>(
        `SELECT stream FROM writebehind_offset WHERE ${HAD_ROWS}`,
      ).map(({ stream }) => stream),
    );
    const missed = claimed.find(({ stream }) => had.has(stream));
    if (missed === undefined) return;
    throw new ConfigError(tableProblems.gone(table, missed));
  }
  const columns = db.all<Column>("SELECT name, type FROM pragma_table_info(?)", table);
  const keys = db.all<{ name: string | null; collation: string }>(
    `SELECT x.name, x.coll AS collation
       FROM pragma_index_list(?) AS i, pragma_index_xinfo(i.name) AS x
      WHERE i."unique" AND NOT i.partial AND x.key`,
    table,
  );
  const { encoding } = db.get<{ encoding: string }>("PRAGMA encoding")!;
  const problem = encoding === "UTF-8" ? problemOf(made, columns, keys) : `it is in ${encoding}`;
  if (problem !== null) {
    throw new ConfigError(
      `Cannot use the table ${table}: ${problem}; rename it, and a sink makes one as it must be`,
    );
  }
}

function problemOf(
  { type, sql }: { type: string; sql: string },
  columns: Column[],
  keys: { name: string | null; collation: string }[],
): string | null {
  if (type !== "table") return `it is a ${type}`;
  const missing = COLUMNS.filter((name) => !columns.some((column) => column.name === name));
  if (missing.length > 0) return `it has no column ${missing.join(", ")}`;
  for (const { name, type } of columns) {
    // Any other type would take a text that looks like a number for one.
    if ((name === "id" || name === "payload") && type !== "TEXT") return `its ${name} is no TEXT`;
  }
  if (keys.length !== 1 || keys[0]!.name !== "id" || keys[0]!.collation !== "BINARY") {
    return "its one unique key must be id, compared byte for byte";
  }
  return sql.includes("json_valid(payload)")
    ? null
    : "its payload lacks CHECK (json_valid(payload))";
}
