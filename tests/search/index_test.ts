import assert from "node:assert/strict";
import { configWith, connectRedis, createSearchIndex, insertDocument, search } from "writebehind";
import { emptyRedis } from "../support/own_redis.ts";
import { emptyWithFields, failsWith, FIELDS, insertAll, SESSION } from "../support/searching.ts";

Deno.test("an index is created once, differing ones are reported, and rebuilt when asked", async () => {
  await using own = await emptyWithFields();
  const { redis, config } = own;
  await insertAll(redis, config, { a: SESSION });
  assert.deepEqual(await createSearchIndex(redis, config, "session"), {
    status: "created",
    differences: [],
    unindexed: 0,
  });
  // Documents that were there before are found as soon as it returns.
  assert.equal((await search(redis, config, "session", {})).total, 1);
  const unchanged = { status: "unchanged", differences: [], unindexed: 0 };
  assert.deepEqual(await createSearchIndex(redis, config, "session"), unchanged);
  assert.deepEqual(await createSearchIndex(redis, config, "session", { rebuild: true }), unchanged);

  const other = configWith(config, {
    search_index: {
      fields: [
        FIELDS[0],
        { ...FIELDS[1], type: "TEXT" },
        { ...FIELDS[2], path: "$.device.model" },
        { ...FIELDS[3], sortable: false },
        { name: "extra", type: "TAG", path: "$.extra", sortable: false },
        FIELDS[5],
      ],
    },
  });
  const differences = [
    "field device_type: the index has $.device_type TAG, wanted $.device_type TEXT",
    "field device_model: the index has $.device_model TAG, wanted $.device.model TAG",
    "field seconds: the index has $.seconds NUMERIC SORTABLE, wanted $.seconds NUMERIC",
    "field odd-na.me: the index has $.odd TAG, wanted none",
    "field extra: the index has none, wanted $.extra TAG",
  ];
  assert.deepEqual(await createSearchIndex(redis, other, "session"), {
    status: "differs",
    differences,
    unindexed: 0,
  });
  assert.deepEqual(await createSearchIndex(redis, config, "session"), unchanged);
  assert.deepEqual(await createSearchIndex(redis, other, "session", { rebuild: true }), {
    status: "rebuilt",
    differences,
    unindexed: 0,
  });
  assert.deepEqual(await createSearchIndex(redis, other, "session"), unchanged);
  assert.equal(await redis.exists("session:a"), 1, "the documents went with the index");
  assert.equal((await search(redis, other, "session", {})).total, 1);
});

Deno.test("an index that another program made is compared as a whole", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const schema = "SCHEMA $.user_id AS user_id TEXT NOSTEM $.device_type AS device_type TAG " +
    "CASESENSITIVE $.device_model AS device_model TAG NOINDEX SORTABLE";
  const made: [string, RegExp[]][] = [
    ["ON JSON PREFIX 1 session: STOPWORDS 0", []],
    ["ON JSON PREFIX 1 session:", [
      /^stop words: the index has RediSearch's own list, wanted none$/,
    ]],
    ["ON JSON PREFIX 2 session: user: STOPWORDS 1 the", [
      /^prefixes: .*user:/,
      /^stop words: .*the/,
    ]],
    ["ON HASH PREFIX 1 session: STOPWORDS 0", [/^key type: the index has HASH, wanted JSON$/]],
    ["ON JSON PREFIX 1 session: FILTER @seconds>1 STOPWORDS 0", [/^filter: /]],
  ];
  for (const [options, expected] of made) {
    await redis.flushall();
    await redis.call("FT.CREATE", "idx:sessions", ...`${options} ${schema}`.split(" "));
    const { status, differences } = await createSearchIndex(redis, config, "session");
    assert.equal(status, "differs");
    const fields = differences.filter((line) => line.startsWith("field "));
    assert.deepEqual(fields, [
      "field user_id: the index has $.user_id TEXT NOSTEM, wanted $.user_id TEXT",
      "field device_type: the index has $.device_type TAG CASESENSITIVE, wanted $.device_type TAG",
      "field device_model: the index has $.device_model TAG SORTABLE NOINDEX, wanted $.device_model TAG",
    ]);
    const others = differences.filter((line) => !line.startsWith("field "));
    assert.equal(others.length, expected.length, others.join("\n"));
    for (const [index, pattern] of expected.entries()) assert.match(others[index]!, pattern);
  }
});

Deno.test("an index is compared and searched alike by RESP2", async () => {
  await using own = await emptyWithFields();
  await createSearchIndex(own.redis, own.config, "session");
  await insertAll(own.redis, own.config, { a: SESSION });
  await using redis = await connectRedis(own.config, { protocol: 2 });
  for (const connection of [own.redis, redis]) {
    const { status, differences } = await createSearchIndex(connection, own.config, "session");
    assert.deepEqual([status, differences], ["unchanged", []]);
    const found = await search(connection, own.config, "session", {
      tag: { device_type: "android" },
    }, {
      returns: ["session_id", "nothing"],
    });
    assert.deepEqual(found, {
      total: 1,
      documents: [{ id: "a", fields: { session_id: "s1", nothing: null } }],
    });
    const ids = await search(connection, own.config, "session", {}, { returns: [] });
    assert.deepEqual(ids, { total: 1, documents: [{ id: "a", fields: {} }] });
  }
});

Deno.test("create_index: false creates none", async () => {
  await using own = await emptyRedis({ search_index: { create_index: false } });
  assert.deepEqual(await createSearchIndex(own.redis, own.config, "session"), {
    status: "off",
    differences: [],
    unindexed: 0,
  });
  assert.deepEqual(await own.redis.call("FT._LIST"), []);
});

Deno.test("several processes create an index at once: one does, no one fails", async () => {
  await using own = await emptyWithFields();
  const results = await Promise.all(
    Array.from({ length: 5 }, () => createSearchIndex(own.redis, own.config, "session")),
  );
  const statuses = results.map(({ status }) => status).sort();
  assert.deepEqual(statuses, ["created", ...Array(4).fill("unchanged")]);
});

Deno.test("creating returns when the documents are indexed, or says that they are not yet", async () => {
  await using own = await emptyWithFields();
  const { redis, config } = own;
  const pipeline = redis.pipeline();
  for (let id = 0; id < 20_000; id++) {
    pipeline.call("JSON.SET", `session:${id}`, "$", JSON.stringify(SESSION));
  }
  await pipeline.exec();
  await failsWith(() => createSearchIndex(redis, config, "session", { deadlineMs: 0 }), "indexing");
  assert.equal((await createSearchIndex(redis, config, "session")).status, "unchanged");
  const { total } = await search(redis, config, "session", { tag: { device_type: "android" } });
  assert.equal(total, 20_000);
});

Deno.test("documents that cannot be indexed are counted", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  await insertDocument(redis, config, "session", { user_id: "u1" }, "text");
  await insertDocument(redis, config, "session", { user_id: 42 }, "number");
  const { status, unindexed } = await createSearchIndex(redis, config, "session");
  assert.deepEqual({ status, unindexed }, { status: "unchanged", unindexed: 1 });
});
