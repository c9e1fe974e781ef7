import assert from "node:assert/strict";
import {
  ConfigError,
  configWith,
  deleteDocument,
  insertDocument,
  readByIds,
  updateDocument,
  versionOf,
} from "writebehind";
import { crc16 } from "writebehind/redis/keys.ts";
import { contents, events, refusedWith } from "../support/documents.ts";
import { emptyRedis } from "../support/own_redis.ts";

Deno.test("insert, update and delete change the document and append one event each", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const began = Date.now();
  const inserted = await insertDocument(redis, config, "session", { a: 1, b: { c: "x" } }, "d1");
  assert.deepEqual(await readByIds(redis, config, "session", ["d1"]), [{ a: 1, b: { c: "x" } }]);
  const updated = await updateDocument(redis, config, "session", "d1", { a: null, b: { d: [2] } });
  assert.deepEqual(await readByIds(redis, config, "session", ["d1"]), [{ b: { c: "x", d: [2] } }]);
  const deleted = await deleteDocument(redis, config, "session", "d1");
  assert.deepEqual(await readByIds(redis, config, "session", ["d1"]), [null]);
  assert.equal(await redis.exists("session:d1"), 0);

  const all = await events(redis);
  assert.deepEqual(all.map(({ fields: { ts: _, ...rest } }) => rest), [
    { doc_id: "d1", event_type: "insert", payload: '{"a":1,"b":{"c":"x"}}' },
    { doc_id: "d1", event_type: "update", payload: '{"b":{"c":"x","d":[2]}}' },
    { doc_id: "d1", event_type: "delete" },
  ]);
  for (const { fields } of all) {
    const ts = Number(fields.ts);
    assert(ts >= began && ts <= Date.now());
  }
  for (const [index, receipt] of [inserted, updated, deleted].entries()) {
    const streamId = all[index]!.id;
    const version = versionOf(streamId);
    assert.deepEqual(receipt, { documentId: "d1", streamId, version, repeated: false });
  }
  assert(inserted.version! < updated.version! && updated.version! < deleted.version!);
});

Deno.test("an id that exists is refused, unless overwrite is asked for", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await insertDocument(redis, config, "session", { old: 1 }, "d");
  await refusedWith(redis, "exists", () => insertDocument(redis, config, "session", { a: 1 }, "d"));
  await insertDocument(redis, config, "session", { a: 1 }, "d", { overwrite: true });
  assert.deepEqual(await readByIds(redis, config, "session", ["d"]), [{ a: 1 }]);
  assert.deepEqual((await events(redis)).map(({ fields }) => fields.event_type), [
    "insert",
    "insert",
  ]);
});

Deno.test("update and delete of a document that is missing are refused", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await refusedWith(
    redis,
    "missing",
    () => updateDocument(redis, config, "session", "d", { a: 1 }),
  );
  await refusedWith(redis, "missing", () => deleteDocument(redis, config, "session", "d"));
});

Deno.test("keys of another type are refused and kept: document, stream, settings, request", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const verbs = (requestId?: string) => [
    () => insertDocument(redis, config, "session", { a: 2 }, "d", { overwrite: true, requestId }),
    () => updateDocument(redis, config, "session", "d", { a: 2 }, { requestId }),
    () => deleteDocument(redis, config, "session", "d", { requestId }),
  ];
  for (
    const key of ["session:d", "stream:session", "stream:settings:session", "request:session:r"]
  ) {
    await redis.flushall();
    if (key !== "session:d") await insertDocument(redis, config, "session", { a: 1 }, "d");
    await redis.del(key);
    await redis.sadd(key, "theirs");
    for (const verb of verbs(key.startsWith("request") ? "r" : undefined)) {
      await refusedWith(redis, "wrong_type", verb, new RegExp(`the key ${key} holds another type`));
    }
    assert.deepEqual(await redis.smembers(key), ["theirs"]);
  }
});

Deno.test("an unknown entity is refused with the known ones", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  for (
    const call of [
      () => insertDocument(redis, config, "user", {}, "d"),
      () => updateDocument(redis, config, "__proto__", "d", {}),
      () => deleteDocument(redis, config, "session:x", "d"),
    ]
  ) {
    await assert.rejects(
      call,
      (error) => error instanceof ConfigError && /session/.test(error.message),
    );
  }
  assert.equal((await contents(redis)).size, 0);
});

Deno.test("a requestId makes a call happen once, and its first receipt comes again", async () => {
  await using own = await emptyRedis({ documents: { request_id_ttl_seconds: 60 } });
  const { redis, config } = own;
  const calls = [
    () => insertDocument(redis, config, "session", { a: 1 }, "d", { requestId: "r1" }),
    () => updateDocument(redis, config, "session", "d", { a: 2 }, { requestId: "r2" }),
    () => deleteDocument(redis, config, "session", "d", { requestId: "r3" }),
  ];
  for (const call of calls) {
    const first = await call();
    const before = await contents(redis);
    const again = await Promise.all([call(), call()]);
    assert.deepEqual(again, [{ ...first, repeated: true }, { ...first, repeated: true }]);
    assert.deepEqual(await contents(redis), before);
  }
  assert.equal((await events(redis)).length, 3);
  // Also after the document went on: the first insert is not done again.
  assert.equal((await calls[0]!()).repeated, true);
  assert.deepEqual(await readByIds(redis, config, "session", ["d"]), [null]);
  const ttl = await redis.ttl("request:session:r1");
  assert(ttl > 50 && ttl <= 60);
});

Deno.test("calls of one requestId at the same time make one event", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const call = () => insertDocument(redis, config, "session", { a: 1 }, "d", { requestId: "r" });
  const receipts = await Promise.all(Array.from({ length: 20 }, call));
  assert.equal(receipts.filter(({ repeated }) => !repeated).length, 1);
  assert.equal(new Set(receipts.map(({ streamId }) => streamId)).size, 1);
  assert.equal((await events(redis)).length, 1);
});

Deno.test("a requestId of another call is refused", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await insertDocument(redis, config, "session", { a: 1 }, "d", { requestId: "r" });
  const requestId = "r";
  for (
    const call of [
      () => insertDocument(redis, config, "session", { a: 2 }, "d", { requestId }),
      () => insertDocument(redis, config, "session", { a: 1 }, "e", { requestId }),
      () => insertDocument(redis, config, "session", { a: 1 }, "d", { requestId, overwrite: true }),
      () => updateDocument(redis, config, "session", "d", { a: 1 }, { requestId }),
      () => deleteDocument(redis, config, "session", "d", { requestId }),
    ]
  ) {
    await refusedWith(redis, "request_conflict", call);
  }
});

Deno.test("a refused call leaves its requestId free", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const update = () => updateDocument(redis, config, "session", "d", { a: 2 }, { requestId: "r" });
  await refusedWith(redis, "missing", update);
  await insertDocument(redis, config, "session", { a: 1 }, "d");
  assert.equal((await update()).repeated, false);
});

Deno.test("four partitions: each document's keys are in its own one", async () => {
  await using own = await emptyRedis({ streams: { partitions: 4 } });
  const { redis, config } = own;
  const ids = Array.from({ length: 40 }, (_, index) => `id-${index}`);
  for (const id of ids) {
    await insertDocument(redis, config, "session", { id }, id, { requestId: id });
    const tag = `{session-${crc16(id) % 4}}`;
    assert.equal(await redis.exists(`session:${tag}:${id}`, `request:${tag}:${id}`), 2);
    const last = (await events(redis, `stream:${tag}`)).at(-1);
    assert.equal(last!.fields.doc_id, id);
  }
  for (let p = 0; p < 4; p++) {
    assert.equal(await redis.hget(`stream:settings:{session-${p}}`, "partitions"), "4");
  }
});

Deno.test("another number of partitions than the stream was first written with is refused", async () => {
  await using own = await emptyRedis({ streams: { partitions: 4 } });
  const { redis, config } = own;
  // The keys of 4 and of 2 partitions have the same names: partition 0 and 1.
  const ids = Array.from({ length: 40 }, (_, index) => `id-${index}`);
  for (const id of ids) await insertDocument(redis, config, "session", { id }, id);
  const two = configWith(config, { streams: { partitions: 2 } });
  for (const id of ["x", "y", "z"]) {
    await refusedWith(
      redis,
      "partitions",
      () => insertDocument(redis, two, "session", {}, id),
      /goes with streams\.partitions: 4/,
    );
  }
});

Deno.test("perform_write_behind: false changes Redis and appends no event", async () => {
  await using own = await emptyRedis({
    dummy_data: { perform_write_behind: { insert: false, update: true, delete: false } },
  });
  const { redis, config } = own;
  const receipt = await insertDocument(redis, config, "session", { a: 1 }, "d", { requestId: "r" });
  assert.deepEqual(receipt, { documentId: "d", streamId: null, version: null, repeated: false });
  const again = await insertDocument(redis, config, "session", { a: 1 }, "d", { requestId: "r" });
  assert.deepEqual(again, { ...receipt, repeated: true });
  await updateDocument(redis, config, "session", "d", { b: 2 });
  assert.equal((await deleteDocument(redis, config, "session", "d")).streamId, null);
  assert.deepEqual((await events(redis)).map(({ fields }) => fields.event_type), ["update"]);
  assert.equal(await redis.exists("session:d"), 0);
});
