import assert from "node:assert/strict";
import { faultsOf } from "./cache_soak.ts";
import { soak, tableOf } from "./soak.ts";

/** Sinks, both servers and connections break, and Redis is emptied, within these seconds. */
const SEED = 14;

Deno.test("eight seconds of faults with memory for a tenth: no read is wrong, lost 0", async () => {
  // Where others keep the machine busy, it takes longer to break something.
  const enough = new AbortController();
  const report = await soak({
    ...{ seconds: 120, seed: SEED, cache: true, evenMs: 0, signal: enough.signal },
    onProgress: ({ seconds, events, faults }) => {
      if (seconds >= 8 && events > 200 && faults >= 5) enough.abort();
    },
  });
  const { lost, twice, outOfOrder, events } = report;
  const cache = report.cache!;
  const table = [tableOf(report), ...cache.examples].join("\n");
  assert.deepEqual(
    { wrong: faultsOf(cache), lost, twice, outOfOrder },
    { wrong: 0, lost: 0, twice: 0, outOfOrder: 0 },
    table,
  );
  assert(events > 100 && cache.reads > 300 && cache.evicted > 0, table);
  assert(Object.keys(report.faults).length >= 2, table);
});
