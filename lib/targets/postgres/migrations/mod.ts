/**
 * The migrations of PostgreSQL, in order. To add one: a file with the next number, and a line in
 * {@linkcode MIGRATIONS}.
 * - `{table}` stands for the entity's table where it is `of: "entity"`.
 * - A released file never changes. It runs in a transaction with others, so it has no BEGIN and nothing that cannot
 *   be in one, and batches wait for it: no rewriting of a large table.
 * - `IF NOT EXISTS` throughout, since all of them run again where somebody has dropped a table.
 * - `oldest` is the version of the oldest sink that may go on beside it: one that neither misses what is removed, nor
 *   leaves empty what must be there.
 *   Sinks from before the migrations (version 0) do not ask: what they must not do has to make their statements fail.
 * - A new table of ours goes into {@linkcode OUR_RIGHTS}, and into docs/operating.md, "The smallest rights".
 * @module
 */

import type { Migration } from "../../migrations.ts";
import ourTables from "./0001_our_tables.sql" with { type: "text" };
import entityTable from "./0002_entity_table.sql" with { type: "text" };
import identity from "./0003_identity.sql" with { type: "text" };
import leaseSession from "./0004_lease_session.sql" with { type: "text" };
import record from "./record.sql" with { type: "text" };

/** In order of their numbers. The first of each kind is what versions from before the migrations left behind. */
export const MIGRATIONS: readonly Migration[] = [
  { number: 1, name: "0001_our_tables", of: "ours", oldest: 0, sql: ourTables },
  { number: 2, name: "0002_entity_table", of: "entity", oldest: 0, sql: entityTable },
  { number: 3, name: "0003_identity", of: "ours", oldest: 0, canWait: true, sql: identity },
  {
    number: 4,
    name: "0004_lease_session",
    of: "ours",
    oldest: 0,
    canWait: true,
    sql: leaseSession,
  },
];

/** Whoever changes tables of ours takes this lock. Any number will do, as long as all of our processes take the same. */
export const DDL_LOCK = 7_305_115_611;
/** Batches and readers queue up behind a change that waits for a lock on their table. */
export const LOCK_SECONDS = 5;

/** Makes `writebehind_migration`. */
export const RECORD: string = record;

/** What a sink reads and writes beside an entity's table, and the rights that it needs. */
export const OUR_RIGHTS: readonly (readonly [rights: string, tables: readonly string[]])[] = [
  ["SELECT, INSERT, UPDATE", [
    "writebehind_offset",
    "writebehind_lease",
    "writebehind_dead_letter",
  ]],
  ["INSERT", ["writebehind_probe"]],
];

/** What a sink reads and writes beside an entity's table. */
export const OUR_TABLES: readonly string[] = OUR_RIGHTS.flatMap(([, tables]) => tables);
