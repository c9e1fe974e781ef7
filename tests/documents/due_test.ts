import assert from "node:assert/strict";
import {
  connectRedis,
  deleteDocument,
  insertDocument,
  type Receipt,
  RedisWriteBehind,
  updateDocument,
} from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { expireScript, runScript } from "writebehind/redis/scripts/mod.ts";
import { waitFor } from "../support/servers.ts";
import { drain, type Pipeline, reset, rowsOf, testPipeline } from "../support/pipeline.ts";

const SESSION = { name: "session", table: "sessions", index_name: "idx:sessions" };

Deno.test("documents that are due", async (t) => {
  await using pipeline = await testPipeline();
  const { redis, config, pool } = pipeline;
  const cached = pipeline.with({ entities: [{ ...SESSION, cache: { enabled: true } }] });
  const keys = partitionKeys(config, "session", 0);
  const insert = (id: string, ttlSeconds?: number, of = config): Promise<Receipt> =>
    insertDocument(redis, of, "session", { id }, id, { ttlSeconds, overwrite: true });
  const due = (id: string) => redis.zscore(keys.due, `d${id}`);
  /** as if its time were over */
  const makeDue = (id: string) => redis.zadd(keys.due, 1, `d${id}`);
  /** until a sink has deleted them, and applied that */
  const gone = async (of: Pipeline, ...ids: string[]) => {
    await using sink = new RedisWriteBehind(redis, pool, of.config, "session");
    sink.start();
    await waitFor(async () => {
      const rows = await rowsOf(of);
      return ids.every((id) => !rows.has(id));
    }, { what: `${ids} to be deleted`, deadlineMs: 30_000 });
  };
  const step = (name: string, work: () => Promise<void>) =>
    t.step(name, async () => {
      await reset(pipeline);
      await work();
    });

  await step("one that is due is deleted by an event, the others stay", async () => {
    await insert("short", 0.001);
    await insert("long", 1000);
    await insert("never");
    await drain(pipeline);
    await gone(pipeline, "short");
    assert.deepEqual([...(await rowsOf(pipeline)).keys()].sort(), ["long", "never"]);
    assert.equal(await redis.exists("session:short"), 0);
    assert.equal(await due("short"), null);
    assert(Number(await due("long")) > Date.now() + 900_000);
  });

  await step("due while no sink ran, it is deleted when one does", async () => {
    await insert("a", 1000);
    await drain(pipeline);
    await makeDue("a");
    await gone(pipeline, "a");
  });

  await step(
    "an update keeps the time or sets another, an insert and a delete take it back",
    async () => {
      await insert("a", 1000);
      const first = await due("a");
      await updateDocument(redis, config, "session", "a", { n: 1 });
      assert.equal(await due("a"), first);
      await updateDocument(redis, config, "session", "a", { n: 2 }, { ttlSeconds: 5000 });
      assert(Number(await due("a")) > Number(first));
      await insert("a");
      assert.equal(await due("a"), null);
      await insert("a", 1000);
      await deleteDocument(redis, config, "session", "a");
      assert.equal(await due("a"), null);
    },
  );

  await step("an evicted document that is due is deleted as well", async () => {
    await insert("a", 1000, cached);
    const of = { ...pipeline, config: cached };
    await drain(of);
    assert(await redis.ttl("session:a") > 0);
    await redis.del("session:a");
    await makeDue("a");
    await gone(of, "a");
  });

  await step("where Redis evicts what has a time, receipts of requests have none", async () => {
    const options = { requestId: "r" };
    // Those have not learned that documents may be due.
    await using other = await connectRedis(config);
    await using third = await connectRedis(config);
    const write = (of = redis) => insertDocument(of, config, "session", {}, "a", options);
    await write(other);
    assert(await redis.ttl(`${keys.requestPrefix}r`) > 0);
    await reset(pipeline);
    // While they are connected.
    await redis.config("SET", "maxmemory-policy", "volatile-lru");
    try {
      const { streamId } = await write(other);
      assert.equal(await redis.ttl(`${keys.requestPrefix}r`), -1);
      const member = `r${keys.requestPrefix}r`;
      assert(Number(await redis.zscore(keys.due, member)) > Date.now());
      for (const each of [redis, other, third]) {
        const again = await write(each);
        assert.deepEqual([again.repeated, again.streamId], [true, streamId]);
        assert.equal(await redis.ttl(`${keys.requestPrefix}r`), -1);
      }
      await drain(pipeline);
      await redis.zadd(keys.due, 1, member);
      await using sink = new RedisWriteBehind(redis, pool, config, "session");
      sink.start();
      const isGone = async () => await redis.exists(`${keys.requestPrefix}r`) === 0;
      await waitFor(isGone, { what: "the receipt to go", deadlineMs: 30_000 });
    } finally {
      await redis.config("SET", "maxmemory-policy", "noeviction");
    }
  });

  await step("who may not take a time back changes nothing", async () => {
    await insert("a", 1000);
    await redis.acl("SETUSER", "no-zrem", "on", ">word", "~*", "&*", "+@all", "-zrem");
    await using other = await connectRedis(
      pipeline.with({ redis: { username: "no-zrem", password: "word" } }),
    );
    const refusal = { name: "DocumentError", message: /may not run ZREM/ };
    await assert.rejects(deleteDocument(other, config, "session", "a"), refusal);
    assert.equal(await redis.exists("session:a"), 1);
    assert.equal(await redis.xlen("stream:session"), 1);
  });

  await step("who may not ask for the time writes nothing that is due", async () => {
    await redis.acl("SETUSER", "no-time", "on", ">word", "~*", "&*", "+@all", "-time");
    await using other = await connectRedis(
      pipeline.with({ redis: { username: "no-time", password: "word" } }),
      { rights: "writer" },
    );
    const options = { ttlSeconds: 1000 };
    const inserting = insertDocument(other, config, "session", {}, "a", options);
    await assert.rejects(inserting, { name: "DocumentError", message: /may not run TIME/ });
    assert.equal(await redis.exists("session:a", "stream:session"), 0);
  });

  await step("where no event can follow, what is due stays", async () => {
    await insert("a", 1000);
    await drain(pipeline);
    await redis.hset(keys.settings, "far", 1);
    await makeDue("a");
    const args = ["1", "a"];
    const names = [keys.stream, keys.settings, keys.due, keys.notes, "session:a"];
    assert.equal(await runScript(redis, expireScript, names, args), 0);
    await redis.hdel(keys.settings, "far");
    assert.equal(await runScript(redis, expireScript, names, args), 1);
  });

  await step("a time that is none is refused", async () => {
    for (const ttlSeconds of [0, -1, NaN, 1e12]) {
      await assert.rejects(insert("a", ttlSeconds), /ttlSeconds: expected a number above 0/);
    }
    const without = pipeline.with({ dummy_data: { perform_write_behind: { delete: false } } });
    await assert.rejects(insert("a", 1, without), /ttlSeconds deletes by events/);
  });
});
