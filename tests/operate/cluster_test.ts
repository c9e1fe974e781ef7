/** What an operator meets in a cluster of which a part is away, or was left halfway. */

import assert from "node:assert/strict";
import { connectRedis, insertDocument, openTarget, readStatus, repartition } from "writebehind";
import { askNode } from "writebehind/dev/servers/cluster.ts";
import { allPartitions, partitionOf } from "writebehind/redis/keys.ts";
import { TestCluster } from "../support/cluster.ts";
import { drain } from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { testPostgres, waitFor } from "../support/servers.ts";

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

Deno.test("a master is away: status shows the others whole, and of its own what the target knows", async (t) => {
  // Nobody is late before that.
  const write_behind = { lease_seconds: 600 };
  const redisOf = { ...cluster.config, command_timeout_ms: 1500 };
  const options = { redis: redisOf, streams: { partitions: 8 }, write_behind };
  await using pipeline = await cluster.pipeline(postgres, options);
  const { redis, config, pool } = pipeline;
  for (const id of idsOf(60)) await insertDocument(redis, config, "session", {}, id);
  await drain(pipeline);
  await insertDocument(redis, config, "session", {}, "behind");
  const streams = allPartitions(config, "session").map(({ stream }) => stream);
  // A replica may have taken over, of which the connection hears with the next answer.
  const well = () =>
    waitFor(async () => {
      const masters = await cluster.mastersOf(streams);
      const status = await readStatus(redis, pool, config, "session");
      return status.every(({ stuck, node }, index) =>
          stuck.length === 0 && node === `127.0.0.1:${masters[index]!.port}`
        )
        ? status
        : undefined;
    }, { what: "all partitions to be well", deadlineMs: 30_000 });
  const run = async (partitions: number | "auto") => {
    const file = await configFile({ streams: { partitions }, write_behind });
    await using task = startTask(["status", "--config", file], environmentOf(config));
    return { code: (await task.status).code, output: task.output() };
  };
  // One has the record of how many there are; the other one slot 0, where what names no key is asked.
  for (
    const [does, key, hangs] of [
      ["it hangs, and has the record", "stream:settings:session", true],
      ["it is gone, and has slot 0", "{06S}", false],
    ] as const
  ) {
    await t.step(
      does,
      async () => {
        const before = await well();
        const victim = await cluster.masterOf(key);
        for (const node of cluster.nodes) {
          await askNode(node, "CONFIG", "SET", "cluster-require-full-coverage", "no");
        }
        const replica = await cluster.replicaOf(victim);
        await using _back = {
          async [Symbol.asyncDispose]() {
            if (hangs) await victim.kill("SIGCONT");
            else await cluster.restart(victim);
            await cluster.restart(replica);
            await cluster.settled();
          },
        };
        await replica.kill();
        await victim.kill(hangs ? "SIGSTOP" : "SIGKILL");
        const node = `127.0.0.1:${victim.port}`;
        // A connection that was there before, and one that is made meanwhile.
        await using late = await connectRedis(config, { looks: true });
        for (const connection of [redis, late]) {
          const status = await readStatus(connection, pool, config, "session");
          for (const [index, { lagSeconds, stuck, ...now }] of status.entries()) {
            const { lagSeconds: age, stuck: _, ...was } = before[index]!;
            if (was.node !== node) {
              assert.deepEqual([now, stuck], [was, []]);
              assert(lagSeconds! >= age!);
              continue;
            }
            const unknown = { written: null, lagEvents: null, state: null, failures: null };
            assert.deepEqual({ ...now, lagSeconds }, { ...was, ...unknown, lagSeconds: null });
            assert.match(stuck.join("; "), RegExp(`^Redis at ${node} does not answer: \\w`));
          }
          assert(status.some(({ stuck }) => stuck.length > 0));
          assert(status.some(({ stuck }) => stuck.length === 0));
        }
        const { code, output } = await run(8);
        assert.equal(code, 1, output);
        for (const { stream, node: at } of before) {
          const said = at === node
            ? `STUCK: Redis at ${node} does not answer: ${hangs ? "" : "connection refused"}`
            : `ok | Redis ${at} | offset`;
          assert(output.includes(`${stream} | ${said}`), output);
        }
        if (!hangs) return;
        assert(!output.includes("no answer within"), output);
        const unknown = await run("auto");
        assert.equal(unknown.code, 1, unknown.output);
        assert.match(unknown.output, RegExp(`^Cannot connect to Redis at ${node}: `, "m"));
        assert.match(
          unknown.output,
          /^Cannot show the partitions of session: streams\.partitions is/m,
        );
        await assert.rejects(
          connectRedis(config),
          /^ConnectionError: Cannot connect to Redis at/,
          "for more than a look",
        );
      },
    );
  }
});
