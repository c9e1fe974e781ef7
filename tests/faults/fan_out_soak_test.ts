import assert from "node:assert/strict";
import { isInstalled } from "../support/programs.ts";
import { fanOutSoak, fanOutTable } from "./fan_out_soak.ts";
import { withSeed } from "./seed.ts";

Deno.test({
  name: "twenty seconds of traffic into three targets, each broken alone: lost 0, twice 0",
  ignore: !isInstalled("mariadbd"),
  fn: () =>
    withSeed(async (_random, seed) => {
      const report = await fanOutSoak({ seconds: 20, seed });
      const table = fanOutTable(report);
      assert(report.events > 300, table);
      assert.deepEqual(Object.keys(report.targets), ["postgresql", "maria", "local"]);
      for (const { lost, twice } of Object.values(report.targets)) {
        assert.deepEqual({ lost, twice }, { lost: 0, twice: 0 }, table);
      }
    }),
});
