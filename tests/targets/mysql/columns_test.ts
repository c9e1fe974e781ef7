/** Typed columns in MariaDB: documents that its functions do not read, a table that is held, a user without rights. */

import assert from "node:assert/strict";
import {
  configWith,
  migrateColumns,
  openTarget,
  parseConfig,
  type TargetConfig,
} from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { batch, insert, LEASE_SECONDS } from "../conformance/place.ts";
import { databaseOn, sharedMariadb } from "./place.ts";

const server = await sharedMariadb();
const ignore = server === null;
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

const configOn = (target: TargetConfig, columns: { name: string; on_error: "park" | null }[]) =>
  configWith(parseConfig("", "test.yaml"), {
    targets: [target],
    entities: [{
      name: "session",
      table: "sessions",
      index_name: "i",
      columns: columns.map((column) => ({ ...column, type: "text" as const })),
    }],
  });

Deno.test({
  name: "MariaDB: a column of a document of more than 32 levels counts as one that cannot be read",
  ignore,
}, async () => {
  await using database = await databaseOn(server!);
  const deep = `${"[".repeat(60)}${"]".repeat(60)}`;
  const documents = [`{"city":"Ulm","z":${deep}}`, `{"z":${deep},"city":"Ulm"}`];
  const config = configOn(database.target, [{ name: "city", on_error: null }]);
  await using target = await openTarget(config);
  const keys = partitionKeys(config, "session", 0);
  const claim = (await target.ownership.claim(keys, "a", LEASE_SECONDS))!;
  const upserts = documents.map((json, index) => insert(`d${index}`, json, 1));
  await target.batches.apply(claim, batch(1, { upserts }));
  assert.deepEqual(await database.run("SELECT DISTINCT city FROM sessions"), [{ city: null }]);

  const parking = configOn(database.target, [{ name: "city", on_error: "park" }]);
  await using parker = await openTarget(parking);
  const { blocked, changed } = await migrateColumns(parker, parking, "session");
  assert.deepEqual(blocked, [{ column: "city", type: "text", rows: 2, ids: ["d0", "d1"] }]);
  assert.equal(changed, false);
  await database.run("DELETE FROM sessions");
  assert.equal((await migrateColumns(parker, parking, "session")).changed, true);
  for (const [index] of documents.entries()) {
    const tried = await target.batches.probe(
      claim,
      batch(9, { upserts: [upserts[index]!] }),
      false,
    );
    assert.match(tried!.reason, /`city_is_text_in_sessions` failed/);
  }
});

Deno.test({
  name: "MariaDB: a table that is held is left alone, and a user that may not change it is told",
  ignore,
}, async () => {
  await using database = await databaseOn(server!);
  const { target: address } = database;
  await using before = await openTarget(configOn(address, []));
  await before.migrate("session");
  const config = configOn(address, [{ name: "city", on_error: null }]);
  await using target = await openTarget(config);
  {
    await using _holding = await database.hold("SELECT * FROM sessions");
    await assert.rejects(
      migrateColumns(target, config, "session"),
      /The table sessions was not free for 5 s: .*SHOW PROCESSLIST.*Nothing was changed; try again/,
    );
  }

  const name = `reader_${crypto.randomUUID().slice(0, 8)}`;
  await database.run(
    `CREATE USER ${name} IDENTIFIED BY 'reader'; GRANT SELECT ON ${address.database}.* TO ${name}`,
  );
  await using reader = await openTarget(
    configOn({ ...address, user: name, password: "reader" }, [{ name: "city", on_error: null }]),
  );
  await assert.rejects(
    migrateColumns(reader, config, "session"),
    /The user may not change the table sessions: .*Let an administrator run the SQL/,
  );
  assert.equal((await migrateColumns(target, config, "session")).changed, true);
});
