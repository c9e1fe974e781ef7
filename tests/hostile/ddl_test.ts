/** What an administrator of PostgreSQL does to tables, rights and sessions while writers and sinks run. */

import { setTimeout as delay } from "node:timers/promises";
import { setRole } from "../faults/administrator.ts";
import type { Pipeline } from "../support/pipeline.ts";
import { asOwner, queryAt, waitFor } from "../support/servers.ts";
import { type AdminCommand, eachUnderTraffic } from "./under_traffic.ts";

/** How long the sinks meet what an administrator then puts back, in ms. */
const A_WHILE = 400;

/** Statements each of which is a transaction of its own. */
const statements = (...all: string[]) => async ({ pool }: Pipeline) => {
  for (const one of all) await pool.query(one);
};
const forGood = (...all: string[]): AdminCommand => ({ run: statements(...all) });
/** Something that the sinks wait for until it is put back. */
const forAWhile = (change: string, back: string): AdminCommand => ({
  run: async ({ pool }) => {
    await pool.query(change);
    await delay(A_WHILE);
  },
  restore: statements(back),
});
/** Tables of ours, which a sink makes anew by itself. */
const dropped = (table: string): AdminCommand => ({
  // Another claim looks for it: the next one, if a sink had to start anew.
  run: statements(`DROP TABLE ${table}`, "UPDATE writebehind_offset SET epoch = epoch + 1"),
  restore: ({ pool }) =>
    waitFor(async () => {
      const { rows: [row] } = await pool.query("SELECT to_regclass($1) IS NOT NULL AS there", [
        table,
      ]);
      return row.there;
    }, { what: `${table} to be made anew`, deadlineMs: 20_000 }),
});
/** From another database, as the owner of the server. */
const outside =
  (text: (names: { role: string; database: string }) => string) => (pipeline: Pipeline) => {
    const { user, database } = pipeline.config.postgresql;
    return asOwner(
      pipeline.servers.postgres,
      text({ role: `"${user}"`, database: `"${database}"` }),
    );
  };
const ending =
  "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname LIKE 'test_%'";

/** Cancels or ends what the sinks do, again and again. */
const often = (call: string, where = "true"): AdminCommand => ({
  run: async ({ servers }) => {
    for (let n = 0; n < 60; n++) {
      await queryAt(
        servers.postgres.ownerUrl,
        `SELECT ${call}(pid) FROM pg_stat_activity
          WHERE pid <> pg_backend_pid() AND datname LIKE 'test_%' AND ${where}`,
      ).catch(() => {});
      await delay(5);
    }
  },
});

const ROLES: Record<string, string[]> = {
  "spells numbers and names otherwise": [
    "extra_float_digits = -15",
    "quote_all_identifiers = on",
    "client_encoding = 'LATIN1'",
    "xmlbinary = hex",
  ],
  "takes NULL for something else": ["array_nulls = off", "transform_null_equals = on"],
  "plans otherwise": [
    "plan_cache_mode = 'force_generic_plan'",
    "debug_parallel_query = regress",
    "jit_above_cost = 0",
    "enable_indexscan = off",
    "enable_bitmapscan = off",
    "work_mem = '64kB'",
  ],
  "waits for nothing": [
    "idle_in_transaction_session_timeout = '1ms'",
    "idle_session_timeout = '50ms'",
    "transaction_timeout = '200ms'",
    "client_connection_check_interval = 1",
  ],
  "waits for no lock": ["lock_timeout = 1"],
  "stops statements": ["statement_timeout = 20"],
  "says everything": ["client_min_messages = 'debug5'", "application_name = ''"],
};

const COMMANDS: Record<string, AdminCommand> = {
  // Rows that are there may still be changed: no document is to blame for all of them.
  "a column NOT NULL without a default": {
    ...forAWhile(
      "ALTER TABLE sessions ADD COLUMN must INTEGER DEFAULT 0 NOT NULL; ALTER TABLE sessions ALTER must DROP DEFAULT",
      "ALTER TABLE sessions DROP COLUMN must",
    ),
    parks: true,
  },
  "payload renamed": forAWhile(
    "ALTER TABLE sessions RENAME payload TO body",
    "ALTER TABLE sessions RENAME body TO payload",
  ),
  "id renamed": forAWhile(
    "ALTER TABLE sessions RENAME id TO key",
    "ALTER TABLE sessions RENAME key TO id",
  ),
  "updated_at dropped": forGood("ALTER TABLE sessions DROP updated_at"),
  "version dropped": forGood("ALTER TABLE sessions DROP version"),
  "payload as TEXT, and back": forAWhile(
    "ALTER TABLE sessions ALTER payload TYPE TEXT",
    "ALTER TABLE sessions ALTER payload TYPE JSONB USING payload::jsonb",
  ),
  "payload as JSON, and back": forAWhile(
    "ALTER TABLE sessions ALTER payload TYPE JSON",
    "ALTER TABLE sessions ALTER payload TYPE JSONB",
  ),
  "version as NUMERIC, and back": forAWhile(
    "ALTER TABLE sessions ALTER version TYPE NUMERIC",
    "ALTER TABLE sessions ALTER version TYPE BIGINT",
  ),
  "version as INTEGER, and back": forAWhile(
    "ALTER TABLE sessions ALTER version DROP DEFAULT; ALTER TABLE sessions ALTER version TYPE INTEGER USING 0",
    "ALTER TABLE sessions ALTER version TYPE BIGINT; ALTER TABLE sessions ALTER version SET DEFAULT 0",
  ),
  "row security that hides all": forAWhile(
    "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY; ALTER TABLE sessions FORCE ROW LEVEL SECURITY",
    "ALTER TABLE sessions NO FORCE ROW LEVEL SECURITY; ALTER TABLE sessions DISABLE ROW LEVEL SECURITY",
  ),
  "row security on our offsets": forAWhile(
    "ALTER TABLE writebehind_offset ENABLE ROW LEVEL SECURITY; ALTER TABLE writebehind_offset FORCE ROW LEVEL SECURITY",
    "ALTER TABLE writebehind_offset NO FORCE ROW LEVEL SECURITY; ALTER TABLE writebehind_offset DISABLE ROW LEVEL SECURITY",
  ),
  "a unique index": forGood(
    "CREATE UNIQUE INDEX extra ON sessions (id, version)",
    "DROP INDEX extra",
  ),
  "no primary key": forAWhile(
    "ALTER TABLE sessions DROP CONSTRAINT sessions_pkey",
    "ALTER TABLE sessions ADD PRIMARY KEY (id)",
  ),
  "a deferrable primary key": forAWhile(
    "ALTER TABLE sessions DROP CONSTRAINT sessions_pkey; ALTER TABLE sessions ADD PRIMARY KEY (id) DEFERRABLE",
    "ALTER TABLE sessions DROP CONSTRAINT sessions_pkey; ALTER TABLE sessions ADD PRIMARY KEY (id)",
  ),
  "UNLOGGED, and LOGGED again": forGood(
    "ALTER TABLE sessions SET UNLOGGED",
    "ALTER TABLE sessions SET LOGGED",
  ),
  "another schema, and back": forAWhile(
    "CREATE SCHEMA IF NOT EXISTS away; ALTER TABLE sessions SET SCHEMA away",
    "ALTER TABLE away.sessions SET SCHEMA public; DROP SCHEMA away",
  ),
  "renamed, and back": forAWhile(
    "ALTER TABLE sessions RENAME TO away",
    "ALTER TABLE away RENAME TO sessions",
  ),
  "offsets renamed, and back": forAWhile(
    "ALTER TABLE writebehind_offset RENAME TO away",
    "DROP TABLE IF EXISTS writebehind_offset; ALTER TABLE away RENAME TO writebehind_offset",
  ),
  CLUSTER: forGood("CLUSTER sessions USING sessions_pkey"),
  "VACUUM FULL of our tables": forGood(
    "VACUUM FULL writebehind_offset",
    "VACUUM FULL writebehind_lease",
    "VACUUM FULL writebehind_dead_letter",
  ),
  "REINDEX CONCURRENTLY": forGood(
    "REINDEX TABLE CONCURRENTLY sessions",
    "REINDEX TABLE CONCURRENTLY writebehind_offset",
  ),
  "a statement trigger that fails": forAWhile(
    "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'; CREATE TRIGGER fail BEFORE INSERT ON sessions FOR EACH STATEMENT EXECUTE FUNCTION fail()",
    "DROP TRIGGER fail ON sessions; DROP FUNCTION fail",
  ),
  "a CHECK that nothing meets": forAWhile(
    "ALTER TABLE sessions ADD CONSTRAINT never CHECK (false) NOT VALID",
    "ALTER TABLE sessions DROP CONSTRAINT never",
  ),
  "LOCK of our tables": forGood(
    "BEGIN; LOCK TABLE writebehind_offset; SELECT pg_sleep(0.4); COMMIT",
    "BEGIN; LOCK TABLE writebehind_lease; SELECT pg_sleep(1.5); COMMIT",
    "BEGIN; LOCK TABLE writebehind_dead_letter; SELECT pg_sleep(0.4); COMMIT",
  ),
  "rows of ours locked": forGood(
    "BEGIN; SELECT FROM writebehind_offset FOR UPDATE; SELECT pg_sleep(0.4); COMMIT",
    "BEGIN; SELECT FROM writebehind_lease FOR UPDATE; SELECT pg_sleep(1.5); COMMIT",
  ),
  "leases dropped": dropped("writebehind_lease"),
  "dead letters dropped": dropped("writebehind_dead_letter"),
  "probe dropped": dropped("writebehind_probe"),
  "record dropped": dropped("writebehind_migration"),
  "epochs raised": forGood("UPDATE writebehind_offset SET epoch = epoch + 3"),
  "epochs lowered": forGood("UPDATE writebehind_offset SET epoch = 0"),
  "lease for ever": forGood("UPDATE writebehind_lease SET lease_until = 'infinity'"),
  "lease long ago": forGood("UPDATE writebehind_lease SET lease_until = '-infinity'"),
  "session keys of nobody": forGood("UPDATE writebehind_lease SET session_key = 1"),
  "pg_cancel_backend in a loop": often("pg_cancel_backend"),
  "pg_terminate_backend in a loop": often("pg_terminate_backend"),
  "pg_terminate_backend of owner sessions": often(
    "pg_terminate_backend",
    "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')",
  ),
  "pg_terminate_backend of active ones": often("pg_terminate_backend", "state = 'active'"),
  "CONNECTION LIMIT of the role": {
    run: async (pipeline) => {
      await outside(({ role }) => `ALTER ROLE ${role} CONNECTION LIMIT 1; ${ending}`)(pipeline);
      await delay(A_WHILE);
    },
    restore: outside(({ role }) => `ALTER ROLE ${role} CONNECTION LIMIT -1`),
  },
  "CONNECTION LIMIT of the database": {
    run: async (pipeline) => {
      await outside(({ database }) => `ALTER DATABASE ${database} CONNECTION LIMIT 1; ${ending}`)(
        pipeline,
      );
      await delay(A_WHILE);
    },
    restore: outside(({ database }) => `ALTER DATABASE ${database} CONNECTION LIMIT -1`),
  },
  "ALLOW_CONNECTIONS false": {
    run: async (pipeline) => {
      await outside(({ database }) =>
        `ALTER DATABASE ${database} ALLOW_CONNECTIONS false; ${ending}`
      )(pipeline);
      await delay(A_WHILE);
    },
    restore: outside(({ database }) => `ALTER DATABASE ${database} ALLOW_CONNECTIONS true`),
  },
  NOLOGIN: {
    run: async (pipeline) => {
      await outside(({ role }) => `ALTER ROLE ${role} NOLOGIN; ${ending}`)(pipeline);
      await delay(A_WHILE);
    },
    restore: outside(({ role }) => `ALTER ROLE ${role} LOGIN`),
  },
  "the database renamed": {
    run: async (pipeline) => {
      // Nobody may come back before it is done: it wants to be alone.
      await outside(({ database }) => `ALTER DATABASE ${database} ALLOW_CONNECTIONS false`)(
        pipeline,
      );
      await outside(() => ending)(pipeline);
      await outside(({ database }) => `ALTER DATABASE ${database} RENAME TO "away"`)(pipeline);
      await outside(() => `ALTER DATABASE "away" ALLOW_CONNECTIONS true`)(pipeline);
      await delay(A_WHILE);
    },
    restore: outside(({ database }) => `ALTER DATABASE "away" RENAME TO ${database}`),
  },
  "another owner": {
    run: async (pipeline) => {
      const { database } = pipeline.config.postgresql;
      await queryAt(
        pipeline.servers.postgres.ownerUrl.replace(/\/[^/]*$/, `/${database}`),
        "ALTER TABLE sessions OWNER TO postgres",
      );
      await delay(A_WHILE);
    },
    restore: async (pipeline) => {
      const { database, user } = pipeline.config.postgresql;
      await queryAt(
        pipeline.servers.postgres.ownerUrl.replace(/\/[^/]*$/, `/${database}`),
        `ALTER TABLE sessions OWNER TO "${user}"`,
      );
    },
  },
  ...Object.fromEntries(
    ["SELECT", "INSERT", "UPDATE", "DELETE"].flatMap((right) =>
      ["sessions", "writebehind_offset"].map((table) => [
        `REVOKE ${right} ON ${table}`,
        {
          run: async ({ pool, config }) => {
            await pool.query(`REVOKE ${right} ON ${table} FROM "${config.postgresql.user}"`);
            await delay(A_WHILE);
          },
          restore: ({ pool, config }) =>
            pool.query(`GRANT ${right} ON ${table} TO "${config.postgresql.user}"`),
        } satisfies AdminCommand,
      ])
    ),
  ),
  ...Object.fromEntries(
    Object.entries(ROLES).map(([name, settings]): [string, AdminCommand] => [
      `a role that ${name}`,
      { run: (pipeline) => setRole(pipeline, settings) },
    ]),
  ),
};

Deno.test("changes of PostgreSQL under traffic", (t) => eachUnderTraffic(t, 1, COMMANDS));
