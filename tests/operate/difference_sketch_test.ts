import fc from "fast-check";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { DifferenceSketch } from "writebehind/operate/verify/difference_sketch.ts";

const idsUpTo = (count: number) => Array.from({ length: count }, (_, n) => Buffer.from(`id-${n}`));

Deno.test("sums of ids are empty when all that was added is taken away, in any order", () => {
  fc.assert(
    fc.property(fc.array(fc.string(), { maxLength: 20 }), (texts) => {
      const sums = new DifferenceSketch();
      const ids = texts.map((text) => Buffer.from(text));
      for (const id of ids) sums.add(id);
      assert.equal(sums.isEmpty, ids.length === 0);
      for (const id of ids) assert(sums.mayHold(id));
      for (const id of ids.reverse()) sums.takeAway(id);
      assert(sums.isEmpty);
    }),
    { numRuns: 50 },
  );
});

Deno.test("sums of ids tell what is left, and few others", () => {
  const sums = new DifferenceSketch();
  const ids = idsUpTo(300_000);
  for (const id of ids) sums.add(id);
  const left = new Set([5, 77_777, 299_999]);
  ids.forEach((id, n) => left.has(n) || sums.takeAway(id));
  assert(!sums.isEmpty);
  const held = ids.filter((id) => sums.mayHold(id)).map(String);
  for (const n of left) assert(held.includes(`id-${n}`));
  // About one other shares a sum with each of them.
  assert(held.length < 30, `${held.length} may be held`);
});

Deno.test("ids that come for others do not make up for them", () => {
  const ids = idsUpTo(200_000);
  const sums = new DifferenceSketch();
  ids.forEach((id, n) => n % 2 === 0 ? sums.add(id) : sums.takeAway(id));
  const lost = ids.filter((id) => !sums.mayHold(id));
  assert.equal(lost.length, 0);
});
