import assert from "node:assert/strict";
import {
  configWith,
  deleteDocument,
  generateDocId,
  insertDocument,
  readByIds,
  updateDocument,
} from "writebehind";
import { allPartitions, crc16 } from "writebehind/redis/keys.ts";
import { events, refusedWith } from "../support/documents.ts";
import { emptyRedis } from "../support/own_redis.ts";

Deno.test("insert without an id makes one; ids are unique and ordered by time", async () => {
  await using own = await emptyRedis();
  const { documentId } = await insertDocument(own.redis, own.config, "session", { a: 1 });
  assert.match(documentId, /^session-m1-\d{13}-[0-9a-f]{12}$/);
  assert.deepEqual(await readByIds(own.redis, own.config, "session", [documentId]), [{ a: 1 }]);
  const ids = Array.from({ length: 1000 }, () => generateDocId("app", "host-7"));
  assert.equal(new Set(ids).size, 1000);
  assert.match(ids[0]!, /^app-host-7-/);
});

const HOSTILE_IDS = [
  ...[" ", "a b", ":", "session:x", "a:b:c", "{a}", "{}", "}{", "'", '"', "`", "\n", "\r\n", "\t"],
  ...[
    "\u0001",
    "\u007f",
    "é",
    "日本語",
    "😀",
    "\u202e",
    "e\u0301",
    "*",
    "?",
    "[a]",
    "\\",
    "%00",
    "..",
    "/",
  ],
  "'; DROP TABLE sessions; --",
  '") redis.call("FLUSHALL") --',
  "]] redis.call('FLUSHALL') [[",
  "@user_id:{*}",
  "*=>[KNN 1 @v $b]",
  "__proto__",
  "constructor",
  "-0",
  "$.a",
  "x".repeat(512),
  "é".repeat(256),
];

Deno.test("every hostile id is an id like any other", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  for (const partitions of [1, 4]) {
    await redis.flushall();
    const split = configWith(config, { streams: { partitions } });
    for (const id of HOSTILE_IDS) {
      await insertDocument(redis, split, "session", { id }, id, { requestId: id });
      await updateDocument(redis, split, "session", id, { updated: true });
    }
    assert.deepEqual(
      await readByIds(redis, split, "session", HOSTILE_IDS),
      HOSTILE_IDS.map((id) => ({ id, updated: true })),
    );
    for (const [index, id] of HOSTILE_IDS.entries()) {
      const { stream } = allPartitions(split, "session")[partitions === 1 ? 0 : crc16(id) % 4]!;
      const mine = (await events(redis, stream)).filter(({ fields }) => fields.doc_id === id);
      assert.equal(mine.length, 2, `events of id ${index}`);
      await deleteDocument(redis, split, "session", id);
    }
    assert.deepEqual(
      (await redis.keys("session:*")).length,
      0,
      "a hostile id left a document behind",
    );
  }
});

Deno.test("what cannot be an id is refused", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const bad = ["", "x".repeat(513), "é".repeat(257), "a\0b", "\ud800", null, 1, undefined, {}];
  for (const id of bad as string[]) {
    // `undefined` asks insert to make an id.
    if (id !== undefined) {
      await refusedWith(redis, "invalid", () => insertDocument(redis, config, "session", {}, id));
    }
    await refusedWith(redis, "invalid", () => updateDocument(redis, config, "session", id, {}));
    await refusedWith(redis, "invalid", () => deleteDocument(redis, config, "session", id));
  }
});
