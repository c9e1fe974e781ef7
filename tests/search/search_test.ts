import fc from "fast-check";
import assert from "node:assert/strict";
import {
  type Config,
  ConfigError,
  configWith,
  ConnectionError,
  connectRedis,
  createSearchIndex,
  type DeepPartial,
  dummyDataWorker,
  insertDocument,
  type JsonObject,
  parseConfig,
  randomSearchQueries,
  type RedisConnection,
  search,
  searchRaw,
} from "writebehind";
import { SearchError, type SearchErrorCode } from "writebehind/search/error.ts";
import type { SearchFilter } from "writebehind/search/query.ts";
import { TcpProxy } from "../support/proxy.ts";
import { testRedis, waitFor } from "../support/servers.ts";

const server = await testRedis();
Deno.test.afterAll(async () => await server[Symbol.asyncDispose]());

const base = configWith(parseConfig("", "test.yaml"), {
  redis: { host: server.host, port: server.port },
});
const FIELDS = [
  { name: "user_id", type: "TEXT", path: "$.user_id", sortable: false },
  { name: "device_type", type: "TAG", path: "$.device_type", sortable: false },
  { name: "device_model", type: "TAG", path: "$.device_model", sortable: false },
  { name: "seconds", type: "NUMERIC", path: "$.seconds", sortable: true },
  { name: "odd-na.me", type: "TAG", path: "$.odd", sortable: false },
  { name: "title", type: "TEXT", path: "$.title", sortable: true },
] as const;

/** An empty Redis with a connection to it. */
async function empty(overrides: DeepPartial<Config> = {}) {
  const config = configWith(base, { search_index: { fields: FIELDS }, ...overrides });
  const redis = await connectRedis(config);
  await redis.flushall();
  return { redis, config, [Symbol.asyncDispose]: () => redis.close() };
}

async function insertAll(
  redis: RedisConnection,
  config: Config,
  documents: Record<string, JsonObject>,
): Promise<void> {
  for (const [id, document] of Object.entries(documents)) {
    await insertDocument(redis, config, "session", document, id);
  }
}

async function failsWith(call: () => Promise<unknown>, code: SearchErrorCode): Promise<void> {
  await assert.rejects(call, (error) => {
    assert(error instanceof SearchError, `not a SearchError: ${error}`);
    assert.equal(error.code, code, error.message);
    return true;
  });
}

const SESSION = {
  user_id: "user_4554",
  session_id: "s1",
  device_type: "android",
  device_model: "Pixel-4",
  seconds: 60,
  device: { os: { name: "a", versions: [1, 2] } },
};

Deno.test("both sample queries of the original give results, with the field that is not indexed", async () => {
  await using own = await empty({ search_index: {} });
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

Deno.test("an index is created once, differing ones are reported, and rebuilt when asked", async () => {
  await using own = await empty();
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
  await using own = await empty({ search_index: {} });
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
  await using own = await empty();
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
  await using own = await empty({ search_index: { create_index: false } });
  assert.deepEqual(await createSearchIndex(own.redis, own.config, "session"), {
    status: "off",
    differences: [],
    unindexed: 0,
  });
  assert.deepEqual(await own.redis.call("FT._LIST"), []);
});

Deno.test("several processes create an index at once: one does, no one fails", async () => {
  await using own = await empty();
  const results = await Promise.all(
    Array.from({ length: 5 }, () => createSearchIndex(own.redis, own.config, "session")),
  );
  const statuses = results.map(({ status }) => status).sort();
  assert.deepEqual(statuses, ["created", ...Array(4).fill("unchanged")]);
});

Deno.test("creating returns when the documents are indexed, or says that they are not yet", async () => {
  await using own = await empty();
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

Deno.test("with four partitions all documents are found, by their ids", async () => {
  await using own = await empty({ streams: { partitions: 4 } });
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  const ids = [..."abcdefgh", "a:b", "{x}", "session:{session-0}:y", "é\n"];
  await insertAll(redis, config, Object.fromEntries(ids.map((id) => [id, SESSION])));
  const { total, documents } = await search(redis, config, "session", {}, { limit: 100 });
  assert.equal(total, ids.length);
  assert.deepEqual(documents.map(({ id }) => id).sort(), ids.sort());
});

/** Values that a careless query would take for syntax, or lose. */
const HOSTILE = [
  ...[
    "user_4554",
    "Pixel-4",
    "the",
    "a the b",
    "or",
    "and not",
    "it's",
    'say "x"',
    "{a}",
    "a|b",
    "*",
  ],
  ...[
    "a*",
    "*a",
    "%a%",
    "@user_id:{*}",
    "-a",
    "~a",
    "(a",
    "a)",
    "[1 2]",
    "$p0",
    "$",
    "\\",
    "a\\b",
    "a\\-b",
  ],
  ...[
    "=>",
    "x=>{$weight: 2}",
    ":",
    ";",
    ",",
    "a,b",
    ".",
    "a.b",
    "😀",
    "日本語",
    "é É",
    "ß",
    "\u00a0",
    "a\u00a0b",
  ],
  ...[
    "a\nb",
    "a\tb",
    "a\u0001b",
    "a\u007fb",
    " a",
    "a ",
    " ",
    "",
    "1",
    "-1",
    "1e5",
    "inf",
    "-inf",
    "nan",
  ],
  ...[
    '"',
    "'",
    '""',
    '"|@device_type:{*}|"',
    "ismissing(@user_id)",
    "x".repeat(1000),
    "NOT",
    "AND",
  ],
];

Deno.test("every hostile value is found exactly as a tag, or nothing is", async () => {
  await using own = await empty();
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  const documents = HOSTILE.map((value, index) => [`d${index}`, { device_model: value }] as const);
  await insertAll(redis, config, Object.fromEntries(documents));
  for (const [index, value] of HOSTILE.entries()) {
    const found = await search(redis, config, "session", { tag: { device_model: value } }, {
      limit: 100,
    });
    const same = documents.filter(([, { device_model }]) =>
      device_model.toLowerCase() === value.toLowerCase()
    );
    const wanted = value === "" ? [] : same.map(([id]) => id);
    assert.deepEqual(
      found.documents.map(({ id }) => id).sort(),
      wanted.sort(),
      `value ${index}: ${value}`,
    );
  }
  const two = await search(redis, config, "session", {
    tag: { device_model: ["{a}", "", "Pixel-4"] },
  });
  assert.equal(two.total, 2);
});

Deno.test("every hostile value is found as a text, or nothing is", async () => {
  await using own = await empty();
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  const others = Object.fromEntries(
    Array.from({ length: 20 }, (_, index) => [`other${index}`, { user_id: `unlike${index}` }]),
  );
  await insertAll(redis, config, others);
  for (const [index, value] of HOSTILE.entries()) {
    await insertAll(redis, config, { [`d${index}`]: { user_id: value } });
  }
  // What has no words is in no index; what a backslash escapes, or is longer than 128
  // bytes, cannot be asked for.
  const unfindable = (value: string) =>
    !/[\w\u0080-\u{10ffff}]/u.test(value) || /\\\W|\w{129}/.test(value);
  for (const [index, value] of HOSTILE.entries()) {
    const { documents } = await search(redis, config, "session", { text: { user_id: value } }, {
      limit: 100,
      returns: ["user_id"],
    });
    const ids = documents.map(({ id }) => id);
    if (!unfindable(value)) {
      assert(ids.includes(`d${index}`), `not found: ${JSON.stringify(value)}`);
    }
    // As RediSearch cuts words: a backslash before a letter and control characters are not there.
    const words = (text: string): string[] =>
      text.replace(/\\(?=\w)|[^\P{Cc}\t]/gu, "").toLowerCase().match(/[\w\u0080-\u{10ffff}]+/gu) ??
        [];
    for (const { fields } of documents) {
      const has = words(fields.user_id!);
      for (const word of words(value)) {
        assert(
          has.includes(word),
          `${JSON.stringify(value)} found ${JSON.stringify(fields.user_id)}`,
        );
      }
    }
  }
});

Deno.test("any text and any tag is searched for without an error, and never finds the others", async () => {
  await using own = await empty();
  const { redis, config } = own;
  await createSearchIndex(redis, config, "session");
  await insertAll(redis, config, {
    a: SESSION,
    b: { ...SESSION, user_id: "the", device_model: "*" },
  });
  const value = fc.oneof(
    fc.string({ unit: "binary", maxLength: 20 }),
    fc.string({ unit: fc.constantFrom(...'\\"{}|$@:-*%()[]~ ;=>ax1_\n\t\0'), maxLength: 10 }),
  );
  await fc.assert(
    fc.asyncProperty(value, async (value) => {
      const { total } = await search(redis, config, "session", {
        text: { user_id: `${value} nobody` },
      });
      const byTag = await search(redis, config, "session", {
        tag: { device_model: `${value}nothing` },
      });
      assert.equal(total + byTag.total, 0);
    }),
    { numRuns: 300 },
  );
});

Deno.test("words of the stop list do not widen a search, also in an index that has such a list", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const schema = "SCHEMA $.user_id AS user_id TEXT $.device_type AS device_type TAG";
  await redis.call(
    "FT.CREATE",
    "idx:sessions",
    ...`ON JSON PREFIX 1 session: ${schema}`.split(" "),
  );
  await insertAll(redis, config, { a: SESSION });
  for (const user_id of ["the", "and", "to be or not to be", "a"]) {
    const filter = { text: { user_id }, tag: { device_type: "android" } };
    assert.equal((await search(redis, config, "session", filter)).total, 0, user_id);
  }
});

Deno.test("text is whole words in order; numbers are ranges with both ends", async () => {
  await using own = await empty();
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
  await using own = await empty();
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
  await using own = await empty();
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
  await using own = await empty();
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

Deno.test("random queries say what they asked and found; a failing one says why", async () => {
  await using own = await empty({ search_index: {} });
  const { redis, config } = own;
  const without = await randomSearchQueries(redis, config, "session", 3);
  assert.equal(without.length, 3);
  for (const { found, error } of without) {
    assert.equal(found, 0);
    assert.match(error!, /no such index/);
  }
  await createSearchIndex(redis, config, "session");
  await dummyDataWorker(redis, config, "session", {
    num_records: 200,
    create_pct: 1,
    update_pct: 0,
    delete_pct: 0,
  });
  const queries = await randomSearchQueries(redis, config, "session", 30, { seed: 5 });
  assert.deepEqual(await randomSearchQueries(redis, config, "session", 30, { seed: 5 }), queries);
  assert.equal(queries.length, 30);
  assert(queries.every(({ error }) => error === null));
  assert(queries.some(({ found }) => found > 20));
  for (const { asked, found } of queries) {
    const [, field, value] = /^@(\w+): (.*)$/.exec(asked)!;
    const keys = await redis.keys("session:*");
    const texts = await redis.call("JSON.MGET", ...keys, `$.${field}`) as string[];
    assert.equal(found, texts.filter((text) => JSON.parse(text)[0] === value).length, asked);
  }
});
