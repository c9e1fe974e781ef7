import assert from "node:assert/strict";
import {
  ConfigError,
  configWith,
  ConnectionError,
  connectRedis,
  createSearchIndex,
  insertDocument,
  randomSearchQueries,
  readByIds,
  search,
  SearchError,
  type SearchFilter,
  searchRaw,
} from "writebehind";
import { emptyRedis, server } from "../support/own_redis.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { emptyWithFields, failsWith, FIELDS, insertAll, SESSION } from "../support/searching.ts";
import { waitFor } from "../support/servers.ts";

Deno.test("both sample queries of the original give results, with the field that is not indexed", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  await insertAll(redis, config, { a: SESSION, b: { ...SESSION, user_id: "user_1" } });
  const returns = ["user_id", "session_id", "device_type", "device_model"];
  const fields = {
    user_id: "user_4554",
    session_id: "s1",
    device_type: "android",
    device_model: "Pixel-4",
  };
  assert.deepEqual(await searchRaw(redis, config, "session", "@user_id:user_4554", returns), {
    total: 1,
    documents: [{ id: "a", fields }],
  });
  const { total, documents } = await searchRaw(
    redis,
    config,
    "session",
    "@device_type:{android}",
    returns,
  );
  assert.equal(total, 2);
  assert.deepEqual(documents.find(({ id }) => id === "a")?.fields, fields);
});

Deno.test("where the entity has a cache, the result says that it covers what is in Redis", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const cached = configWith(config, {
    entities: [{ ...config.entities[0]!, cache: { enabled: true } }],
  });
  await createSearchIndex(redis, cached, "session");
  const result = { total: 0, documents: [], partial: true };
  assert.deepEqual(await search(redis, cached, "session", { text: { user_id: "user_1" } }), result);
  assert.deepEqual(await search(redis, cached, "session", { text: { user_id: "" } }), result);
  assert.deepEqual(await searchRaw(redis, cached, "session", "*"), result);
});

Deno.test("with four partitions all documents are found, by their ids", async () => {
  await using own = await emptyWithFields({ streams: { partitions: 4 } });
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  const ids = [..."abcdefgh", "a:b", "{x}", "session:{session-0}:y", "é\n"];
  await insertAll(redis, config, Object.fromEntries(ids.map((id) => [id, SESSION])));
  const { total, documents } = await search(redis, config, "session", {}, { limit: 100 });
  assert.equal(total, ids.length);
  assert.deepEqual(documents.map(({ id }) => id).sort(), ids.sort());
});

Deno.test("text is whole words in order; numbers are ranges with both ends", async () => {
  await using own = await emptyWithFields();
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  await insertAll(redis, config, {
    a: { user_id: "the quick brown fox", seconds: 1 },
    b: { user_id: "quick runs", seconds: 2.5 },
    c: { user_id: "brown-quick", seconds: -1e21 },
  });
  const ids = async (filter: SearchFilter) =>
    (await search(redis, config, "session", filter)).documents.map(({ id }) => id).sort();
  assert.deepEqual(await ids({ text: { user_id: "Quick" } }), ["a", "b", "c"]);
  assert.deepEqual(await ids({ text: { user_id: "quick brown" } }), ["a"]);
  assert.deepEqual(await ids({ text: { user_id: "qui" } }), []);
  assert.deepEqual(await ids({ text: { user_id: "run" } }), []);
  assert.deepEqual(await ids({ numeric: { seconds: [1, 2.5] } }), ["a", "b"]);
  assert.deepEqual(await ids({ numeric: { seconds: [-Infinity, 1] } }), ["a", "c"]);
  assert.deepEqual(await ids({ numeric: { seconds: [1.0000001, Infinity] } }), ["b"]);
  assert.deepEqual(await ids({ numeric: { seconds: [2, 1] } }), []);
  assert.deepEqual(await ids({ numeric: { seconds: [-1e21, -1e21] } }), ["c"]);
});

Deno.test("fields come from the document, indexed or not, nested, by path, or as null", async () => {
  await using own = await emptyWithFields();
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  const document = {
    ...SESSION,
    odd: "x",
    title: "Hello World",
    "a b": 1,
    'q"\\': "quoted",
    "d.ot": [1.5],
    none: null,
    yes: true,
    f0: "f0",
    "": "empty",
  };
  await insertAll(redis, config, { a: document });
  const wanted = {
    "odd-na.me": "x",
    title: "Hello World",
    seconds: "60",
    session_id: "s1",
    device: '{"os":{"name":"a","versions":[1,2]}}',
    "$.device.os.versions": "[1,2]",
    "$.device.os.name": "a",
    "a b": "1",
    'q"\\': "quoted",
    "d.ot": "[1.5]",
    none: null,
    yes: "1",
    f0: "f0",
    "": "empty",
    nothing: null,
    "$.nothing.at.all": null,
    "device.os": null,
  };
  const names = Object.keys(wanted);
  const found = await search(redis, config, "session", { tag: { "odd-na.me": "x" } }, {
    returns: [...names, "f0", "title"],
  });
  assert.deepEqual(found, { total: 1, documents: [{ id: "a", fields: wanted }] });
  const [first] = (await search(redis, config, "session", {})).documents;
  assert.deepEqual(Object.keys(first!.fields), FIELDS.map(({ name }) => name));
});

Deno.test("limit and offset page through, total counts all", async () => {
  await using own = await emptyWithFields();
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  const ids = Array.from({ length: 25 }, (_, index) => `d${index}`);
  await insertAll(redis, config, Object.fromEntries(ids.map((id) => [id, SESSION])));
  const seen = new Set<string>();
  for (const [offset, count] of [[0, 10], [10, 10], [20, 5], [30, 0]] as const) {
    const { total, documents } = await search(redis, config, "session", {}, {
      offset,
      returns: [],
    });
    assert.equal(total, 25);
    assert.equal(documents.length, count);
    for (const { id } of documents) seen.add(id);
  }
  assert.equal(seen.size, 25);
  assert.equal((await search(redis, config, "session", {}, { limit: 0 })).documents.length, 0);
  for (const page of [{ limit: -1 }, { limit: 1.5 }, { offset: NaN }]) {
    await failsWith(() => search(redis, config, "session", {}, page), "invalid");
    await failsWith(() => searchRaw(redis, config, "session", "*", [], page), "invalid");
  }
  await failsWith(() => search(redis, config, "session", {}, { limit: 1e9 }), "refused");
});

Deno.test("what is wrong is said: entity, index, field, syntax, connection", async () => {
  await using own = await emptyWithFields();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  await assert.rejects(createSearchIndex(redis, config, "nobody"), ConfigError);
  await assert.rejects(search(redis, config, "nobody", {}), ConfigError);
  await assert.rejects(randomSearchQueries(redis, config, "nobody", 1), ConfigError);
  await failsWith(() => search(redis, config, "session", {}), "no_index");
  await createSearchIndex(redis, config, "session");
  await failsWith(() => search(redis, config, "session", { tag: { x: "y" } }), "unknown_field");
  await failsWith(() => searchRaw(redis, config, "session", "@user_id:(", ["user_id"]), "refused");
  await proxy.refuse();
  await waitFor(() => redis.status !== "ready", { what: "the connection's end" });
  await assert.rejects(search(redis, config, "session", {}), ConnectionError);
  await assert.rejects(createSearchIndex(redis, config, "session"), ConnectionError);
});

Deno.test("130,000 ids and 200,000 tags in one call", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  await insertDocument(redis, config, "session", { device_type: "tag5" }, "id5");
  const ids = Array.from({ length: 130_000 }, (_, n) => `id${n}`);
  const found = await readByIds(redis, config, "session", ids);
  assert.equal(found.length, ids.length);
  assert.deepEqual(found.flatMap((document, at) => document ? [[at, document]] : []), [
    [5, { device_type: "tag5" }],
  ]);
  const tags = Array.from({ length: 200_000 }, (_, n) => `tag${n}`);
  const answer = await search(redis, config, "session", { tag: { device_type: tags } })
    .catch((error) => error);
  assert(answer instanceof SearchError || answer.total === 1, String(answer));
  assert.equal(await redis.ping(), "PONG");
});
