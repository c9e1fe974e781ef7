import assert from "node:assert/strict";
import {
  type Config,
  connectRedis,
  deleteDocument,
  type DocumentError,
  insertDocument,
  readByIds,
  RedisWriteBehind,
} from "writebehind";
import type { Target } from "writebehind/targets";
import { looksOf, partitionKeys } from "writebehind/redis/keys.ts";
import { type Cached, cached, SESSION, watchedTarget } from "../support/cached.ts";
import { drain, type Pipeline, reset, testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

const CACHED = [{ ...SESSION, cache: { enabled: true, keep_seconds: 100 } }];

const refused = (code: string) => (error: unknown) => (error as DocumentError).code === code;

Deno.test("a cache in front of the target", async (t) => {
  await using pipeline = await testPipeline({ entities: CACHED });
  const { redis, config } = pipeline;
  const keys = partitionKeys(config, "session", 0);
  const step = (name: string, work: (own: Cached) => Promise<void>) =>
    t.step(name, async () => {
      await reset(pipeline);
      await work(cached(pipeline));
    });

  await step("a document may be evicted once the target has it, and not before", async (own) => {
    await own.insert("a", 1);
    assert.equal(await own.ttl("a"), -1);
    assert.equal(await redis.hlen(keys.notes), 1);
    await drain(pipeline);
    assert(await own.ttl("a") > 90);
    assert.equal(await redis.hlen(keys.notes), 0);
    await own.update("a", 2);
    assert.equal(await own.ttl("a"), -1, "written again, it stays");
    await drain(pipeline);
    assert(await own.ttl("a") > 90);
  });

  await step("what was evicted is read from the target, and is there again", async (own) => {
    await own.insert("a", 1);
    await own.insert("b", 2);
    await drain(pipeline);
    await own.evict("a");
    assert.deepEqual(await own.read("a", "none", "b"), [{ n: 1 }, null, { n: 2 }]);
    // It is put back while its reader has it already.
    await waitFor(async () => await own.ttl("a") > 90, { what: "the document to be put back" });
  });

  await step("all is read from the target after Redis was emptied", async (own) => {
    await own.insert("a", 1);
    await drain(pipeline);
    await redis.flushall();
    assert.deepEqual(await own.read("a"), [{ n: 1 }]);
    await redis.flushall();
    await own.update("a", 2);
    assert.deepEqual(await own.read("a"), [{ n: 2 }]);
  });

  await step("deleted, and the target does not know yet: not there", async (own) => {
    await own.insert("a", 1);
    await drain(pipeline);
    await own.evict("a");
    await own.remove("a");
    assert.deepEqual(await own.read("a"), [null]);
    await assert.rejects(own.remove("a"), refused("missing"));
    await assert.rejects(own.update("a", 2), refused("missing"));
    await drain(pipeline);
    assert.deepEqual(await own.read("a"), [null]);
    await own.insert("a", 3);
    assert.deepEqual(await own.read("a"), [{ n: 3 }], "that it was missing is forgotten");
  });

  await step("an update merges into an evicted document", async (own) => {
    await insertDocument(redis, config, "session", { kept: true, n: 1 }, "a");
    await drain(pipeline);
    await own.evict("a");
    await own.update("a", 2);
    assert.deepEqual(await own.read("a"), [{ kept: true, n: 2 }]);
    await assert.rejects(own.update("none", 1), refused("missing"));
  });

  await step(
    "an insert of what only the target has is refused, unless it overwrites",
    async (own) => {
      await own.insert("a", 1);
      await drain(pipeline);
      await own.evict("a");
      await assert.rejects(own.insert("a", 2), refused("exists"));
      await own.insert("a", 3, { overwrite: true });
      assert.deepEqual(await own.read("a"), [{ n: 3 }]);
      await own.insert("new", 1);
      await own.insert("other", 1, { fresh: true });
    },
  );

  await step("a delete of an evicted document needs no look at the target", async (own) => {
    await own.insert("a", 1);
    await drain(pipeline);
    await own.evict("a");
    const { streamId } = await deleteDocument(redis, config, "session", "a");
    assert.notEqual(streamId, null);
    await drain(pipeline);
    const { rows } = await pipeline.pool.query("SELECT id FROM sessions");
    assert.deepEqual(rows, []);
  });

  await step("1,000 callers at once are one query", async (own) => {
    await own.insert("a", 1);
    await drain(pipeline);
    await own.evict("a");
    await using counted = await counting(pipeline);
    const read = () => readByIds(redis, config, "session", ["a"], counted);
    const all = await Promise.all(Array.from({ length: 1000 }, read));
    assert(all.every(([one]) => one?.n === 1));
    assert.equal(counted.looks(), 1);
  });

  await step("processes share a look at the target", async (own) => {
    await own.insert("a", 1);
    await drain(pipeline);
    await own.evict("a");
    const connections = await Promise.all(Array.from({ length: 8 }, () => connectRedis(config)));
    try {
      await using counted = await counting(pipeline);
      const read = (one: typeof redis) => readByIds(one, config, "session", ["a"], counted);
      const all = await Promise.all(connections.map(read));
      assert(all.every(([one]) => one?.n === 1));
      assert.equal(counted.looks(), 1);
    } finally {
      await Promise.all(connections.map((one) => one.close()));
    }
  });

  await step("reads that often miss find what is there as well", async (own) => {
    const ids = Array.from({ length: 40 }, (_, n) => `d${n}`);
    for (const [n, id] of ids.entries()) await own.insert(id, n);
    await drain(pipeline);
    await own.evict(...ids);
    for (const [n, id] of ids.entries()) assert.deepEqual(await own.read(id), [{ n }]);
    await own.insert("new", 41);
    await own.remove("d1");
    const { hits, misses } = looksOf(config, "session");
    const counted = async () => {
      await redis.counters.flush();
      return (await redis.mget(hits, misses)).map(Number);
    };
    const [hitsBefore, missesBefore] = await counted();
    assert.deepEqual(await own.read("new", "d0", "d1", "none"), [{ n: 41 }, { n: 0 }, null, null]);
    const [hitsNow, missesNow] = await counted();
    assert.deepEqual([hitsNow! - hitsBefore!, missesNow! - missesBefore!], [2, 2]);
  });

  await step("that there is none is remembered for a second", async () => {
    await using counted = await counting(pipeline);
    const read = () => readByIds(redis, config, "session", ["none"], counted);
    for (let call = 0; call < 100; call++) assert.deepEqual(await read(), [null]);
    assert(counted.looks() <= 3, `${counted.looks()} looks`);
    assert.equal(await redis.get(`${keys.askedPrefix}none`), "-");
    assert(await redis.pttl(`${keys.askedPrefix}none`) <= 1000);
  });

  await step(
    "a program that knows of no cache is noticed, and nothing is evicted then",
    async (own) => {
      await own.insert("a", 1);
      await drain(pipeline);
      await redis.call("JSON.SET", "session:b", "$", '{"n":1}');
      const fields = ["ts", "1", "doc_id", "b", "event_type", "insert"];
      const foreign = await redis.xadd("stream:session", "*", ...fields);
      await using sink = new RedisWriteBehind(redis, pipeline.pool, config, "session");
      const told: string[] = [];
      sink.events.on("notNoted", ({ streamId }) => told.push(streamId));
      await sink.drain();
      assert.deepEqual(told, [foreign]);
      await own.insert("c", 1);
      await sink.drain();
      assert.equal(await own.ttl("c"), -1);
      assert.equal(await redis.hget(keys.settings, "foreign"), foreign);
    },
  );

  await step("a writer whose configuration has no cache is refused", async (own) => {
    await own.insert("a", 1);
    const without: Config = pipeline.with({ entities: [{ ...SESSION }] });
    await assert.rejects(
      connectRedis(without),
      /entities: expected cache\.enabled for session, .* got none/,
    );
    await assert.rejects(
      insertDocument(redis, without, "session", { n: 1 }, "b"),
      (error: Error) => refused("cached")(error) && /set cache\.enabled/.test(error.message),
    );
  });
});

/** The target, and how often rows are read by their ids. */
async function counting({ config }: Pipeline) {
  let looks = 0;
  const watched = await watchedTarget(config, (look) => {
    looks++;
    return look();
  });
  return { ...watched, looks: () => looks };
}

Deno.test("a look that becomes late while it is joined leaves no document out", async () => {
  await using pipeline = await testPipeline({ entities: CACHED });
  const { redis, config } = pipeline;
  const keys = partitionKeys(config, "session", 0);
  const own = cached(pipeline);
  await own.insert("a", 1);
  await own.insert("b", 2);
  await drain(pipeline);
  await own.evict("a", "b");
  const held = Promise.withResolvers<void>();
  let looks = 0;
  await using watched = await watchedTarget(config, async (look) => {
    if (++looks === 1) await held.promise;
    return await look();
  });
  const { through } = watched;
  // The thread is busy between the two moments at which a flight is looked for.
  const busy = new Proxy(through, {
    has(target: Target, name) {
      const until = performance.now() + 300;
      while (performance.now() < until);
      return name in target;
    },
  });
  const first = readByIds(redis, config, "session", ["a"], { through });
  await waitFor(() => looks === 1, { what: "the first look" });
  await redis.del(`${keys.askedPrefix}a`); // as if its time were just over
  const both = await readByIds(redis, config, "session", ["a", "b"], { through: busy });
  held.resolve();
  assert.deepEqual(await first, [{ n: 1 }]);
  await waitFor(async () => await own.ttl("b") > 0, { what: "the second look to end" });
  assert.deepEqual(both, [{ n: 1 }, { n: 2 }]);
});
