/** What becomes of a SQLite file: who else uses it, what it may be, where it has gone. */

import assert from "node:assert/strict";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as delay } from "node:timers/promises";
import { ConfigError, ConnectionError, openTarget } from "writebehind";
import { OwnershipLostError } from "writebehind/targets";
import { Database } from "writebehind/targets/sqlite/worker/database.ts";
import {
  batch,
  claimed,
  insert,
  LEASE_SECONDS,
  openWhole,
  partitionsOf,
  textsOf,
  upsert,
} from "../conformance/place.ts";
import { makePlace } from "./place.ts";

Deno.test("SQLite: opening a file makes none, and claiming makes its folder as well", async () => {
  await using place = await makePlace();
  await using target = await openWhole(place);
  await target.offsets.standing(partitionsOf(place)[0]!);
  await assert.rejects(Deno.stat(dirname(place.path)), Deno.errors.NotFound);
  await using own = await claimed(place);
  await own.target.batches.apply(own.claim, batch(1, { upserts: [insert("a", "{}", 1)] }));
  assert((await Deno.stat(place.path)).isFile);
});

Deno.test("SQLite: the text of an event is stored as it came", async () => {
  await using place = await makePlace();
  await using own = await claimed(place);
  const text = ' {"b" : 1.0, "a":1e400,"é":"\\u0041\\ud800", "z":[ ] }\n';
  await own.target.batches.apply(own.claim, batch(1, { upserts: [insert("a", text, 1)] }));
  assert.equal((await place.row("a"))!.payload, text);
  assert.deepEqual(await textsOf(own.target, place, ["a"]), [text]);
});

Deno.test("SQLite: commits are durable, and the log is written ahead", async () => {
  await using place = await makePlace();
  await using own = await claimed(place);
  await own.target.batches.apply(own.claim, batch(1));
  assert((await Deno.stat(`${place.path}-wal`)).isFile);
  const db = new Database(place.path, false);
  assert.deepEqual({ ...db.get("PRAGMA journal_mode") }, { journal_mode: "wal" });
  assert.deepEqual({ ...db.get("PRAGMA synchronous") }, { synchronous: 2 }, "FULL");
  db.close();
});

Deno.test("SQLite: while a batch waits for another program, heartbeats and readers go on", async () => {
  await using place = await makePlace();
  await using own = await claimed(place);
  const { target, claim, keys } = own;
  await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
  using other = new DatabaseSync(place.path);
  other.exec("BEGIN IMMEDIATE");
  let settled = false;
  const applying = target.batches.apply(claim, batch(2, { upserts: [upsert("a", "2", 2)] }))
    .finally(() => settled = true);
  const began = performance.now();
  for (let beat = 0; beat < 5; beat++) {
    await target.ownership.renew(claim, LEASE_SECONDS);
    assert.deepEqual(await textsOf(target, place, ["a"]), ["1"]);
    assert.equal((await target.offsets.standing(keys)).live, true);
    await delay(20);
  }
  assert(performance.now() - began < 3000, "nobody waits for the batch");
  assert.equal(settled, false);
  other.exec("COMMIT");
  await applying;
  assert.deepEqual(await textsOf(target, place, ["a"]), ["2"]);
});

Deno.test("SQLite: a program that does not let go is told, as what may pass", async () => {
  await using place = await makePlace();
  await using own = await claimed(place);
  const { target, claim } = own;
  using other = new DatabaseSync(place.path);
  other.exec("BEGIN IMMEDIATE");
  const error = await target.batches.apply(claim, batch(1)).then(() => null, (error) => error);
  assert.equal(target.kindOf(error), "transient");
  assert.match(error.message, /^Cannot use .*: database is locked; another program/);
  other.exec("ROLLBACK");
  await target.batches.apply(claim, batch(1));
});

Deno.test("SQLite: a file that is removed under a sink is not written to any more", async () => {
  await using place = await makePlace();
  await using own = await claimed(place);
  const { target, claim, keys } = own;
  await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
  for (const suffix of ["", "-wal", "-shm"]) await Deno.remove(place.path + suffix);
  const lost = target.batches.apply(claim, batch(2, { upserts: [insert("b", "2", 2)] }));
  const error = await lost.then(() => null, (error) => error);
  assert.equal(target.kindOf(error), "transient");
  assert.match(error.message, /was removed, or another file put in its place/);
  await assert.rejects(target.ownership.renew(claim, LEASE_SECONDS), OwnershipLostError);
  // A new file begins at the beginning: Redis says what is to be in it.
  const again = (await target.ownership.claim(keys, "a", LEASE_SECONDS))!;
  assert.equal(again.offset, "0-0");
  await target.batches.apply(again, batch(2, { upserts: [insert("b", "2", 2)] }));
  assert.deepEqual(await textsOf(target, place, ["a", "b"]), [null, "2"]);
});

Deno.test("SQLite: another file put in the place of the first is read from then on", async () => {
  await using place = await makePlace();
  await using own = await claimed(place);
  const { target, claim, keys } = own;
  await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
  using db = new DatabaseSync(place.path);
  db.exec(`VACUUM INTO '${place.path}.backup'`);
  await target.batches.apply(claim, batch(2, { upserts: [insert("b", "2", 2)] }));
  for (const suffix of ["-wal", "-shm"]) await Deno.remove(place.path + suffix);
  await Deno.rename(`${place.path}.backup`, place.path);
  assert.deepEqual(await textsOf(target, place, ["a", "b"]), ["1", null]);
  const claiming = () => target.ownership.claim(keys, "a", LEASE_SECONDS);
  await assert.rejects(claiming(), /another file put in its place/);
  assert.equal((await claiming())!.offset, batch(1).lastId);
});

Deno.test("SQLite: what is no SQLite file is refused when it is opened", async () => {
  await using place = await makePlace();
  await Deno.mkdir(dirname(place.path));
  await Deno.writeTextFile(place.path, "a text, and not a short one\n".repeat(100));
  await assert.rejects(openTarget(place.config), (error) => {
    assert(error instanceof ConnectionError);
    assert.match(error.message, /file is not a database; it is another kind of file: check `path`/);
    return true;
  });
  await Deno.remove(place.path);
  await Deno.mkdir(place.path);
  await assert.rejects(openTarget(place.config), /the path is that of a folder/);
});

Deno.test("SQLite: a table that could not hold documents is refused, by name", async (t) => {
  const rest = "created_at TEXT, updated_at TEXT, version INTEGER";
  const payload = "payload TEXT CHECK (json_valid(payload))";
  const tables: Record<string, [sql: string, problem: RegExp]> = {
    "a view": ["CREATE VIEW sessions AS SELECT 1 AS id", /it is a view/],
    "a lack of columns": ["CREATE TABLE sessions (id TEXT PRIMARY KEY)", /no column payload, /],
    "ids that are numbers": [
      `CREATE TABLE sessions (id INTEGER PRIMARY KEY, ${payload}, ${rest})`,
      /its id is no TEXT/,
    ],
    "ids without a key": [`CREATE TABLE sessions (id TEXT, ${payload}, ${rest})`, /unique key/],
    "ids in any case": [
      `CREATE TABLE sessions (id TEXT COLLATE NOCASE PRIMARY KEY, ${payload}, ${rest})`,
      /byte for byte/,
    ],
    "a second key": [
      `CREATE TABLE sessions (id TEXT PRIMARY KEY, ${payload}, mail TEXT UNIQUE, ${rest})`,
      /one unique key/,
    ],
    "any payload": [
      `CREATE TABLE sessions (id TEXT PRIMARY KEY, payload TEXT, ${rest})`,
      /lacks CHECK/,
    ],
  };
  for (const [name, [sql, problem]] of Object.entries(tables)) {
    await t.step(name, async () => {
      await using place = await makePlace();
      await Deno.mkdir(dirname(place.path));
      using db = new DatabaseSync(place.path);
      db.exec(sql);
      await using target = await openWhole(place);
      const claiming = target.ownership.claim(partitionsOf(place)[0]!, "a", LEASE_SECONDS);
      await assert.rejects(claiming, (error) => {
        assert(error instanceof ConfigError);
        assert.match(error.message, /^Cannot use the table sessions: /);
        assert.match(error.message, problem);
        return true;
      });
    });
  }
  await t.step("one of the same shape is taken", async () => {
    await using place = await makePlace();
    await Deno.mkdir(dirname(place.path));
    using db = new DatabaseSync(place.path);
    db.exec(`CREATE TABLE sessions (id TEXT PRIMARY KEY, ${payload}, ${rest}, own TEXT)`);
    await using own = await claimed(place);
    await own.target.batches.apply(own.claim, batch(1, { upserts: [insert("a", "1", 1)] }));
  });
});

Deno.test("SQLite: a table that is gone is missed, and not made anew without a word", async () => {
  await using place = await makePlace();
  await using own = await claimed(place);
  const { target, claim, keys } = own;
  await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
  using db = new DatabaseSync(place.path);
  db.exec("ALTER TABLE sessions RENAME TO away");
  const claiming = () => target.ownership.claim(keys, "a", LEASE_SECONDS);
  await assert.rejects(claiming(), /The table sessions is gone/);
  db.exec("ALTER TABLE away RENAME TO sessions");
  await target.batches.apply((await claiming())!, batch(2));
  // Our own tables are made anew.
  db.exec("DROP TABLE writebehind_dead_letter");
  await assert.rejects(target.check("session"), /not there yet/);
  await target.migrate("session");
  await target.check("session");
});
