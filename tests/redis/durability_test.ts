import assert from "node:assert/strict";
import {
  type Config,
  configWith,
  connectRedis,
  type DeepPartial,
  deleteDocument,
  DocumentError,
  DurabilityError,
  insertDocument,
  parseConfig,
  UnknownOutcomeError,
  updateDocument,
} from "writebehind";
import { durabilityOf } from "writebehind/redis/durability.ts";
import { callsOf } from "../support/commands.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { testRedis, waitFor } from "../support/servers.ts";

const server = await testRedis();
const replica = await testRedis({ replicaOf: server });
Deno.test.afterAll(async () => {
  await replica[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

const WAIT_MS = 300;

const base = configWith(parseConfig("", "test.yaml"), {
  redis: { host: server.host, port: server.port },
  zero_data_loss: { replicas: 1, wait_timeout_ms: WAIT_MS, aof_rewrite_timeout_secs: 5 },
});

async function empty(overrides: DeepPartial<Config> = {}) {
  const config = configWith(base, overrides);
  const redis = await connectRedis(config);
  await redis.flushall();
  return { redis, config, [Symbol.asyncDispose]: () => redis.close() };
}

/** The replica takes nothing until the end of the scope. */
async function pausedReplica(): Promise<AsyncDisposable> {
  await replica.kill("SIGSTOP");
  return {
    [Symbol.asyncDispose]: async () => {
      await replica.kill("SIGCONT");
      const config = configWith(base, { redis: { port: replica.port } });
      await waitFor(async () => {
        await using redis = await connectRedis(config);
        return (await redis.info("replication")).includes("master_link_status:up");
      }, { what: "the replica's return", deadlineMs: 30_000 });
    },
  };
}

Deno.test("the original's keys select the durability, and a call may ask for another", () => {
  const of = (zero_data_loss: DeepPartial<Config["zero_data_loss"]>) =>
    durabilityOf(configWith(base, { zero_data_loss }));
  const on = { enabled: true, replicas: 2 };
  assert.deepEqual(of({ wait_for_replicas: true, wait_for_aof_rewrite: true }), {
    replicas: 0,
    fsync: false,
  });
  assert.deepEqual(of({ ...on, wait_for_replicas: true }), { replicas: 2, fsync: false });
  assert.deepEqual(of({ ...on, wait_for_aof_rewrite: true }), { replicas: 0, fsync: true });
  assert.deepEqual(of({ ...on, wait_for_replicas: true, wait_for_aof_rewrite: true }), {
    replicas: 2,
    fsync: true,
  });
  assert.deepEqual(of(on), { replicas: 0, fsync: false });
  assert.deepEqual(durabilityOf(base, "replicas+fsync"), { replicas: 1, fsync: true });
  assert.deepEqual(
    durabilityOf(
      configWith(base, { zero_data_loss: { ...on, wait_for_replicas: true } }),
      "memory",
    ),
    { replicas: 0, fsync: false },
  );
});

Deno.test("every level gives a receipt where the servers can give it", async () => {
  await using own = await empty();
  const { redis, config } = own;
  for (const durability of ["memory", "replicas", "fsync", "replicas+fsync"] as const) {
    const id = `d-${durability}`;
    const inserted = await insertDocument(redis, config, "session", { a: 1 }, id, { durability });
    assert.match(inserted.streamId!, /^\d+-\d+$/);
    await updateDocument(redis, config, "session", id, { a: 2 }, { durability });
    await deleteDocument(redis, config, "session", id, { durability });
  }
  assert.equal(await redis.xlen("stream:session"), 12);
  const status = await redis.info("commandstats");
  assert.match(status, /cmdstat_wait:/);
  assert.match(status, /cmdstat_waitaof:/);
});

Deno.test("memory asks for no WAIT", async () => {
  await using own = await empty();
  await own.redis.config("RESETSTAT");
  await insertDocument(own.redis, own.config, "session", { a: 1 }, "d");
  assert.equal(await callsOf(own.redis, "wait"), 0);
  assert.equal(await callsOf(own.redis, "waitaof"), 0);
});

Deno.test("the configuration's zero_data_loss counts for calls that ask for nothing", async () => {
  await using own = await empty({ zero_data_loss: { enabled: true, wait_for_replicas: true } });
  await using _paused = await pausedReplica();
  await assert.rejects(
    insertDocument(own.redis, own.config, "session", { a: 1 }, "d"),
    DurabilityError,
  );
});

Deno.test("a paused replica: written, not confirmed, with the receipt; memory writes go on", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const durability = "replicas";
  await insertDocument(redis, config, "session", { a: 1 }, "old", { durability });
  await using _paused = await pausedReplica();
  const calls: [string, () => Promise<unknown>][] = [
    ["new", () => insertDocument(redis, config, "session", { a: 1 }, "new", { durability })],
    ["old", () => updateDocument(redis, config, "session", "old", { a: 2 }, { durability })],
    ["old", () => deleteDocument(redis, config, "session", "old", { durability })],
  ];
  for (const [id, call] of calls) {
    const waiting = call();
    // Not behind the WAIT, which blocks its own connection only.
    const began = performance.now();
    await insertDocument(redis, config, "session", { a: 1 }, undefined, { durability: "memory" });
    assert(performance.now() - began < WAIT_MS, "a memory write waited for the WAIT of another");
    await assert.rejects(waiting, (error) => {
      assert(error instanceof DurabilityError, `not a DurabilityError: ${error}`);
      assert.match(error.message, /written, not confirmed: 0 of 1 replicas/);
      assert.equal(error.receipt.documentId, id);
      assert.match(error.receipt.streamId!, /^\d+-\d+$/);
      return true;
    });
  }
  const entries = await redis.xrange("stream:session", "-", "+");
  assert.equal(entries.length, 7);
  await redis.counters.flush();
  assert.equal(await redis.get("metrics:redis_success"), "7");
});

Deno.test("a repeated request is confirmed only by a WAIT behind a write of its own", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const call = (durability: "memory" | "replicas") =>
    insertDocument(redis, config, "session", { a: 1 }, "d", { durability, requestId: "r" });
  {
    await using _paused = await pausedReplica();
    // Over another connection: the one for durable writes has nothing to wait for, but what it repeats.
    await call("memory");
    for (let time = 0; time < 2; time++) {
      await assert.rejects(call("replicas"), (error) => {
        assert(error instanceof DurabilityError);
        assert.equal(error.receipt.repeated, true);
        return true;
      });
    }
  }
  assert.equal((await call("replicas")).repeated, true);
  assert.equal(await redis.xlen("stream:session"), 1);
});

Deno.test("more replicas than there are: not confirmed", async () => {
  await using own = await empty();
  const config = configWith(own.config, { zero_data_loss: { replicas: 2 } });
  await assert.rejects(
    insertDocument(own.redis, config, "session", {}, "d", { durability: "replicas" }),
    /1 of 2 replicas acknowledged/,
  );
});

Deno.test("calls that are made together share a WAIT, and each gets its own receipt or error", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const insert = (id: string) =>
    insertDocument(redis, config, "session", { id }, id, { durability: "replicas" });
  await insert("taken");
  await redis.config("RESETSTAT");
  const ids = Array.from({ length: 50 }, (_, index) => index === 25 ? "taken" : `d${index}`);
  const results = await Promise.allSettled(ids.map(insert));
  for (const [index, result] of results.entries()) {
    if (index === 25) {
      assert(result.status === "rejected" && result.reason instanceof DocumentError);
      assert.equal(result.reason.code, "exists");
    } else {
      assert(result.status === "fulfilled");
      assert.equal(result.value.documentId, `d${index}`);
    }
  }
  const receipts = results.flatMap((r) => r.status === "fulfilled" ? [r.value.streamId] : []);
  assert.equal(new Set(receipts).size, 49);
  const waits = await callsOf(redis, "wait");
  assert(waits >= 1 && waits <= 5, `${waits} WAITs for 50 calls`);
});

Deno.test("fsync is confirmed by a WAITAOF, and not where the append-only file is off", async () => {
  await using own = await empty();
  const { redis, config } = own;
  await insertDocument(redis, config, "session", {}, "a", { durability: "fsync" });
  await redis.config("SET", "appendonly", "no");
  try {
    await assert.rejects(
      insertDocument(redis, config, "session", {}, "b", { durability: "fsync" }),
      (error) => {
        assert(error instanceof DurabilityError);
        assert.match(error.message, /written, not confirmed: WAITAOF failed/);
        assert.equal(error.receipt.documentId, "b");
        return true;
      },
    );
    assert.equal(await redis.exists("session:b"), 1);
  } finally {
    await redis.config("SET", "appendonly", "yes");
    await waitFor(
      async () => (await redis.info("persistence")).includes("aof_rewrite_in_progress:0"),
      { what: "the first append-only file" },
    );
  }
});

Deno.test("a write that is not on disk in time is not confirmed", async () => {
  await using own = await empty({ zero_data_loss: { aof_rewrite_timeout_secs: 0.05 } });
  const { redis, config } = own;
  await redis.config("SET", "appendfsync", "no");
  try {
    await assert.rejects(
      insertDocument(redis, config, "session", {}, "d", { durability: "fsync" }),
      /written, not confirmed: the append-only file was not on disk within .* \(0\.05 s\)/,
    );
  } finally {
    await redis.config("SET", "appendfsync", "everysec");
  }
});

Deno.test("a Redis that forgot the scripts gets them again, also for durable writes", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const insert = (id: string) =>
    insertDocument(redis, config, "session", {}, id, { durability: "replicas" });
  await insert("a");
  await redis.script("FLUSH");
  await Promise.all(["b", "c", "d"].map(insert));
  assert.equal(await redis.xlen("stream:session"), 4);
});

Deno.test("max_in_flight counts durable writes too", async () => {
  await using own = await empty({ redis: { max_in_flight: 1 } });
  const { redis, config } = own;
  await using _paused = await pausedReplica();
  const waiting = insertDocument(redis, config, "session", {}, "a", { durability: "replicas" });
  await assert.rejects(insertDocument(redis, config, "session", {}, "b"), /1 calls are in flight/);
  await assert.rejects(waiting, DurabilityError);
  assert.equal(redis.callsInFlight, 0);
});

Deno.test("a connection lost before the script's reply is an unknown outcome, after it an unconfirmed write", async () => {
  await using own = await empty();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  const insert = (id: string) =>
    insertDocument(redis, config, "session", {}, id, { durability: "replicas" });
  await insert("warm");
  const clients = async () => String(await own.redis.call("CLIENT", "LIST")).split("\n").length;
  const before = await clients();
  await insert("by the same connection");
  assert.equal(await clients(), before);
  {
    await using _paused = await pausedReplica();
    const waiting = insert("unconfirmed");
    // The script's reply is here, its WAIT is still under way.
    await waitFor(() => own.redis.exists("session:unconfirmed"), { what: "the write" });
    proxy.resetAll();
    await assert.rejects(waiting, (error) => {
      assert(error instanceof DurabilityError || error instanceof UnknownOutcomeError, `${error}`);
      return true;
    });
  }
  await waitFor(() => insert(`later-${Date.now()}`).then(() => true), {
    what: "the lane's return",
  });
  proxy.cutReplyAfter(1);
  await assert.rejects(insert("unknown"), UnknownOutcomeError);
  assert.equal(await own.redis.exists("session:unknown", "session:unconfirmed"), 2);
  const ids = (await own.redis.xrange("stream:session", "-", "+")).map(([, fields]) => fields[3]);
  assert.equal(new Set(ids).size, ids.length, "a write was sent twice");
});
