/**
 * The migrations of MySQL and MariaDB, in order. To add one: a file with the next number, and a line here.
 * - `{table}` stands for the entity's table where it is `of: "entity"`, `{collation}` for the one that compares bytes.
 * - A released file never changes. Statements end with `;` at the end of a line, and each commits by itself: written so
 *   that one which has run may run again (`IF NOT EXISTS`).
 * - `oldest` is the version of the oldest sink that may go on beside it.
 * @module
 */

import type { Migration } from "../../migrations.ts";
import ourTables from "./0001_our_tables.sql" with { type: "text" };
import entityTable from "./0002_entity_table.sql" with { type: "text" };
import record from "./record.sql" with { type: "text" };

/** In order of their numbers. */
export const MIGRATIONS: readonly Migration[] = [
  { number: 1, name: "0001_our_tables", of: "ours", oldest: 0, sql: ourTables },
  { number: 2, name: "0002_entity_table", of: "entity", oldest: 0, sql: entityTable },
];

/** Makes `writebehind_migration`. */
export const RECORD: string = record;
