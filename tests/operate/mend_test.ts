import assert from "node:assert/strict";
import {
  caughtUp,
  consumePeriodically,
  deleteDocument,
  DocumentError,
  insertDocument,
  mendStreams,
  updateDocument,
} from "writebehind";
import { assertEqual, type Pipeline, withPipeline } from "../support/pipeline.ts";

const FAR = ["9000000000000-0", "18446744073709551615-18446744073709551615"];

/** Everything but counters and logs, for comparing. */
async function keysOf({ redis }: Pipeline) {
  await redis.counters.flush();
  const keys = (await redis.keys("*")).filter((key) => !/^(metrics|log):/.test(key)).sort();
  return await Promise.all(keys.map(async (key) => [key, await redis.dumpBuffer(key)]));
}

Deno.test("entries with ids that no version can hold", (t) =>
  withPipeline(
    t,
    Object.fromEntries(FAR.map((far) => [
      `${far}: writers are refused and write nothing, the sink parks it, and mend puts it right`,
      async (pipeline: Pipeline) => {
        const { redis, pool, config } = pipeline;
        for (const id of ["a", "b", "c"]) {
          await insertDocument(redis, config, "session", { id }, id);
        }
        await redis.xadd(
          "stream:session",
          far,
          "doc_id",
          "a",
          "event_type",
          "update",
          "other",
          "x",
        );
        const before = await keysOf(pipeline);
        const refused = (error: Error) =>
          error instanceof DocumentError && error.code === "stream" &&
          /stream:session has an entry .* deno task mend/.test(error.message);
        await assert.rejects(insertDocument(redis, config, "session", {}, "d"), refused);
        await assert.rejects(updateDocument(redis, config, "session", "b", { n: 1 }), refused);
        await assert.rejects(deleteDocument(redis, config, "session", "b"), refused);
        assert.deepEqual(await keysOf(pipeline), before);

        await using _sink = consumePeriodically(redis, pool, config, "session");
        // What is no event of a version is parked, and those before it are applied.
        await caughtUp(redis, pool, config, "session");
        assert.equal((await pool.query("SELECT FROM sessions")).rowCount, 3);
        await assert.rejects(insertDocument(redis, config, "session", {}, "d"), refused);
        const plan = await mendStreams(redis, pool, config, "session", { dryRun: true });
        assert.deepEqual(plan.entries.map(({ streamId }) => streamId), [far]);
        assert.equal(await redis.xlen("stream:session") > 0, true);
        const report = await mendStreams(redis, pool, config, "session");
        assert.deepEqual(report, plan);
        assert.equal(report.resent, 1);
        await updateDocument(redis, config, "session", "b", { n: 1 });
        await insertDocument(redis, config, "session", {}, "d");
        await caughtUp(redis, pool, config, "session");
        await assertEqual(pipeline);
        const { rows } = await pool.query("SELECT stream_id FROM writebehind_dead_letter");
        assert.deepEqual(rows, [{ stream_id: far }]);
        assert.deepEqual((await mendStreams(redis, pool, config, "session")).streams, []);
      },
    ])),
  ));
