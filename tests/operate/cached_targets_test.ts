/** Targets behind a cache: what it has evicted is in one of them alone. */

import assert from "node:assert/strict";
import {
  addTarget,
  configWith,
  deleteDocument,
  insertDocument,
  listTargets,
  readCache,
  removeTarget,
  turnCacheOff,
  turnCacheOn,
  updateDocument,
  verify,
} from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { before, drain, once, type Two, withTwo, write } from "../support/two_targets.ts";

const entities = [
  { name: "session", table: "sessions", index_name: "idx:sessions", cache: { enabled: true } },
];

/** As Redis does where its memory is full. */
async function evict({ redis }: Two, ...ids: string[]) {
  for (const id of ids) {
    assert(await redis.ttl(`session:${id}`) > 0, `${id} is not evictable`);
    await redis.del(`session:${id}`);
  }
}

/** The ids and numbers of a target's rows. */
async function rowsOf({ config }: Two, target: Two["a"]): Promise<[string, unknown][]> {
  const rows = await target.rows!.scan("session", [partitionKeys(config, "session", 0)], "");
  return rows.map(({ id, text }) => [id, JSON.parse(text).n]);
}

Deno.test("targets behind a cache", (t) =>
  withTwo(t, async (step) => {
    await step("what is evicted, pending or deleted comes to a new target", async (two) => {
      const { redis, config, a, b } = two;
      const alone = configWith(config, { targets: [config.targets[0]!] });
      await write(redis, alone, 0, 6);
      await drain(redis, alone, a);
      await evict(two, "d0", "d1", "d2", "d3");
      // Deleted, updated and inserted, and only Redis knows yet.
      await deleteDocument(redis, config, "session", "d1");
      await updateDocument(redis, config, "session", "d2", { n: 22 });
      await insertDocument(redis, config, "session", { n: 7 }, "d7");
      let meanwhile = false;
      const adding = before(
        b,
        "batches",
        "apply",
        once(async () => {
          meanwhile = true;
          await updateDocument(redis, config, "session", "d3", { n: 33 });
          await deleteDocument(redis, config, "session", "d4");
        }),
      );
      await addTarget(redis, adding, config, "session");
      assert(meanwhile);
      await drain(redis, config, a, b);
      const expected = [["d0", 0], ["d2", 22], ["d3", 33], ["d5", 5], ["d7", 7]];
      assert.deepEqual(await rowsOf(two, a), expected);
      assert.deepEqual(await rowsOf(two, b), expected);
    }, { entities });

    await step("rows of what is deleted go from one that was there before", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 3);
      await drain(redis, config, a, b);
      await removeTarget(redis, config, "session", "b");
      await deleteDocument(redis, config, "session", "d0");
      await drain(redis, config, a);
      await evict(two, "d1");
      assert.equal((await addTarget(redis, b, config, "session")).removed, 1);
      assert.deepEqual(await rowsOf(two, b), [["d1", 1], ["d2", 2]]);
    }, { entities });

    await step("a cache's own target is neither removed nor added", async (two) => {
      const { redis, config, a } = two;
      await write(redis, config, 0, 1);
      await drain(redis, config, a);
      const off = "turn it off first: deno task cache off --entity session";
      await assert.rejects(
        removeTarget(redis, config, "session", "a"),
        new RegExp(
          `^ConfigError: Cannot remove the target a, which session is read from: .*${off}$`,
        ),
      );
      await assert.rejects(
        addTarget(redis, a, config, "session"),
        /^ConfigError: Cannot add the target a for session: the cache reads from it; run deno task cache off/,
      );
      assert.equal((await listTargets(redis, config, "session"))[0]!.state, "active");
    }, { entities });

    await step("where not all is noted, none is added", async (two) => {
      const { redis, config, a, b } = two;
      const { settings } = partitionKeys(config, "session", 0);
      const alone = configWith(config, { targets: [config.targets[0]!] });
      await write(redis, alone, 0, 1);
      await drain(redis, alone, a);
      const refused =
        /^ConfigError: Cannot add the target b .* just being turned .* deno task cache on/;
      await redis.hset(settings, "cache", "noting");
      await assert.rejects(addTarget(redis, b, config, "session"), refused);
      await redis.hset(settings, "cache", "leaving");
      await assert.rejects(addTarget(redis, b, config, "session"), refused);
      await redis.hset(settings, { cache: "on", foreign: "1-0" });
      await assert.rejects(addTarget(redis, b, config, "session"), refused);
      await redis.hdel(settings, "cache", "foreign");
      const adding = before(
        b,
        "batches",
        "apply",
        once(async () => void await redis.hset(settings, "cache", "on")),
      );
      await assert.rejects(
        addTarget(redis, adding, config, "session"),
        /the cache of session was turned on or off, .* while the target b was filled; run this again/,
      );
      await addTarget(redis, b, config, "session");
      assert.equal((await verify(redis, b, config, "session")).equal, 1);
    }, { entities });

    await step("turned off and on again meanwhile: it is filled once more", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 3);
      await drain(redis, config, a);
      await evict(two, "d0");
      const adding = before(
        b,
        "batches",
        "apply",
        once(async () => {
          await turnCacheOff(redis, a, config, "session");
          await turnCacheOn(redis, a, config, "session");
        }),
      );
      const { state } = await readCache(redis, config, "session");
      await assert.rejects(
        addTarget(redis, adding, config, "session"),
        /the cache of session was turned on or off, .* while the target b was filled; run this again/,
      );
      assert.equal((await readCache(redis, config, "session")).state, state);
      await addTarget(redis, b, config, "session");
      await drain(redis, config, a, b);
      assert.deepEqual(await rowsOf(two, b), [["d0", 0], ["d1", 1], ["d2", 2]]);
    }, { entities });
  }));
