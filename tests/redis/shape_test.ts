import assert from "node:assert/strict";
import {
  ConfigError,
  connectRedis,
  DocumentError,
  insertDocument,
  readStatus,
  rebuild,
  RedisWriteBehind,
  replayDeadLetters,
  verify,
} from "writebehind";
import { callsOf } from "../support/commands.ts";
import { testPipeline } from "../support/pipeline.ts";

for (const [first, then] of [[1, 2], [2, 1], [2, 4], [4, 3]] as const) {
  Deno.test(`written with ${first} partitions, used with ${then}: refused by each, nothing written`, async () => {
    await using pipeline = await testPipeline({ streams: { partitions: first } });
    const { redis, pool } = pipeline;
    await insertDocument(redis, pipeline.config, "session", { n: 1 }, "one");
    const config = pipeline.with({ streams: { partitions: then } });
    const before = (await redis.keys("*")).sort();
    const refused = (error: Error) => {
      assert(error instanceof ConfigError || error instanceof DocumentError, String(error));
      assert.match(error.message, new RegExp(`streams\\.partitions: (expected )?${first}`));
      return true;
    };
    await assert.rejects(connectRedis(config), refused);
    for (let n = 0; n < 16; n++) {
      await assert.rejects(insertDocument(redis, config, "session", { n }, `d${n}`), refused);
    }
    await assert.rejects(readStatus(redis, pool, config, "session"), refused);
    await assert.rejects(verify(redis, pool, config, "session", { settleMs: 100 }), refused);
    await assert.rejects(rebuild(redis, pool, config, "session"), refused);
    await assert.rejects(replayDeadLetters(redis, pool, config, "session", { all: true }), refused);
    const sink = new RedisWriteBehind(redis, pool, config, "session");
    await assert.rejects(sink.drain(), refused);
    assert.match(sink.lastError!.message, /streams\.partitions/);
    await sink.stop();
    await redis.counters.flush();
    const ours = (key: string) => !/^(metrics|log):/.test(key);
    assert.deepEqual((await redis.keys("*")).filter(ours).sort(), before.filter(ours));
  });
}

Deno.test("data of the original project has one partition", async () => {
  await using pipeline = await testPipeline();
  await pipeline.redis.xadd("stream:session", "*", "doc_id", "d", "event_type", "delete");
  await assert.rejects(
    connectRedis(pipeline.with({ streams: { partitions: 2 } })),
    /streams\.partitions: expected 1/,
  );
});

Deno.test("two first writers with different numbers: one of them is refused", async () => {
  await using pipeline = await testPipeline();
  const { redis } = pipeline;
  for (let round = 0; round < 20; round++) {
    await redis.flushall();
    const outcomes = await Promise.allSettled(
      [1, 2, 4].map((partitions, n) =>
        insertDocument(redis, pipeline.with({ streams: { partitions } }), "session", {}, `d${n}`)
      ),
    );
    assert.equal(outcomes.filter(({ status }) => status === "fulfilled").length, 1);
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") {
        assert.match(outcome.reason.message, /streams\.partitions/);
      }
    }
  }
});

Deno.test("256 first writes at once look once how many partitions there are", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 2 } });
  const { redis, config } = pipeline;
  const before = await callsOf(redis, "hget");
  await Promise.all(
    Array.from({ length: 256 }, (_, n) => insertDocument(redis, config, "session", { n }, `d${n}`)),
  );
  // One look asks for the settings of 256 partitions, and for the record before and after.
  assert.equal(await callsOf(redis, "hget") - before, 258);
});

Deno.test("the partitions of a sink share the look at a Redis that was never written", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 8 } });
  const { redis, pool, config } = pipeline;
  const before = await callsOf(redis, "hget");
  await using sink = new RedisWriteBehind(redis, pool, config, "session");
  await sink.drain();
  const asked = await callsOf(redis, "hget") - before;
  assert(asked < 2 * 256, `${asked} commands`);
});
