import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import {
  configWith,
  ConnectionError,
  connectRedis,
  DocumentError,
  insertDocument,
  UnknownOutcomeError,
} from "writebehind";
import { contents, events } from "../support/documents.ts";
import { emptyRedis, server } from "../support/own_redis.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { waitFor } from "../support/servers.ts";

Deno.test("a reply that is lost is an unknown outcome, and the write is in Redis once", async () => {
  await using own = await emptyRedis();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  for (const requestId of [undefined, "r"]) {
    await insertDocument(redis, config, "session", { warm: 1 }, `warm-${requestId}`);
    const id = `lost-${requestId}`;
    const call = () => insertDocument(redis, config, "session", { a: 1 }, id, { requestId });
    proxy.cutReplyAfter(5);
    await assert.rejects(call, (error) => {
      assert(error instanceof UnknownOutcomeError, `not unknown: ${error}`);
      assert.match(error.message, /may be written or not/);
      return true;
    });
    await waitFor(() => redis.status === "ready", { what: "the new connection" });
    const mine = async () =>
      (await events(own.redis)).filter(({ fields }) => fields.doc_id === id).length;
    assert.equal(await mine(), 1, "ioredis sent the write again, or never");
    if (requestId === undefined) await assert.rejects(call, DocumentError);
    else assert.equal((await call()).repeated, true);
    assert.equal(await mine(), 1);
  }
});

Deno.test("a Redis that does not answer is an unknown outcome after command_timeout_ms", async () => {
  await using own = await emptyRedis();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port, command_timeout_ms: 300 } });
  await using redis = await connectRedis(config);
  proxy.halfOpen();
  const began = performance.now();
  await assert.rejects(
    insertDocument(redis, config, "session", { a: 1 }, "d"),
    UnknownOutcomeError,
  );
  assert(performance.now() - began < 3000);
  assert.equal(redis.callsInFlight, 0);
  // The silent connection would hold up every later call.
  await waitFor(() => redis.status !== "ready", { what: "the silent connection's end" });
  await proxy.heal();
});

Deno.test("every call has command_timeout_ms for itself, also on a connection that is not silent", async () => {
  await using own = await emptyRedis();
  const TIMEOUT_MS = 1000;
  const config = configWith(own.config, { redis: { command_timeout_ms: TIMEOUT_MS } });
  await using redis = await connectRedis(config);
  await redis.subscribe("news");
  const talk = setInterval(() => own.redis.publish("news", "x"), TIMEOUT_MS / 20);
  try {
    // Redis answers nothing behind this, and goes on sending the news.
    redis.blpop("nothing", 0).catch(() => {});
    const failures: { error: unknown; took: number }[] = [];
    const call = (id: string) => {
      const began = performance.now();
      insertDocument(redis, config, "session", { a: 1 }, id).catch((error) =>
        failures.push({ error, took: performance.now() - began })
      );
    };
    call("first");
    await delay(TIMEOUT_MS / 3);
    call("second");
    await waitFor(() => failures.length === 2, { what: "both calls to fail" });
    for (const { error, took } of failures) {
      assert(error instanceof UnknownOutcomeError, `not unknown: ${error}`);
      assert.match(error.message, /Command timed out/);
      assert(took > TIMEOUT_MS * 0.95 && took < TIMEOUT_MS * 2, `after ${took} ms`);
    }
    assert.equal(redis.callsInFlight, 0);
    assert.equal(redis.status, "ready");
  } finally {
    clearInterval(talk);
  }
});

Deno.test("a commandTimeout of the caller's own counts for document calls too", async () => {
  await using own = await emptyRedis();
  await using redis = await connectRedis(own.config, { commandTimeout: 200 });
  redis.blpop("nothing", 0).catch(() => {});
  const began = performance.now();
  await assert.rejects(
    insertDocument(redis, own.config, "session", { a: 1 }, "d"),
    /outcome is unknown.*Command timed out/,
  );
  const took = performance.now() - began;
  assert(took > 190 && took < 2000, `after ${took} ms`);
  assert.equal(redis.status, "ready", "only what is late fails");
});

Deno.test("calls of one turn of the event loop go out together, one that is alone at once", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const insert = (id: string, a = "x") => insertDocument(redis, config, "session", { a }, id);
  await insert("warm");
  const held = () => redis.stream.writableCorked === 1;
  const alone = insert("alone");
  assert(!held(), "nobody to go with, and yet it waits");
  await alone;
  const together = ["a", "b", "c"].map((id) => insert(id));
  assert(held(), "each of them goes alone");
  assert(redis.stream.writableLength > 0);
  await Promise.all(together);
  assert(!held());
  // What fills a read of Redis goes out, also where a turn takes long.
  const many = ["d", "e", "f", "g", "h", "i"].map((id) => insert(id, "x".repeat(9_000)));
  assert(redis.stream.writableLength < 30_000, `${redis.stream.writableLength} bytes are held`);
  await Promise.all(many);
  assert.equal((await events(redis)).length, 11);
});

Deno.test("calls that have not gone out are lost with their connection, and not sent over the next", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const insert = (id: string) => insertDocument(redis, config, "session", { a: 1 }, id);
  await insert("before");
  const calls = ["first", "b", "c"].map(insert);
  redis.stream.destroy();
  for (const call of calls) await assert.rejects(call, UnknownOutcomeError);
  await waitFor(() => redis.status === "ready", { what: "the new connection" });
  await insert("after");
  const ids = (await events(redis)).map(({ fields }) => fields.doc_id);
  // The first went out at once.
  assert.deepEqual(ids.filter((id) => id !== "first"), ["before", "after"]);
});

Deno.test("without a connection nothing is sent, and nothing waits in a queue", async () => {
  await using own = await emptyRedis();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  await proxy.refuse();
  await waitFor(() => redis.status !== "ready", { what: "the connection's end" });
  const began = performance.now();
  await assert.rejects(insertDocument(redis, config, "session", {}, "d"), ConnectionError);
  assert(performance.now() - began < 100);
  await proxy.heal();
  await waitFor(() => redis.status === "ready", { what: "the new connection" });
  assert.equal((await contents(own.redis)).size, 0);
  await insertDocument(redis, config, "session", {}, "d");
});

Deno.test("a Redis that forgot the scripts gets them again", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await insertDocument(redis, config, "session", {}, "a");
  await redis.script("FLUSH");
  await insertDocument(redis, config, "session", {}, "b");
  assert.equal((await events(redis)).length, 2);
});
