import assert from "node:assert/strict";
import { faultsOf } from "./cache_soak.ts";
import { soak, tableOf } from "./soak.ts";

/** Sinks, both servers and connections break, and Redis is emptied, within these seconds. */
const SEED = 14;

Deno.test("eight seconds of faults with memory for a tenth: no read is wrong, lost 0", async () => {
  const report = await soak({ seconds: 8, seed: SEED, cache: true, evenMs: 0 });
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
