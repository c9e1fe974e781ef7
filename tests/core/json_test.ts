import fc from "fast-check";
import assert from "node:assert/strict";
import { DocumentError, type DocumentErrorCode, type JsonObject } from "writebehind";
import { encodeJson, MAX_DEPTH } from "writebehind/core/json/encode.ts";
import { canonicalJson, equalJson } from "writebehind/core/json/equality.ts";
import { parseJson } from "writebehind/core/json/parse.ts";
import { isSurelyJson } from "writebehind/core/json/valid.ts";

const LIMIT = 8 * 2 ** 20;

function refused(document: unknown, code: DocumentErrorCode = "invalid", limit = LIMIT): string {
  try {
    encodeJson(document as JsonObject, limit);
  } catch (error) {
    assert(error instanceof DocumentError, `not a DocumentError: ${error}`);
    assert.equal(error.code, code);
    return error.message;
  }
  assert.fail(`accepted: ${Deno.inspect(document)}`);
}

function nested(levels: number): JsonObject {
  let value: JsonObject = {};
  for (let level = 1; level < levels; level++) value = { a: value };
  return value;
}

/** Text and values that JSON has; the object is the document. */
const jsonObject = fc.dictionary(
  fc.string({ unit: "grapheme" }),
  fc.jsonValue({ stringUnit: "grapheme", maxDepth: 4 }),
) as fc.Arbitrary<JsonObject>;

Deno.test("what is accepted is sent as JSON of the same value", () => {
  fc.assert(fc.property(jsonObject, (document) => {
    let encoded;
    try {
      encoded = encodeJson(document, LIMIT);
    } catch (error) {
      return assert(error instanceof DocumentError);
    }
    assert.equal(encoded.text, JSON.stringify(document));
    // Spelled for RedisJSON's reader, which a correct one may read a unit in the last place off.
    const [wanted, spelled] = [encoded.text, encoded.spelled].map((text) => {
      const numbers: number[] = [];
      const rest = JSON.parse(
        text,
        (_, value) => typeof value === "number" ? numbers.push(value) : value,
      );
      return { numbers, rest };
    });
    assert.deepEqual(spelled!.rest, wanted!.rest);
    for (const [index, number] of wanted!.numbers.entries()) {
      const off = Math.abs(spelled!.numbers[index]! - number);
      assert(off <= 1e-14 * Math.abs(number), `${number} is spelled ${spelled!.numbers[index]}`);
    }
    // The text of a document is treated as the document.
    assert.deepEqual(encodeJson(encoded.text, LIMIT), encoded);
  }));
});

Deno.test("a value that is not JSON is refused, with its path", () => {
  assert.match(refused({ a: [{ b: NaN }] }), /NaN is not a JSON number at \$\.a\[0\]\.b/);
  assert.match(refused({ at: new Date() }), /a Date is not JSON at \$\.at; convert it first/);
  for (
    const value of [Infinity, 1n, () => 1, Symbol("s"), new Map(), new Uint8Array(1), /x/, [
      undefined,
    ]]
  ) {
    refused({ value });
  }
  class Session {
    id = 1;
  }
  refused(new Session());
  refused({ toJSON: () => ({}) });
  const cyclic: JsonObject = {};
  cyclic.self = cyclic;
  refused(cyclic);
});

Deno.test("only an object is a document", () => {
  for (const document of [[], null, 1, true, undefined, new Date()]) {
    refused(document);
  }
  for (const text of ["[]", "null", "1", '"x"', "true"]) {
    assert.match(refused(text), /expected a JSON object/);
  }
  for (const text of ["", "{", "{}x", "{'a':1}", '{"a":01}', '{"a":NaN}', "\ufeff{}"]) {
    refused(text);
  }
});

Deno.test("a property that is undefined is absent", () => {
  assert.equal(encodeJson({ a: undefined, b: 1 }, LIMIT).text, '{"b":1}');
});

Deno.test("127 levels are stored, 128 are refused, as value and as text", () => {
  assert.equal(MAX_DEPTH, 127);
  const text = encodeJson(nested(127), LIMIT).text;
  encodeJson(text, LIMIT);
  refused(nested(128));
  refused(JSON.stringify(nested(128)));
  refused(`{"a":${"[".repeat(127)}${"]".repeat(127)}}`);
  // Brackets within strings are text.
  encodeJson({ a: "[{".repeat(500) }, LIMIT);
  encodeJson(JSON.stringify({ a: '"[{\\'.repeat(500) }), LIMIT);
});

Deno.test("keys that stand twice are refused, at any level and however they are spelled", () => {
  for (
    const text of [
      '{"a":1,"a":2}',
      '{"a":1,"\\u0061":2}',
      '{"x":{"b":[{"c":1,"c":1}]}}',
      '{"":1,"":2}',
      '{"__proto__":1,"__proto__":2}',
    ]
  ) {
    assert.match(refused(text), /duplicate key/);
  }
  for (const text of ['{"a":{"a":1},"b":{"a":"a"}}', '{"a":["a","a"]}', '{"a,":1,"a":"a\\":"}']) {
    assert.equal(encodeJson(text, LIMIT).text, text);
  }
});

Deno.test("U+0000 and lone surrogates are refused in keys and values, as value and as text", () => {
  for (const bad of ["\0", "\ud800", "\udc00x", "a\ud83dz"]) {
    for (const document of [{ a: bad }, { [bad]: 1 }, { a: [{ b: bad }] }]) {
      refused(document);
      refused(JSON.stringify(document));
    }
    refused(`{"a":"${bad}"}`);
  }
  const text = '{"a":"\\ud83d\\ude00 \\\\u0000"}';
  assert.equal(encodeJson(text, LIMIT).text, text);
});

Deno.test("the limit counts bytes of UTF-8, and is itself allowed", () => {
  const bytes = (text: string) => new TextEncoder().encode(text).length;
  for (const letter of ["a", "é", "日", "😀"]) {
    const document = { a: letter.repeat(100) };
    const size = bytes(JSON.stringify(document));
    encodeJson(document, size);
    assert.match(refused(document, "too_large", size - 1), new RegExp(`has ${size} bytes`));
  }
});

Deno.test("numbers in text that would be rounded are refused, others keep their spelling", () => {
  const kept = [
    ...["0", "-0", "1.0", "1e2", "1E+2", "0.1", "9007199254740993", "9223372036854775808"],
    ...["18446744073709551615", "-9223372036854775808", "1.7976931348623157e308", "5e-324"],
  ];
  for (const number of kept) {
    assert.equal(encodeJson(`{"n":${number}}`, LIMIT).text, `{"n":${number}}`);
  }
  for (
    const number of [
      ...["1e400", "-1e400", "18446744073709551616", "-9223372036854775809", "1e-400"],
      ...["0.1000000000000000055511151231257827", "123456789012345678901234567890"],
    ]
  ) {
    assert.match(refused(`{"n":${number}}`), /rounded/);
  }
});

Deno.test("canonical JSON is the same for equal values and differs for others", () => {
  const same = (...texts: string[]) =>
    assert.equal(new Set(texts.map(canonicalJson)).size, 1, texts.join(" "));
  same('{"a":1,"b":2}', '{ "b": 2.0, "a": 1 }', '{"b":0.2e1,"a":10E-1}');
  same("[0]", "[-0]", "[0.0]", "[-0.0e5]", "[0e-9]");
  same("[100]", "[1e2]", "[100.00]", "[0.0001e6]");
  same('["\\u0041/"]', '["A\\/"]');
  const different = [
    ...["9223372036854775808", "9223372036854775809", '"9223372036854775808"', "-1", "1", "0.1"],
    ...[
      '"1"',
      "[1]",
      "[[1]]",
      '{"":1}',
      '{"":"1"}',
      '{"":{"":1}}',
      "[1,2]",
      "[2,1]",
      "null",
      "{}",
      "[]",
    ],
  ];
  assert.equal(new Set(different.map(canonicalJson)).size, different.length);
  fc.assert(fc.property(fc.jsonValue(), fc.jsonValue(), (a, b) => {
    const reversed = (value: unknown): unknown =>
      Array.isArray(value)
        ? value.map(reversed)
        : typeof value === "object" && value !== null
        ? Object.fromEntries(Object.entries(value).reverse().map(([k, v]) => [k, reversed(v)]))
        : value;
    const [textA, textB] = [JSON.stringify(a), JSON.stringify(b)];
    assert.equal(canonicalJson(textA), canonicalJson(JSON.stringify(reversed(a), null, 1)));
    const plain = (text: string) => Deno.inspect(JSON.parse(text), { sorted: true, depth: 99 });
    if (canonicalJson(textA) === canonicalJson(textB)) {
      assert.equal(plain(textA).replaceAll("-0", "0"), plain(textB).replaceAll("-0", "0"));
    }
  }));
});

Deno.test("bytes are seen to be JSON as JSON.parse sees it", () => {
  const seen = (text: string) => isSurelyJson(new TextEncoder().encode(text));
  const parsed = (text: string) => {
    try {
      JSON.parse(text);
      return true;
    } catch {
      return false;
    }
  };
  const whole = fc.tuple(
    fc.jsonValue({ stringUnit: "grapheme", maxDepth: 4 }),
    fc.constantFrom(undefined, 1, "\t\r"),
  ).map(([value, indent]) => JSON.stringify(value, null, indent));
  fc.assert(fc.property(whole, (text) => {
    assert(seen(text), text);
  }));
  // One character more, less or another: mostly no JSON any more.
  const character = fc.constantFrom(
    ...`{}[]",:\\/bu0123456789abcdefE+-.trulsn \t\n\r\0\x1f\v\u00e9`,
  );
  fc.assert(
    fc.property(whole, fc.nat(), fc.constantFrom(0, 1), character, (text, place, cut, added) => {
      const at = place % (text.length + 1);
      const changed = (text.slice(0, at) + added + text.slice(at + cut)).toWellFormed();
      assert.equal(seen(changed), parsed(changed), changed);
      const shorter = text.slice(0, at).toWellFormed();
      assert.equal(seen(shorter), parsed(shorter), shorter);
    }),
    { numRuns: 2000 },
  );
  const texts = [
    "01",
    "-",
    "-0",
    "1.",
    ".5",
    "1e",
    "1e+",
    "1E-05",
    "-0.0e0",
    "0x1",
    "tru",
    "truee",
  ];
  texts.push(
    "",
    " ",
    "null ",
    "\u00a0null",
    '"\\u00e9"',
    '"\\u12"',
    '"\\x"',
    "[1 2]",
    "{1:2}",
    "NaN",
  );
  for (const text of texts) assert.equal(seen(text), parsed(text), text);
  const deep = (levels: number) => "[".repeat(levels) + "]".repeat(levels);
  assert(seen(deep(MAX_DEPTH)));
  assert(!seen(deep(100_000)), "not known, and no stack overflow");
});

Deno.test("a key that ends with an escape is read as it is, whatever was read before", () => {
  // V8 takes them for a key at the same place that ends with a backslash.
  const before = (first: string, key: string) => JSON.parse(`{"${first}":1,"${key}\\\\":2}`);
  const cases = [["a", "", "\\n"], ["b", "x", '\\"'], ["c", "", "\\u0041"], ["d", "\\n", "\\/"]];
  for (const [first, begin, end] of cases as [string, string, string][]) {
    for (let times = 0; times < 3; times++) before(first, begin);
    const [value] = [parseJson(`{"${first}":1,"${begin}${end}":2}`)];
    const key = JSON.parse(`"${begin}${end}"`) as string;
    assert.deepEqual(value, { [first]: 1, [key]: 2 });
    assert(!equalJson(`{"${first}":1,"${begin}${end}":2}`, `{"${first}":1,"${begin}\\\\":2}`));
  }
  assert.throws(() => parseJson('{"\\n":1,}'), SyntaxError);
  const keys = fc.constantFrom("a", "\\", "\n", '"', "x\\", 'x"', "__proto__", "");
  const value = fc.letrec((tie) => ({
    any: fc.oneof({ maxDepth: 3 }, fc.json().map((text) => JSON.parse(text)), tie("object")),
    object: fc.dictionary(keys, tie("any")),
  })).any;
  fc.assert(fc.property(value, (document) => {
    const text = JSON.stringify(document);
    assert.equal(JSON.stringify(parseJson(text)), text);
    assert.equal(JSON.stringify(parseJson(`{"\\n":${text}}`)), `{"\\n":${text}}`);
  }));
});
