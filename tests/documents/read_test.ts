import assert from "node:assert/strict";
import { ConfigError, DocumentError, insertDocument, readByIds } from "writebehind";
import { emptyRedis } from "../support/own_redis.ts";

Deno.test("readByIds gives documents in order, null for missing ones, the same one twice", async () => {
  await using own = await emptyRedis({ streams: { partitions: 4 } });
  const { redis, config } = own;
  for (const id of ["a", "b", "c"]) await insertDocument(redis, config, "session", { id }, id);
  assert.deepEqual(
    await readByIds(redis, config, "session", ["c", "x", "a", "c", "b"]),
    [{ id: "c" }, null, { id: "a" }, { id: "c" }, { id: "b" }],
  );
  assert.deepEqual(await readByIds(redis, config, "session", []), []);
  await assert.rejects(readByIds(redis, config, "session", ["a", ""]), DocumentError);
  await assert.rejects(readByIds(redis, config, "nothing", ["a"]), ConfigError);
});

Deno.test("readByIds reads a document that an application wrote by JSON.SET", async () => {
  await using own = await emptyRedis();
  await own.redis.call("JSON.SET", "session:theirs", "$", '{"a":[1]}');
  assert.deepEqual(await readByIds(own.redis, own.config, "session", ["theirs"]), [{ a: [1] }]);
});
