import assert from "node:assert/strict";
import { configWith, connectRedis, insertDocument, loadMetrics } from "writebehind";
import { events } from "../support/documents.ts";
import { emptyRedis, server } from "../support/own_redis.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { waitFor } from "../support/servers.ts";

Deno.test("counters count what happened, log streams say why and are capped", async () => {
  await using own = await emptyRedis({ streams: { log_max_entries: 10 } });
  const { redis, config } = own;
  for (let id = 0; id < 30; id++) await insertDocument(redis, config, "session", {}, `d${id}`);
  for (let id = 0; id < 3; id++) {
    await assert.rejects(insertDocument(redis, config, "session", {}, `d${id}`));
  }
  await redis.counters.flush();
  assert.deepEqual(await loadMetrics(redis), {
    "metrics:redis_success": 30,
    "metrics:redis_fail": 3,
    "metrics:redis_retry": 0,
    "metrics:postgres_success": 0,
    "metrics:postgres_fail": 0,
  });
  const [failed] = await events(redis, "log:redis:fail");
  const { count, message } = failed!.fields;
  assert.equal(count, "3");
  assert.match(message!, /insert session: Cannot insert <id>: the id exists/);

  // An id that is a letter is in no other word.
  await insertDocument(redis, config, "session", {}, "e");
  await assert.rejects(insertDocument(redis, config, "session", {}, "e"));
  await assert.rejects(insertDocument(redis, config, "session", {}, ""));
  await redis.counters.flush();
  const reasons = (await events(redis, "log:redis:fail")).map(({ fields }) => fields.message!);
  assert.match(reasons[1]!, /^insert session: Cannot insert <id>: the id exists; use overwrite/);
  assert.match(reasons[2]!, /^insert session: Cannot use the document id "": it is empty/);

  for (let time = 0; time < 300; time++) {
    redis.counters.count("redis_retry", 1, `reason ${time}`);
    await redis.counters.flush();
  }
  const length = await redis.xlen("log:redis:retry");
  // The cap is by whole nodes of a stream, which hold up to 100 entries.
  assert(length >= 10 && length <= 110, `${length} entries`);
  assert.equal((await loadMetrics(redis))["metrics:redis_retry"], 300);
});

Deno.test("counts that could not be sent are sent later", async () => {
  await using own = await emptyRedis({ metrics: { flush_interval_ms: 20 } });
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  await proxy.refuse();
  await waitFor(() => redis.status !== "ready", { what: "the connection's end" });
  redis.counters.count("redis_fail", 7, "away");
  await redis.counters.flush();
  await proxy.heal();
  await waitFor(async () => (await loadMetrics(own.redis))["metrics:redis_fail"] === 7, {
    what: "the counts",
  });
});

Deno.test("more messages than one sending keeps are counted under one line", async () => {
  await using own = await emptyRedis({ metrics: { flush_interval_ms: 60_000 } });
  const { redis } = own;
  for (let n = 0; n < 250; n++) redis.counters.count("redis_retry", 1, `reason ${n}`);
  await redis.counters.flush();
  assert.equal((await loadMetrics(redis))["metrics:redis_retry"], 250);
  const logged = await events(redis, "log:redis:retry");
  assert.equal(logged.length, 101);
  assert.equal(logged.at(-1)!.fields.count, "150");
});

Deno.test("counters that may not be sent are one event, and no call fails for it", async () => {
  await using own = await emptyRedis({ metrics: { flush_interval_ms: 60_000 } });
  await own.redis.call("ACL", "SETUSER", "app", "on", ">secret", "+@all", "~*", "&*");
  const config = configWith(own.config, { redis: { username: "app", password: "secret" } });
  await using redis = await connectRedis(config);
  const failed: Error[] = [];
  redis.events.on("countersNotSent", ({ error }) => failed.push(error));
  await own.redis.call("ACL", "SETUSER", "app", "-incrby");
  for (let n = 0; n < 3; n++) {
    await insertDocument(redis, config, "session", {}, `d${n}`);
    await redis.counters.flush();
  }
  assert.equal(failed.length, 1);
  await own.redis.call("ACL", "SETUSER", "app", "+incrby");
  await redis.counters.flush();
  assert.equal((await loadMetrics(redis))["metrics:redis_success"], 3);

  // One command of the transaction that fails is one event, too; the others have happened.
  await own.redis.set("log:redis:success", "no stream");
  await insertDocument(redis, config, "session", {}, "last");
  await redis.counters.flush();
  assert.match(failed[1]!.message, /WRONGTYPE/);
  assert.equal((await loadMetrics(redis))["metrics:redis_success"], 4);
});

Deno.test("counts that Redis refused are sent later, once", async () => {
  await using own = await emptyRedis({ metrics: { flush_interval_ms: 60_000 } });
  const { redis } = own;
  await redis.config("SET", "maxmemory", 1);
  try {
    redis.counters.count("redis_fail", 7, "full");
    await redis.counters.flush();
  } finally {
    await redis.config("SET", "maxmemory", 0);
  }
  assert.equal((await loadMetrics(redis))["metrics:redis_fail"], 0);
  redis.counters.count("redis_fail", 1, "full");
  await redis.counters.flush();
  assert.equal((await loadMetrics(redis))["metrics:redis_fail"], 8);
  const [entry] = await events(redis, "log:redis:fail");
  assert.equal(entry!.fields.count, "8");
});
