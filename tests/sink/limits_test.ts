import assert from "node:assert/strict";
import { parseConfig } from "writebehind";
import { batchLimits } from "writebehind/sink/limits.ts";

const MIB = 2 ** 20;
/** Two targets. */
const TARGETS =
  "targets: [{ name: a, kind: sqlite, path: a.db }, { name: b, kind: sqlite, path: b.db }]";

Deno.test("limits: what a sink reads at once is shared by its partitions and targets, a number is each one's", () => {
  const cases: [yaml: string, events: number, bytes: number][] = [
    ["", 10_000, 32 * MIB],
    ["streams: { partitions: 2 }", 10_000, 16 * MIB],
    ["streams: { partitions: 4 }", 5000, 8 * MIB],
    ["streams: { partitions: 4 }\nwrite_behind: { batch_size: 700 }", 700, 8 * MIB],
    ["write_behind: { batch_size: 100000, batch_bytes: 1000 }", 100_000, 1000],
    [`${TARGETS}\nstreams: { partitions: 4 }`, 2500, 4 * MIB],
    [`${TARGETS}\nwrite_behind: { batch_size: 700 }`, 700, 16 * MIB],
    ["write_behind: { batch_size: }", 10_000, 32 * MIB],
    // More than there are connections do not work at a time.
    ["streams: { partitions: 64 }", 5000, 8 * MIB],
    ["streams: { partitions: 256 }\nwrite_behind: { connections: 256, batch_bytes: 9 }", 78, 1],
  ];
  for (const [yaml, events, bytes] of cases) {
    assert.deepEqual(batchLimits(parseConfig(yaml, "f")), { events, bytes }, yaml);
  }
});
