import assert from "node:assert/strict";
import { Estimate } from "./estimate.ts";

Deno.test("what is left follows from the parts' lengths and from how fast the first ones went", () => {
  let now = 0;
  const estimate = new Estimate([10, 30, 60], true, () => now);
  estimate.begin(0);
  assert.deepEqual([estimate.done, estimate.left], [0, "1 min 40 s left"]);
  now = 5000;
  assert.deepEqual([estimate.done, estimate.left], [5, "1 min 35 s left"]);
  now = 20_000;
  assert.equal(estimate.left, "1 min 30 s left", "a part that takes longer is not done");
  estimate.begin(1);
  assert.deepEqual([estimate.done, estimate.left], [10, "3 min 0 s left"], "half as fast");
  now = 50_000;
  assert.deepEqual([estimate.done, estimate.left], [25, "2 min 30 s left"]);
  estimate.begin();
  assert.deepEqual([estimate.done, estimate.left], [100, "0 s left"]);
});

Deno.test("where no length is known, nothing is said before the first part has ended", () => {
  let now = 0;
  const estimate = new Estimate([1, 1, 1], false, () => now);
  estimate.begin(2);
  now = 4000;
  assert.deepEqual([estimate.done, estimate.left], [0, "… left"]);
  estimate.begin(1);
  assert.deepEqual([estimate.done, estimate.left], [1, "8 s left"]);
});
