/**
 * The migrations of SQLite, in order. To add one: a file with the next number, and a line here.
 * - `{table}` stands for the entity's table where it is `of: "entity"`.
 * - A released file never changes. It runs in a transaction, so it has no BEGIN.
 * - `IF NOT EXISTS` throughout, since they run again where somebody has dropped a table.
 * - `oldest` is the version of the oldest sink that may go on beside it.
 * @module
 */

import type { Migration } from "../../migrations.ts";
import ourTables from "./0001_our_tables.sql" with { type: "text" };
import entityTable from "./0002_entity_table.sql" with { type: "text" };
import identity from "./0003_identity.sql" with { type: "text" };
import record from "./record.sql" with { type: "text" };

/** In order of their numbers. */
export const MIGRATIONS: readonly Migration[] = [
  { number: 1, name: "0001_our_tables", of: "ours", oldest: 0, sql: ourTables },
  { number: 2, name: "0002_entity_table", of: "entity", oldest: 0, sql: entityTable },
  {
    number: 3,
    name: "0003_identity",
    of: "ours",
    oldest: 0,
    canWait: true,
    adds: ["writebehind_offset", "source"],
    sql: identity,
  },
];

/** Makes `writebehind_migration`. */
export const RECORD: string = record;
