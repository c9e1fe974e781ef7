/** Applying batches. */

import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { equalJson } from "writebehind/core/json/equality.ts";
import { versionOf } from "writebehind";
import { ParkedChangedError } from "writebehind/targets";
import {
  all,
  badOf,
  batch,
  BEGIN,
  type Cases,
  claimed,
  copyOf,
  insert,
  LEASE_SECONDS,
  parked,
  partitionsOf,
  removal,
  streamId,
  textsOf,
  upsert,
} from "./place.ts";

/** Ids that are told apart only byte for byte, or that a statement could trip over. */
const ODD_IDS = [
  "9",
  "10",
  "1.0",
  "1e1",
  " 9",
  "9 ",
  "a",
  "A",
  "a ",
  "ä",
  "a\u0308",
  "Ä",
  "'",
  '"',
  "''",
  "\\",
  "\\'",
  "\\u0041",
  "$1",
  "%_?:@",
  "a\nb",
  "\t",
  "\u0001",
  "null",
  "{}",
  "😀",
  "\ufeffx",
  "\u{10ffff}",
  "x".repeat(512),
  "é".repeat(256),
];

/** Numbers that a double cannot hold, or that are spelled in several ways. */
const NUMBERS = [
  "0",
  "-0",
  "1",
  "1.0",
  "-1.50",
  "9007199254740993",
  "18446744073709551616",
  "123456789012345678901234567890",
  "0.1",
  "0.30000000000000004",
  "2.5e41",
  "1e400",
  "1E-400",
  "-1.7976931348623157e308",
];

const VALUES = [
  "null",
  "true",
  '""',
  "[]",
  '{"":{"":[]}}',
  '{"b":1,"a":{"d":[1,2,{"c":null}]}}',
  '"\\ud83d\\ude00 \u{1f600} \\u0041 \\" \\\\ \\/ \\n"',
  ' { "spaces" : [ 1 , 2 ] } ',
  `${"[".repeat(127)}${"]".repeat(127)}`,
];

export const batches: Cases = {
  "rows are written, changed and removed, with their times and versions": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    await target.batches.apply(
      claim,
      batch(3, {
        upserts: [
          insert("new", '{"n":1}', 1),
          upsert("other", '{"n":2}', 2),
          insert("gone", "{}", 3),
        ],
      }),
    );
    const [first, other] = [(await place.row("new"))!, (await place.row("other"))!];
    assert.equal(first.created.getTime(), BEGIN + 1);
    assert.equal(first.updated.getTime(), BEGIN + 1);
    assert.equal(first.version, String(versionOf(streamId(1))));
    assert.equal(other.created.getTime(), BEGIN + 2, "as old as its first event that is known");
    await target.batches.apply(
      claim,
      batch(7, {
        upserts: [
          upsert("new", '{"n":3}', 5),
          // Removed and made again within one batch.
          upsert("other", '{"n":4}', 7, { created: BEGIN + 6 }),
        ],
        removals: [removal("gone", 4), removal("never there", 4)],
      }),
    );
    assert.deepEqual(
      (await textsOf(target, place, ["new", "other", "gone"])).map((text) =>
        text && JSON.parse(text).n
      ),
      [3, 4, null],
    );
    const [again, anew] = [(await place.row("new"))!, (await place.row("other"))!];
    assert.equal(again.created.getTime(), BEGIN + 1, "an update leaves when it was made");
    assert.equal(again.updated.getTime(), BEGIN + 5);
    assert.equal(again.version, String(versionOf(streamId(5))));
    assert.equal(anew.created.getTime(), BEGIN + 6);
    assert.equal(anew.updated.getTime(), BEGIN + 7);
  },

  "an older version never replaces a newer one, nor removes it": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const seq = { seq: 5 };
    await target.batches.apply(
      claim,
      batch(10, { upserts: ["a", "b", "c"].map((id) => upsert(id, '"new"', 10, seq)) }),
    );
    await target.batches.apply(
      claim,
      batch(11, {
        upserts: [upsert("a", '"old"', 10, { seq: 4 }), insert("b", '"old"', 9)],
        removals: [removal("c", 10)],
      }),
    );
    assert.deepEqual(await textsOf(target, place, ["a", "b", "c"]), ['"new"', '"new"', '"new"']);
    await target.batches.apply(
      claim,
      batch(12, {
        upserts: [upsert("a", '"newer"', 10, { seq: 6 })],
        removals: [removal("c", 11)],
      }),
    );
    assert.deepEqual(await textsOf(target, place, ["a", "c"]), ['"newer"', null]);
  },

  "a row that should be new and is there is written all the same": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
    await target.batches.apply(
      claim,
      batch(3, { upserts: [insert("a", "2", 2), insert("b", "3", 3)] }),
    );
    assert.deepEqual(await textsOf(target, place, ["a", "b"]), ["2", "3"]);
  },

  "the offset moves with the rows, and counts events": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    assert.equal(claim.offset, "0-0");
    assert.equal(claim.witness, "0-0");
    await target.batches.apply(claim, batch(4, { upserts: [insert("a", "1", 4)], events: 9 }));
    assert.equal(claim.offset, streamId(4));
    assert.equal(claim.witness, streamId(4));
    assert.equal(await target.offsets.offset(keys), streamId(4));
    // One that has nothing to write moves it too.
    await target.batches.apply(claim, batch(6, { events: 2, noops: 2 }));
    const { offset, events, witness } = await target.offsets.standing(keys);
    assert.deepEqual({ offset, events, witness }, {
      offset: streamId(6),
      events: 11,
      witness: streamId(6),
    });
  },

  "a batch is applied where its claim says that the offset stands, and nowhere else": async (
    place,
  ) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    const before = copyOf(claim);
    await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
    await assert.rejects(
      target.batches.apply(before, batch(2, { upserts: [insert("b", "2", 2)], events: 1 })),
      ParkedChangedError,
    );
    assert.deepEqual(await textsOf(target, place, ["b"]), [null]);
    assert.equal((await target.offsets.standing(keys)).events, 1);
  },

  "a batch that is prepared while another is applied": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    const memory = [Buffer.alloc(1000), Buffer.alloc(1000)];
    let applying: Promise<unknown> = Promise.resolve();
    for (let n = 1; n <= 20; n++) {
      // As the reader does: the views of batch n are written over once batch n has been applied.
      const bytes = memory[n % 2]!;
      const length = bytes.write(JSON.stringify({ n, filler: "x".repeat(20 * (n % 7)) }));
      const payload = bytes.subarray(0, length);
      const upserts = [`hot`, `d${n}`].map((id) => upsert(id, "", n, { payload }));
      const next = batch(n, { upserts });
      target.batches.prepare(keys, next);
      await applying;
      memory[(n + 1) % 2]!.fill("#");
      applying = target.batches.apply(claim, next);
    }
    await applying;
    const ids = Array.from({ length: 20 }, (_, index) => `d${index + 1}`);
    const numbers = (await textsOf(target, place, ["hot", ...ids]))
      .map((text) => JSON.parse(text!).n);
    assert.deepEqual(numbers, [20, ...ids.map((_, index) => index + 1)]);
  },

  "a batch that is refused leaves nothing": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1, { upserts: [insert("old", "1", 1)] }));
    await place.refuseBad();
    const refused = batch(5, {
      upserts: [insert("a", "2", 2), insert("b", badOf(place), 3)],
      removals: [removal("old", 4)],
      parked: [parked("p", 5)],
    });
    const error = await target.batches.apply(claim, refused).then(() => null, (error) => error);
    assert.equal(target.kindOf(error), "document", String(error));
    assert.deepEqual(await textsOf(target, place, ["old", "a", "b"]), ["1", null, null]);
    assert.equal(claim.offset, streamId(1));
    assert.equal(await target.offsets.offset(keys), streamId(1));
    assert.deepEqual(await all(target.deadLetters.list("session", "all")), []);
    // The same claim goes on with the rest.
    await target.batches.apply(claim, batch(5, { upserts: [insert("a", "2", 2)] }));
    assert.deepEqual(await textsOf(target, place, ["a"]), ["2"]);
  },

  "what is refused at the commit leaves nothing either": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await place.refuseLate();
    const refused = batch(2, { upserts: [insert("a", "1", 1), insert("b", '{"late":1}', 2)] });
    const error = await target.batches.apply(claim, refused).then(() => null, (error) => error);
    assert.match(target.kindOf(error), /^(document|related)$/, String(error));
    assert.deepEqual(await textsOf(target, place, ["a", "b"]), [null, null]);
    assert.equal(await target.offsets.offset(keys), "0-0");
    await target.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
  },

  "numbers and texts come back as the values that they were": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const texts = [...NUMBERS.map((number) => `{"n":${number}}`), ...NUMBERS, ...VALUES];
    const upserts = texts.map((text, index) => insert(`v${index}`, text, index + 1));
    await target.batches.apply(claim, batch(100, { upserts }));
    const stored = await textsOf(target, place, texts.map((_, index) => `v${index}`));
    for (const [index, text] of texts.entries()) {
      assert(equalJson(text, stored[index]!), `${text} came back as ${stored[index]}`);
    }
  },

  "ids are told apart byte for byte": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const upserts = ODD_IDS.map((id, index) => insert(id, String(index), 1));
    await target.batches.apply(claim, batch(1, { upserts }));
    const expected = ODD_IDS.map((_, index) => String(index));
    assert.deepEqual(await textsOf(target, place, ODD_IDS), expected);
    assert.equal(await target.rows.size("session") >= 0, true);
    const ids = (await all(target.rows.ids("session"))).flat();
    assert.deepEqual(new Set(ids), new Set(ODD_IDS));
    assert.equal(ids.length, ODD_IDS.length);
    await target.batches.apply(
      claim,
      batch(3, {
        upserts: ODD_IDS.slice(0, 15).map((id, index) => upsert(id, `"${index}"`, 2)),
        removals: ODD_IDS.slice(15).map((id) => removal(id, 3)),
      }),
    );
    assert.deepEqual(
      await textsOf(target, place, ODD_IDS),
      expected.map((text, index) => index < 15 ? `"${text}"` : null),
    );
  },

  "many rows, and large ones": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const upserts = Array.from({ length: 5000 }, (_, n) => insert(`d${n}`, `{"n":${n}}`, 1));
    const large = `{"text":"${"x".repeat(3 << 20)}"}`;
    await target.batches.apply(
      claim,
      batch(1, { upserts: [...upserts, insert("large", large, 1)] }),
    );
    const [first, last, text] = await textsOf(target, place, ["d0", "d4999", "large"]);
    assert(equalJson(first!, '{"n":0}') && equalJson(last!, '{"n":4999}'));
    assert(equalJson(text!, large));
    // Some were made anew within the batch, some are only changed.
    const again = upserts.slice(0, 301).map(({ id }, n) =>
      upsert(id.toString(), `{"m":${n}}`, 3, n % 3 === 0 ? { created: BEGIN + 2 } : {})
    );
    await target.batches.apply(claim, batch(3, { upserts: again }));
    const ids = again.map(({ id }) => id.toString());
    const texts = await textsOf(target, place, ids);
    for (const [n, id] of ids.entries()) {
      assert(equalJson(texts[n]!, `{"m":${n}}`), id);
      if (n % 50 > 3) continue;
      assert.equal((await place.row(id))!.created.getTime(), BEGIN + (n % 3 === 0 ? 2 : 1), id);
    }
  },

  "to abandon a batch leaves those of other partitions alone": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const [, second] = partitionsOf(place);
    const other = (await target.ownership.claim(second!, "a", LEASE_SECONDS))!;
    for (let n = 1; n <= 5; n++) {
      const applying = target.batches.apply(
        other,
        batch(n, { upserts: [insert(`d${n}`, "1", n)] }),
      );
      target.ownership.abandon(claim, new Error("not this one"));
      await applying;
    }
    assert.equal(other.offset, streamId(5));
  },

  "abandoned, a batch fails at once; the next claim says whether it is in": async (place) => {
    await using own = await claimed(place);
    const { target, keys } = own;
    let { claim } = own;
    const outcomes = { in: 0, out: 0 };
    for (let n = 1; n < 200 && outcomes.in < 1; n++) {
      const id = `d${n}`;
      const offset = claim.offset;
      const applying = target.batches.apply(claim, batch(n, { upserts: [insert(id, "1", n)] }));
      // Sent, and then no answer is heard for as long as the target needs to commit.
      for (let turn = 0; turn < n % 5; turn++) await setImmediate();
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
      const reason = new Error("no answer");
      target.ownership.abandon(claim, reason);
      const error = await applying.then(() => null, (error) => error);
      if (error !== null) assert.equal(error, reason);
      claim = (await target.ownership.claim(keys, "a", LEASE_SECONDS))!;
      const isIn = claim.offset === streamId(n);
      assert(isIn || claim.offset === offset, claim.offset);
      if (error === null) assert(isIn);
      else outcomes[isIn ? "in" : "out"]++;
      // Whatever was under way does not land after the claim.
      assert.deepEqual(await textsOf(target, place, [id]), [isIn ? "1" : null]);
    }
    assert(outcomes.in > 0, "no batch was abandoned after its commit");
  },
};
