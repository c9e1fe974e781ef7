import assert from "node:assert/strict";
import { startTraffic } from "writebehind/notebook/traffic.ts";
import { testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

Deno.test("background traffic follows its rate from then on, until it is stopped", async () => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  await using traffic = await startTraffic(redis, config, "session", 20);
  const written = () => redis.xlen("stream:session");
  assert(await written() > 0);
  assert(await written() < 100);
  traffic.rate = 0;
  // At the first rate this would take minutes.
  await waitFor(async () => await written() > 3000, { what: "documents at full speed" });
  traffic.rate = 1;
  await waitFor(() => traffic.rate === 1 && traffic.report.inserted > 1000, { what: "a report" });
  const { inserted, updated, deleted, failed } = await traffic.stop();
  assert.equal(inserted + updated + deleted, await written());
  assert.equal(failed, 0);
  assert.deepEqual(await traffic.stop(), traffic.report);
});
