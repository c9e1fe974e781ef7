/** The columns of an entity's table: what the file may say of them. */

import assert from "node:assert/strict";
import { parseConfig } from "writebehind";
import { columnKeys, stepsOf } from "writebehind/config/columns.ts";
import { queryAt, testPostgres } from "../support/servers.ts";
import { problems } from "./texts.ts";

const within = (columns: string) =>
  `entities:\n  - name: a\n    table: t\n    index_name: i\n    columns:\n${columns}`;

Deno.test("columns: what is left out has its default", () => {
  const { entities } = parseConfig(
    within(
      "      - { name: city, type: text }\n" +
        "      - { name: n, path: '$.a.b[0].C_d', type: integer, index: true, on_error: null }",
    ),
    "f",
  );
  assert.deepEqual(entities[0]!.columns, [
    { name: "city", path: "$.city", type: "text", index: false, on_error: "park" },
    { name: "n", path: "$.a.b[0].C_d", type: "integer", index: true, on_error: null },
  ]);
  assert.deepEqual(parseConfig(within("").replace("columns:\n", "columns:"), "f").entities[0]!, {
    name: "a",
    table: "t",
    index_name: "i",
    columns: [],
    cache: { enabled: false, keep_seconds: 86_400, source: null },
  });
});

const PATHS =
  "expected a path of keys and places, such as $.a.b[0]: no wildcards, filters or quotes";
const MISTAKES: Record<string, string> = {
  "{ name: id, type: text }": "name: every table has a column id; choose another name",
  "{ name: version, type: integer }": "name: every table has a column version; choose another name",
  "{ name: user, type: text }": "name: user is a reserved word of SQL; choose another name",
  "{ name: xmin, type: text }": "name: xmin is a reserved word of SQL; choose another name",
  "{ name: City, type: text }":
    'name: expected a name that matches [a-z][a-z0-9_]{0,40}, got "City"',
  "{ name: a, type: date }":
    'type: expected text, integer, number, decimal, boolean or timestamp_ms, got "date"',
  "{ name: a }":
    "type: expected text, integer, number, decimal, boolean or timestamp_ms, got nothing",
  "{ name: a, type: text, on_error: skip }": 'on_error: expected park or null, got "skip"',
  "{ name: a, type: text, index: 1 }": "index: expected true or false, got 1",
  "{ name: a, type: text, indx: true }": "indx: unknown key",
  "{ name: a, type: text, path: a }": `path: ${PATHS}, got "a"`,
  "{ name: a, type: text, path: $ }": `path: ${PATHS}, got "$"`,
  "{ name: a, type: text, path: '$..a' }": `path: ${PATHS}, got "$..a"`,
  "{ name: a, type: text, path: '$.a[*]' }": `path: ${PATHS}, got "$.a[*]"`,
  "{ name: a, type: text, path: '$.a[-1]' }": `path: ${PATHS}, got "$.a[-1]"`,
  "{ name: a, type: text, path: '$[\"a\"]' }": `path: ${PATHS}, got "$[\\"a\\"]"`,
  '{ name: a, type: text, path: "$.a\'b" }': `path: ${PATHS}, got "$.a'b"`,
};

for (const [column, expected] of Object.entries(MISTAKES)) {
  Deno.test(`columns: mistake: ${column}`, () => {
    const lines = problems(within(`      - ${column}`));
    assert.deepEqual(lines, [`f:6: entities[0].columns[0].${expected}`]);
  });
}

Deno.test("columns: a name that is used twice, and no list", () => {
  assert.deepEqual(
    problems(within("      - { name: b, type: text }\n      - { name: b, type: integer }")),
    ['f:7: entities[0].columns[1].name: "b" is used twice; choose another'],
  );
  assert.deepEqual(
    problems(within("      name: b")),
    ["f:5: entities[0].columns: expected a list of columns, got keys with values"],
  );
});

Deno.test("columns: the steps of a path", () => {
  assert.deepEqual(stepsOf("$.a.b[0]"), ["a", "b", 0]);
  assert.deepEqual(stepsOf("$[12]._x1[3]"), [12, "_x1", 3]);
});

Deno.test("columns: what PostgreSQL takes in quotes only, or not at all, is reserved", async () => {
  await using server = await testPostgres();
  const words = await queryAt<{ word: string }>(
    server.url,
    `SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')
      UNION SELECT attname FROM pg_attribute WHERE attrelid = 'pg_class'::regclass AND attnum < 0`,
  );
  assert(words.length > 80);
  const taken = words.filter(({ word: name }) =>
    columnKeys.safeParse({ name, type: "text" }).success
  );
  assert.deepEqual(taken, []);
});
