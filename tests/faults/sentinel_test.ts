/** Failovers by real sentinels, under writers and a sink. */

import assert from "node:assert/strict";
import { consumePeriodically, RedisRefusedError } from "writebehind";
import type { RedisServer } from "writebehind/dev/servers/redis.ts";
import { documentsOf, type Pipeline, pipelineOn, rowsOf } from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { ask, NAME, SentinelSet } from "../support/sentinels.ts";
import { testPostgres, waitFor } from "../support/servers.ts";
import { assertSound, Writer } from "./failover.ts";

const set = await SentinelSet.start();
const postgres = await testPostgres();
Deno.test.afterAll(async () => {
  await set[Symbol.asyncDispose]();
  await postgres[Symbol.asyncDispose]();
});

/** A pipeline that goes by the sentinels, emptied. */
async function bySentinels(replicas = 1): Promise<Pipeline> {
  await set.settled();
  const redis = await set.primary();
  await ask(redis, "FLUSHALL");
  return await pipelineOn({ redis, postgres, [Symbol.asyncDispose]: async () => {} }, {
    redis: { ...set.config, command_timeout_ms: 1500 },
    zero_data_loss: { replicas, wait_timeout_ms: 500 },
  });
}

/** Whether a server takes itself for a primary. */
const isPrimary = async (server: RedisServer) =>
  (await ask(server, "ROLE") as [string])[0] === "master";

Deno.test("a primary is killed under writers and a sink: what was confirmed is there, and what was lost is said", async () => {
  await using pipeline = await bySentinels();
  const { redis, pool, config } = pipeline;
  const before = await set.primary();
  const addresses: string[] = [];
  redis.events.on("reconnected", ({ address }) => addresses.push(address));
  await using sink = consumePeriodically(redis, pool, config, "session");
  const writer = new Writer(pipeline);
  await writer.more("writes before");
  // Replicas that are cut off lack what comes now; the target has it.
  await ask(before, "ACL", "SETUSER", "default", "-psync", "-sync");
  await ask(before, "CLIENT", "KILL", "TYPE", "replica");
  await writer.more("writes that no replica has", writer.written);
  const only = writer.written.at(-1)!;
  await waitFor(async () => (await rowsOf(pipeline)).has(only), { what: "its row" });
  await using restarted = new AsyncDisposableStack();
  restarted.defer(() => set.restart(before));
  await before.kill();
  const killedAt = performance.now();
  await writer.more("writes after");
  const back = Math.round(performance.now() - killedAt);
  assert(back < 12_000, `writers went on after ${back} ms`);
  await waitFor(() => sink.status.wentBack === 1, { what: "the rewind", deadlineMs: 15_000 });
  await writer.stop();
  const primary = await set.primary();
  assert.notEqual(primary.port, before.port);
  assert.equal(redis.address, `127.0.0.1:${primary.port} (${NAME})`);
  assert.deepEqual(addresses.at(-1), redis.address);
  assert(!(await documentsOf(pipeline)).has(only), "no replica had it");
  await using status = startTask(["status"], environmentOf(config));
  await status.status;
  const line = new RegExp(
    `redis-sentinel://\\S+Id=${NAME} .*\\| Redis 127.0.0.1:\\d+ \\(${NAME}`,
    "s",
  );
  assert.match(status.output(), line);
  await assertSound(pipeline, sink, writer);
});

/** Writers and a sink, while `fail` makes another server the primary; then all is there, and goes by that one. */
async function underFailover(
  fail: (of: { before: RedisServer; writer: Writer }) => Promise<RedisServer>,
  replicas?: number,
): Promise<void> {
  await using pipeline = await bySentinels(replicas);
  const { redis, pool, config } = pipeline;
  await using sink = consumePeriodically(redis, pool, config, "session");
  const before = await set.primary();
  const writer = new Writer(pipeline);
  await writer.more("writes before");
  const now = await fail({ before, writer });
  await writer.stop();
  assert.equal(redis.node?.port, now.port);
  await assertSound(pipeline, sink, writer);
}

Deno.test("a live primary is failed over: it is left at once, though it still answers as a primary", () =>
  // One replica would not do: until the sentinels turn it to the new primary, it confirms what that one lacks.
  underFailover(async ({ before, writer }) => {
    const now = await set.failOver(before);
    await waitFor(
      async () => !/name=writebehind/.test(String(await ask(before, "CLIENT", "LIST"))),
      { what: "all connections to leave" },
    );
    await writer.more("writes after", writer.written);
    assert(await isPrimary(before), "nobody but the sentinels says that it is none any more");
    await writer.more("both replicas");
    return now;
  }, 2));

Deno.test("a primary that a script keeps busy is failed over, and left", () =>
  underFailover(async ({ before, writer }) => {
    // It has written, so that nobody can kill it.
    const script = "redis.call('SET', KEYS[1], 1) local began = os.clock() " +
      "while os.clock() - began < 3 do end";
    const busy = ask(before, "EVAL", script, 1, "x").catch(() => {});
    const now = await set.other(before);
    await writer.more("writes after");
    await busy;
    await writer.more("writes when the other is back");
    return now;
  }));

Deno.test("a primary is made a replica behind the sentinels' back: writes are refused, then go on elsewhere", () =>
  underFailover(async ({ before, writer }) => {
    const replica = set.servers.find(({ port }) => port !== before.port)!;
    await ask(before, "REPLICAOF", replica.host, replica.port);
    const now = await set.other(before);
    await writer.more("writes after");
    assert(writer.errors.has(RedisRefusedError.name));
    return now;
  }));
