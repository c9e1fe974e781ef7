import assert from "node:assert/strict";
import { configWith, connectPostgres, parseConfig } from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import { OwnerSession } from "writebehind/targets/postgres/owner_session.ts";
import { Sessions } from "writebehind/targets/postgres/sessions.ts";
import { testDatabase, testPostgres, waitFor } from "../../support/servers.ts";

Deno.test("PostgreSQL: a session that is closed while it is opened gives its connection back", async () => {
  await using postgres = await testPostgres();
  await using database = await testDatabase(postgres);
  const { host, port, user, password } = postgres;
  const config = configWith(parseConfig("", "test.yaml"), {
    postgresql: { host, port, user, password, database: database.name },
  });
  const pool = await connectPostgres(config);
  const [keys] = allPartitions(config, "session");

  const owner = new OwnerSession(pool, () => {});
  const key = owner.key();
  owner.close();
  assert.equal(await key, null);
  assert.notEqual(await owner.key(), null, "it can be opened again");
  owner.close();

  const sessions = new Sessions(pool);
  const query = sessions.query(keys!, { name: "one", text: "SELECT 1", values: [] });
  sessions.disconnect(keys!.stream);
  await query.catch(() => {}); // it may come before the end of its connection

  // A connection that nobody gives back would keep the pool from ever ending.
  let ended = false;
  void pool.end().then(() => ended = true);
  await waitFor(() => ended, { what: "the end of the pool", deadlineMs: 10_000 });
});
