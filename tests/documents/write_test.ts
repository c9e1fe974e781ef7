import fc from "fast-check";
import type { Redis } from "ioredis";
import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import {
  BackpressureError,
  type Config,
  ConfigError,
  configWith,
  ConnectionError,
  connectRedis,
  type DeepPartial,
  deleteDocument,
  DocumentError,
  type DocumentErrorCode,
  documentKey,
  generateDocId,
  insertDocument,
  type Json,
  type JsonObject,
  loadMetrics,
  parseConfig,
  readByIds,
  RedisConnection,
  RedisRefusedError,
  UnknownOutcomeError,
  updateDocument,
  versionOf,
} from "writebehind";
import { encodeJson } from "writebehind/core/json/encode.ts";
import { canonicalJson } from "writebehind/core/json/equality.ts";
import { allPartitions, crc16 } from "writebehind/redis/keys.ts";
import { TcpProxy } from "../support/proxy.ts";
import { testRedis, waitFor } from "../support/servers.ts";

const server = await testRedis();
Deno.test.afterAll(async () => await server[Symbol.asyncDispose]());

const base = configWith(parseConfig("", "test.yaml"), {
  redis: { host: server.host, port: server.port },
});

/** An empty Redis, a connection, and calls that need no naming of both. */
async function empty(overrides: DeepPartial<Config> = {}) {
  const config = configWith(base, overrides);
  const redis = await connectRedis(config);
  await redis.flushall();
  return { redis, config, [Symbol.asyncDispose]: () => redis.close() };
}

/** All documents, events and requests that Redis holds, byte for byte. */
async function contents(redis: Redis): Promise<Map<string, string>> {
  const keys = (await redis.keys("*")).filter((key) =>
    !/^(stream:settings|metrics|log):/.test(key)
  );
  const dumps = await Promise.all(keys.map((key) => redis.dumpBuffer(key)));
  return new Map(keys.map((key, index) => [key, dumps[index]!.toString("base64")]));
}

/** Sees the call refused, and neither a document nor an event written. */
async function refusedWith(
  redis: Redis,
  code: DocumentErrorCode,
  call: () => Promise<unknown>,
  message?: RegExp,
): Promise<void> {
  const before = await contents(redis);
  const error: unknown = await call().then(() => "no error", (error: unknown) => error);
  assert.deepEqual(await contents(redis), before, `something was written, with ${error}`);
  assert(error instanceof DocumentError, `not a DocumentError: ${error}`);
  assert.equal(error.code, code, error.message);
  if (message) assert.match(error.message, message);
}

/** The events of a stream, oldest first. */
async function events(redis: Redis, stream = "stream:session") {
  const entries = await redis.xrange(stream, "-", "+");
  return entries.map(([id, list]) => {
    const fields: Record<string, string> = {};
    for (let index = 0; index < list.length; index += 2) fields[list[index]!] = list[index + 1]!;
    return { id, fields };
  });
}

/** The document's text as Redis has it. */
async function stored(redis: Redis, config: Config, docId: string): Promise<string> {
  return await redis.call("JSON.GET", documentKey(config, "session", docId)) as string;
}

Deno.test("insert, update and delete change the document and append one event each", async () => {
  await using own = await empty();
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

Deno.test("insert without an id makes one; ids are unique and ordered by time", async () => {
  await using own = await empty();
  const { documentId } = await insertDocument(own.redis, own.config, "session", { a: 1 });
  assert.match(documentId, /^session-m1-\d{13}-[0-9a-f]{12}$/);
  assert.deepEqual(await readByIds(own.redis, own.config, "session", [documentId]), [{ a: 1 }]);
  const ids = Array.from({ length: 1000 }, () => generateDocId("app", "host-7"));
  assert.equal(new Set(ids).size, 1000);
  assert.match(ids[0]!, /^app-host-7-/);
});

Deno.test("readByIds gives documents in order, null for missing ones, the same one twice", async () => {
  await using own = await empty({ streams: { partitions: 4 } });
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
  await using own = await empty();
  await own.redis.call("JSON.SET", "session:theirs", "$", '{"a":[1]}');
  assert.deepEqual(await readByIds(own.redis, own.config, "session", ["theirs"]), [{ a: [1] }]);
});

Deno.test("an id that exists is refused, unless overwrite is asked for", async () => {
  await using own = await empty();
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
  await using own = await empty();
  const { redis, config } = own;
  await refusedWith(
    redis,
    "missing",
    () => updateDocument(redis, config, "session", "d", { a: 1 }),
  );
  await refusedWith(redis, "missing", () => deleteDocument(redis, config, "session", "d"));
});

Deno.test("keys of another type are refused and kept: document, stream, settings, request", async () => {
  await using own = await empty();
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
  await using own = await empty();
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
  await using own = await empty();
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
  await using own = await empty();
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

function nested(levels: number): JsonObject {
  let value: JsonObject = { end: [] };
  for (let level = 2; level < levels; level++) value = { a: value };
  return value;
}

Deno.test("extreme documents are stored as they are", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const documents: (JsonObject | string)[] = [
    {},
    { a: "x".repeat(5 * 2 ** 20) },
    nested(127),
    '{"n":9223372036854775808,"m":-9223372036854775808,"o":18446744073709551615}',
    '{"n":9007199254740993}',
    { n: -0, m: 1.0 },
    '{"n":1.0,"m":1e2,"z":-0,"e":1E-7}',
    '{"n":5e-324,"m":1.7976931348623157e308,"o":2.2250738585072014e-308}',
    { "": { "": "" }, " ": [[], {}, null], "😀": "\u007f\u2028\ufeff\uffff" },
    JSON.parse('{"__proto__":{"a":1},"constructor":1,"toString":null}'),
    { a: undefined, b: 1 },
    Object.assign(Object.create(null), { a: 1 }),
  ];
  for (const [index, document] of documents.entries()) {
    const id = `d${index}`;
    const wanted = canonicalJson(
      typeof document === "string" ? document : JSON.stringify(document),
    );
    await insertDocument(redis, config, "session", document, id);
    assert.equal(canonicalJson(await stored(redis, config, id)), wanted);
    const { fields } = (await events(redis)).at(-1)!;
    assert.equal(canonicalJson(fields.payload!), wanted);
    await updateDocument(redis, config, "session", id, {});
    assert.equal(canonicalJson((await events(redis)).at(-1)!.fields.payload!), wanted);
  }
});

Deno.test("what is not a document is refused, nothing is stored", async () => {
  await using own = await empty();
  const { redis, config } = own;
  await insertDocument(redis, config, "session", { a: 1 }, "kept");
  const bad: unknown[] = [
    ...[null, [], [1], true, 1, undefined, new Date(), new Map(), () => 1, 1n],
    ...["", "x", "null", "[]", "1", '"a"', "{", '{"a":1}}', "{'a':1}"],
    ...[{ a: NaN }, { a: Infinity }, { a: new Date() }, { a: 1n }, { a: "\0" }, { "\0": 1 }],
    ...[{ a: "\ud800" }, { a: [() => 1] }, { a: [undefined] }, nested(128)],
    ...['{"a":1,"a":1}', '{"a":"\\u0000"}', '{"a":"\\ud800"}', JSON.stringify(nested(128))],
    ...['{"a":1e400}', '{"a":18446744073709551616}', '{"a":0.12345678901234567890123}'],
  ];
  const problems: string[] = [];
  for (const document of bad as JsonObject[]) {
    const calls = {
      insert: () => insertDocument(redis, config, "session", document, "d"),
      update: () => updateDocument(redis, config, "session", "kept", document),
    };
    for (const [verb, call] of Object.entries(calls)) {
      await redis.del("session:d");
      await refusedWith(redis, "invalid", call).catch((error: Error) => {
        problems.push(`${verb} of ${Deno.inspect(document)}: ${error.message.split("\n")[0]}`);
      });
    }
  }
  assert.deepEqual(problems, []);
});

/** Any JSON object, its numbers from all doubles. */
const jsonObject = fc.dictionary(
  fc.string({ unit: "grapheme" }),
  fc.jsonValue({ stringUnit: "grapheme", maxDepth: 3 }),
  { maxKeys: 5 },
) as fc.Arbitrary<JsonObject>;

Deno.test("a document that encodeJson accepts reads back equal, and so does its event", async () => {
  await using own = await empty();
  const { redis, config } = own;
  let next = 0;
  await fc.assert(
    fc.asyncProperty(jsonObject, async (document) => {
      const id = `law-${next++}`;
      try {
        encodeJson(document, config.documents.max_bytes);
      } catch {
        return await refusedWith(
          redis,
          "invalid",
          () => insertDocument(redis, config, "session", document, id),
        );
      }
      await insertDocument(redis, config, "session", document, id);
      const wanted = canonicalJson(JSON.stringify(document));
      assert.equal(canonicalJson(await stored(redis, config, id)), wanted);
      const [last] = await redis.xrevrange("stream:session", "+", "-", "COUNT", 1);
      assert.equal(canonicalJson(last![1].at(-1)!), wanted);
    }),
    { numRuns: 150 },
  );
});

Deno.test("any double is refused or reads back exactly", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const anyDouble = fc.oneof(
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.tuple(fc.integer(), fc.integer({ min: -30, max: 30 })).map(([a, b]) => a * 10 ** b),
    fc.integer(),
    fc.double({ min: -1e6, max: 1e6, noNaN: true }).map((value) => Math.round(value * 100) / 100),
    fc.maxSafeInteger(),
  );
  let next = 0;
  let kept = 0;
  let all = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(anyDouble, { minLength: 20, maxLength: 40 }), async (numbers) => {
      all += numbers.length;
      const good = numbers.filter((n) => {
        try {
          return encodeJson({ n }, 1000);
        } catch {
          return false;
        }
      });
      kept += good.length;
      const id = `n-${next++}`;
      await insertDocument(redis, config, "session", { good }, id);
      const [document] = await readByIds(redis, config, "session", [id]);
      // JSON.stringify writes -0 as 0, which is equal.
      assert.deepEqual(document!.good, good.map((number) => number + 0));
    }),
    { numRuns: 60 },
  );
  assert(kept > 0.95 * all, `only ${kept} of ${all} doubles were accepted`);
});

/** RFC 7386, word by word. */
function mergePatch(target: Json | undefined, patch: Json): Json {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) return patch;
  const isObject = typeof target === "object" && target !== null && !Array.isArray(target);
  const result: JsonObject = isObject ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = mergePatch(result[key], value!);
  }
  return result;
}

Deno.test("an update merges by RFC 7386, and its event has the whole document", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const { value } = fc.letrec<{ value: Json; object: JsonObject }>((tie) => ({
    object: fc.dictionary(fc.constantFrom("a", "b", "c"), tie("value"), {
      noNullPrototype: true,
    }) as fc.Arbitrary<JsonObject>,
    value: fc.oneof(
      { maxDepth: 3, depthSize: "small" },
      fc.constantFrom<Json>(null, 1, "x", true, [], [1, { a: null }]),
      tie("object"),
    ),
  }));
  const object = fc.dictionary(fc.constantFrom("a", "b", "c"), value, {
    noNullPrototype: true,
  }) as fc.Arbitrary<JsonObject>;
  let next = 0;
  await fc.assert(
    fc.asyncProperty(
      object,
      fc.array(object, { minLength: 1, maxLength: 3 }),
      async (first, all) => {
        const id = `m-${next++}`;
        await insertDocument(redis, config, "session", first, id);
        let wanted: Json = first;
        for (const patch of all) {
          wanted = mergePatch(wanted, patch);
          await updateDocument(redis, config, "session", id, patch);
          assert.deepEqual(await readByIds(redis, config, "session", [id]), [wanted]);
          const [last] = await redis.xrevrange("stream:session", "+", "-", "COUNT", 1);
          assert.deepEqual(JSON.parse(last![1].at(-1)!), wanted);
        }
      },
    ),
    { numRuns: 150 },
  );
});

Deno.test("documents.max_bytes bounds an insert, and what an update makes of a document", async () => {
  await using own = await empty({ documents: { max_bytes: 1000 } });
  const { redis, config } = own;
  await insertDocument(redis, config, "session", { a: "x".repeat(992) }, "full");
  await refusedWith(
    redis,
    "too_large",
    () => insertDocument(redis, config, "session", { a: "x".repeat(993) }, "d"),
  );
  await refusedWith(
    redis,
    "too_large",
    () => updateDocument(redis, config, "session", "full", { b: 1 }),
    /1006 bytes/,
  );
  await updateDocument(redis, config, "session", "full", { a: "x".repeat(980), b: null });
});

Deno.test("documents.max_bytes bounds also text that is much longer than Redis's form of it", async () => {
  await using own = await empty({ documents: { max_bytes: 100_000 } });
  const { redis, config } = own;
  // Six bytes of JSON text for each byte in memory.
  await insertDocument(redis, config, "session", { a: "\u0001".repeat(16_000) }, "d");
  await refusedWith(
    redis,
    "too_large",
    () => updateDocument(redis, config, "session", "d", { b: "\u0001".repeat(800) }),
  );
});

Deno.test("a requestId makes a call happen once, and its first receipt comes again", async () => {
  await using own = await empty({ documents: { request_id_ttl_seconds: 60 } });
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
  await using own = await empty();
  const { redis, config } = own;
  const call = () => insertDocument(redis, config, "session", { a: 1 }, "d", { requestId: "r" });
  const receipts = await Promise.all(Array.from({ length: 20 }, call));
  assert.equal(receipts.filter(({ repeated }) => !repeated).length, 1);
  assert.equal(new Set(receipts.map(({ streamId }) => streamId)).size, 1);
  assert.equal((await events(redis)).length, 1);
});

Deno.test("a requestId of another call is refused", async () => {
  await using own = await empty();
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
  await using own = await empty();
  const { redis, config } = own;
  const update = () => updateDocument(redis, config, "session", "d", { a: 2 }, { requestId: "r" });
  await refusedWith(redis, "missing", update);
  await insertDocument(redis, config, "session", { a: 1 }, "d");
  assert.equal((await update()).repeated, false);
});

Deno.test("past max_events writers are told to stop, reads go on, and writing goes on after a trim", async () => {
  await using own = await empty({ streams: { max_events: 3 } });
  const { redis, config } = own;
  for (const id of ["a", "b", "c"]) await insertDocument(redis, config, "session", { id }, id);
  const before = await contents(redis);
  for (
    const call of [
      () => insertDocument(redis, config, "session", {}, "d"),
      () => updateDocument(redis, config, "session", "a", { x: 1 }),
      () => deleteDocument(redis, config, "session", "a"),
    ]
  ) {
    await assert.rejects(call, (error) => {
      assert(error instanceof BackpressureError);
      assert.deepEqual([error.limit, error.current], ["max_events", 3]);
      assert.match(error.message, /stream:session holds 3 events/);
      return true;
    });
  }
  assert.deepEqual(await contents(redis), before);
  assert.deepEqual(await readByIds(redis, config, "session", ["a"]), [{ id: "a" }]);
  await redis.xtrim("stream:session", "MAXLEN", 1);
  await deleteDocument(redis, config, "session", "a");
});

Deno.test("the limit that the first writer set holds for all", async () => {
  await using own = await empty({ streams: { max_events: 1 } });
  const { redis, config } = own;
  await insertDocument(redis, config, "session", {}, "a");
  const more = configWith(config, { streams: { max_events: 100 } });
  await assert.rejects(insertDocument(redis, more, "session", {}, "b"), BackpressureError);
});

Deno.test("past max_bytes writers are told to stop", async () => {
  await using own = await empty({ streams: { max_bytes: 200_000 } });
  const { redis, config } = own;
  let written = 0;
  await assert.rejects(async () => {
    for (; written < 100; written++) {
      await insertDocument(redis, config, "session", { a: "x".repeat(10_000) }, `d${written}`);
    }
  }, (error) => {
    assert(error instanceof BackpressureError);
    assert.equal(error.limit, "max_bytes");
    assert(error.current >= 200_000 && error.current < 300_000, `${error.current} bytes`);
    return true;
  });
  assert.equal((await events(redis)).length, written);
  assert.equal(await redis.exists(`session:d${written}`), 0);
});

Deno.test("max_in_flight bounds the calls that wait for their reply", async () => {
  await using own = await empty({ redis: { max_in_flight: 2 } });
  const { redis, config } = own;
  const calls = ["a", "b", "c"].map((id) => insertDocument(redis, config, "session", {}, id));
  const results = await Promise.allSettled(calls);
  assert.deepEqual(results.map(({ status }) => status), ["fulfilled", "fulfilled", "rejected"]);
  const { reason } = results[2] as PromiseRejectedResult;
  assert(reason instanceof BackpressureError && reason.limit === "max_in_flight");
  assert.equal(await redis.exists("session:c"), 0);
  await insertDocument(redis, config, "session", {}, "c");
  assert.equal(redis.callsInFlight, 0);
});

Deno.test("four partitions: each document's keys are in its own one", async () => {
  await using own = await empty({ streams: { partitions: 4 } });
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
  await using own = await empty({ streams: { partitions: 4 } });
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
      /first written with streams\.partitions: 4/,
    );
  }
});

Deno.test("perform_write_behind: false changes Redis and appends no event", async () => {
  await using own = await empty({
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

Deno.test("a user who may not run a command of the script writes nothing", async () => {
  await using own = await empty();
  const { redis, config } = own;
  await insertDocument(redis, config, "session", { a: 1 }, "kept");
  const verbs: Record<string, (user: RedisConnection, requestId: string) => Promise<unknown>> = {
    insert: (user, requestId) => insertDocument(user, config, "session", {}, "d", { requestId }),
    update: (user, requestId) =>
      updateDocument(user, config, "session", "kept", { a: 2 }, { requestId }),
    delete: (user, requestId) => deleteDocument(user, config, "session", "kept", { requestId }),
  };
  const denied: [string, string[]][] = [
    ["XADD", ["insert", "update", "delete"]],
    ["XLEN", ["insert", "update", "delete"]],
    ["TYPE", ["update", "delete"]],
    ["HMGET", ["insert", "update", "delete"]],
    ["HSET", ["insert", "update", "delete"]],
    ["EXPIRE", ["insert", "update", "delete"]],
    ["JSON.SET", ["insert"]],
    ["JSON.MERGE", ["update"]],
    ["JSON.GET", ["update"]],
    ["JSON.DEBUG", ["update"]],
    ["DEL", ["delete"]],
    ["EVALSHA", ["insert", "update", "delete"]],
  ];
  const problems: string[] = [];
  for (const [command, refused] of denied) {
    await redis.acl("SETUSER", "poor", "reset", "on", ">pw", "~*", "&*", "+@all", `-${command}`);
    const user = new RedisConnection(config, { username: "poor", password: "pw" });
    await user.connect();
    for (const verb of refused) {
      await redis.del("session:d");
      await insertDocument(redis, config, "session", { a: 1 }, "kept", { overwrite: true });
      await refusedWith(redis, "permission", () => verbs[verb]!(user, `${command} ${verb}`)).catch(
        (error: Error) => {
          problems.push(`${verb} without ${command}: ${error.message.split("\n")[0]}`);
        },
      );
    }
    user.disconnect();
  }
  assert.deepEqual(problems, []);
  // Keys that the user may not touch count as well.
  await redis.acl("SETUSER", "poor", "reset", "on", ">pw", "~session:*", "&*", "+@all");
  await using user = new RedisConnection(config, { username: "poor", password: "pw" });
  await user.connect();
  await refusedWith(redis, "permission", () => verbs.insert!(user, "r"));
  await redis.acl("DELUSER", "poor");
});

Deno.test("a user without HSET or RESTORE writes nothing either, where only large documents need it", async () => {
  await using own = await empty({ documents: { max_bytes: 1000 } });
  const { redis, config } = own;
  await insertDocument(redis, config, "session", { a: "x".repeat(900) }, "kept");
  await redis.hset("stream:settings:session", "largest", 10);
  const cases: [string, (user: RedisConnection) => Promise<unknown>][] = [
    ["HSET", (user) => insertDocument(user, config, "session", { a: "x".repeat(100) }, "d")],
    ["HSET", (user) => updateDocument(user, config, "session", "kept", { b: 1 })],
    ["DUMP", (user) => updateDocument(user, config, "session", "kept", { b: "x".repeat(200) })],
    ["RESTORE", (user) => updateDocument(user, config, "session", "kept", { b: "x".repeat(200) })],
  ];
  const problems: string[] = [];
  for (const [command, call] of cases) {
    await redis.acl("SETUSER", "poor", "reset", "on", ">pw", "~*", "&*", "+@all", `-${command}`);
    await using user = new RedisConnection(config, { username: "poor", password: "pw" });
    await user.connect();
    await redis.del("session:d");
    await redis.call("JSON.SET", "session:kept", "$", JSON.stringify({ a: "x".repeat(900) }));
    await refusedWith(redis, "permission", () => call(user)).catch((error: Error) => {
      problems.push(`without ${command}: ${error.message.split("\n")[0]}`);
    });
  }
  await redis.acl("DELUSER", "poor");
  assert.deepEqual(problems, []);
});

Deno.test("a Redis that takes no writes is named, and nothing is written", async () => {
  await using own = await empty();
  const { redis, config } = own;
  await insertDocument(redis, config, "session", { a: 1 }, "kept");
  const states: [code: string, enter: string[], leave: string[]][] = [
    ["OOM", ["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]],
    ["NOREPLICAS", ["CONFIG", "SET", "min-replicas-to-write", "1"], [
      ...["CONFIG", "SET", "min-replicas-to-write", "0"],
    ]],
    ["READONLY", ["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]],
  ];
  for (const [code, [enter = "", ...enterArgs], [leave = "", ...leaveArgs]] of states) {
    const before = await contents(redis);
    await redis.call(enter, ...enterArgs);
    try {
      for (
        const call of [
          () => insertDocument(redis, config, "session", {}, "d"),
          () => updateDocument(redis, config, "session", "kept", { a: 2 }),
        ]
      ) {
        await assert.rejects(call, (error) => {
          assert(error instanceof RedisRefusedError, `${code}: ${error}`);
          assert.equal(error.code, code);
          return true;
        });
      }
    } finally {
      await redis.call(leave, ...leaveArgs);
    }
    assert.deepEqual(await contents(redis), before);
  }
});

Deno.test("a reply that is lost is an unknown outcome, and the write is in Redis once", async () => {
  await using own = await empty();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  for (const requestId of [undefined, "r"]) {
    await insertDocument(redis, config, "session", { warm: 1 }, `warm-${requestId}`);
    const id = `lost-${requestId}`;
    const call = () => insertDocument(redis, config, "session", { a: 1 }, id, { requestId });
    proxy.cutReplyAfter(5);
    await assert.rejects(call, (error) => {
      assert(error instanceof UnknownOutcomeError, `not unknown: ${error}`);
      assert.match(error.message, /may be written or not/);
      return true;
    });
    await waitFor(() => redis.status === "ready", { what: "the new connection" });
    const mine = async () =>
      (await events(own.redis)).filter(({ fields }) => fields.doc_id === id).length;
    assert.equal(await mine(), 1, "ioredis sent the write again, or never");
    if (requestId === undefined) await assert.rejects(call, DocumentError);
    else assert.equal((await call()).repeated, true);
    assert.equal(await mine(), 1);
  }
});

Deno.test("a Redis that does not answer is an unknown outcome after command_timeout_ms", async () => {
  await using own = await empty();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port, command_timeout_ms: 300 } });
  await using redis = await connectRedis(config);
  proxy.halfOpen();
  const began = performance.now();
  await assert.rejects(
    insertDocument(redis, config, "session", { a: 1 }, "d"),
    UnknownOutcomeError,
  );
  assert(performance.now() - began < 3000);
  assert.equal(redis.callsInFlight, 0);
  // The silent connection would hold up every later call.
  await waitFor(() => redis.status !== "ready", { what: "the silent connection's end" });
  await proxy.heal();
});

Deno.test("every call has command_timeout_ms for itself, also on a connection that is not silent", async () => {
  await using own = await empty();
  const TIMEOUT_MS = 1000;
  const config = configWith(own.config, { redis: { command_timeout_ms: TIMEOUT_MS } });
  await using redis = await connectRedis(config);
  await redis.subscribe("news");
  const talk = setInterval(() => own.redis.publish("news", "x"), TIMEOUT_MS / 20);
  try {
    // Redis answers nothing behind this, and goes on sending the news.
    redis.blpop("nothing", 0).catch(() => {});
    const failures: { error: unknown; took: number }[] = [];
    const call = (id: string) => {
      const began = performance.now();
      insertDocument(redis, config, "session", { a: 1 }, id).catch((error) =>
        failures.push({ error, took: performance.now() - began })
      );
    };
    call("first");
    await delay(TIMEOUT_MS / 3);
    call("second");
    await waitFor(() => failures.length === 2, { what: "both calls to fail" });
    for (const { error, took } of failures) {
      assert(error instanceof UnknownOutcomeError, `not unknown: ${error}`);
      assert.match(error.message, /Command timed out/);
      assert(took > TIMEOUT_MS * 0.95 && took < TIMEOUT_MS * 2, `after ${took} ms`);
    }
    assert.equal(redis.callsInFlight, 0);
    assert.equal(redis.status, "ready");
  } finally {
    clearInterval(talk);
  }
});

Deno.test("a commandTimeout of the caller's own counts for document calls too", async () => {
  await using own = await empty();
  await using redis = await connectRedis(own.config, { commandTimeout: 200 });
  redis.blpop("nothing", 0).catch(() => {});
  const began = performance.now();
  await assert.rejects(
    insertDocument(redis, own.config, "session", { a: 1 }, "d"),
    /outcome is unknown.*Command timed out/,
  );
  const took = performance.now() - began;
  assert(took > 190 && took < 2000, `after ${took} ms`);
  assert.equal(redis.status, "ready", "only what is late fails");
});

Deno.test("calls of one turn of the event loop go out together, one that is alone at once", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const insert = (id: string, a = "x") => insertDocument(redis, config, "session", { a }, id);
  await insert("warm");
  const held = () => redis.stream.writableCorked === 1;
  const alone = insert("alone");
  assert(!held(), "nobody to go with, and yet it waits");
  await alone;
  const together = ["a", "b", "c"].map((id) => insert(id));
  assert(held(), "each of them goes alone");
  assert(redis.stream.writableLength > 0);
  await Promise.all(together);
  assert(!held());
  // What fills a read of Redis goes out, also where a turn takes long.
  const many = ["d", "e", "f", "g", "h", "i"].map((id) => insert(id, "x".repeat(9_000)));
  assert(redis.stream.writableLength < 30_000, `${redis.stream.writableLength} bytes are held`);
  await Promise.all(many);
  assert.equal((await events(redis)).length, 11);
});

Deno.test("calls that have not gone out are lost with their connection, and not sent over the next", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const insert = (id: string) => insertDocument(redis, config, "session", { a: 1 }, id);
  await insert("before");
  const calls = ["first", "b", "c"].map(insert);
  redis.stream.destroy();
  for (const call of calls) await assert.rejects(call, UnknownOutcomeError);
  await waitFor(() => redis.status === "ready", { what: "the new connection" });
  await insert("after");
  const ids = (await events(redis)).map(({ fields }) => fields.doc_id);
  // The first went out at once.
  assert.deepEqual(ids.filter((id) => id !== "first"), ["before", "after"]);
});

Deno.test("without a connection nothing is sent, and nothing waits in a queue", async () => {
  await using own = await empty();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  await proxy.refuse();
  await waitFor(() => redis.status !== "ready", { what: "the connection's end" });
  const began = performance.now();
  await assert.rejects(insertDocument(redis, config, "session", {}, "d"), ConnectionError);
  assert(performance.now() - began < 100);
  await proxy.heal();
  await waitFor(() => redis.status === "ready", { what: "the new connection" });
  assert.equal((await contents(own.redis)).size, 0);
  await insertDocument(redis, config, "session", {}, "d");
});

Deno.test("a Redis that forgot the scripts gets them again", async () => {
  await using own = await empty();
  const { redis, config } = own;
  await insertDocument(redis, config, "session", {}, "a");
  await redis.script("FLUSH");
  await insertDocument(redis, config, "session", {}, "b");
  assert.equal((await events(redis)).length, 2);
});

Deno.test("counters count what happened, log streams say why and are capped", async () => {
  await using own = await empty({ streams: { log_max_entries: 10 } });
  const { redis, config } = own;
  for (let id = 0; id < 30; id++) await insertDocument(redis, config, "session", {}, `d${id}`);
  for (let id = 0; id < 3; id++) {
    await assert.rejects(insertDocument(redis, config, "session", {}, `d${id}`));
  }
  await redis.counters.flush();
  assert.deepEqual(await loadMetrics(redis), {
    "metrics:redis_success": 30,
    "metrics:redis_fail": 3,
    "metrics:redis_retry": 0,
    "metrics:postgres_success": 0,
    "metrics:postgres_fail": 0,
  });
  const [failed] = await events(redis, "log:redis:fail");
  const { count, message } = failed!.fields;
  assert.equal(count, "3");
  assert.match(message!, /insert session: Cannot insert <id>: the id exists/);

  for (let time = 0; time < 300; time++) {
    redis.counters.count("redis_retry", 1, `reason ${time}`);
    await redis.counters.flush();
  }
  const length = await redis.xlen("log:redis:retry");
  // The cap is by whole nodes of a stream, which hold up to 100 entries.
  assert(length >= 10 && length <= 110, `${length} entries`);
  assert.equal((await loadMetrics(redis))["metrics:redis_retry"], 300);
});

Deno.test("counts that could not be sent are sent later", async () => {
  await using own = await empty({ metrics: { flush_interval_ms: 20 } });
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  await proxy.refuse();
  await waitFor(() => redis.status !== "ready", { what: "the connection's end" });
  redis.counters.count("redis_fail", 7, "away");
  await redis.counters.flush();
  await proxy.heal();
  await waitFor(async () => (await loadMetrics(own.redis))["metrics:redis_fail"] === 7, {
    what: "the counts",
  });
});

Deno.test("counts that Redis refused are sent later, once", async () => {
  await using own = await empty({ metrics: { flush_interval_ms: 60_000 } });
  const { redis } = own;
  await redis.config("SET", "maxmemory", 1);
  try {
    redis.counters.count("redis_fail", 7, "full");
    await redis.counters.flush();
  } finally {
    await redis.config("SET", "maxmemory", 0);
  }
  assert.equal((await loadMetrics(redis))["metrics:redis_fail"], 0);
  redis.counters.count("redis_fail", 1, "full");
  await redis.counters.flush();
  assert.equal((await loadMetrics(redis))["metrics:redis_fail"], 8);
  const [entry] = await events(redis, "log:redis:fail");
  assert.equal(entry!.fields.count, "8");
});
