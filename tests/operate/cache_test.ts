import assert from "node:assert/strict";
import {
  deleteDocument,
  insertDocument,
  readByIds,
  readCache,
  rebuild,
  repairTarget,
  turnCacheOff,
  turnCacheOn,
  updateDocument,
  verify,
} from "writebehind";
import { targetOf } from "writebehind/targets/open.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import {
  assertEqual,
  documentsOf,
  drain,
  reset,
  rowsOf,
  testPipeline,
} from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";
import { before, once } from "../support/two_targets.ts";

const SESSION = { name: "session", table: "sessions", index_name: "idx:sessions" };
const WITH_CACHE = { entities: [{ ...SESSION, cache: { enabled: true, keep_seconds: 100 } }] };
const COUNT = 900;

Deno.test("operating a cache", async (t) => {
  await using plain = await testPipeline();
  const { redis, pool } = plain;
  const config = plain.with(WITH_CACHE);
  const pipeline = { ...plain, config };
  const target = targetOf(pool, config);
  const keys = partitionKeys(config, "session", 0);
  const keyOf = (id: string) => `session:${id}`;
  const state = async () => (await readCache(redis, config, "session")).state;
  const on = (options = {}) => turnCacheOn(redis, target, config, "session", options);
  const off = (options = {}) => turnCacheOff(redis, target, config, "session", options);
  const evictable = async () => {
    const all = await redis.keys("session:*");
    const times = await Promise.all(all.map((key) => redis.ttl(key)));
    return times.filter((time) => time > 0).length;
  };
  /** Documents of a pipeline without a cache, all applied. */
  /** A document is put back while its reader has it already: not into what the next step begins with. */
  const isBack = (id: string) =>
    waitFor(async () => await redis.exists(keyOf(id)) === 1, { what: `${id} to be put back` });
  const filled = async (own = plain) => {
    await reset(own);
    const inserts = Array.from(
      { length: COUNT },
      (_, n) => insertDocument(redis, own.config, "session", { n }, `d${n}`),
    );
    await Promise.all(inserts);
    await drain(own);
  };

  await t.step("turned on for data that stands: what equals its row may be evicted", async () => {
    await filled();
    await updateDocument(redis, plain.config, "session", "d1", { n: -1 });
    await pool.query("UPDATE sessions SET payload = '{\"n\": 7}' WHERE id = 'd2'");
    const turning = on();
    await drain(pipeline);
    assert.deepEqual(await turning, {
      state: "on",
      pending: 0,
      foreign: null,
      changed: COUNT - 1,
      different: ["d2"],
    });
    assert.equal(await evictable(), COUNT - 1);
    await redis.del(keyOf("d3"));
    assert.deepEqual(await readByIds(redis, config, "session", ["d3"]), [{ n: 3 }]);
    await isBack("d3");
  });

  await t.step("stopped at each step, it is run again to its end", async () => {
    await filled();
    for (const [steps, expected] of [[1, "noting"], [2, "on"]] as const) {
      const stop = new AbortController();
      let step = 0;
      const onStep = () => ++step === steps && stop.abort();
      await assert.rejects(on({ signal: stop.signal, onStep }), { name: "AbortError" });
      assert.equal(await state(), expected);
      await insertDocument(redis, config, "session", { n: 0 }, `stopped-${steps}`);
      await drain(pipeline);
    }
    assert.equal((await on()).changed, COUNT + 1, "one was settled since it is on");
    assert.equal(await evictable(), COUNT + 2);
  });

  await t.step("events of before that are parked are to be replayed first", async () => {
    await filled();
    await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (NOT payload ? 'bad')");
    try {
      await updateDocument(redis, plain.config, "session", "d1", { bad: 1 });
      await drain(plain);
      await assert.rejects(on(), /events of stream:session are parked.*dead-letter/);
      assert.equal(await state(), "off");
    } finally {
      await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
    }
  });

  await t.step("without cache.enabled it is refused", async () => {
    await assert.rejects(
      turnCacheOn(redis, target, plain.config, "session"),
      /expected cache\.enabled for session, got none/,
    );
  });

  await t.step("what another program has written is noted when it is turned on again", async () => {
    await filled(pipeline);
    /** as by a program that knows of no cache */
    const foreign = async (id: string, n: number | null) => {
      if (n === null) await redis.del(keyOf(id));
      else await redis.call("JSON.SET", keyOf(id), "$", JSON.stringify({ n }));
      const fields = ["ts", "1", "doc_id", id, "event_type", n === null ? "delete" : "update"];
      if (n !== null) fields.push("payload", JSON.stringify({ n }));
      await redis.xadd(keys.stream, "*", ...fields);
    };
    const read = (...ids: string[]) => readByIds(redis, config, "session", ids);
    await foreign("d0", -1);
    await drain(pipeline);
    assert.equal(await state(), "leaving");
    await redis.del(keyOf("d5"));
    await foreign("d1", null);
    await foreign("d2", null);
    await foreign("d2", -2);
    await foreign("d3", -3);
    await foreign("d4", null);
    await insertDocument(redis, config, "session", { n: -4 }, "d4", { overwrite: true });
    assert.deepEqual(await read("d1"), [{ n: 1 }], "put back, since nothing says that it is old");
    const waiting = Promise.withResolvers<void>();
    const turning = on({
      onStep: (what: string) => what.startsWith("waiting") && waiting.resolve(),
    });
    await Promise.race([waiting.promise, turning]);
    const now = [null, { n: -2 }, { n: -3 }, { n: -4 }, { n: 5 }];
    assert.deepEqual(await read("d1", "d2", "d3", "d4", "d5"), now);
    assert.equal(await redis.ttl(keyOf("d3")), -1, "not evicted before it is applied");
    assert.equal(await redis.hlen(keys.notes), 4);
    await drain(pipeline);
    assert.deepEqual((await turning).different, []);
    assert.deepEqual(await read("d1", "d2", "d3", "d4", "d5"), now);
    assert.equal((await readCache(redis, config, "session")).pending, 0);
    assert.deepEqual((await verify(redis, target, config, "session")).mismatches, []);
    await foreign("d6", -6);
    await drain(pipeline);
    assert.equal(await state(), "leaving", "who goes on with it is noticed");
  });

  await t.step(
    "verify: what is only in the target is evicted, a real difference is told",
    async () => {
      await filled(pipeline);
      await redis.del(keyOf("d1"), keyOf("d2"), keyOf("d3"));
      await pool.query("UPDATE sessions SET payload = '{}' WHERE id = 'd9'");
      const { evicted, equal, mismatches } = await verify(redis, target, config, "session");
      assert.equal(evicted, 3);
      assert.equal(equal, COUNT - 4);
      assert.deepEqual(mismatches.map(({ id, difference }) => [id, difference]), [[
        "d9",
        "different",
      ]]);
      await repairTarget(redis, config, "session", mismatches);
      await drain(pipeline);
      assert.equal((await rowsOf(pipeline)).size, COUNT, "no row of an evicted document is gone");
      assert.equal((await verify(redis, target, config, "session")).mismatches.length, 0);
    },
  );

  await t.step("rebuild warms it, with those that were written last", async () => {
    await filled(pipeline);
    await updateDocument(redis, config, "session", "d5", { n: 55 });
    await drain(pipeline);
    await redis.flushall();
    const { rows, restored } = await rebuild(redis, target, config, "session", { limit: 10 });
    assert.deepEqual([rows, restored], [10, 10]);
    const documents = await documentsOf(pipeline);
    assert.equal(documents.size, 10);
    assert(documents.has("d5"));
    assert.equal(await evictable(), 10);
    await assert.rejects(
      rebuild(redis, target, plain.config, "session", { limit: 10 }),
      /it has no cache/,
    );
  });

  await t.step("turned off, all are in Redis, and none is evicted", async () => {
    await filled(pipeline);
    await redis.del(...Array.from({ length: 700 }, (_, n) => keyOf(`d${n}`)));
    await deleteDocument(redis, config, "session", "d699");
    await insertDocument(redis, config, "session", { n: 1 }, "new");
    const stop = new AbortController();
    const onStep = (what: string) => what.startsWith("bringing") && stop.abort();
    const stopped = off({ signal: stop.signal, onStep });
    await assert.rejects(stopped, { name: "AbortError" });
    assert.equal(await state(), "leaving");
    await drain(pipeline);
    await off();
    assert.equal(await state(), "off");
    assert.equal(await evictable(), 0);
    assert.equal(await redis.exists(keys.notes), 0);
    assert.equal((await documentsOf(pipeline)).size, COUNT);
    await assertEqual(pipeline);
    const again = { ...plain, redis };
    await insertDocument(redis, plain.config, "session", { n: 1 }, "without");
    await drain(again);
  });

  await t.step(
    "turned on while it is turned off: what may be evicted stays a cache's",
    async () => {
      await filled();
      await on();
      await redis.del(...Array.from({ length: 100 }, (_, n) => keyOf(`d${n}`)));
      const another = before(target, "rows", "size", once(async () => void await on()));
      await assert.rejects(
        turnCacheOff(redis, another, config, "session"),
        /Cannot turn the cache of session off: somebody else .* meanwhile/,
      );
      assert.equal(await state(), "on");
      assert(await evictable() > 0);
      await off();
      assert.deepEqual([await state(), await evictable()], ["off", 0]);
      assert.equal((await documentsOf(pipeline)).size, COUNT);
    },
  );

  await t.step("turned off twice at once, and off while it is turned on", async () => {
    await filled(pipeline);
    const another = before(target, "rows", "size", once(async () => void await off()));
    assert.equal((await turnCacheOff(redis, another, config, "session")).state, "off");
    assert.equal(await evictable(), 0);
    await updateDocument(redis, plain.config, "session", "d1", { n: -1 });
    const onStep = () => noted.resolve();
    const noted = Promise.withResolvers<void>();
    const turning = on({ onStep });
    const refused = assert.rejects(turning, /Cannot turn the cache of session on: somebody else/);
    await noted.promise;
    await off();
    await drain(pipeline);
    await refused;
    assert.deepEqual([await state(), await evictable()], ["off", 0]);
  });

  await t.step("turned off without the memory for all: it says so, and can go on", async () => {
    await filled(pipeline);
    await redis.del(...Array.from({ length: 700 }, (_, n) => keyOf(`d${n}`)));
    await redis.config("SET", "maxmemory", "1mb");
    await assert.rejects(off(), /cannot be brought back \(OOM/);
    await redis.config("SET", "maxmemory", "0");
    assert.equal(await state(), "leaving");
    assert.deepEqual(await readByIds(redis, config, "session", ["d1"]), [{ n: 1 }]);
    await off();
    await assertEqual(pipeline);
  });
});
