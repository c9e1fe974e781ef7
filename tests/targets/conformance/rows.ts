/** Reading rows. */

import assert from "node:assert/strict";
import { PAGE_ROWS, READ_BYTES, type ScannedRow } from "writebehind/targets";
import { versionOf } from "writebehind";
import { partitionOf } from "writebehind/redis/keys.ts";
import {
  all,
  batch,
  type Cases,
  claimed,
  insert,
  LEASE_SECONDS,
  parked,
  partitionsOf,
  type Place,
  streamId,
  upsert,
  type WholeTarget,
} from "./place.ts";

/** All rows, a page at a time. */
async function scanned(target: WholeTarget, place: Place): Promise<ScannedRow[][]> {
  const pages: ScannedRow[][] = [];
  for (let after = "";;) {
    const page = await target.rows.scan("session", partitionsOf(place), after);
    if (page.length === 0) return pages;
    pages.push(page);
    after = page.at(-1)!.id;
  }
}

export const rows: Cases = {
  "all rows, a page at a time, in one order": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const count = 2 * PAGE_ROWS + 1;
    const upserts = Array.from({ length: count }, (_, n) => insert(`${n}`, `{"n":${n}}`, 1));
    await target.batches.apply(claim, batch(1, { upserts }));
    const pages = await all(target.rows.ids("session"));
    assert.deepEqual(pages.map(({ length }) => length), [PAGE_ROWS, PAGE_ROWS, 1]);
    const ids = pages.flat();
    assert.equal(new Set(ids).size, count);
    const walk = await scanned(target, place);
    assert.deepEqual(walk.map(({ length }) => length), [PAGE_ROWS, PAGE_ROWS, 1]);
    assert.deepEqual(walk.flat().map(({ id }) => id), ids);
    for (const { id, text, version } of walk.flat()) {
      assert.equal(JSON.parse(text).n, Number(id));
      assert.equal(version, String(versionOf(streamId(1))));
    }
  },

  "those that were written last": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    if (target.rows.newest === undefined) return;
    for (const [index, id] of ["b", "c", "a"].entries()) {
      await target.batches.apply(
        claim,
        batch(index + 1, { upserts: [insert(id, "{}", index + 1)] }),
      );
    }
    assert.deepEqual(await target.rows.newest("session", 2), ["a", "c"]);
    assert.deepEqual(await target.rows.newest("session", 9), ["a", "c", "b"]);
  },

  "a walk tells the offset of each row's partition, and what is parked": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const partitions = partitionsOf(place);
    const second = await target.ownership.claim(partitions[1]!, "a", LEASE_SECONDS);
    const ids = ["a", "b", "c", "d", "e", "f"];
    const of = (partition: number) => ids.filter((id) => partitionOf(id, 2) === partition);
    assert(of(0).length > 0 && of(1).length > 0);
    await target.batches.apply(claim, batch(1, { upserts: of(0).map((id) => insert(id, "1", 1)) }));
    await target.batches.apply(
      second!,
      batch(2, { upserts: of(1).map((id) => insert(id, "1", 2)), parked: [parked(of(1)[0]!, 2)] }),
    );
    const found = (await scanned(target, place)).flat();
    assert.deepEqual(found.map(({ id }) => id).sort(), ids);
    for (const { id, offset, parked } of found) {
      assert.equal(offset, streamId(of(0).includes(id) ? 1 : 2), id);
      assert.equal(parked, id === of(1)[0], id);
    }
  },

  "large rows come a few at a time": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    const text = JSON.stringify("x".repeat(READ_BYTES / 2 - 100));
    const ids = ["a", "b", "c", "d"];
    for (const [n, id] of ids.entries()) {
      await target.batches.apply(claim, batch(n + 1, { upserts: [insert(id, text, n + 1)] }));
    }
    const pages = await scanned(target, place);
    assert.deepEqual(pages.map((page) => page.map(({ id }) => id)), [["a", "b", "c"], ["d"]]);
    const { rows, parked } = await target.rows.at(keys, ["none", ...ids]);
    assert.deepEqual(rows.map((row) => row && row.text.length), [
      null,
      text.length,
      text.length,
      text.length,
    ]);
    assert.equal(parked.length, rows.length);
  },

  "rows of ids, in their order, with the offset": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    const nothing = await target.rows.at(keys, ["a"]);
    assert.deepEqual(nothing, { offset: "0-0", rows: [null], parked: [false] });
    await target.batches.apply(
      claim,
      batch(2, { upserts: [insert("a", "1", 1), insert("b", "2", 2)] }),
    );
    const found = await target.rows.at(keys, ["b", "none", "a", "b"]);
    const [a, b] = [["1", 1], ["2", 2]].map(([text, ms]) => ({
      text,
      version: String(versionOf(streamId(ms as number))),
    }));
    assert.deepEqual(found, {
      offset: streamId(2),
      rows: [b, null, a, b],
      parked: [false, false, false, false],
    });
  },

  "documents that are surely equal to their rows": async (place) => {
    await using own = await claimed(place);
    const { target, claim } = own;
    const pairs: [row: string, document: string | null, equal: boolean][] = [
      ['{"a":1,"b":[1,2]}', '{ "b" : [ 1, 2 ], "a" : 1.0 }', true],
      ['{"a":1}', '{"a":2}', false],
      ["[1,2]", "[2,1]", false],
      ["0", "-0", true],
      ["0", "-0.0e5", true],
      ["1e2", "100.00", true],
      ["1e400", "1e400", true],
      ["1e400", "1e401", false],
      ["9007199254740993", "9007199254740992", false],
      ["9007199254740993", "9007199254740993.0", true],
      ['"1"', "1", false],
      ['"\\u0041\\ud83d\\ude00"', '"A😀"', true],
      ['{"a":null}', "{}", false],
      ["{}", null, false],
      ["{}", "no json", false],
    ];
    const upserts = pairs.map(([row], n) => insert(`${n}`, row, 1));
    await target.batches.apply(claim, batch(1, { upserts }));
    const judged = async (pairs: [id: string, text: string | null][]) =>
      new Set(
        await target.rows.notSurelyEqual(
          "session",
          pairs.map(([id]) => Buffer.from(id)),
          pairs.map(([, text]) => text === null ? null : Buffer.from(text)),
        ),
      );
    for (const [n, [row, document, equal]] of pairs.entries()) {
      const unequal = await judged([[`${n}`, document]]);
      assert.equal(!unequal.has(`${n}`), equal, `${row} and ${document}`);
    }
    const fine = pairs.flatMap(([, document], n): [string, string | null][] =>
      document === "no json" ? [] : [[`${n}`, document]]
    );
    const expected = fine.filter(([id]) => !pairs[Number(id)]![2]).map(([id]) => id);
    assert.deepEqual(await judged([...fine, ["no row", "{}"]]), new Set([...expected, "no row"]));
  },

  "a row of other writers without a payload is null": async (place) => {
    await using own = await claimed(place);
    const { target, claim, keys } = own;
    await target.batches.apply(claim, batch(1, { upserts: [upsert("a", "null", 1)] }));
    const { rows } = await target.rows.at(keys, ["a"]);
    assert.equal(rows[0]!.text, "null");
  },
};
