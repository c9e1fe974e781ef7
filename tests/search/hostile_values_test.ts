import fc from "fast-check";
import assert from "node:assert/strict";
import { createSearchIndex, search } from "writebehind";
import { emptyWithFields, insertAll, SESSION } from "../support/searching.ts";

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
  await using own = await emptyWithFields();
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
  await using own = await emptyWithFields();
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
  await using own = await emptyWithFields();
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
  await using own = await emptyWithFields();
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
