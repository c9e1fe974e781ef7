import assert from "node:assert/strict";
import {
  type Config,
  ConfigError,
  configWith,
  ConnectionError,
  connectPostgres,
  type DeepPartial,
  openTarget,
  parseConfig,
  type PostgresTargetConfig,
} from "writebehind";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { fails, SECRET } from "../../support/connecting.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import type { PostgresServer } from "writebehind/dev/servers/postgres.ts";
import {
  type TestDatabase,
  testDatabase,
  testFolder,
  testPostgres,
  waitFor,
} from "../../support/servers.ts";

/** Gives configurations of a database, with what differs in the section. */
const configOf =
  ({ host, port, user, password }: PostgresServer, { name }: TestDatabase) =>
  (more: DeepPartial<Config["postgresql"]>) =>
    configWith(parseConfig("", "test.yaml"), {
      postgresql: { host, port, user, password, database: name, ...more },
    });

Deno.test("PostgreSQL: a connection that vanishes holds up neither the end nor who asked for it", async () => {
  await using postgres = await testPostgres();
  await using database = await testDatabase(postgres);
  await using proxy = await TcpProxy.start(postgres);
  const of = configOf(postgres, database);
  await using direct = await connectPostgres(of({}));
  {
    await using pool = await connectPostgres(of({ port: proxy.port }));
    const [one, other] = [await pool.connect(), await pool.connect()];
    one.release();
    proxy.vanish();
    other.release(true);
  }
  // Its settings are sent, and never answered.
  proxy.delay(500);
  const opening = connectPostgres(of({ port: proxy.port, application_name: "vanishes" }));
  await waitFor(async () => {
    const { rowCount } = await direct.query(
      "SELECT FROM pg_stat_activity WHERE application_name = 'vanishes' AND query LIKE '%SET datestyle%'",
    );
    return rowCount === 1;
  }, { what: "the settings to be sent" });
  proxy.vanish();
  await assert.rejects(opening, /Cannot use PostgreSQL .* Query read timeout/);
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

Deno.test("PostgreSQL: messages about a target with keys of its own name them where they are written", async () => {
  await using postgres = await testPostgres();
  await using database = await testDatabase(postgres);
  const nowhere = testFolder("certificate");
  const { host, port, user, password } = postgres;
  const refused = async (
    own: Partial<PostgresTargetConfig>,
    section: DeepPartial<Config["postgresql"]>,
    ...words: string[]
  ) => {
    const config = configWith(configOf(postgres, database)({}), {
      postgresql: section,
      targets: [{ name: "second", kind: "postgresql", ...own }],
    });
    const kind = words.join().includes("cannot read") ? ConfigError : ConnectionError;
    await fails(openTarget(config, "second").then(() => ({})), kind, ...words);
  };
  const free = freePort();
  const own = { host, port, user, password, database: database.name };
  const wrong = { ...own, password: SECRET };
  await refused({ ...own, port: free }, {}, "set targets.second.host and targets.second.port");
  await refused({ port: free }, {}, "set postgresql.host and targets.second.port");
  await refused(wrong, {}, "check targets.second.user and targets.second.password");
  await refused({ host }, { password: SECRET }, "check targets.second.user and");
  await refused(
    { database: "nothing_here", password: SECRET },
    {},
    "check postgresql.user and targets.second.password",
  );
  await refused({ database: "nothing_here" }, {}, "or set targets.second.database");
  await refused({ ...own, ssl: "require" }, {}, "or set targets.second.ssl to disable");
  await refused({ ...own }, { ssl: true }, "or set targets.second.ssl to disable");
  await refused({ ssl: "require" }, {}, "or set targets.second.ssl to disable");
  // A file that is named for all targets is named where that was written.
  const file = { ssl: "verify-full", sslrootcert: nowhere } as const;
  await refused({ ...own, ...file }, {}, "targets.second.sslrootcert: cannot read /");
  await refused({ ...own }, file, "postgresql.sslrootcert: cannot read /");
  const shown = { ssl: "require", sslcert: nowhere, sslkey: nowhere } as const;
  await refused({ ...own, ...shown }, {}, "targets.second.sslcert: cannot read /");
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
