import fc from "fast-check";
import assert from "node:assert/strict";
import { parseConfig, SearchError, type SearchFilter } from "writebehind";
import { buildQuery } from "writebehind/search/query.ts";

const config = parseConfig(
  `search_index:
  fields:
    - { name: "user_id", type: "TEXT" }
    - { name: "device_model", type: "TAG" }
    - { name: "seconds", type: "NUMERIC" }
    - { name: "a-b.c", type: "TAG", path: "$.a" }
`,
  "f",
);

Deno.test("an empty filter asks for all documents", () => {
  assert.deepEqual(buildQuery(config, {}), { query: "*", params: [] });
});

Deno.test("all parts of a filter must hold", () => {
  assert.deepEqual(
    buildQuery(config, {
      text: { user_id: "user_4554" },
      tag: { device_model: ["Pixel-4", "a b"], "a-b.c": "\\" },
      numeric: { seconds: [1, Infinity] },
    }),
    {
      query: '@user_id:"user_4554" @device_model:{$p0|$p1} @a\\-b\\.c:{$p2} @seconds:[$p3 $p4]',
      params: ["p0", "Pixel-4", "p1", "a b", "p2", "\\\\", "p3", "1", "p4", "+inf"],
    },
  );
});

Deno.test("no text leaves its quotes: only words reach the query", () => {
  fc.assert(fc.property(fc.string({ unit: "binary", maxLength: 50 }), (text) => {
    const built = buildQuery(config, { text: { user_id: text } });
    if (built === null) return;
    const phrase = /^@user_id:"(.*)"$/s.exec(built.query);
    assert(phrase, built.query);
    // deno-lint-ignore no-control-regex -- nothing of ASCII but these may be there
    assert.match(phrase[1]!, /^(?:[a-zA-Z0-9_]|[^\x00-\x7f])+( (?:[a-zA-Z0-9_]|[^\x00-\x7f])+)*$/);
    assert.deepEqual(built.params, []);
  }));
});

Deno.test("no tag is in the query: all are parameters, their backslashes doubled", () => {
  fc.assert(
    fc.property(fc.array(fc.string({ unit: "binary" }), { minLength: 1 }), (tags) => {
      const built = buildQuery(config, { tag: { device_model: tags } });
      const kept = tags.filter((tag) => tag !== "" && !tag.includes("\0"));
      if (kept.length === 0) return assert.equal(built, null);
      assert.match(built!.query, /^@device_model:\{\$p\d+(\|\$p\d+)*\}$/);
      assert.deepEqual(
        built!.params.filter((_, index) => index % 2 === 1),
        kept.map((tag) => tag.split("\\").join("\\\\")),
      );
    }),
  );
});

Deno.test("what no document can have in the index matches nothing, and not everything", () => {
  for (const text of ["", " ", "-*{}|", "\n\t", "\u0001"]) {
    assert.equal(buildQuery(config, { text: { user_id: text } }), null, JSON.stringify(text));
  }
  for (const tag of ["", "\0", [], ["", ""]]) {
    assert.equal(buildQuery(config, { tag: { device_model: tag } }), null);
  }
  assert.equal(buildQuery(config, { text: { user_id: "x" }, tag: { device_model: "" } }), null);
});

Deno.test("a field that is not in the index, or is of another type, is refused", () => {
  const filters: SearchFilter[] = [
    { text: { nothing: "x" } },
    { text: { device_model: "x" } },
    { tag: { user_id: "x" } },
    { numeric: { user_id: [1, 2] } },
    { tag: { "device_model:{x}|@user_id": "x" } },
    { text: { ["__proto__"]: "x" } },
  ];
  for (const filter of filters) {
    assert.throws(() => buildQuery(config, filter), (error) => {
      assert(error instanceof SearchError);
      assert.equal(error.code, "unknown_field");
      assert.match(error.message, /user_id \(TEXT\), device_model \(TAG\)/);
      return true;
    });
  }
});

Deno.test("NaN is no end of a range", () => {
  assert.throws(() => buildQuery(config, { numeric: { seconds: [NaN, 1] } }), SearchError);
});
