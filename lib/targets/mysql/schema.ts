/**
 * What is there of the tables in MySQL, and whether they can be used as they are. Reads only.
 * @module
 */

import { ConfigError } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { HAD_ROWS, tableProblems } from "../common.ts";
import { type RanMigration, type Schema, schemaOf } from "../migrations.ts";
import { type Connection, rowsOf } from "./pool.ts";
import { MIGRATIONS } from "./migrations/mod.ts";
import { rowsIfThere } from "./offsets.ts";

const OUR_TABLES = ["writebehind_offset", "writebehind_lease", "writebehind_dead_letter"];

/** What a sink writes, and by which columns. */
const COLUMNS = ["id", "payload", "created_at", "updated_at", "version"];

/** Collations that compare texts byte for byte, spaces at their end too. */
const BYTEWISE = ["utf8mb4_nopad_bin", "utf8mb4_0900_bin"];

/** Which of these tables are there. */
async function there(connection: Connection, names: string[]): Promise<Set<string>> {
  const rows = await rowsOf<{ name: string }>(
    connection,
    `SELECT table_name AS name FROM information_schema.tables
      WHERE table_schema = DATABASE() AND table_name IN (?)`,
    [names],
  );
  return new Set(rows.map(({ name }) => name));
}

/** The comment of a table; `null` where there is no such table. */
export async function commentOf(connection: Connection, table: string): Promise<string | null> {
  const [row] = await rowsOf<{ comment: string }>(
    connection,
    `SELECT table_comment AS comment FROM information_schema.tables
      WHERE table_schema = DATABASE() AND table_name = ?`,
    [table],
  );
  return row?.comment ?? null;
}

/** Tables of ours that somebody has dropped. */
export async function goneTables(connection: Connection): Promise<string[]> {
  const made = await ranFor(connection, [""]);
  if (made.length === 0) return [];
  const found = await there(connection, OUR_TABLES);
  return OUR_TABLES.filter((name) => !found.has(name));
}

function ranFor(connection: Connection, names: string[]): Promise<RanMigration[]> {
  return rowsIfThere<RanMigration>(
    connection,
    "SELECT number, oldest FROM writebehind_migration WHERE table_name IN (?)",
    [names],
  );
}

/** The tables as one entity needs them. */
export async function readSchema(connection: Connection, table: string): Promise<Schema> {
  const found = await there(connection, [...OUR_TABLES, table]);
  const ours = OUR_TABLES.every((name) => found.has(name));
  const entity = found.has(table);
  // What is on record does not hold for tables that somebody has dropped since.
  const of = [...(ours ? [""] : []), ...(entity ? [table] : [])];
  const ran = of.length === 0 ? [] : await ranFor(connection, of);
  return schemaOf(MIGRATIONS, ran, ours && entity);
}

interface Column {
  name: string;
  type: string;
  collation: string | null;
  length: string | null;
}

/**
 * Sees that a table, where it is there, can hold documents; and that one that is not there is not missed: where an
 * offset says that it had rows, it is not made anew without a word.
 * @throws {ConfigError} where it cannot, or is gone
 */
export async function checkTable(
  connection: Connection,
  table: string,
  claimed: PartitionKeys[],
): Promise<void> {
  const [made] = await rowsOf<{ type: string; engine: string | null }>(
    connection,
    `SELECT table_type AS type, engine AS engine FROM information_schema.tables
      WHERE table_schema = DATABASE() AND table_name = ?`,
    [table],
  );
  if (made === undefined) {
    if (claimed.length === 0) return;
    const [row] = await rowsIfThere<{ stream: string }>(
      connection,
      `SELECT stream FROM writebehind_offset
        WHERE stream IN (${claimed.map(() => "?").join()}) AND ${HAD_ROWS}`,
      claimed.map(({ stream }) => stream),
    );
    if (row === undefined) return;
    throw new ConfigError(
      tableProblems.gone(table, claimed.find(({ stream }) => stream === row.stream)!),
    );
  }
  const columns = await rowsOf<Column>(
    connection,
    `SELECT column_name AS name, data_type AS type, collation_name AS collation,
            character_maximum_length AS length
       FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ?`,
    [table],
  );
  const keys = await rowsOf<{ name: string | null; part: number | null }>(
    connection,
    `SELECT column_name AS name, sub_part AS part FROM information_schema.statistics
      WHERE table_schema = DATABASE() AND table_name = ? AND non_unique = 0`,
    [table],
  );
  const problem = problemOf(made, columns, keys);
  if (problem !== null) {
    throw new ConfigError(unusable(table, problem));
  }
}

/** Why a table is refused, for people. */
const unusable = (table: string, problem: string): string =>
  `Cannot use the table ${table}: ${problem}; rename it, and a sink makes one as it must be`;

const KEYS_DIFFER = "its one unique key must be id (ADD PRIMARY KEY (id), DROP INDEX for others)";

/** That the keys of a table have changed under way. */
export const keysChanged = (table: string): ConfigError =>
  new ConfigError(`Cannot use the table ${table}: its keys were changed, and ${KEYS_DIFFER}`);

/** That rows were doubled while the table had no key. */
export const doubledId = (table: string, id: string): ConfigError =>
  new ConfigError(
    `Cannot read the table ${table}: it has several rows with the id ${JSON.stringify(id)}; ` +
      `remove all but the one with the highest version; ${KEYS_DIFFER}`,
  );

/** SQL for whether the one unique key of a table, which is a parameter, is its id: by what else would a row be found. */
export const KEYS_AS_NEEDED =
  `(SELECT COUNT(*) = 1 AND SUM(column_name = 'id' AND sub_part IS NULL) = 1
      FROM information_schema.statistics
     WHERE table_schema = DATABASE() AND table_name = ? AND non_unique = 0)`;

function problemOf(
  { type, engine }: { type: string; engine: string | null },
  columns: Column[],
  keys: { name: string | null; part: number | null }[],
): string | null {
  if (type !== "BASE TABLE") return `it is a ${type.toLowerCase()}`;
  if (engine !== "InnoDB") return `its engine ${engine} has no transactions: InnoDB is needed`;
  const missing = COLUMNS.filter((name) => !columns.some((column) => column.name === name));
  if (missing.length > 0) return `it has no column ${missing.join(", ")}`;
  const [id, payload] = ["id", "payload"].map((name) =>
    columns.find((column) => column.name === name)!
  );
  if (!BYTEWISE.includes(id!.collation ?? "")) {
    return `its id is compared by ${
      id!.collation ?? "no collation"
    }, and must be compared byte for byte (${BYTEWISE.join(" or ")})`;
  }
  if (Number(id!.length) < 512) return `its id takes ${id!.length} characters, and 512 are needed`;
  if (payload!.type !== "longtext" || !payload!.collation?.startsWith("utf8mb4_")) {
    return "its payload is no LONGTEXT of utf8mb4, which alone keeps a text as it is";
  }
  return keys.length === 1 && keys[0]!.name === "id" && keys[0]!.part === null ? null : KEYS_DIFFER;
}
