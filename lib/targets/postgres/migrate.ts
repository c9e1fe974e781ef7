/**
 * Brings the tables in PostgreSQL up to date: an entity's own, in the shape of the original project plus
 * `updated_at` and `version`, and ours.
 *
 * Without a library: node-pg-migrate, postgres-migrations and umzug have no tables that the configuration names, no
 * word on which older versions may go on, and no SQL for an administrator, which is most of this file.
 * @module
 */

import { Buffer } from "node:buffer";
import type { Pool } from "./pool.ts";
import type { Config } from "../../config/load.ts";
import { ConnectionError } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { HAD_ROWS } from "../common.ts";
import { type Migration, refusalOf } from "../migrations.ts";
import { freshColumns } from "./columns.ts";
import {
  INSUFFICIENT_PRIVILEGE,
  INVALID_SCHEMA,
  isPostgresError,
  LOCK_NOT_AVAILABLE,
  type PostgresError,
  UNIQUE_VIOLATION,
} from "./errors.ts";
import { DDL_LOCK, LOCK_SECONDS, MIGRATIONS, OUR_RIGHTS, RECORD } from "./migrations/mod.ts";
import { checkTable } from "./table.ts";
import { isWholeSql, readTables, type Tables } from "./schema.ts";

/**
 * Makes an entity's table and ours where they are missing, and brings older ones up to date: each migration once, in
 * order, in a transaction of its own. Safe to run at any time, by several processes, and by a user that may not
 * change tables where there is nothing to change.
 *
 * @param known for tests: the migrations of another version
 * @param claimed the entity's partitions, where they are about to be claimed: then its table is not made anew where it had
 * rows, and has to be one that can hold documents
 * @returns tables of ours that somebody had dropped: they are made anew
 * @throws {ConnectionError} where the user may not, with the SQL for an administrator; where a newer version has
 * changed the tables so that this one cannot work with them; where somebody keeps a table locked for too long
 * @throws {ConfigError} as {@linkcode checkTable} does
 */
export async function createTable(
  pool: Pool,
  config: Config,
  entity: string,
  known: readonly Migration[] = MIGRATIONS,
  claimed: PartitionKeys[] = [],
): Promise<string[]> {
  let before: Migration | undefined;
  const gone = new Set<string>();
  for (;;) {
    const tables = await readTables(pool, config, entity, known);
    const { schema, mayRecord, what, ran, absent } = tables;
    if (ran.some(({ table_name }) => table_name === "")) absent.forEach((name) => gone.add(name));
    if (claimed.length > 0) await checkTable(pool, tables.table, claimed);
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
      await pool.query(script(tables, [next], claimed));
    } catch (error) {
      if (!isPostgresError(error)) throw error;
      // Another process was first.
      if (error.code === UNIQUE_VIOLATION && error.table === "writebehind_migration") continue;
      if (error.code === TABLE_MISSED) {
        before = undefined;
        continue;
      }
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
function script(tables: Tables, migrations: Migration[], claimed: PartitionKeys[]): string {
  const { oursIn, recorded } = tables;
  return [
    "SET LOCAL statement_timeout = 0;",
    `SET LOCAL lock_timeout = '${LOCK_SECONDS}s';`,
    `SELECT pg_advisory_xact_lock(${DDL_LOCK});`,
    `SET LOCAL search_path TO ${oursIn};`,
    ...(recorded ? [] : [RECORD]),
    ...migrations.flatMap((migration) => part(tables, migration, claimed)),
  ].join("\n");
}

function part(tables: Tables, migration: Migration, claimed: PartitionKeys[]): string[] {
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
  if (!recognised.includes(migration)) {
    const making = sql.replaceAll("{table}", `"${table}"`);
    const guards = number === MAKES_ENTITY && claimed.length > 0;
    parts.push(...guards ? unlessMissed(table, making, claimed) : [making]);
  }
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

/** Raised where a table was made anew that had rows. */
const TABLE_MISSED = "WB001";

/**
 * Makes an entity's table, and fails where it was not there though it had rows: it may have gone away again since it was
 * looked for, and whoever renames it back would find another one in its place.
 */
function unlessMissed(table: string, making: string, claimed: PartitionKeys[]): string[] {
  const now = `coalesce(to_regclass('"${table}"')::oid::text, '')`;
  // As hexadecimal digits, which need no quoting.
  const streams = claimed.map(({ stream }) =>
    `convert_from(decode('${Buffer.from(stream).toString("hex")}', 'hex'), 'UTF8')`
  ).join(", ");
  return [
    `SELECT set_config('writebehind.table', ${now}, true);`,
    making,
    `DO $$ BEGIN
  IF current_setting('writebehind.table') <> ${now}
     AND EXISTS (SELECT FROM writebehind_offset WHERE stream IN (${streams}) AND ${HAD_ROWS}) THEN
    RAISE EXCEPTION 'the table ${table} had rows' USING ERRCODE = '${TABLE_MISSED}';
  END IF;
END $$;`,
  ];
}

/** What an administrator runs for a user that may not: all that is to be done, and the user's rights. */
function administratorsScript(tables: Tables): string {
  const { table, oursIn, entityIn, role } = tables;
  const rights = OUR_RIGHTS.map(([rights, tables]) => {
    return `GRANT ${rights} ON ${tables.map((name) => `${oursIn}.${name}`).join(", ")} TO ${role};`;
  });
  return [
    "BEGIN;",
    script(tables, toDo(tables), []),
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
  if (error.code === INVALID_SCHEMA) {
    return new ConnectionError(
      `The PostgreSQL user ${role} may use none of the schemas of its search_path, so no tables for ${what} can be ` +
        `seen or made: an administrator runs GRANT USAGE ON SCHEMA … TO ${role}; or set postgresql.schema to another`,
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
