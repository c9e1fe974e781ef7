/** PostgreSQL keeps every promise of the port. */

import { type Config, configWith, connectPostgres, openTarget, parseConfig } from "writebehind";
import { conformance, offersSharing } from "../conformance/mod.ts";
import type { Place } from "../conformance/place.ts";
import { configFile } from "../../support/processes.ts";
import { testDatabase, testPostgres } from "../../support/servers.ts";

const server = await testPostgres();
Deno.test.afterAll(async () => await server[Symbol.asyncDispose]());

async function makePlace(): Promise<Place> {
  const database = await testDatabase(server);
  const { host, port, user, password } = server;
  const keys = {
    postgresql: { host, port, user, password, database: database.name },
    streams: { partitions: 2 },
    write_behind: { lease_seconds: 2 },
  };
  const config: Config = configWith(parseConfig("", "test.yaml"), keys);
  const pool = await connectPostgres(config);
  const run = async (sql: string) => void await pool.query(sql);
  return {
    config,
    open: () => openTarget(config),
    file: () => configFile(keys),
    row: async (id) => {
      const { rows: [row] } = await pool.query(
        `SELECT payload::text AS payload, created_at AS created, updated_at AS updated,
                version::text AS version FROM sessions WHERE id = $1`,
        [id],
      );
      return row ?? null;
    },
    query: async (sql) => (await pool.query(sql)).rows,
    refuseBad: () =>
      run("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->'bad' IS NULL) NOT VALID"),
    refuseLate: () =>
      run(`
        CREATE TABLE lates (id INTEGER PRIMARY KEY);
        ALTER TABLE sessions
          ADD COLUMN late INTEGER GENERATED ALWAYS AS ((payload->>'late')::int) STORED
              REFERENCES lates (id) DEFERRABLE INITIALLY DEFERRED`),
    refuseAll: () => run("ALTER TABLE sessions ADD CONSTRAINT none CHECK (false) NOT VALID"),
    outdate: () =>
      run("INSERT INTO writebehind_migration (number, table_name, oldest) VALUES (99, '', 99)"),
    [Symbol.asyncDispose]: async () => {
      await pool.end();
      await database[Symbol.asyncDispose]();
    },
  };
}

conformance("PostgreSQL", makePlace);
offersSharing("PostgreSQL", makePlace);
