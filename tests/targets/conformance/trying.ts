/** Parking, and finding out what is to be parked. */

import assert from "node:assert/strict";
import { waitFor } from "../../support/servers.ts";
import {
  all,
  badOf,
  batch,
  BEGIN,
  type Cases,
  claimed,
  insert,
  LEASE_SECONDS,
  parked,
  partitionsOf,
  removal,
  streamId,
  textsOf,
  upsert,
} from "./place.ts";

/** Bytes that are no text. */
const NO_TEXT = Buffer.from([0, 1, 0xff, 0xc3, 0x28, 0x22, 0x5c]);

export const trying: Cases = {
  "what is parked comes back byte for byte": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const events = [
      parked("plain", 1, { type: "insert", payload: NO_TEXT, sqlstate: "22P02" }),
      parked("no payload", 2, { type: "delete", payload: null, ts: -BEGIN }),
      parked("empty", 3, { payload: Buffer.alloc(0) }),
      parked(null, 4, { fields: [NO_TEXT, Buffer.alloc(0), Buffer.from("ts"), NO_TEXT] }),
      parked(null, 5, {
        fields: [Buffer.alloc(0), NO_TEXT],
        streamId: "18446744073709551615-18446744073709551615",
      }),
      parked("odd 😀 'id'", 6, { reason: "a\0b \ud800 c\nd", type: "up\0date" }),
    ];
    await target.batches.apply(claim, batch(6, { parked: events }));
    assert.equal(claim.hasParked, true);
    const letters = await all(target.deadLetters.list("session", "parked"));
    assert.equal(letters.length, events.length);
    for (const event of events) {
      const { id } = letters.find(({ streamId }) => streamId === event.streamId)!;
      const read = (await target.deadLetters.read(id))!;
      assert.deepEqual(
        [read.payload, read.fields, read.ts, read.docId],
        [event.payload, event.fields, event.ts, event.id && event.id.toString()],
      );
      assert.equal(read.sqlstate, event.sqlstate);
      assert.equal(read.state, "parked");
      assert.equal(read.attempts, 1);
      assert.equal(read.entity, "session");
      assert.equal(read.stream, own.keys.stream);
      assert(Buffer.isBuffer(read.payload ?? Buffer.alloc(0)));
      assert(Math.abs(read.firstAt.getTime() - Date.now()) < 60_000, String(read.firstAt));
    }
    const odd = letters.find(({ docId }) => docId?.startsWith("odd"))!;
    assert.match(odd.reason, /^ab . c\nd$/u);
    assert.equal(odd.eventType, "update");
    assert.equal(await target.deadLetters.read(1_000_000), null);
  },

  "rows and parked events of a batch go in together": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(
      claim,
      batch(3, { upserts: [insert("a", "1", 1)], parked: [parked("b", 2), parked("b", 3)] }),
    );
    assert.deepEqual(await textsOf(target, place, ["a", "b"]), ["1", null]);
    const { parked: waiting, offset } = await target.offsets.standing(keys);
    assert.deepEqual({ waiting, offset }, { waiting: 2, offset: streamId(3) });
  },

  "parked again, an event is tried once more": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    await target.batches.apply(claim, batch(1, { parked: [parked("a", 1)] }));
    await target.batches.apply(
      claim,
      batch(2, { parked: [parked("a", 1, { reason: "refused again" })] }),
    );
    const [letter, ...others] = await all(target.deadLetters.list("session", "all"));
    assert.deepEqual(others, []);
    assert.equal(letter!.attempts, 2);
    assert.equal(letter!.reason, "refused again");
  },

  "which documents are parked is known to the claim and to readers": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    const odd = 'it\'s "😀" \\';
    await target.batches.apply(
      claim,
      batch(4, { parked: [parked("a", 1), parked(odd, 2), parked("a", 3), parked(null, 4)] }),
    );
    const ids = ["a", "b", odd, "A"];
    const among = await target.batches.parkedAmong(claim, ids.map((id) => Buffer.from(id)));
    assert.deepEqual(among, new Set(["a", odd].map((id) => Buffer.from(id).toString("latin1"))));
    const partitions = partitionsOf(place);
    assert.deepEqual(await target.rows.parkedAmong(partitions, ids), new Set(["a", odd]));
    assert.deepEqual(await target.rows.parkedAmong([partitions[1]!], ids), new Set());
    const { parked: waiting } = await target.rows.at(keys, ids);
    assert.deepEqual(waiting, [true, false, true, false]);
    const again = await target.ownership.claim(keys, "a", LEASE_SECONDS);
    assert.equal(again!.hasParked, true);
  },

  "payloads that are no JSON are found": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const payloads: Record<string, [payload: string | Buffer, fine: boolean]> = {
      object: ['{"a":1}', true],
      number: ["1e400", true],
      open: ['{"a":1', false],
      comma: ["[1,]", false],
      two: ["{} {}", false],
      empty: ["", false],
      zero: ["{}\0", false],
      quotes: ["{'a':1}", false],
      bytes: [Buffer.from([0x22, 0xff, 0x22]), false],
      cut: [Buffer.from('"é"').subarray(0, 2), false],
    };
    const upserts = Object.entries(payloads).map(([id, [payload]]) => upsert(id, payload, 1));
    const invalid = await target.batches.invalidPayloads(claim, upserts);
    const expected = Object.entries(payloads).filter(([, [, fine]]) => !fine).map(([id]) => id);
    assert.deepEqual([...invalid.keys()].sort(), expected.sort());
    for (const { sqlstate, reason } of invalid.values()) {
      assert(sqlstate !== "" && reason !== "", `${sqlstate} ${reason}`);
    }
    // Each of them alone is refused, and leaves nothing.
    for (const one of upserts.filter(({ key }) => invalid.has(key))) {
      const applying = target.batches.apply(claim, batch(1, { upserts: [one] }));
      const error = await applying.then(() => null, (error) => error);
      assert.equal(target.kindOf(error), "document", `${one.key}: ${error}`);
    }
    assert.equal((await all(target.rows.ids("session"))).length, 0);
  },

  "trying rows tells why they are refused, and changes nothing": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1, { upserts: [insert("old", "1", 1)] }));
    await place.refuseBad();
    for (const deep of [false, true]) {
      const good = { upserts: [upsert("old", "2", 2), insert("new", "3", 2)], removals: [] };
      assert.equal(await target.batches.probe(claim, good, deep), null);
      const removals = [removal("old", 3)];
      assert.equal(await target.batches.probe(claim, { upserts: [], removals }, deep), null);
      const upserts = [insert("bad", badOf(place), 2), insert("new", "3", 2)];
      const refused = await target.batches.probe(claim, { upserts, removals: [] }, deep);
      assert.equal(refused?.kind, "document");
      assert(refused!.sqlstate !== "" && refused!.reason !== "");
    }
    assert.deepEqual(await textsOf(target, place, ["old", "new", "bad"]), ["1", null, null]);
    assert.equal(await target.offsets.offset(keys), streamId(1));
    await target.batches.apply(claim, batch(2, { upserts: [upsert("old", "2", 2)] }));
  },

  "what is refused at the commit only is found by trying deeply": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    await place.refuseLate();
    const late = { upserts: [insert("a", '{"late":1}', 1)], removals: [] };
    const { kind } = (await target.batches.probe(claim, late, true))!;
    assert.match(kind, /^(document|related)$/);
    const fine = { upserts: [insert("a", "{}", 1)], removals: [] };
    assert.equal(await target.batches.probe(claim, fine, true), null);
  },

  "rows that nobody has to answer for go through, unless the table takes none": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    assert.equal(await target.batches.works(claim, "upserts"), true);
    await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
    await place.refuseAll();
    // A broker heeds a new setting after a moment.
    const refused = async () => await target.batches.works(claim, "upserts") === false;
    await waitFor(refused, { what: "the rows to be refused" });
    assert.equal((await all(target.rows.ids("session"))).flat().length, 1);
  },
};
