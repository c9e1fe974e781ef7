/**
 * Brings the tables in PostgreSQL up to date: an entity's own, in the shape of the original project plus
 * `updated_at` and `version`, and ours.
 *
 * Without a library: node-pg-migrate, postgres-migrations and umzug have no tables that the configuration names, no
 * word on which older versions may go on, and no SQL for an administrator, which is most of this file.
 * @module
 */

import type { Pool } from "pg";
import type { Config } from "../../config/load.ts";
import { ConnectionError } from "../../core/errors.ts";
import { type Migration, refusalOf } from "../migrations.ts";
import { freshColumns } from "./columns.ts";
import {
  INSUFFICIENT_PRIVILEGE,
  isPostgresError,
  LOCK_NOT_AVAILABLE,
  type PostgresError,
  UNIQUE_VIOLATION,
} from "./errors.ts";
import { DDL_LOCK, LOCK_SECONDS, MIGRATIONS, OUR_RIGHTS, RECORD } from "./migrations/mod.ts";
import { isWholeSql, readTables, type Tables } from "./schema.ts";

/**
 * Makes an entity's table and ours where they are missing, and brings older ones up to date: each migration once, in
 * order, in a transaction of its own. Safe to run at any time, by several processes, and by a user that may not
 * change tables where there is nothing to change.
 *
 * @param known for tests: the migrations of another version
 * @param check sees that a table that is not there may be made; called after it was looked for, so that none is made
 * anew that went away in between
 * @returns tables of ours that somebody had dropped: they are made anew
 * @throws {ConnectionError} where the user may not, with the SQL for an administrator; where a newer version has
 * changed the tables so that this one cannot work with them; where somebody keeps a table locked for too long
 */
export async function createTable(
  pool: Pool,
  config: Config,
  entity: string,
  known: readonly Migration[] = MIGRATIONS,
  check: () => Promise<void> = () => Promise.resolve(),
): Promise<string[]> {
  let before: Migration | undefined;
  const gone = new Set<string>();
  for (;;) {
    const tables = await readTables(pool, config, entity, known);
    const { schema, mayRecord, what, ran, absent } = tables;
    if (ran.some(({ table_name }) => table_name === "")) absent.forEach((name) => gone.add(name));
    await check();
    if (schema.state === "newer, refused") throw new ConnectionError(refusalOf(schema, what)!);
    // Without the right to do so, what is only to be put on record can wait.
    const [next] = mayRecord ? toDo(tables) : schema.pending;
    if (next === undefined) return [...gone];
    if (next === before) {
      throw new ConnectionError(
        `${next.name} has run for ${what}, but its tables cannot be seen: check the search_path of ` +
          `the user ${tables.role}`,
      );
    }
    before = next;
    try {
      // Several statements in one simple query are one transaction: a process that dies leaves none open.
      await pool.query(script(tables, [next]));
    } catch (error) {
      if (!isPostgresError(error)) throw error;
      // Another process was first.
      if (error.code === UNIQUE_VIOLATION && error.table === "writebehind_migration") continue;
      throw explained(error, next, tables);
    }
  }
}

/** What is to be run, or only to be put on record, in order. */
function toDo({ recognised, schema }: Tables): Migration[] {
  return [...recognised, ...schema.pending].sort((a, b) => a.number - b.number);
}

/** The migration that makes an entity's table. */
const MAKES_ENTITY = MIGRATIONS.find(({ of }) => of === "entity")!.number;

/** Migrations and their record, under the lock. */
function script(tables: Tables, migrations: Migration[]): string {
  const { oursIn, recorded } = tables;
  return [
    "SET LOCAL statement_timeout = 0;",
    `SET LOCAL lock_timeout = '${LOCK_SECONDS}s';`,
    `SELECT pg_advisory_xact_lock(${DDL_LOCK});`,
    `SET LOCAL search_path TO ${oursIn};`,
    ...(recorded ? [] : [RECORD]),
    ...migrations.flatMap((migration) => part(tables, migration)),
  ].join("\n");
}

function part(tables: Tables, migration: Migration): string[] {
  const { table, oursIn, entityIn, recorded, recognised } = tables;
  const { number, name, of, oldest, sql } = migration;
  const recordedAs = of === "ours" ? "''" : `'${table}'`;
  const parts = [
    `-- ${name}`,
    `SET LOCAL search_path TO ${of === "ours" ? oursIn : `${entityIn}, ${oursIn}`};`,
  ];
  if (recorded && !tables[of]) {
    // Somebody has dropped tables. Asked again under the lock: by now, another process may have made them anew.
    parts.push(
      `DELETE FROM writebehind_migration
        WHERE table_name = ${recordedAs} AND NOT ${isWholeSql[of](table)};`,
    );
  }
  // First, so that its key refuses a migration that has run meanwhile.
  parts.push(
    "INSERT INTO writebehind_migration (number, table_name, oldest) " +
      `VALUES (${number}, ${recordedAs}, ${oldest});`,
  );
  if (!recognised.includes(migration)) parts.push(sql.replaceAll("{table}", `"${table}"`));
  if (number === MAKES_ENTITY && !tables.made) {
    parts.push(...freshColumns(table, tables.columns).map((statement) => `${statement};`));
  }
  if (oldest > tables.schema.oldest) {
    // Sinks that run lose their partitions. Those that may go on take them again; older ones are refused then.
    parts.push(
      "UPDATE writebehind_offset SET epoch = epoch + 1;",
      "UPDATE writebehind_lease SET epoch = epoch + 1;",
    );
  }
  return parts;
}

/** What an administrator runs for a user that may not: all that is to be done, and the user's rights. */
function administratorsScript(tables: Tables): string {
  const { table, oursIn, entityIn, role } = tables;
  const rights = OUR_RIGHTS.map(([rights, tables]) => {
    return `GRANT ${rights} ON ${tables.map((name) => `${oursIn}.${name}`).join(", ")} TO ${role};`;
  });
  return [
    "BEGIN;",
    script(tables, toDo(tables)),
    `GRANT USAGE ON SCHEMA ${[...new Set([entityIn, oursIn])].join(", ")} TO ${role};`,
    `GRANT SELECT, INSERT, UPDATE, DELETE ON ${entityIn}."${table}" TO ${role};`,
    ...rights,
    "COMMIT;",
  ].join("\n");
}

function explained(error: PostgresError, { name }: Migration, tables: Tables): Error {
  const { what, database, role } = tables;
  if (error.code === INSUFFICIENT_PRIVILEGE) {
    return new ConnectionError(
      `The PostgreSQL user ${role} may not make or change the tables for ${what}: ${error.message}. ` +
        `Let an administrator run this in the database ${database}:\n\n${
          administratorsScript(tables)
        }`,
      { cause: error },
    );
  }
  if (error.code === LOCK_NOT_AVAILABLE) {
    return new ConnectionError(
      `${name} for ${what} had to wait for more than ${LOCK_SECONDS} s: another process is changing the tables, ` +
        "or a transaction that does not end holds one of them (see pg_stat_activity). Nothing was changed; try again",
      { cause: error },
    );
  }
  return error;
}
