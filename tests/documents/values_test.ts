import fc from "fast-check";
import assert from "node:assert/strict";
import { insertDocument, type Json, type JsonObject, readByIds, updateDocument } from "writebehind";
import { encodeJson } from "writebehind/core/json/encode.ts";
import { canonicalJson } from "writebehind/core/json/equality.ts";
import { events, refusedWith, stored } from "../support/documents.ts";
import { emptyRedis } from "../support/own_redis.ts";

function nested(levels: number): JsonObject {
  let value: JsonObject = { end: [] };
  for (let level = 2; level < levels; level++) value = { a: value };
  return value;
}

Deno.test("extreme documents are stored as they are", async () => {
  await using own = await emptyRedis();
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
  await using own = await emptyRedis();
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
  await using own = await emptyRedis();
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
  await using own = await emptyRedis();
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
  await using own = await emptyRedis();
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
  await using own = await emptyRedis({ documents: { max_bytes: 1000 } });
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
  await using own = await emptyRedis({ documents: { max_bytes: 100_000 } });
  const { redis, config } = own;
  // Six bytes of JSON text for each byte in memory.
  await insertDocument(redis, config, "session", { a: "\u0001".repeat(16_000) }, "d");
  await refusedWith(
    redis,
    "too_large",
    () => updateDocument(redis, config, "session", "d", { b: "\u0001".repeat(800) }),
  );
});
