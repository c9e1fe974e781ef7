import assert from "node:assert/strict";
import { withSeed } from "./seed.ts";
import { soak, tableOf } from "./soak.ts";

Deno.test("twenty seconds of traffic, faults and three sinks that share: lost 0, twice 0, out of order 0", () =>
  withSeed(async (_random, seed) => {
    // Where others keep the machine busy, it takes longer to break things.
    const enough = new AbortController();
    const report = await soak({
      ...{ seconds: 120, seed, signal: enough.signal },
      onProgress: ({ seconds, events, faults }) => {
        if (seconds >= 20 && events > 500 && faults >= 15) enough.abort();
      },
    });
    const table = tableOf(report);
    const { lost, twice, outOfOrder } = report;
    assert.deepEqual({ lost, twice, outOfOrder }, { lost: 0, twice: 0, outOfOrder: 0 }, table);
    assert(report.events > 500, table);
    assert(Object.keys(report.faults).length >= 5, table);
    assert.deepEqual(report.shares, [2, 2, 2], table);
    assert.match(table, /\| lost +\| +0 \|/);
  }));
