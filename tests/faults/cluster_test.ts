/** A real cluster that fails over and moves slots, under writers and a sink. */

import assert from "node:assert/strict";
import {
  connectRedis,
  consumePeriodically,
  createSearchIndex,
  insertDocument,
  type RedisWriteBehind,
  search,
} from "writebehind";
import { askNode } from "writebehind/dev/servers/cluster.ts";
import type { RedisServer } from "writebehind/dev/servers/redis.ts";
import { documentKey, keysOfDocument, partitionKeys } from "writebehind/redis/keys.ts";
import { TestCluster } from "../support/cluster.ts";
import { documentsOf, type Pipeline, rowsOf } from "../support/pipeline.ts";
import { testPostgres, waitFor } from "../support/servers.ts";
import { assertSound, Writer } from "./failover.ts";

const cluster = await TestCluster.start();
const postgres = await testPostgres();
Deno.test.afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
  await postgres[Symbol.asyncDispose]();
});

/** What a fault is done to. */
interface Subject {
  pipeline: Pipeline;
  sink: RedisWriteBehind;
  /** it writes to one partition */
  writer: Writer;
  /** the partition's stream */
  stream: string;
  /** the master that has it */
  before: RedisServer;
}

/** A writer to one partition and a sink of all, while `fail` does something to its node; then all is there. */
async function under(fail: (subject: Subject) => Promise<void>): Promise<void> {
  await using pipeline = await cluster.pipeline(postgres, {
    redis: { ...cluster.config, command_timeout_ms: 1500 },
    streams: { partitions: 8 },
    zero_data_loss: { replicas: 1, wait_timeout_ms: 500 },
  });
  const { redis, pool, config } = pipeline;
  const { stream, documentPrefix } = partitionKeys(config, "session", 0);
  await createSearchIndex(redis, config, "session");
  await using sink = consumePeriodically(redis, pool, config, "session");
  const writer = new Writer(
    pipeline,
    (id) => documentKey(config, "session", id).startsWith(documentPrefix),
  );
  await writer.more("writes before");
  const before = await cluster.masterOf(stream);
  await fail({ pipeline, sink, writer, stream, before });
  await writer.stop();
  await assertSound(pipeline, sink, writer);
  const { total } = await waitFor(
    () => search(redis, config, "session", {}, { limit: 0 }),
    { what: "the search of all partitions", deadlineMs: 30_000 },
  );
  assert.equal(total, (await documentsOf(pipeline)).size, "each document is found");
}

/** Waits until another node has the partition, by its word. */
const other = ({ stream, before }: Subject) =>
  waitFor(async () => {
    const now = await cluster.masterOf(stream);
    return now !== undefined && now.port !== before.port ? now : undefined;
  }, { what: "the failover", deadlineMs: 40_000 });

Deno.test("a master is killed: what was confirmed is there, and what was lost is said", () =>
  under(async (subject) => {
    const { pipeline, sink, writer, before } = subject;
    // Its replica, which is cut off, lacks what comes now; the target has it.
    await askNode(before, "ACL", "SETUSER", "default", "-psync", "-sync");
    await askNode(before, "CLIENT", "KILL", "TYPE", "replica");
    await writer.more("writes that no replica has", writer.written);
    const only = writer.written.at(-1)!;
    await waitFor(async () => (await rowsOf(pipeline)).has(only), { what: "its row" });
    await using restarted = new AsyncDisposableStack();
    restarted.defer(async () => {
      await cluster.restart(before);
      await cluster.settled();
    });
    await before.kill();
    const killedAt = performance.now();
    // Nobody confirms anything before the new master has a replica.
    await writer.more("writes after", writer.written);
    const back = Math.round(performance.now() - killedAt);
    assert(back < 30_000, `writers went on after ${back} ms`);
    await waitFor(() => sink.status.wentBack === 1, { what: "the rewind", deadlineMs: 40_000 });
    assert(!(await documentsOf(pipeline)).has(only), "no replica had it");
    await restarted.disposeAsync();
    await writer.more("writes that the replica confirms");
  }));

Deno.test("a replica takes over from a live master: nothing is lost, nor resent", () =>
  under(async (subject) => {
    const { sink, writer, before } = subject;
    await askNode(await cluster.replicaOf(before), "CLUSTER", "FAILOVER");
    await other(subject);
    await writer.more("writes after");
    // Clients are held up by it, not sent away.
    assert(writer.longest < 10_000, `no write was answered for ${writer.longest} ms`);
    assert.equal(sink.status.wentBack, 0);
  }));

Deno.test("a master hangs for longer than the others wait for it", () =>
  under(async (subject) => {
    const { writer, before } = subject;
    await before.kill("SIGSTOP");
    try {
      await other(subject);
      await writer.more("writes after", writer.written);
    } finally {
      await before.kill("SIGCONT");
    }
    await cluster.settled();
    await writer.more("writes that the one before confirms, a replica now");
  }));

Deno.test("a slot moves to a node that was added, and back", () =>
  under(async ({ sink, writer, stream, before }) => {
    const added = await cluster.add();
    for (const to of [added, before]) {
      await cluster.move(stream, to);
      await writer.more("writes after", writer.written);
    }
    assert.equal(sink.status.wentBack, 0);
  }));

Deno.test("where nodes evict what has a time, receipts of requests have none", async () => {
  await using pipeline = await cluster.pipeline(postgres);
  const { redis, config } = pipeline;
  const policy = (name: string) =>
    Promise.all(redis.servers.map((node) => node.config("SET", "maxmemory-policy", name)));
  const times: number[] = [];
  for (const name of ["noeviction", "volatile-lru"]) {
    await policy(name);
    try {
      await using asked = await connectRedis(config);
      await insertDocument(asked, config, "session", {}, name, { requestId: name });
      const { requestPrefix } = keysOfDocument(config, "session", name);
      times.push(Math.sign(await redis.ttl(requestPrefix + name)));
    } finally {
      await policy("noeviction");
    }
  }
  assert.deepEqual(times, [1, -1]);
});
