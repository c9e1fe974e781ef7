import assert from "node:assert/strict";
import { counted } from "writebehind/core/counted.ts";

Deno.test("counted: one of a thing, and any other number of them", () => {
  assert.deepEqual(
    [0, 1, 2].map((count) => counted(count, "event")),
    ["0 events", "1 event", "2 events"],
  );
  assert.deepEqual(
    ["entry", "entity", "mismatch", "key", "day"].map((thing) => counted(2, thing)),
    [
      "2 entries",
      "2 entities",
      "2 mismatches",
      "2 keys",
      "2 days",
    ],
  );
  assert.equal(counted(1000, "row", "1,000"), "1,000 rows");
});
