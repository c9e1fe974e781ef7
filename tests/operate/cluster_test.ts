/** What an operator meets in a cluster of which a part is away, or was left halfway. */

import assert from "node:assert/strict";
import { connectRedis, insertDocument, openTarget, repartition } from "writebehind";
import { allPartitions, partitionOf } from "writebehind/redis/keys.ts";
import { TestCluster } from "../support/cluster.ts";
import { drain } from "../support/pipeline.ts";
import { testPostgres } from "../support/servers.ts";

const cluster = await TestCluster.start();
const postgres = await testPostgres();
Deno.test.afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
  await postgres[Symbol.asyncDispose]();
});

const idsOf = (count: number) => Array.from({ length: count }, (_, n) => `doc-${n}`);

Deno.test("a repartition that is killed while old streams go keeps what only these have said", async () => {
  await using pipeline = await cluster.pipeline(postgres, { streams: { partitions: 4 } });
  const { config } = pipeline;
  const settings = allPartitions(config, "session").map((keys) => keys.settings);
  for (const id of idsOf(20)) {
    const options = partitionOf(id, 4) === 3 ? { ttlSeconds: 3600 } : {};
    await insertDocument(pipeline.redis, config, "session", {}, id, options);
  }
  for (const one of settings) {
    await pipeline.redis.hset(one, "max_events", "777", "max_bytes", "7777777");
  }
  const said = async (names: string[]) =>
    await Promise.all(
      names.map((one) => pipeline.redis.hmget(one, "max_events", "max_bytes", "due")),
    );
  const limits = ["777", "7777777"];
  assert.deepEqual(await said(settings), [null, null, null, "1"].map((due) => [...limits, due]));
  await drain(pipeline);

  const auto = pipeline.with({ streams: { partitions: "auto" } });
  await using target = await openTarget(auto);
  await using dying = await connectRedis(auto);
  const runDurably = dying.runDurably.bind(dying);
  const retired = Promise.withResolvers<void>();
  dying.runDurably = async (...call) => {
    const [, keys, args] = call;
    if (!args.includes("LAST")) return await runDurably(...call);
    if (keys.includes(settings[3]!)) return await runDurably(...call).finally(retired.resolve);
    await retired.promise;
    // A slot that moves has cut the changes of this one in two.
    if (keys.includes(settings[0]!)) await dying.unlink(settings[0]!);
    throw new Error("killed");
  };
  await assert.rejects(repartition(dying, [target], auto, "session", { to: 2 }), /^Error: killed$/);

  await using redis = await connectRedis(auto);
  await repartition(redis, [target], auto, "session", { to: 2 });
  assert.deepEqual(await said(settings.slice(0, 2)), [[...limits, "1"], [...limits, "1"]]);
});
