/** The dead letter: listing, replaying, giving up. */

import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { ParkedChangedError, type Settled } from "writebehind/targets";
import { allPartitions, partitionOf } from "writebehind/redis/keys.ts";
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
  openWhole,
  parked,
  removal,
  streamId,
  textsOf,
  upsert,
  type WholeTarget,
} from "./place.ts";

const NOTHING: Settled = { replayed: [], superseded: [], refused: [] };

/** The parked documents, as a replay goes through them. */
async function documentsOf(
  target: WholeTarget,
  own: Awaited<ReturnType<typeof claimed>>,
  selection: Parameters<WholeTarget["deadLetters"]["documents"]>[1] = { all: true },
  maxBytes = 1 << 20,
) {
  const chunks = await all(target.deadLetters.documents(own.keys, selection, maxBytes));
  return chunks.map((chunk) => chunk.map(({ docId }) => docId && docId.toString()));
}

export const deadLetters: Cases = {
  "a letter a document, the ones parked first at the top": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const waiting = { sqlstate: "", reason: "an earlier event is parked" };
    for (
      const [ms, event] of [
        [9, parked("b", 9, { sqlstate: "22001", reason: "too long" })],
        [10, parked("a", 10, { sqlstate: "22002", reason: "wrong" })],
        [11, parked("b", 11, waiting)],
        [12, parked(null, 12)],
        [13, parked(null, 13)],
        [100, parked("b", 100, { ...waiting, type: "delete", payload: null })],
      ] as const
    ) {
      await target.batches.apply(claim, batch(ms, { parked: [event] }));
    }
    const letters = await all(target.deadLetters.list("session", "parked"));
    assert.deepEqual(letters.map(({ docId }) => docId), ["b", "a", null, null]);
    const [b] = letters;
    // Told by the newest event, with the reason of the one that was tried.
    assert.deepEqual(
      [b!.streamId, b!.eventType, b!.waiting, b!.sqlstate, b!.reason],
      [streamId(100), "delete", 2, "22001", "too long"],
    );
    assert(b!.firstAt <= b!.lastAt);
    assert.deepEqual(await all(target.deadLetters.list("session", "replayed")), []);
    assert.deepEqual(await all(target.deadLetters.list("other", "all")), []);
    assert.equal((await target.deadLetters.read(b!.id))!.streamId, streamId(100));
  },

  "stream ids are ordered as numbers": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const newest: Record<string, string[]> = {
      a: ["10-0", "9-1", "9-10", "9-9"],
      b: ["8-10", "8-9", "8-1"],
      c: ["18446744073709551615-2", "18446744073709551614-3", "9223372036854775808-0"],
    };
    const events = Object.entries(newest).flatMap(([id, ids]) =>
      ids.toReversed().map((streamId) => parked(id, 1, { streamId }))
    );
    await target.batches.apply(claim, batch(1, { parked: events }));
    const letters = await all(target.deadLetters.list("session", "parked"));
    assert.deepEqual(
      Object.fromEntries(letters.map(({ docId, streamId }) => [docId, streamId])),
      Object.fromEntries(Object.entries(newest).map(([id, ids]) => [id, ids[0]])),
    );
  },

  "letters move to the streams of their documents, which have ids in common": async (place) => {
    await using own = await claimed(place);
    const { target } = own;
    const { deadLetters } = target;
    if (!deadLetters.move) return; // then an entity with parked events is not repartitioned
    const shape = (partitions: number) =>
      allPartitions(place.config, "session", { partitions, tagged: true });
    const ids = ["a", "b", "c", "d"];
    for (const keys of shape(4)) {
      const claim = (await target.ownership.claim(keys, "a", LEASE_SECONDS))!;
      const mine = ids.filter((id) => partitionOf(id, 4) === keys.partition);
      const events = mine.flatMap((id) =>
        [1, 2].map((n) =>
          parked(id, 7, { streamId: `${BEGIN + 7}-${n}`, payload: Buffer.from(`{"n":${n}}`) })
        )
      );
      if (keys.partition === 3) events.push(parked(null, 9));
      await target.batches.apply(claim, batch(9, { parked: events }));
      await target.ownership.release(keys, claim);
    }
    assert.equal(new Set(ids.map((id) => partitionOf(id, 4))).size, 4);
    let before = 4;
    for (const partitions of [3, 1, 2]) {
      const there = shape(partitions);
      for (const keys of shape(before)) await deadLetters.move(keys, there);
      const letters = await all(deadLetters.list("session", "parked"));
      assert.equal(letters.length, 5);
      assert.equal(new Set(letters.map(({ stream, streamId }) => `${stream} ${streamId}`)).size, 5);
      for (const { id, docId, stream, waiting } of letters) {
        const home = docId === null ? 0 : partitionOf(docId, partitions);
        assert.equal(stream, there[home]!.stream, `${docId} of ${partitions}`);
        if (docId === null) continue;
        assert.equal(waiting, 1);
        assert.equal(String((await deadLetters.read(id))!.payload), '{"n":2}');
      }
      before = partitions;
    }
  },

  "more letters than are read at a time": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const events = Array.from({ length: 1203 }, (_, n) => parked(`d${n}`, n + 1));
    await target.batches.apply(claim, batch(5000, { parked: events }));
    const letters = await all(target.deadLetters.list("session", "parked"));
    assert.equal(letters.length, events.length);
    assert.equal(new Set(letters.map(({ docId }) => docId)).size, events.length);
    const chunks = await documentsOf(target, own, { all: true }, 50 * 10);
    assert(chunks.length > 20, `${chunks.length} chunks`);
    assert.equal(chunks.flat().length, events.length);
    // A reader that stops in the middle holds nothing up.
    for await (const _ of target.deadLetters.list("session", "parked")) break;
    await target.batches.apply(claim, batch(5001));
  },

  "documents are selected by id, by any event of theirs, or all": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const events = [parked("a", 1), parked("b", 2), parked("a", 3), parked(null, 4)];
    await target.batches.apply(claim, batch(4, { parked: events }));
    assert.deepEqual((await documentsOf(target, own)).flat(), ["b", "a", null]);
    assert.deepEqual(await documentsOf(target, own, { docId: "a" }), [["a"]]);
    assert.deepEqual(await documentsOf(target, own, { streamId: streamId(1) }), [["a"]]);
    assert.deepEqual(await documentsOf(target, own, { streamId: streamId(4) }), [[null]]);
    assert.deepEqual(await documentsOf(target, own, { docId: "c" }), []);
    assert.deepEqual(await documentsOf(target, own, { streamId: streamId(9) }), []);
  },

  "a replay reads, writes and settles in one transaction": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1, { upserts: [insert("gone", "0", 1)] }));
    const fields = [Buffer.from([0xff]), Buffer.from("x")];
    const events = [
      parked("a", 2, { type: "insert" }),
      parked("a", 3),
      parked("gone", 4, { type: "delete", payload: null }),
      parked(null, 5, { fields }),
    ];
    await target.batches.apply(claim, batch(5, { parked: events }));
    const before = claim.parkedVersion;
    await target.deadLetters.hold(keys, async (held) => {
      const found = await held.events([Buffer.from("a"), Buffer.from("gone"), Buffer.from("b")]);
      assert.deepEqual(
        found.map(({ streamId, docId, type, ts }) => [streamId, docId.toString(), type, ts]).sort(),
        [[2, "a", "insert"], [3, "a", "update"], [4, "gone", "delete"]].map(([ms, id, type]) => [
          streamId(ms as number),
          id,
          type,
          events.find((event) => event.streamId === streamId(ms as number))!.ts,
        ]),
      );
      const idOf = (ms: number) => found.find((event) => event.streamId === streamId(ms))!.id;
      const payloads = await held.payloads([idOf(3), idOf(4)]);
      assert.deepEqual(payloads.get(idOf(3)), events[1]!.payload);
      assert.equal(payloads.get(idOf(4)), null);
      assert.equal(await held.hasRow(Buffer.from("a")), false);
      assert.equal(await held.hasRow(Buffer.from("gone")), true);
      const letters = await all(target.deadLetters.list("session", "parked"));
      const raw = String(letters.find(({ docId }) => docId === null)!.id);
      assert.deepEqual(
        await held.entries([raw, idOf(2)]),
        [
          { id: raw, streamId: streamId(5), fields },
          { id: idOf(2), streamId: streamId(2), fields: [] },
        ].sort((a, b) => Number(a.id) - Number(b.id)),
      );
      const refusal = await held.attempt({
        upserts: [upsert("a", '{"n":3}', 3)],
        removals: [removal("gone", 4)],
      }, true);
      assert.equal(refusal, null);
      assert.equal(await held.hasRow(Buffer.from("gone")), false, "it sees what it has written");
      await held.settle({
        replayed: [idOf(3), idOf(4)],
        superseded: [idOf(2)],
        refused: [{ id: raw, sqlstate: "00002", reason: "still none \0\ud800" }],
      });
      return true;
    });
    assert.deepEqual(
      (await textsOf(target, place, ["a", "gone"])).map((text) => text && JSON.parse(text).n),
      [3, null],
    );
    const states = (await all(target.deadLetters.list("session", "all")))
      .map(({ streamId, state, attempts, sqlstate }) => [streamId, state, attempts, sqlstate]);
    assert.deepEqual(states.sort(), [
      [streamId(2), "superseded", 1, "00001"],
      [streamId(3), "replayed", 2, "00001"],
      [streamId(4), "replayed", 2, "00001"],
      [streamId(5), "parked", 2, "00002"],
    ]);
    const after = await target.ownership.claim(keys, "a", LEASE_SECONDS);
    assert.notEqual(after!.parkedVersion, before);
  },

  "the claim that runs is told that what is parked has changed": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1, { parked: [parked("a", 1)] }));
    await target.deadLetters.hold(keys, async (held) => {
      await held.attempt({ upserts: [], removals: [] }, true);
      return true;
    });
    const next = batch(2, { upserts: [insert("b", "2", 2)], parked: [parked("a", 2)] });
    await assert.rejects(target.batches.apply(claim, next), ParkedChangedError);
    assert.deepEqual(await textsOf(target, place, ["b"]), [null]);
    assert.equal(await target.offsets.offset(keys), streamId(1));
    const again = await target.ownership.claim(keys, "a", LEASE_SECONDS);
    await target.batches.apply(again!, next);
    assert.deepEqual(await textsOf(target, place, ["b"]), ["2"]);
  },

  "a replay that gives up, or fails, has changed nothing": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1, { parked: [parked("a", 1)] }));
    const write = (outcome: () => boolean) =>
      target.deadLetters.hold(keys, async (held) => {
        const [event] = await held.events([Buffer.from("a")]);
        await held.attempt({ upserts: [upsert("a", "1", 1)], removals: [] }, true);
        await held.settle({ ...NOTHING, replayed: [event!.id] });
        return outcome();
      });
    await write(() => false);
    await assert.rejects(
      write(() => {
        throw new Error("in the middle");
      }),
      /in the middle/,
    );
    assert.deepEqual(await textsOf(target, place, ["a"]), [null]);
    assert.equal((await all(target.deadLetters.list("session", "parked"))).length, 1);
    // Nor does the sink notice.
    await target.batches.apply(claim, batch(2));
  },

  "rows that are refused in a replay leave it going on": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1));
    await place.refuseBad();
    await target.deadLetters.hold(keys, async (held) => {
      assert.equal(
        await held.attempt({ upserts: [insert("a", "1", 1)], removals: [] }, true),
        null,
      );
      const both = [insert("b", "2", 2), insert("c", badOf(place), 3)];
      const refusal = await held.attempt({ upserts: both, removals: [removal("a", 4)] }, true);
      assert(refusal !== null && refusal.sqlstate !== "" && refusal.reason !== "");
      assert.equal(await held.hasRow(Buffer.from("a")), true);
      assert.equal(await held.hasRow(Buffer.from("b")), false);
      assert.equal(
        await held.attempt({ upserts: [insert("d", "4", 4)], removals: [] }, true),
        null,
      );
      // Taken back at once, whether refused or not.
      const tried = { upserts: [insert("e", "5", 5)], removals: [removal("a", 6)] };
      assert.equal(await held.attempt(tried, false), null);
      assert.deepEqual(await held.swallowed(tried), ["e", "a"]);
      assert.deepEqual(
        await held.swallowed({ upserts: [insert("d", "4", 4)], removals: [removal("gone", 6)] }),
        [],
      );
      assert(["a", "d"].includes((await held.anyRow())!.id));
      return true;
    });
    assert.deepEqual(await textsOf(target, place, ["a", "b", "c", "d"]), ["1", null, null, "4"]);
  },

  "while a replay holds a partition, its next batch waits, and nothing slips in": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
    let applying: Promise<unknown> = Promise.resolve();
    let settled = false;
    await target.deadLetters.hold(keys, async (held) => {
      applying = target.batches.apply(claim, batch(2, { upserts: [upsert("a", "2", 2)] }))
        .then(() => null, (error) => error).finally(() => settled = true);
      // Readers go on meanwhile, and do not see what is under way.
      await held.attempt({ upserts: [upsert("a", "3", 3)], removals: [] }, true);
      await delay(100);
      assert.equal(settled, false);
      assert.deepEqual(await textsOf(target, place, ["a"]), ["1"]);
      return true;
    });
    assert((await applying) instanceof ParkedChangedError, String(await applying));
    assert.deepEqual(await textsOf(target, place, ["a"]), ["3"]);
  },

  "a replay gets in soon, however busy the sink is": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await using replaying = await openWhole(place);
    /** batches that went in while it waited; and while one only looked, who needs a connection of its own as well */
    const waits: number[] = [];
    const looks: number[] = [];
    let applied = 0;
    let over = false;
    const counting = async (counts: number[], work: () => Promise<unknown>) => {
      const before = applied;
      await work();
      counts.push(applied - before);
    };
    const holding = (async () => {
      while (waits.length < 8) {
        await counting(looks, () => documentsOf(replaying, own));
        await counting(waits, () => replaying.deadLetters.hold(keys, () => Promise.resolve(false)));
      }
    })().finally(() => over = true);
    // Batches that are sent before the one before is in leave no gap at all.
    const sent: Promise<unknown>[] = [];
    for (let n = 1; !over; n++) {
      const upserts = Array.from({ length: 4000 }, (_, id) => upsert(`d${id}`, `{"n":${n}}`, n));
      const offset = n === 1 ? claim.offset : streamId(n - 1);
      const applying = target.batches.apply({ ...claim, offset }, batch(n, { upserts }));
      sent.push(applying.then(() => applied++));
      if (sent.length > 3) await sent.shift();
    }
    await Promise.all(sent);
    await holding;
    const most = 15 + 3 * Math.max(...looks);
    assert(Math.max(...waits) < most, `it waited for ${waits} batches, where a look took ${looks}`);
  },

  "a replay that stands still is taken back, and the sink goes on": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1, { parked: [parked("a", 1)] }));
    const standing = Promise.withResolvers<void>();
    const end = Promise.withResolvers<void>();
    const held = target.deadLetters.hold(keys, async (held) => {
      await held.attempt({ upserts: [upsert("a", "1", 1)], removals: [] }, true);
      standing.resolve();
      await end.promise;
      await held.attempt({ upserts: [upsert("b", "1", 1)], removals: [] }, true);
      return true;
    }).then(() => null, (error) => error);
    await standing.promise;
    await waitFor(() => target.batches.apply(claim, batch(2)).then(() => true), {
      what: "the sink to go on",
      deadlineMs: 15_000,
    });
    end.resolve();
    assert((await held) instanceof Error, String(await held));
    assert.deepEqual(await textsOf(target, place, ["a", "b"]), [null, null]);
  },

  "given up, events stay for audit, and wait no more": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    const events = [parked("a", 1), parked("a", 2), parked("b", 3), parked(null, 4)];
    await target.batches.apply(claim, batch(4, { parked: events }));
    const { deadLetters } = target;
    assert.equal(await deadLetters.discard(keys, { all: true }, true), 4);
    assert.equal(await deadLetters.discard(keys, { docId: "c" }, false), 0);
    assert.deepEqual(await deadLetters.discardedAmong(keys, [streamId(1)]), [], "parked");
    await target.batches.apply(claim, batch(5));
    assert.equal(await deadLetters.discard(keys, { streamId: streamId(1) }, false), 1);
    assert.equal(await deadLetters.discard(keys, { docId: "a" }, false), 1);
    await assert.rejects(target.batches.apply(claim, batch(6)), ParkedChangedError);
    assert.deepEqual(await deadLetters.streams("session"), [keys.stream]);
    assert.deepEqual(await deadLetters.streams("others"), []);
    assert.equal(await deadLetters.discard(keys, { all: true }, false), 2);
    assert.deepEqual(await deadLetters.streams("session"), [], "none waits");
    assert.equal((await all(deadLetters.list("session", "discarded"))).length, 3);
    const ids = [1, 2, 5].map(streamId);
    const discarded = await deadLetters.discardedAmong(keys, ids);
    assert.deepEqual(discarded.sort(), [streamId(1), streamId(2)].sort());
    assert.deepEqual(await deadLetters.discardedAmong(keys, []), []);
    assert.equal((await target.offsets.standing(keys)).parked, 0);
    const again = await target.ownership.claim(keys, "a", LEASE_SECONDS);
    assert.equal(again!.hasParked, false);
    assert.equal((await target.batches.parkedAmong(again!, [Buffer.from("a")])).size, 0);
    assert.equal((await target.rows.parkedAmong([keys], ["a", "b"])).size, 0);
    assert.deepEqual((await target.rows.at(keys, ["a"])).parked, [false]);
  },
};
