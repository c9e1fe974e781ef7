/** Databases of a real MariaDB for tests. */

import mysql from "mysql2/promise";
import { type Config, openTarget, parseConfig } from "writebehind";
import type { MariadbServer } from "writebehind/dev/servers/mariadb.ts";
import type { Place, StoredRow } from "../conformance/place.ts";
import { configFile } from "../../support/processes.ts";
import { isInstalled } from "../../support/programs.ts";
import { testMariadb, testRedis } from "../../support/servers.ts";

/** A MariaDB for a test file; `null` where none is installed (Debian: mariadb-server). */
export async function sharedMariadb(extraArgs: readonly string[] = []) {
  return isInstalled("mariadbd") ? await testMariadb(extraArgs) : null;
}

/** A MariaDB and a Redis for a test file; `ignore`: none of the first is installed. They stop after its tests. */
export async function sharedServers() {
  const [mariadb, redis] = [await sharedMariadb(), await testRedis()];
  Deno.test.afterAll(async () => {
    await mariadb?.[Symbol.asyncDispose]();
    await redis[Symbol.asyncDispose]();
  });
  return { server: mariadb!, ignore: mariadb === null, redis };
}

/** A database of one test's own, with the default charset that Debian's server has. */
export async function databaseOn(
  { host, port, user, password }: MariadbServer,
  ssl?: { rejectUnauthorized: boolean },
) {
  const name = `test_${crypto.randomUUID().replaceAll("-", "")}`;
  const login = { host, port, user, password };
  const pool = mysql.createPool({
    ...login,
    ...(ssl ? { ssl } : {}),
    multipleStatements: true,
    dateStrings: true,
    supportBigNumbers: true,
    bigNumberStrings: true,
  });
  await pool.query(`CREATE DATABASE ${name} CHARACTER SET latin1`);
  return {
    target: {
      ...login,
      name: "second",
      kind: "mysql" as const,
      on_full: "stop" as const,
      database: name,
      ssl: "disable" as const,
      sslrootcert: null,
      sslcert: null,
      sslkey: null,
    },
    /** runs statements in it, and gives the last one's rows */
    run: async (sql: string, values: unknown[] = []): Promise<unknown[]> => {
      const connection = await pool.getConnection();
      try {
        await connection.query(`USE ${name}`);
        return (await connection.query(sql, values))[0] as unknown[];
      } finally {
        connection.release();
      }
    },
    /** runs a statement in a transaction that stays open until it is disposed of */
    hold: async (sql: string): Promise<AsyncDisposable> => {
      const connection = await pool.getConnection();
      await connection.query(`USE ${name}; START TRANSACTION; ${sql}`);
      return {
        [Symbol.asyncDispose]: async () => {
          await connection.query("ROLLBACK");
          connection.release();
        },
      };
    },
    [Symbol.asyncDispose]: async () => {
      await pool.query(`DROP DATABASE ${name}`);
      await pool.end();
    },
  };
}

/** An empty place for the conformance suite. */
export async function makePlace(server: MariadbServer): Promise<Place> {
  const database = await databaseOn(server);
  const { run, target } = database;
  const keys = {
    targets: [target],
    streams: { partitions: 2 },
    write_behind: { lease_seconds: 2 },
  };
  const config: Config = parseConfig(JSON.stringify(keys), "test.yaml");
  const refuse = async (name: string, when: string) =>
    void await run(
      ["INSERT", "UPDATE"].map((event) =>
        `CREATE TRIGGER ${name}_${event} BEFORE ${event} ON sessions FOR EACH ROW
         IF ${when} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF`
      ).join(";\n"),
    );
  return {
    config,
    open: () => openTarget(config),
    file: () => configFile(keys),
    row: async (id) => {
      const [row] = await run(
        "SELECT payload, created_at AS created, updated_at AS updated, version FROM sessions WHERE id = ?",
        [id],
      ) as Record<keyof StoredRow, string>[];
      const at = (text: string) => new Date(`${text.replace(" ", "T")}Z`);
      return row ? { ...row, created: at(row.created), updated: at(row.updated) } : null;
    },
    query: async (sql) => await run(sql) as Record<string, unknown>[],
    refuseBad: () => refuse("bad", "JSON_EXISTS(NEW.payload, '$.bad')"),
    // Nothing is checked at the commit only.
    refuseLate: () => refuse("late", "JSON_EXISTS(NEW.payload, '$.late')"),
    refuseAll: () => refuse("none", "true"),
    outdate: async () =>
      void await run(
        "INSERT INTO writebehind_migration (number, table_name, oldest) VALUES (99, '', 99)",
      ),
    [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
  };
}
