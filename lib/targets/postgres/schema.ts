/**
 * Compares the tables in PostgreSQL with what this version knows. Reads only.
 * @module
 */

import type { Pool } from "./pool.ts";
import { type ColumnConfig, type Config, entityConfig } from "../../config/load.ts";
import { ConnectionError } from "../../core/errors.ts";
import {
  type Migration,
  type RanMigration,
  refusalOf,
  type Schema,
  schemaOf,
  type SchemaState,
} from "../migrations.ts";
import { isPostgresError, UNDEFINED_TABLE } from "./errors.ts";
import { MIGRATIONS, OUR_TABLES } from "./migrations/mod.ts";
import { patiently } from "./sessions.ts";

/** What PostgreSQL says of the tables that an entity needs. */
interface Answer {
  /** whether tables of both kinds are there, and whether each kind is at least as its first migration leaves it */
  there: boolean;
  /** whether the entity's table is there, in whatever shape */
  made: boolean;
  ours: boolean;
  entity: boolean;
  /** tables of ours that are not there */
  absent: string[];
  /** the PostgreSQL schemas where they are, or would be made; quoted */
  oursIn: string;
  entityIn: string;
  database: string;
  /** the user; quoted */
  role: string;
  /** whether `writebehind_migration` is there, and whether the user may write it (or make it) */
  recorded: boolean;
  mayRecord: boolean;
  ran: (RanMigration & { table_name: string })[];
}

/** The tables that an entity needs: its own and ours. */
export interface Tables extends Answer {
  /** the entity's */
  table: string;
  columns: readonly ColumnConfig[];
  /** for people: whose tables these are */
  what: string;
  schema: Schema;
  /** first migrations that are not on record, but whose tables are as they leave them */
  recognised: Migration[];
}

/** Conditions: tables are at least as their first migration leaves them. Names are letters, digits and `_`. */
export const isWholeSql = {
  ours: (): string =>
    `(to_regclass('writebehind_lease') IS NOT NULL
        AND to_regclass('writebehind_dead_letter') IS NOT NULL
        AND to_regclass('writebehind_probe') IS NOT NULL
        AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('writebehind_offset')
                                               AND attname = 'parked_version'))`,
  entity: (table: string): string =>
    `((SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('"${table}"')
                                           AND attname IN ('updated_at', 'version')) = 2)`,
};

/** Which tables of ours are not there. */
export const absentSql: string =
  `ARRAY(SELECT name FROM unnest('{${OUR_TABLES}}'::text[]) AS name WHERE to_regclass(name) IS NULL)`;

/** Asks everything at once, so that tables that are up to date cost one query. */
const askSql = (table: string, recorded: boolean) => `
SELECT t.ours IS NOT NULL AND t.entity IS NOT NULL AS there, t.entity IS NOT NULL AS made,
       ${isWholeSql.ours()} AS ours,
       ${isWholeSql.entity(table)} AS entity,
       ${absentSql} AS absent,
       coalesce(n.ours::regnamespace::text, 'public') AS "oursIn",
       coalesce(n.entity::regnamespace::text, 'public') AS "entityIn",
       current_database() AS database, quote_ident(current_user) AS role,
       to_regclass('writebehind_migration') IS NOT NULL AS recorded,
       ${
  recorded
    ? `has_table_privilege('writebehind_migration', 'INSERT') AS "mayRecord",
       (SELECT coalesce(json_agg(m), '[]') FROM writebehind_migration m
         WHERE m.table_name IN ('', '${table}')) AS ran`
    : `coalesce(has_schema_privilege(n.ours, 'CREATE'), false) AS "mayRecord",
       '[]'::json AS ran`
}
  FROM (SELECT to_regclass('writebehind_offset') AS ours, to_regclass('"${table}"') AS entity,
               quote_ident(current_schema())::regnamespace::oid AS first) t,
       LATERAL (SELECT
         coalesce((SELECT relnamespace FROM pg_class WHERE oid = t.ours), t.first) AS ours,
         coalesce((SELECT relnamespace FROM pg_class WHERE oid = t.entity), t.first) AS entity) n`;

/** Databases without a record, by their pools: asking for it would leave an error in the server's log each time. */
const unrecorded = new WeakSet<Pool>();

async function ask(pool: Pool, table: string): Promise<Answer> {
  const query = async (recorded: boolean) =>
    (await patiently<Answer>(pool, askSql(table, recorded), [])).rows[0]!;
  if (unrecorded.has(pool)) {
    const answer = await query(false);
    if (!answer.recorded) return answer;
    unrecorded.delete(pool);
  }
  try {
    return await query(true);
  } catch (error) {
    if (!isPostgresError(error) || error.code !== UNDEFINED_TABLE) throw error;
    unrecorded.add(pool);
    return await query(false);
  }
}

/** Reads the state of an entity's tables. */
export async function readTables(
  pool: Pool,
  config: Config,
  entity: string,
  known: readonly Migration[],
): Promise<Tables> {
  const { table, columns } = entityConfig(config, entity);
  const answer = await ask(pool, table);
  const ran: RanMigration[] = [];
  const recognised: Migration[] = [];
  for (const kind of ["ours", "entity"] as const) {
    // The record does not count for tables that somebody has dropped since.
    if (!answer[kind]) continue;
    const name = kind === "ours" ? "" : table;
    const recorded = answer.ran.filter(({ table_name }) => table_name === name);
    if (recorded.length === 0) recognised.push(known.find(({ of }) => of === kind)!);
    ran.push(...recorded);
  }
  return {
    ...answer,
    table,
    columns,
    what: `${entity} in the database ${answer.database}`,
    schema: schemaOf(known, [...ran, ...recognised], answer.there),
    recognised,
  };
}

/**
 * Compares the tables that an entity needs with what this version knows. Reads only.
 * @param known for tests: the migrations of another version
 */
export async function schemaState(
  pool: Pool,
  config: Config,
  entity: string,
  known: readonly Migration[] = MIGRATIONS,
): Promise<SchemaState> {
  return (await readTables(pool, config, entity, known)).schema.state;
}

/**
 * Checks that this version can work with the tables that an entity needs: for commands that only read. Changes
 * nothing.
 * @param known for tests: the migrations of another version
 * @throws {ConnectionError} where it cannot, with what to do
 */
export async function checkSchema(
  pool: Pool,
  config: Config,
  entity: string,
  known: readonly Migration[] = MIGRATIONS,
): Promise<void> {
  const { schema, what } = await readTables(pool, config, entity, known);
  const refusal = refusalOf(schema, what);
  if (refusal !== null) throw new ConnectionError(refusal);
}
