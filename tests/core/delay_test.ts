import fc from "fast-check";
import assert from "node:assert/strict";
import { backoff } from "writebehind/core/delay.ts";

Deno.test("backoff grows to its cap and never comes in a tight loop", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 2000 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (attempt, at) => {
        const ms = backoff(attempt, 50, 5000, () => at);
        assert(ms >= 5 && ms <= 5000, `${ms}`);
      },
    ),
  );
});
