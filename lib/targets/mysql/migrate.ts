/**
 * Brings the tables in MySQL up to date. A change of tables commits by itself there, so each is one that may run again.
 * @module
 */

import type { EntityConfig } from "../../config/load.ts";
import { asError, ConfigError, ConnectionError } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { refusalOf, type Schema } from "../migrations.ts";
import { freshColumns } from "./columns.ts";
import { type Flavor, refreshLimit } from "./connect.ts";
import { isDenied } from "./errors.ts";
import { MIGRATIONS, RECORD } from "./migrations/mod.ts";
import { changedBy, type Connection, kill, patiently, type Pool, rowsOf } from "./pool.ts";
import { checkTable, commentOf, goneTables, readSchema } from "./schema.ts";

/** How long it is waited for changes of the tables by others, in seconds. */
const DDL_SECONDS = 60;
/** How long each of our own may take, in ms. */
const DDL_MS = 120_000;
/** After so many seconds, a session that holds the lock and is told nothing is taken for one that was left behind. */
const LEFT_SECONDS = 5;

/**
 * Works while no other process of ours changes tables of this database.
 * @param patienceMs how long each query may take, in ms
 */
export async function underLock<T>(
  pool: Pool,
  work: (connection: Connection) => Promise<T>,
  patienceMs?: number,
): Promise<T> {
  return await patiently(pool, async (connection) => {
    const lock = "CONCAT('writebehind:ddl:', MD5(DATABASE()))";
    await takeLock(connection, lock);
    if (patienceMs !== undefined) connection.patienceMs = patienceMs;
    try {
      return await work(connection);
    } finally {
      await rowsOf(connection, `SELECT RELEASE_LOCK(${lock})`).catch(() => {}); // it ends with its session
    }
  });
}

/** Takes a lock, in short looks: a long one would hang on a connection that has fallen silent. */
async function takeLock(connection: Connection, lock: string): Promise<void> {
  for (let waited = 0; waited < DDL_SECONDS; waited++) {
    const [row] = await rowsOf<{ got: unknown }>(connection, `SELECT GET_LOCK(${lock}, 1) AS got`);
    if (Number(row!.got) === 1) return;
    // Its holder works all the time, so one that does not has lost its client, which the server was not told.
    const left = await rowsOf<{ id: string }>(
      connection,
      `SELECT id AS id FROM information_schema.processlist
        WHERE id = IS_USED_LOCK(${lock}) AND command = 'Sleep' AND time >= ${LEFT_SECONDS}`,
    );
    for (const { id } of left) await kill(connection, id);
  }
  throw new ConnectionError(
    `another process has been changing the tables for ${DDL_SECONDS} s; end it, or try again`,
  );
}

/**
 * Makes an entity's table and ours where they are missing, and brings older ones up to date.
 * @param what whose tables these are, for people
 * @param claimed the entity's partitions, where they are about to be claimed
 * @returns tables of ours that somebody had dropped: they are made anew
 * @throws {ConnectionError} where the user may not, with the SQL for an administrator; where a newer version has
 * changed the tables so that this one cannot work with them
 * @throws {ConfigError} where the table cannot hold documents, or is gone; where a commit is not durable
 */
export async function createTables(
  pool: Pool,
  flavor: Flavor,
  { table, columns }: Pick<EntityConfig, "table" | "columns">,
  what: string,
  claimed: PartitionKeys[],
): Promise<string[]> {
  const refused = (schema: Schema) => {
    if (schema.state === "newer, refused") throw new ConnectionError(refusalOf(schema, what)!);
    return schema;
  };
  const { pending, gone } = await patiently(pool, async (connection) => {
    await checkDurable(connection);
    await refreshLimit(connection, flavor);
    const [{ pending }, gone] = [
      refused(await readSchema(connection, table)),
      await goneTables(connection),
    ];
    // After it was looked for, so that none is made anew that went away in between.
    await checkTable(connection, table, claimed);
    return { pending, gone };
  });
  if (pending.length === 0) return [];
  await underLock(pool, async (connection) => {
    // Another process may have been first.
    const { pending, oldest } = refused(await readSchema(connection, table));
    await checkTable(connection, table, claimed);
    const isNew = await commentOf(connection, table) === null;
    for (const migration of pending) {
      const ran = [migration.number, migration.of === "ours" ? "" : table, migration.oldest];
      const statements = [
        ...[RECORD, migration.sql].flatMap((sql) => statementsOf(sql, table, flavor)),
        ...(isNew && migration.number === MAKES_ENTITY ? freshColumns(table, columns, flavor) : []),
      ];
      try {
        for (const statement of statements) await connection.query(statement);
      } catch (error) {
        if (!isDenied(error)) throw error;
        throw new ConnectionError(
          `The user may not make or change the tables for ${what}: ${asError(error).message}. ` +
            `Let an administrator run this in that database:\n\n${
              administratorsScript(table, flavor, isNew ? freshColumns(table, columns, flavor) : [])
            }`,
          { cause: error },
        );
      }
      await changedBy(
        connection,
        "REPLACE INTO writebehind_migration (number, table_name, oldest) VALUES (?, ?, ?)",
        ran,
      );
      // Sinks that run lose their partitions. Those that may go on take them again; older ones are refused then.
      if (migration.oldest > oldest) {
        await changedBy(connection, "UPDATE writebehind_offset SET epoch = epoch + 1");
      }
    }
  }, DDL_MS);
  return gone;
}

/** The migration that makes an entity's table. */
const MAKES_ENTITY = MIGRATIONS.find(({ of }) => of === "entity")!.number;

/** Whatever the server's `innodb_default_row_format` says: in the older ones, no key can be as long as an id. */
const ENGINE = "ENGINE = InnoDB ROW_FORMAT = DYNAMIC";

function statementsOf(sql: string, table: string, { collation }: Flavor): string[] {
  return sql.replaceAll(/^ *--.*\n/gm, "").replaceAll("{table}", `\`${table}\``)
    .replaceAll("ENGINE = InnoDB", ENGINE).replaceAll("{collation}", collation).split(/;\s*\n/).map(
      (part) => part.trim(),
    )
    .filter((part) => part !== "");
}

/** All that is to be done, for an administrator. */
function administratorsScript(table: string, flavor: Flavor, columns: string[]): string {
  return [
    ...[RECORD, ...MIGRATIONS.map(({ sql }) => sql)].flatMap((sql) =>
      statementsOf(sql, table, flavor)
    ),
    ...columns,
    ...MIGRATIONS.map(({ number, of, oldest }) =>
      "REPLACE INTO writebehind_migration (number, table_name, oldest) " +
      `VALUES (${number}, '${of === "ours" ? "" : table}', ${oldest})`
    ),
  ].map((statement) => `${statement};`).join("\n");
}

/**
 * The stream is trimmed behind a commit, so that one must be on the disk. No session can see to it by itself.
 * @throws {ConfigError} where it is not, or nothing can be written
 */
export async function checkDurable(connection: Connection): Promise<void> {
  const [row] = await rowsOf<{ flush: unknown; read_only: unknown }>(
    connection,
    "SELECT @@innodb_flush_log_at_trx_commit AS `flush`, @@read_only AS read_only",
  );
  if (Number(row!.read_only) !== 0) {
    throw new ConfigError(
      "The server only reads (read_only): it is a replica, or was set so; name the primary in targets",
    );
  }
  if (Number(row!.flush) !== 1) {
    throw new ConfigError(
      `The server's innodb_flush_log_at_trx_commit is ${
        row!.flush
      }: a commit could be lost after its events were ` +
        "removed; set it to 1",
    );
  }
}
