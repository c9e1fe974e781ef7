/** A refusal of a value says where in the document the value is, for an object and for JSON text. */

import assert from "node:assert/strict";
import { insertDocument, type JsonObject } from "writebehind";
import { encodeJson } from "writebehind/core/json/encode.ts";
import { refusedWith } from "../support/documents.ts";
import { emptyRedis } from "../support/own_redis.ts";

const within = (value: unknown) => ({ ok: 0.1, list: [1, { "a b": value }] });
const AT = '$.list[1]["a b"]';
const deep = (levels: number) => JSON.parse('{"a":'.repeat(levels) + "[]" + "}".repeat(levels));
const text = JSON.stringify;
const written = (value: string) => text(within(0)).replace("0}", `${value}}`);

class Session {}

/** What is refused, how the message begins, and the path it names. */
const KINDS: [document: unknown, what: string, path: string][] = [
  [within("\ud800"), "a lone surrogate", AT],
  [text(within("\ud800")), "a lone surrogate", AT],
  [written('"\ud800"'), "a lone surrogate", AT],
  [within({ "\udc00": 1 }), "a lone surrogate", `${AT}["\\udc00"]`],
  [text(within({ "\udc00": 1 })), "a lone surrogate", `${AT}["\\udc00"]`],
  [written('{"\udc00":1}'), "a lone surrogate", `${AT}["\\udc00"]`],
  [within("\0"), "U+0000", AT],
  [text(within("\0")), "U+0000", AT],
  [within({ "\0": 1 }), "U+0000", `${AT}["\\u0000"]`],
  [text(within({ "\0": 1 })), "U+0000", `${AT}["\\u0000"]`],
  [deep(127), "more than 127 nested levels", `$${".a".repeat(40)}…`],
  [text(deep(127)), "more than 127 nested levels", `$${".a".repeat(40)}…`],
  [written("[".repeat(125)), "Unexpected", `${AT}${"[0]".repeat(37)}…`],
  [within(() => 1), "function is not JSON", AT],
  [within([undefined]), "undefined is not JSON", `${AT}[0]`],
  [within(1n), "bigint is not JSON", AT],
  [within(Symbol()), "symbol is not JSON", AT],
  [within(new Date()), "a Date is not JSON", AT],
  [within(new Session()), "a Session is not JSON", AT],
  [within(NaN), "NaN is not a JSON number", AT],
  [within(-Infinity), "-Infinity is not a JSON number", AT],
  ...["NaN", "Infinity", "-Infinity", "undefined", "1n", "01", "'x'", '"\\x"', '"\n"', '"'].map((
    value,
  ): [string, string, string] => [written(value), "", AT]),
  [written('{"\\x":1}'), "", AT],
  ['{"a":[1,{"b":', "Unexpected end of JSON input", "$.a[1].b"],
  ["{'a':1}", "", "$"],
  [written('{"k":1,"k":2}'), "a duplicate key", `${AT}.k`],
  [written("1e400"), "the number 1e400", AT],
  [written('["", 18446744073709551616]'), "the number 18446744073709551616", `${AT}[1]`],
];

Deno.test("a refusal names the path of what is refused", async (t) => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  for (const [index, [document, what, path]] of KINDS.entries()) {
    await t.step(`${index}: ${what || text(document)}`, async () => {
      await refusedWith(redis, "invalid", async () => {
        const insert = insertDocument(redis, config, "session", document as JsonObject, "d");
        await insert.catch((error: Error) => {
          const [before] = error.message.split("; ");
          assert(before!.startsWith(`Cannot store the document: ${what}`), error.message);
          assert(before!.endsWith(` at ${path}`), error.message);
          throw error;
        });
      });
    });
  }
});

Deno.test("a path is cut off where it is long, and stays Unicode", () => {
  for (const key of ["k".repeat(2 ** 20), "😀".repeat(1000), " ".repeat(300)]) {
    for (const document of [{ [key]: "\0" }, text({ [key]: "\0" })]) {
      assert.throws(() => encodeJson(document, 2 ** 22), (error: Error) => {
        assert(error.message.length < 320 && error.message.isWellFormed(), error.message);
        assert.match(error.message, / at \$.*…; /);
        return true;
      });
    }
  }
});

Deno.test("a property that is undefined hides no number from RedisJSON's reader", () => {
  const number = 4.115226300333334e-8;
  const { spelled, additions } = encodeJson({ n: number }, 1000);
  const beside = encodeJson({ u: undefined, n: number }, 1000);
  assert.deepEqual(beside, { text: '{"n":4.115226300333334e-8}', spelled, additions });
  assert.notEqual(spelled, beside.text);
});
