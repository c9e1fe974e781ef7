/** SQLite files for tests. */

import { DatabaseSync } from "node:sqlite";
import { type Config, configWith, openTarget, parseConfig } from "writebehind";
import type { Place, StoredRow } from "../conformance/place.ts";
import { configFile } from "../../support/processes.ts";
import { testFolder } from "../../support/servers.ts";

/** A file that is not there yet, in a folder that is not there yet. */
export function makePlace(): Promise<Place & { path: string }> {
  const path = `${testFolder("sqlite")}/data.db`;
  const keys = {
    targets: [{ name: "local", kind: "sqlite" as const, path }],
    streams: { partitions: 2 },
    write_behind: { lease_seconds: 2 },
  };
  const config: Config = configWith(parseConfig("", "test.yaml"), keys);
  const within = <T>(use: (db: DatabaseSync) => T): Promise<T> => {
    using db = new DatabaseSync(path, { timeout: 5000 });
    return Promise.resolve(use(db));
  };
  const run = (sql: string) => within((db) => db.exec(sql));
  const refuse = (name: string, when: string) =>
    run(
      ["INSERT", "UPDATE"].map((event) =>
        `CREATE TRIGGER ${name}_${event} BEFORE ${event} ON sessions WHEN ${when}
         BEGIN SELECT RAISE(ABORT, 'refused'); END;`
      ).join("\n"),
    );
  return Promise.resolve({
    path,
    config,
    open: () => openTarget(config),
    file: () => configFile(keys),
    row: (id) =>
      within((db) => {
        const row = db.prepare(
          `SELECT payload, created_at AS created, updated_at AS updated,
                  CAST(version AS TEXT) AS version FROM sessions WHERE id = ?`,
        ).get(id) as Record<keyof StoredRow, string> | undefined;
        return row
          ? { ...row, created: new Date(row.created), updated: new Date(row.updated) }
          : null;
      }),
    query: async (sql) =>
      await within((db) => {
        const statement = db.prepare(sql);
        statement.setReadBigInts(true);
        return statement.all();
      }),
    refuseBad: () => refuse("bad", "new.payload ->> '$.bad' IS NOT NULL"),
    refuseLate: () =>
      run(`
        CREATE TABLE lates (id INTEGER PRIMARY KEY);
        ALTER TABLE sessions ADD COLUMN late INTEGER
          GENERATED ALWAYS AS (payload ->> '$.late') VIRTUAL
          REFERENCES lates (id) DEFERRABLE INITIALLY DEFERRED;`),
    refuseAll: () => refuse("none", "true"),
    outdate: () =>
      run("INSERT INTO writebehind_migration (number, table_name, oldest) VALUES (99, '', 99)"),
    [Symbol.asyncDispose]: async () => {
      await Deno.remove(path.replace(/\/[^/]*$/, ""), { recursive: true }).catch((error) => {
        // Nothing was ever written.
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      });
    },
  });
}
