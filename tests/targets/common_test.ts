import assert from "node:assert/strict";
import { fitting } from "writebehind/targets/common.ts";

Deno.test("documents are replayed so few at a time that the sink is not held up, and that they fit the memory", () => {
  const of = (count: number, bytes: number) =>
    Array.from({ length: count }, (_, id) => ({ id: String(id), docId: null, bytes }));
  const sizes = (count: number, bytes: number) =>
    [...fitting(of(count, bytes), 1000)].map(({ length }) => length);
  assert.deepEqual(sizes(450, 1), [200, 200, 50]);
  assert.deepEqual(sizes(5, 400), [2, 2, 1]);
  assert.deepEqual(sizes(2, 4000), [1, 1]);
});
