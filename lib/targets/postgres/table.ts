/**
 * Whether an entity's table can hold its documents as they are: one row an id, found byte for byte.
 * @module
 */

import type { Pool } from "./pool.ts";
import { ConfigError } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { HAD_ROWS, tableProblems } from "../common.ts";
import { isPostgresError, UNDEFINED_TABLE } from "./errors.ts";
import { patiently } from "./sessions.ts";

/** What PostgreSQL's catalogue says of a table. */
interface TableRow {
  kind: string;
  idType: string | null;
  idMade: boolean;
  deterministic: boolean;
  keyed: boolean;
  payloadType: string | null;
}

const KINDS: Record<string, string> = {
  v: "a view",
  m: "a materialized view",
  f: "a foreign table",
};

const ASK = `
SELECT c.relkind AS kind, id.atttypid::regtype::text AS "idType",
       coalesce(id.attgenerated <> '' OR id.attidentity <> '', false) AS "idMade",
       coalesce(l.collisdeterministic, true) AS deterministic,
       EXISTS (
         SELECT FROM pg_index i
          WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
            AND i.indpred IS NULL AND i.indexprs IS NULL
            AND i.indnkeyatts = 1 AND i.indkey[0] = id.attnum
            AND i.indcollation[0] = id.attcollation
       ) AS keyed,
       payload.atttypid::regtype::text AS "payloadType"
  FROM pg_class c
  LEFT JOIN pg_attribute id ON id.attrelid = c.oid AND id.attname = 'id' AND NOT id.attisdropped
  LEFT JOIN pg_collation l ON l.oid = id.attcollation
  LEFT JOIN pg_attribute payload
         ON payload.attrelid = c.oid AND payload.attname = 'payload' AND NOT payload.attisdropped
 WHERE c.oid = to_regclass($1)`;

/** The rights that a sink needs and the user lacks. A right on any column counts: which are needed, the batches tell. */
const LACKING = `
SELECT string_agg(format('%s ON %s', p, t.name), ', ') AS lacking, current_user AS role,
       (SELECT format('ALTER ROLE %I BYPASSRLS', current_user)
         WHERE row_security_active(to_regclass($1)::oid)) AS "mendPolicy"
  FROM (VALUES ($1, '{SELECT,INSERT,UPDATE,DELETE}'::text[]),
               ('writebehind_offset', '{SELECT,INSERT,UPDATE}'),
               ('writebehind_lease', '{SELECT,INSERT,UPDATE}'),
               ('writebehind_dead_letter', '{SELECT,INSERT,UPDATE}'),
               ('writebehind_probe', '{INSERT}')) AS t (name, needed), unnest(t.needed) AS p
 WHERE to_regclass(t.name) IS NOT NULL
   AND NOT CASE p WHEN 'DELETE' THEN has_table_privilege(to_regclass(t.name)::oid, p)
                  ELSE has_any_column_privilege(to_regclass(t.name)::oid, p) END`;

/**
 * Sees that the user has the rights that a sink needs, on the tables that are there, and that no policy hides rows from
 * it: what it removes would stay, without an error behind a pooler.
 * @throws {ConfigError} with all that are missing
 */
export async function checkRights(pool: Pool, table: string): Promise<void> {
  const { rows: [row] } = await patiently<
    { lacking: string | null; role: string; mendPolicy: string | null }
  >(pool, LACKING, [`"${table}"`]);
  const { lacking, role, mendPolicy } = row!;
  if (mendPolicy !== null) {
    throw new ConfigError(
      `a policy of the table ${table} may hide rows from the PostgreSQL user ${role}; an administrator lets it ` +
        `pass by ${mendPolicy}`,
    );
  }
  if (lacking === null) return;
  throw new ConfigError(
    `permission denied: the PostgreSQL user ${role} lacks ${lacking}; an administrator grants each by ` +
      `GRANT … ON … TO ${role}`,
  );
}

/**
 * Sees that a table, where it is there, can hold documents; and that one that is not there is not missed: where an
 * offset says that it had rows, it is not made anew without a word.
 * @param partitions the entity's
 * @throws {ConfigError} with the table, and what to do
 */
export async function checkTable(
  pool: Pool,
  table: string,
  partitions: PartitionKeys[],
): Promise<void> {
  const { rows: [row] } = await patiently<TableRow>(pool, ASK, [`"${table}"`]);
  if (row === undefined) {
    const missed = await streamWithRows(pool, partitions.map(({ stream }) => stream));
    if (missed === null) return;
    throw new ConfigError(
      tableProblems.gone(table, partitions.find(({ stream }) => stream === missed)!),
    );
  }
  const problem = problemOf(row);
  if (problem !== null) throw new ConfigError(`Cannot use the table ${table}: ${problem}`);
}

/** One of the streams whose events have made rows, if any. */
async function streamWithRows(pool: Pool, streams: string[]): Promise<string | null> {
  try {
    const { rows: [row] } = await patiently<{ stream: string }>(
      pool,
      `SELECT stream FROM writebehind_offset WHERE stream = ANY($1) AND ${HAD_ROWS} LIMIT 1`,
      [streams],
    );
    return row?.stream ?? null;
  } catch (error) {
    // No sink has ever run here.
    if (isPostgresError(error) && error.code === UNDEFINED_TABLE) return null;
    throw error;
  }
}

function problemOf({ kind, idType, idMade, deterministic, keyed, payloadType }: TableRow) {
  if (kind in KINDS) return `it is ${KINDS[kind]}; name a table in entities`;
  if (idType === null) return "it has no column id; its key must be id TEXT PRIMARY KEY";
  if (idType !== "text" && idType !== "character varying") {
    return `its key, the column id, is ${idType}, which does not tell all ids apart; make it TEXT`;
  }
  if (idMade) return "its key, the column id, is generated; make it a plain TEXT";
  if (!deterministic) {
    return "the collation of its key, the column id, takes different ids for one; use a deterministic one, such as " +
      '"C"';
  }
  if (!keyed) {
    return "it has no unique key on id alone, so that a document could have several rows; add PRIMARY KEY (id)";
  }
  if (payloadType === null) return "it has no column payload; add payload JSONB";
  if (payloadType !== "jsonb") {
    return `its column payload is ${payloadType}, which verify cannot compare (its key and id are fine); run ` +
      "ALTER TABLE … ALTER COLUMN payload TYPE jsonb USING payload::jsonb";
  }
  return null;
}
