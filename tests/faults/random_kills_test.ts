import { setTimeout as delay } from "node:timers/promises";
import { testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";
import { Author } from "./author.ts";
import { assertExact, keepLedger } from "./ledger.ts";
import { withSeed } from "./seed.ts";
import { drain, killSink, startSink } from "./sinks.ts";

const RUNS = 50;
/** A sink is killed at most so long after it has begun, in ms. */
const LONGEST_LIFE_MS = 400;

Deno.test("50 sinks killed at random times under traffic: nothing is lost, nothing twice", () =>
  withSeed(async (random) => {
    await using pipeline = await testPipeline();
    const { redis, config } = pipeline;
    await keepLedger(pipeline);
    const author = new Author(redis, config, { random, documents: 60, paceMs: 2 });
    for (let run = 0; run < RUNS; run++) {
      const writing = author.start();
      try {
        // Small batches, so that many are under way in a short life.
        const keys = { batch_size: 10 + Math.floor(40 * random()), lease_seconds: 0.2 };
        await using sink = await startSink(config, keys);
        await waitFor(() => sink.output().includes("carrying session events"), {
          what: "the sink to begin",
          deadlineMs: 20_000,
        });
        await delay(LONGEST_LIFE_MS * random());
        await killSink(sink);
      } finally {
        await writing.stop();
      }
      await drain(pipeline, { batch_size: 100 });
      try {
        await assertExact(pipeline, author);
      } catch (error) {
        if (error instanceof Error) error.message = `after run ${run + 1}: ${error.message}`;
        throw error;
      }
    }
  }));
