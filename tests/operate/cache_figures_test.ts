/** What people are told of a cache: by status, /metrics and the stage's page. */

import assert from "node:assert/strict";
import { insertDocument, readByIds, readStatus, RedisWriteBehind } from "writebehind";
import { Watch } from "writebehind/dev/stage/watch.ts";
import { serveMetrics } from "writebehind/metrics/prometheus.ts";
import { readCacheFigures } from "writebehind/redis/cache_state.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { targetOf } from "writebehind/targets/open.ts";
import { drain, testPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { seriesOf } from "../support/prometheus.ts";
import { waitFor } from "../support/servers.ts";

const ENTITIES = [
  { name: "session", table: "sessions", index_name: "idx:sessions", cache: { enabled: true } },
];

Deno.test("a cache's state, its looks, and what Redis has evicted are told", async (t) => {
  await using pipeline = await testPipeline({ entities: ENTITIES });
  const { redis, pool, config } = pipeline;
  const { settings } = partitionKeys(config, "session", 0);
  const target = targetOf(pool, config);
  const figures = () => readCacheFigures(redis, config, "session");
  const status = async () => (await readStatus(redis, pool, config, "session"))[0]!;
  for (const id of ["a", "b"]) await insertDocument(redis, config, "session", { n: 1 }, id);
  await drain(pipeline);
  const before = await figures();
  assert.deepEqual([before.hits, before.misses, before.evictedKeys], [0, 0, 0]);

  await t.step("what Redis evicts and lets expire is counted by it", async () => {
    await redis.set("short", "x", "PX", 1);
    await waitFor(async () => (await figures()).expiredKeys > before.expiredKeys, {
      what: "a key to expire",
    });
    await redis.config("SET", "maxmemory-policy", "volatile-lru");
    await redis.config("SET", "maxmemory", "1mb");
    await redis.set("more", "x").catch(() => {}); // makes it evict, and is refused
    await waitFor(async () => await redis.exists("session:a", "session:b") === 0, {
      what: "the documents to be evicted",
    });
    await redis.config("SET", "maxmemory", "0");
    assert.equal((await figures()).evictedKeys, 2);
  });

  await t.step("readers count hits and misses", async () => {
    const read = (...ids: string[]) => readByIds(redis, config, "session", ids);
    assert.deepEqual(await read("a"), [{ n: 1 }]);
    // It is answered before it is put back.
    await waitFor(async () => await redis.exists("session:a") === 1, {
      what: "the document to be put back",
      deadlineMs: 30_000,
    });
    assert.deepEqual(await read("a", "b", "none"), [{ n: 1 }, { n: 1 }, null]);
    await redis.counters.flush();
    const { hits, misses } = await figures();
    assert.deepEqual([hits, misses], [1, 3]);
  });
  await insertDocument(redis, config, "session", { n: 1 }, "c");

  await t.step("readStatus", async () => {
    const { cache, warnings } = await status();
    assert.deepEqual(cache, { state: "on", foreign: null, pending: 1 });
    assert.deepEqual(warnings, []);
    const states: [fields: Record<string, string>, warning: RegExp][] = [
      [{ cache: "noting" }, /^the cache is being turned on; if .*run deno task cache on --entity/],
      [
        { cache: "leaving" },
        /^the cache is being turned on or off; if .* session, or off, again$/,
      ],
      [{ foreign: "7-0" }, /^the event 7-0 was written by a program that .*: stop it, then run/],
    ];
    for (const [fields, warning] of states) {
      await redis.hset(settings, fields);
      assert.match((await status()).warnings.join(), warning);
    }
    await redis.hdel(settings, "cache", "foreign");
    const none = await status();
    assert.equal(none.cache, null);
    assert.match(none.warnings.join(), /^the configuration has a cache, and Redis has none/);
    await redis.hset(settings, "cache", "on");
  });

  await t.step("deno task status, in text and as JSON", async () => {
    const file = await configFile({ entities: ENTITIES });
    const run = async (...args: string[]) => {
      await using task = startTask(["status", "--config", file, ...args], environmentOf(config));
      const { code } = await task.status;
      assert.equal(code, 0, task.output());
      return task.output();
    };
    const text = await run();
    assert.match(text, /^stream:session \| ok \|.* \| cache on, 1 pending \|/m);
    assert.match(
      text,
      /^session \| cache: hits 25\.0 % of 4 looks \| all of Redis .*: 2 keys evicted, \d+ expired$/m,
    );
    const json = await run("--json");
    const { partitions, caches } = JSON.parse(
      json.slice(json.indexOf("{\n"), json.lastIndexOf("}") + 1),
    );
    assert.deepEqual(partitions[0].cache, { state: "on", foreign: null, pending: 1 });
    const [{ entity, hits, misses, evictedKeys }] = caches;
    assert.deepEqual([entity, hits, misses, evictedKeys], ["session", 1, 3, 2]);
  });

  await t.step("/metrics", async () => {
    await using sink = new RedisWriteBehind(redis, pool, config, "session");
    await using server = serveMetrics({ port: 0 });
    server.watch({ redis, target, config, entity: "session" }, sink);
    const text = await (await fetch(server.url)).text();
    const series = (name: string) => seriesOf(text, `writebehind_${name}`);
    const place = 'entity="session",partition="0"';
    assert.deepEqual(series("cache_state"), {
      [`${place},state="noting"`]: 0,
      [`${place},state="on"`]: 1,
      [`${place},state="leaving"`]: 0,
    });
    assert.deepEqual(series("cache_pending_documents"), { [place]: 1 });
    assert.deepEqual(series("cache_reads_total"), {
      'entity="session",outcome="hit"': 1,
      'entity="session",outcome="miss"': 3,
    });
    const gone = (how: string) =>
      series("redis_keys_gone_total")[`how="${how}",node="${redis.address}"`]!;
    assert.equal(gone("evicted"), 2);
    assert(gone("expired") >= 1);
  });

  await t.step("/metrics tell how much room Redis has", async () => {
    await using sink = new RedisWriteBehind(redis, pool, config, "session");
    await using server = serveMetrics({ port: 0 });
    server.watch({ redis, target, config, entity: "session" }, sink);
    const node = `node="${redis.address}"`;
    const told = async () => {
      const text = await (await fetch(server.url)).text();
      return ["keys", "evictable_keys", "memory_bytes", "memory_limit_bytes"].map((name) =>
        seriesOf(text, `writebehind_redis_${name}`)[node]
      );
    };
    const counted = async () => {
      const keys = await redis.keys("*");
      const times = await Promise.all(keys.map((key) => redis.ttl(key)));
      return [keys.length, times.filter((ttl) => ttl >= 0).length];
    };
    let seen = await told();
    // What readers remember goes by itself.
    await waitFor(async () => {
      seen = await told();
      return JSON.stringify(seen.slice(0, 2)) === JSON.stringify(await counted());
    }, { what: "metrics of all keys" });
    const [keys, evictable, bytes, limit] = seen;
    assert(evictable! > 0 && evictable! < keys! && bytes! > 1e6);
    assert.equal(limit, undefined, "there is none");
    await redis.config("SET", "maxmemory", "1gb");
    await redis.config("SET", "maxmemory-policy", "noeviction");
    const [, none, , gigabyte] = await told();
    assert.deepEqual([none, gigabyte], [0, 2 ** 30]);
  });

  await t.step("the stage's page", async () => {
    const seen = Promise.withResolvers<void>();
    await using watch = new Watch({
      ...{ redis, target, config, entity: "session" },
      onSample: () => seen.resolve(),
    });
    watch.start();
    await seen.promise;
    const { gone, ...view } = watch.cache!;
    assert.deepEqual(view, { state: "on", pending: 1, hits: "25.0 % of 4 looks" });
    assert(gone >= 3, `${gone} keys`);
  });
});
