import assert from "node:assert/strict";
import { Freshness } from "writebehind/sink/freshness.ts";

Deno.test("freshness is that of the last seconds: an outage does not stand in it for long", () => {
  let now = 1_000_000;
  const freshness = new Freshness(() => now);
  freshness.add([30_000, 20_000, 10_000]);
  assert.deepEqual(freshness.quantiles(), { freshness_p50_ms: 20_000, freshness_p99_ms: 20_000 });
  now += 4000;
  freshness.add([3, 4]);
  assert.equal(freshness.quantiles().freshness_p99_ms, 20_000);
  now += 1001;
  freshness.add([5]);
  assert.deepEqual(freshness.quantiles(), { freshness_p50_ms: 4, freshness_p99_ms: 4 });
});
