/** What offsets belong to. */

import assert from "node:assert/strict";
import { ParkedChangedError } from "writebehind/targets";
import {
  batch,
  type Cases,
  claimed,
  insert,
  LEASE_SECONDS,
  openWhole,
  parked,
  partitionsOf,
  streamId,
} from "./place.ts";

export const identities: Cases = {
  "before anything has run, nothing is noted": async (place) => {
    await using target = await openWhole(place);
    const [keys] = partitionsOf(place);
    assert.deepEqual(await target.identities.read(keys!, [keys!.stream]), {
      offset: "0-0",
      source: null,
      noted: false,
      begun: false,
      problem: null,
      others: [],
      rows: "none",
      gone: [],
      parkedLast: false,
      doubt: null,
    });
  },

  "an identity is noted with the table, by the owner only": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    const { identities } = target;
    const read = () => identities.read(keys, [keys.stream]);
    await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
    assert.deepEqual([(await read()).source, (await read()).rows], [null, "ours"]);
    await identities.note(claim, "first");
    const { source, noted, rows, offset, begun } = await read();
    assert.deepEqual([source, noted, rows, offset, begun], [
      "first",
      true,
      null,
      streamId(1),
      true,
    ]);
    assert.equal(await identities.look(claim), null);
    await target.ownership.claim(keys, "a", LEASE_SECONDS);
    await identities.note(claim, "late");
    assert.equal((await read()).source, "first");
  },

  "that the offset's own event was parked is known, also when it was discarded": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1, { parked: [parked("a", 1)] }));
    const read = () => target.identities.read(keys, [keys.stream]);
    assert.equal((await read()).parkedLast, true);
    await target.deadLetters.discard(keys, { docId: "a" }, false);
    assert.equal((await read()).parkedLast, true);
    const again = await target.ownership.claim(keys, "a", LEASE_SECONDS);
    await target.batches.apply(again!, batch(2));
    assert.equal((await read()).parkedLast, false);
  },

  "rows of a stream that is not named any more are told": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
    await target.identities.note(claim, "first");
    const other = { ...keys, stream: "events:session" };
    const { problem, others } = await target.identities.read(other, [other.stream]);
    assert.match(problem!, /holds the rows of .*, and events:session is not among them/);
    assert.deepEqual(others, [{ stream: keys.stream, offset: streamId(1) }]);
  },

  "a doubt stands until it is settled, and only where it is the same": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    const { identities } = target;
    await target.batches.apply(claim, batch(1));
    const doubt = async () => (await identities.read(keys, [keys.stream])).doubt;
    await identities.doubt(claim, "one", { keepWitness: true });
    const first = await doubt();
    assert.equal((await target.offsets.standing(keys)).witness, streamId(1));
    await identities.doubt(claim, "two", { keepWitness: false });
    assert.equal((await target.offsets.standing(keys)).witness, "0-0");
    await identities.settle(keys, first!);
    const both = await doubt();
    assert.equal(both!.reason, "one; two");
    assert.equal(both!.refused, false);
    await identities.settle(keys, both!);
    assert.equal(await doubt(), null);
  },

  "a look finds that commits are lost": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(5, { upserts: [insert("a", "1", 5)] }));
    await target.identities.note(claim, "first");
    assert.equal(await target.identities.look(claim), null);
    // As on the server that has taken the place of the one that committed.
    await target.ownership.moveOffset(keys, streamId(3), "0-0");
    await assert.rejects(target.identities.look(claim), ParkedChangedError);
  },

  "what is adopted goes on as it says, and the running claim looks anew": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(5, { upserts: [insert("a", "1", 5)] }));
    await target.identities.note(claim, "first");
    const [, second] = partitionsOf(place);
    for (const { stream } of [keys, second!]) {
      await target.identities.adopt({ ...keys, stream }, {
        source: "second",
        offset: streamId(3),
        witness: "0-0",
        others: [],
        doubt: "adopted",
      });
    }
    await assert.rejects(target.batches.apply(claim, batch(6)), ParkedChangedError);
    for (const partition of [keys, second!]) {
      const read = await target.identities.read(partition, [keys.stream, second!.stream]);
      assert.deepEqual([read.source, read.offset, read.noted], ["second", streamId(3), false]);
      assert.equal(read.doubt!.reason, "adopted");
    }
    const again = await target.ownership.claim(keys, "a", LEASE_SECONDS);
    await target.batches.apply(again!, batch(6));
  },
};
