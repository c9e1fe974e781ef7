/** What Oracle would be asked, on H2: Oracle itself was never run. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { parseConfig } from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { OwnershipLostError, ParkedChangedError } from "writebehind/targets";
import { apply, claim, parkedOf, release, renew } from "writebehind/targets/oracle/partition.ts";
import * as statements from "writebehind/targets/oracle/statements.ts";
import { hasJava, verdicts } from "../../support/grammar.ts";
import { waitFor } from "../../support/servers.ts";
import { batch, insert, parked, removal, streamId, upsert } from "../conformance/place.ts";
import { databaseOn, type H2Session, startH2 } from "./h2.ts";

const ignore = !hasJava;
const shared = ignore ? null : await startH2();
Deno.test.afterAll(async () => await shared?.[Symbol.asyncDispose]());

const KEYS = partitionKeys(parseConfig("", "test.yaml"), "session", 0);
const TABLE = "sessions";

/** A test with an empty database, and a claim in it. */
function test(name: string, run: (own: Awaited<ReturnType<typeof opened>>) => Promise<void>): void {
  Deno.test({ name: `Oracle (on H2): ${name}`, ignore }, async () => {
    const own = await opened();
    try {
      await run(own);
    } finally {
      for (const session of own.sessions) await session[Symbol.asyncDispose]();
    }
  });
}

async function opened() {
  const { first, session } = await databaseOn(shared!, TABLE);
  const sessions: H2Session[] = [first];
  const mine = (await claim(first, KEYS, "a", 30))!;
  return {
    sessions,
    session: first,
    claim: mine,
    another: async () => {
      const other = await session();
      sessions.push(other);
      return other;
    },
    apply: (ms: number, parts: Parameters<typeof batch>[1] = {}) =>
      apply(first, mine, TABLE, batch(ms, parts)),
    rows: async () =>
      Object.fromEntries(
        (await first.run('SELECT id AS "id", payload AS "payload" FROM "SESSIONS" ORDER BY id'))
          .map(({ id, payload }) => [id, payload]),
      ),
  };
}

test("an older version never replaces a newer one, nor removes it", async ({ apply, rows }) => {
  await apply(20, { upserts: [insert("a", "1", 10), insert("b", "1", 20)] });
  await apply(30, { upserts: [upsert("a", "old", 9), upsert("b", "2", 25)] });
  assert.deepEqual(await rows(), { a: "1", b: "2" });
  await apply(40, { removals: [removal("a", 9), removal("b", 35), removal("none", 36)] });
  assert.deepEqual(await rows(), { a: "1" });
  await apply(50, { upserts: [insert("b", "3", 45)] });
  assert.deepEqual(await rows(), { a: "1", b: "3" });
});

test("a row keeps the time at which its document was created", async ({ apply, session }) => {
  await apply(1, { upserts: [insert("a", "1", 1)] });
  await apply(2, { upserts: [upsert("a", "2", 2), upsert("b", "1", 2)] });
  const times = await session.run(
    `SELECT TO_CHAR(created_at, 'HH24:MI:SS.FF3') AS "created", TO_CHAR(updated_at, 'HH24:MI:SS.FF3') AS "updated"
       FROM "SESSIONS" ORDER BY id`,
  );
  assert.deepEqual(times, [
    { created: "16:00:00.001", updated: "16:00:00.002" },
    { created: "16:00:00.002", updated: "16:00:00.002" },
  ]);
});

test("rows and the offset go in together, or not at all", async ({ apply, rows, session }) => {
  await apply(1, { upserts: [insert("a", "1", 1)] });
  const refused = [insert("b", "1", 2), insert("c".repeat(513), "1", 2)];
  await assert.rejects(apply(2, { upserts: refused, parked: [parked("d", 2)] }));
  assert.deepEqual(await rows(), { a: "1" });
  assert.deepEqual(await parkedOf(session, KEYS), []);
  assert.equal((await claim(session, KEYS, "a", 30))!.offset, streamId(1));
});

test("a former owner can write nothing", async ({ apply, another, session, claim: mine, rows }) => {
  const other = await another();
  assert.equal(await claim(other, KEYS, "b", 30), null);
  await release(session, mine);
  const next = (await claim(other, KEYS, "b", 30))!;
  assert(BigInt(next.epoch) > BigInt(mine.epoch));
  await assert.rejects(apply(1, { upserts: [insert("a", "1", 1)] }), OwnershipLostError);
  await assert.rejects(renew(session, mine, 30), OwnershipLostError);
  await renew(other, next, 30);
  assert.deepEqual(await rows(), {});
});

test("a successor waits for the batch under way, and goes on behind it", async (own) => {
  const other = await own.another();
  await renew(own.session, own.claim, 0); // it is over now
  const sent = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  const held: H2Session = {
    ...own.session,
    commit: async () => {
      sent.resolve();
      await go.promise;
      await own.session.commit();
    },
  };
  const batches = apply(held, own.claim, TABLE, batch(1, { upserts: [insert("a", "1", 1)] }));
  await sent.promise;
  const claiming = claim(other, KEYS, "b", 30);
  const blocked = "SELECT 1 FROM information_schema.sessions WHERE blocker_id IS NOT NULL";
  await waitFor(async () => (await own.session.run(blocked)).length > 0, {
    what: "the successor to wait",
  });
  go.resolve();
  await batches;
  assert.equal((await claiming)!.offset, streamId(1));
});

test("what is parked is checked with the offset", async ({ apply, session, rows }) => {
  await session.run("UPDATE writebehind_offset SET parked_version = parked_version + 1");
  await assert.rejects(apply(1, { upserts: [insert("a", "1", 1)] }), ParkedChangedError);
  assert.deepEqual(await rows(), {});
});

test("what is parked comes back, also where it is empty", async ({ apply, session }) => {
  const events = [
    parked("a", 1),
    parked(null, 2),
    parked("b", 3, { type: "", sqlstate: "", reason: "", payload: Buffer.alloc(0) }),
    parked("c", 4, { payload: null, type: "delete" }),
    parked("d", 5, { payload: Buffer.from([0x22, 0xff, 0x80, 0x22]) }),
  ];
  await apply(5, { parked: events });
  const [none] = await session.run(
    "SELECT COUNT(*) AS n FROM writebehind_dead_letter WHERE event_type IS NULL AND payload_there = 1",
  );
  assert.equal(Number(none!.n), 1, "'' is not NULL here");
  const byId = (a: { streamId: string }, b: { streamId: string }) =>
    a.streamId < b.streamId ? -1 : 1;
  assert.deepEqual((await parkedOf(session, KEYS)).toSorted(byId), events);
  assert.equal((await claim(session, KEYS, "a", 30))!.hasParked, true);
});

test("a payload is untouched, and ids are told apart", async ({ apply, rows }) => {
  const payload = `{"b":1.0,"a":123456789012345678901234567890,"a":-0,"t":"${
    "\u{1f600}é".repeat(300_000)
  }"}`;
  const ids = ["a", "a ", "A", "á", "é".repeat(256), "x".repeat(512)];
  await apply(1, { upserts: ids.map((id) => insert(id, payload, 1)) });
  const found = await rows();
  assert.deepEqual(Object.keys(found).toSorted(), ids.toSorted());
  assert(Object.values(found).every((text) => text === payload));
});

Deno.test({ name: "Oracle: all statements are of its grammar", ignore }, async () => {
  const constants = Object.values(statements).filter((value) => typeof value === "object");
  const all = [
    ...constants,
    ...statements.tableStatements(TABLE),
    statements.writeRow(TABLE),
    statements.removeRow(TABLE),
  ];
  for (const { sql, binds } of all) {
    const named = sql.replaceAll(/'[^']*'/g, "").match(/:\w+/g) ?? [];
    assert.deepEqual(
      [...new Set(named)].toSorted(),
      Object.keys(binds).map((b) => `:${b}`).toSorted(),
    );
  }
  const refused = [
    "SELEC 1 FROM DUAL",
    "SELECT id FROM t LIMIT 1",
    "CREATE TABLE IF NOT EXISTS t (id NUMBER)",
    "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
    "MERGE INTO t USING s ON (t.id = s.id) WHEN MATCHED UPDATE SET a = 1",
  ];
  const [said, different] = await verdicts("Oracle", [...all.map(({ sql }) => sql), ...refused]);
  assert.deepEqual(said.slice(0, all.length), all.map(() => "ok"));
  assert.deepEqual(said.slice(all.length).filter((word) => word === "ok"), []);
  assert.equal(different, all.length + refused.length);
});
