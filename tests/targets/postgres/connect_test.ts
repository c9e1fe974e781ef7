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
import { testDatabase, testPostgres } from "../../support/servers.ts";

Deno.test("PostgreSQL: connected to, and every reason why not", async () => {
  await using postgres = await testPostgres();
  await using database = await testDatabase(postgres);
  const url = new URL(database.url);
  const base = parseConfig("", "test.yaml");
  const of = (more: DeepPartial<Config["postgresql"]>) =>
    configWith(
      configWith(base, {
        postgresql: {
          host: url.hostname,
          port: Number(url.port),
          database: database.name,
          user: url.username,
          password: url.password,
        },
      }),
      { postgresql: more },
    );
  const pool = await connectPostgres(of({}));
  assert.deepEqual((await pool.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
  await pool.end();

  const connect = async (more: DeepPartial<Config["postgresql"]>) => {
    await connectPostgres(of(more));
    return {};
  };
  const port = freePort();
  await fails(connect({ port }), ConnectionError, `:${port}`, "refused", "postgresql.host");
  await fails(
    connect({ password: SECRET }),
    ConnectionError,
    "authentication failed",
    "postgresql.password",
  );
  await fails(connect({ user: "nobody_here" }), ConnectionError, "nobody_here");
  await fails(connect({ database: "nothing_here" }), ConnectionError, "no database nothing_here");
});
