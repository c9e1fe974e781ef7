import assert from "node:assert/strict";
import {
  type Config,
  configWith,
  ConnectionError,
  connectPostgres,
  type DeepPartial,
  parseConfig,
} from "writebehind";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { fails, SECRET } from "../../support/connecting.ts";
import type { PostgresServer } from "writebehind/dev/servers/postgres.ts";
import { type TestDatabase, testDatabase, testPostgres } from "../../support/servers.ts";

/** Gives configurations of a database, with what differs in the section. */
const configOf =
  ({ host, port, user, password }: PostgresServer, { name }: TestDatabase) =>
  (more: DeepPartial<Config["postgresql"]>) =>
    configWith(parseConfig("", "test.yaml"), {
      postgresql: { host, port, user, password, database: name, ...more },
    });

Deno.test("PostgreSQL: connected to, and every reason why not", async () => {
  await using postgres = await testPostgres();
  await using database = await testDatabase(postgres);
  const of = configOf(postgres, database);
  const pool = await connectPostgres(of({}));
  assert.deepEqual((await pool.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
  await pool.end();

  const connect = async (more: DeepPartial<Config["postgresql"]>) => {
    await connectPostgres(of(more));
    return {};
  };
  await fails(
    connect({ schema: "nowhere" }),
    ConnectionError,
    "no schema nowhere",
    "postgresql.schema",
  );
  const free = freePort();
  await fails(connect({ port: free }), ConnectionError, `:${free}`, "refused", "postgresql.host");
  await fails(
    connect({ password: SECRET }),
    ConnectionError,
    "authentication failed",
    "postgresql.password",
  );
  await fails(connect({ user: "nobody_here" }), ConnectionError, "nobody_here");
  await fails(connect({ database: "nothing_here" }), ConnectionError, "no database nothing_here");
});

Deno.test("PostgreSQL: tables are found outside the search path, and in the schema that is configured", async () => {
  await using postgres = await testPostgres();
  await using database = await testDatabase(postgres);
  const of = configOf(postgres, database);
  const seen = async (more: DeepPartial<Config["postgresql"]>) => {
    await using pool = await connectPostgres(of(more));
    const { rows: [row] } = await pool.query(
      "SELECT to_regclass('sessions')::oid::regclass::text AS table",
    );
    return row.table;
  };
  await using admin = await connectPostgres(of({}));
  const elsewhere = { options: "-c search_path=pg_catalog" };
  assert.equal(await seen(elsewhere), null);
  await admin.query("CREATE SCHEMA app; CREATE TABLE app.sessions (id TEXT PRIMARY KEY)");
  assert.equal(await seen(elsewhere), "sessions");
  assert.equal(await seen({}), "sessions");
  await admin.query("CREATE SCHEMA other; CREATE TABLE other.sessions (id TEXT PRIMARY KEY)");
  assert.equal(await seen(elsewhere), null, "two of them: neither is guessed");
  assert.equal(await seen({ ...elsewhere, schema: "other" }), "sessions");
});
