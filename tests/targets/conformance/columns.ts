/** Typed columns: their values, what they cannot hold, and changing them. */

import assert from "node:assert/strict";
import { type ColumnConfig, ConfigError, configWith, openTarget } from "writebehind";
import type { Columns } from "writebehind/targets";
import {
  batch,
  type Cases,
  insert,
  LEASE_SECONDS,
  partitionsOf,
  type Place,
  removal,
  textsOf,
  upsert,
  type WholeTarget,
} from "./place.ts";

type Given = Pick<ColumnConfig, "name" | "type"> & Partial<ColumnConfig>;
type Whole = WholeTarget & { columns: Columns };

/** One of each type; a bad value is NULL. */
const EACH: readonly Given[] = [
  { name: "t", type: "text", on_error: null },
  { name: "short", type: "text", path: "$.t", index: true, on_error: null },
  { name: "i", type: "integer", path: "$.n", index: true, on_error: null },
  { name: "n", type: "number", on_error: null },
  { name: "d", type: "decimal", path: "$.n", on_error: null },
  { name: "b", type: "boolean", on_error: null },
  { name: "at", type: "timestamp_ms", path: "$.n", index: true, on_error: null },
  { name: "deep", type: "text", path: "$.a.B_1[1].c", on_error: null },
  { name: "head", type: "text", path: "$.list[0]", on_error: null },
];

/** The columns of {@linkcode EACH} by a document; those that are left out are NULL. */
const VALUES: [json: string, values: Record<string, unknown>][] = [
  ['{"t":"x"}', { t: "x", short: "x" }],
  ['{"t":"ä\\u0041\\n\\"\\ud83d\\ude00\u{1f600}\\/ "}', {
    t: 'äA\n"\u{1f600}\u{1f600}/ ',
    short: 'äA\n"\u{1f600}\u{1f600}/ ',
  }],
  [`{"t":"${"é".repeat(512)}"}`, { t: "é".repeat(512), short: "é".repeat(512) }],
  [`{"t":"${"x".repeat(5000)}"}`, { t: "x".repeat(5000) }],
  ['{"t":null,"n":null,"b":null,"a":null}', {}],
  ['{"t":5}', {}],
  ['{"t":{"x":1}}', {}],
  ['{"t":["x"]}', {}],
  ['{"t":true}', {}],
  ['{"n":0}', { i: "0", n: 0, d: "0", at: "1970-01-01T00:00:00.000Z" }],
  ['{"n":1.0}', { i: "1", n: 1, d: "1", at: "1970-01-01T00:00:00.001Z" }],
  ['{"n":1e2}', { i: "100", n: 100, d: "100", at: "1970-01-01T00:00:00.100Z" }],
  ['{"n":-1.5}', { n: -1.5, d: "-1.5", at: "1969-12-31T23:59:59.999Z" }],
  ['{"n":0.1}', { n: 0.1, d: "0.1", at: "1970-01-01T00:00:00.000Z" }],
  ['{"n":1764000000123}', {
    i: "1764000000123",
    n: 1764000000123,
    d: "1764000000123",
    at: "2025-11-24T16:00:00.123Z",
  }],
  ['{"n":1764000000123.9}', {
    n: 1764000000123.9,
    d: "1764000000123.9",
    at: "2025-11-24T16:00:00.123Z",
  }],
  ['{"n":253402300799999}', {
    i: "253402300799999",
    n: 253402300799999,
    d: "253402300799999",
    at: "9999-12-31T23:59:59.999Z",
  }],
  ['{"n":253402300800000}', {
    i: "253402300800000",
    n: 253402300800000,
    d: "253402300800000",
  }],
  ['{"n":-30610224000000}', {
    i: "-30610224000000",
    n: -30610224000000,
    d: "-30610224000000",
    at: "1000-01-01T00:00:00.000Z",
  }],
  ['{"n":9223372036854775807}', {
    i: "9223372036854775807",
    n: 2 ** 63,
    d: "9223372036854775807",
  }],
  ['{"n":-9223372036854775808}', {
    i: "-9223372036854775808",
    n: -(2 ** 63),
    d: "-9223372036854775808",
  }],
  ['{"n":-9223372036854775809}', { n: -(2 ** 63), d: "-9223372036854775809" }],
  ['{"n":9223372036854775808}', { n: 2 ** 63, d: "9223372036854775808" }],
  ['{"n":12345678901234567890.123456789}', {
    n: 12345678901234567890.123456789,
    d: "12345678901234567890.123456789",
  }],
  ['{"n":"5"}', {}],
  ['{"n":true,"b":1}', {}],
  ['{"b":true}', { b: true }],
  ['{"b":false}', { b: false }],
  ['{"b":"true"}', {}],
  ['{"a":{"B_1":[0,{"c":"found"}]}}', { deep: "found" }],
  ['{"a":{"B_1":{"1":{"c":"a key"}}}}', {}],
  ['{"a":[{"B_1":[0,{"c":"in an array"}]}]}', {}],
  ['{"a":{"B_1":[0]}}', {}],
  ['{"list":["x"]}', { head: "x" }],
  ['{"list":"x"}', {}],
  ['{"list":{"0":"x"}}', {}],
  ["[]", {}],
  ["null", {}],
  ['"t"', {}],
  [`{"z":${"[".repeat(20)}${"]".repeat(20)},"t":"x"}`, { t: "x", short: "x" }],
];

/** Numbers that are no integers, though a database that rounds may take them for 0. */
const FRACTIONS = ["1e-70", "-1e-31", "1e-300", "0.99"];

/** Numbers that are at the edge of some database's: whatever becomes of them, no document is refused for one. */
const EDGES = ["1e400", "-1e400", "1e-400", "1.8e308", "9.9e307", "5e-324", "1e30", "1e-7"];

/** A value as every database means it. */
function meant(type: ColumnConfig["type"], value: unknown): unknown {
  if (value === null) return undefined;
  const text = String(value);
  switch (type) {
    case "text":
      return text;
    case "integer":
      return String(BigInt(text));
    case "number":
      return Number(text);
    case "decimal":
      return text.includes("e")
        ? String(Number(text))
        : text.includes(".")
        ? text.replace(/\.?0+$/, "")
        : text;
    case "boolean":
      return text === "true" || text === "1";
    case "timestamp_ms":
      if (value instanceof Date) return value.toISOString();
      return new Date(text.endsWith("Z") ? text : `${text.replace(" ", "T")}Z`).toISOString();
  }
}

async function valuesOf(place: Place, id: string, columns: readonly Given[]) {
  const names = columns.map(({ name }) => name).join(", ");
  const [row] = await place.query(`SELECT ${names} FROM sessions WHERE id = '${id}'`);
  const values = columns.map(({ name, type }) => [name, meant(type, row![name])]);
  return Object.fromEntries(values.filter(([, value]) => value !== undefined));
}

/** The target with columns of its table. */
async function withColumns(place: Place, columns: readonly Given[]): Promise<Whole> {
  const [entity] = place.config.entities;
  const config = configWith(place.config, { entities: [{ ...entity!, columns }] });
  return await openTarget(config) as Whole;
}

async function claimedWith(place: Place, columns: readonly Given[]) {
  const target = await withColumns(place, columns);
  const [keys] = partitionsOf(place);
  const claim = (await target.ownership.claim(keys!, "a", LEASE_SECONDS))!;
  return { target, claim, [Symbol.asyncDispose]: () => target.close() };
}

export const columns: Cases = {
  "a table that is made has its columns, with the documents' values": async (place) => {
    await using own = await claimedWith(place, EACH);
    const { target, claim } = own;
    assert.deepEqual(await target.columns.differences("session"), []);
    const upserts = VALUES.map(([json], index) => insert(`v${index}`, json, 1));
    await target.batches.apply(claim, batch(1, { upserts }));
    for (const [index, [json, values]] of VALUES.entries()) {
      assert.deepEqual(await valuesOf(place, `v${index}`, EACH), values, json.slice(0, 100));
    }
    // They follow their documents.
    await target.batches.apply(claim, batch(2, { upserts: [upsert("v0", '{"b":true}', 2)] }));
    assert.deepEqual(await valuesOf(place, "v0", EACH), { b: true });
    const edges = EDGES.map((number, index) => insert(`e${index}`, `{"n":${number}}`, 3));
    await target.batches.apply(claim, batch(3, { upserts: edges }));
    const fractions = FRACTIONS.map((number, index) => insert(`f${index}`, `{"n":${number}}`, 4));
    await target.batches.apply(claim, batch(4, { upserts: fractions }));
    for (const [index, number] of FRACTIONS.entries()) {
      assert.equal((await valuesOf(place, `f${index}`, EACH)).i, undefined, number);
    }
  },

  "what a column cannot hold is refused, with the column named": async (place) => {
    const parking = EACH.map((column) => ({ ...column, on_error: "park" as const }));
    await using own = await claimedWith(place, parking);
    const { target, claim } = own;
    assert.deepEqual(await target.columns.differences("session"), []);
    const whole = '{"t":"x","n":1,"b":false,"a":{"B_1":[0,{"c":"found"}]}}';
    await target.batches.apply(
      claim,
      batch(2, { upserts: [insert("a", whole, 1), insert("b", "{}", 2)] }),
    );
    const bad: [json: string, column: RegExp][] = [
      ['{"t":5}', /\b(t|short)_is_text/],
      [`{"t":"${"x".repeat(513)}"}`, /\bshort_is_text/],
      ['{"n":"1"}', /\b(i_is_integer|n_is_number|d_is_decimal|at_is_timestamp_ms)/],
      ['{"n":9223372036854775808}', /\b(i_is_integer|at_is_timestamp_ms)/],
      ['{"n":1.5}', /\bi_is_integer/],
      ['{"b":"yes"}', /\bb_is_boolean/],
      ['{"a":{"B_1":[0,{"c":{}}]}}', /\bdeep_is_text/],
    ];
    for (const [json, column] of bad) {
      const rows = batch(5, { upserts: [upsert("a", json, 4), insert("c", "{}", 5)] });
      const error = await target.batches.apply(claim, rows).then(() => null, (error) => error);
      assert.equal(target.kindOf(error), "document", `${json}: ${error}`);
      const tried = await target.batches.probe(
        claim,
        batch(5, { upserts: [insert("a", json, 4)] }),
        false,
      );
      assert.match(tried!.reason, column, json);
      assert.equal(tried!.kind, "document");
    }
    assert.deepEqual(await textsOf(target, place, ["c"]), [null]);
    await target.batches.apply(claim, batch(6, { removals: [removal("a", 6)] }));
  },

  "a table without them goes on, until they are made": async (place) => {
    const wanted: Given[] = [
      { name: "city", type: "text", index: true },
      { name: "n", type: "integer" },
    ];
    await using before = await claimedWith(place, []);
    const bad = Array.from({ length: 12 }, (_, n) => insert(`bad${n}`, `{"n":"${n}"}`, 1));
    const good = insert("good", '{"city":"Ulm","n":7}', 1);
    await before.target.batches.apply(before.claim, batch(1, { upserts: [...bad, good] }));
    await before.target.ownership.release(before.claim.keys, before.claim);

    await using own = await claimedWith(place, wanted);
    const { target, claim } = own;
    assert.deepEqual(await target.columns.differences("session"), [
      "the column city is missing",
      "the column n is missing",
    ]);
    await target.migrate("session");
    await target.batches.apply(claim, batch(2, { upserts: [insert("other", '{"n":8}', 2)] }));
    assert.equal((await target.columns.differences("session")).length, 2, "nothing was changed");

    assert((await target.columns.statements("session")).length >= 2);
    const [blocked, ...more] = await target.columns.blocked("session");
    assert.deepEqual(more, []);
    assert.deepEqual([blocked!.column, blocked!.type, blocked!.rows], ["n", "integer", 12]);
    assert.equal(blocked!.ids.length, 10);
    assert(blocked!.ids.every((id) => id.startsWith("bad")));
    await assert.rejects(target.columns.migrate("session"), /Rows of sessions that came meanwhile/);
    assert.equal((await target.columns.differences("session")).length, 2, "nothing was changed");

    const removals = bad.map(({ id }) => removal(id.toString(), 3));
    await target.batches.apply(claim, batch(3, { removals }));
    assert.deepEqual(await target.columns.blocked("session"), []);
    await target.columns.migrate("session");
    assert.deepEqual(await target.columns.differences("session"), []);
    assert.deepEqual(await target.columns.statements("session"), []);
    await target.columns.migrate("session");
    assert.deepEqual(await valuesOf(place, "good", wanted), { city: "Ulm", n: "7" });
    // The claim that stood before goes on, and so does a new one.
    await target.batches.apply(claim, batch(4, { upserts: [upsert("good", '{"n":9}', 4)] }));
    assert.deepEqual(await valuesOf(place, "good", wanted), { n: "9" });
    assert.equal(await target.identities.look(claim), null, "it is the same table");
    assert(await target.ownership.claim(claim.keys, "a", LEASE_SECONDS));
  },

  "they change with the configuration": async (place) => {
    await using first = await claimedWith(place, [
      { name: "city", type: "text" },
      { name: "n", type: "integer", index: true },
      { name: "gone", type: "boolean", index: true },
    ]);
    await first.target.batches.apply(
      first.claim,
      batch(1, { upserts: [insert("a", '{"city":"Ulm","town":"Bonn","n":1}', 1)] }),
    );
    const wanted: Given[] = [
      { name: "city", type: "text", path: "$.town", on_error: null },
      { name: "n", type: "integer", on_error: null },
    ];
    await using target = await withColumns(place, wanted);
    assert.deepEqual(await target.columns.differences("session"), [
      "the column city is text $.city, and text $.town is configured",
      "the column n has an index, and none is configured",
      "the column n parks documents, and on_error: null is configured",
      "the column gone is not configured any more",
    ]);
    assert.deepEqual(await target.columns.blocked("session"), []);
    await target.columns.migrate("session");
    assert.deepEqual(await target.columns.differences("session"), []);
    assert.deepEqual(await valuesOf(place, "a", wanted), { city: "Bonn", n: "1" });
    await first.target.batches.apply(
      first.claim,
      batch(2, { upserts: [upsert("a", '{"town":1,"n":"x"}', 2)] }),
    );
    assert.deepEqual(await valuesOf(place, "a", wanted), {});

    const back: Given[] = [{ name: "city", type: "text", path: "$.town", index: true }];
    await using again = await withColumns(place, back);
    const blocked = await again.columns.blocked("session");
    assert.deepEqual(blocked, [{ column: "city", type: "text", rows: 1, ids: ["a"] }]);
    await first.target.batches.apply(first.claim, batch(3, { upserts: [upsert("a", "{}", 3)] }));
    await again.columns.migrate("session");
    assert.deepEqual(await again.columns.differences("session"), []);
    await using none = await withColumns(place, []);
    await none.columns.migrate("session");
    assert.deepEqual(await none.columns.differences("session"), []);
    await assert.rejects(place.query("SELECT city FROM sessions"));
  },

  "a column that is not of our making is left alone": async (place) => {
    await using own = await claimedWith(place, []);
    await own.target.batches.apply(own.claim, batch(1, { upserts: [insert("a", "{}", 1)] }));
    await place.query("ALTER TABLE sessions ADD COLUMN city INTEGER");
    await using target = await withColumns(place, [{ name: "city", type: "text" }]);
    assert.deepEqual(await target.columns.differences("session"), [
      "the column city is not of our making, though one of its name is configured",
    ]);
    const refused = (error: Error) =>
      error instanceof ConfigError && /drop or rename it, or configure/.test(error.message);
    await assert.rejects(target.columns.statements("session"), refused);
    await assert.rejects(target.columns.migrate("session"), refused);
    assert.deepEqual(await own.target.columns.differences("session"), []);
    await own.target.columns.migrate("session");
    await place.query("SELECT city FROM sessions");
  },

  "before the first sink there is nothing to compare": async (place) => {
    await using target = await withColumns(place, EACH);
    assert.deepEqual(await target.columns.differences("session"), []);
    assert.deepEqual(await target.columns.statements("session"), []);
    assert.deepEqual(await target.columns.blocked("session"), []);
    await target.columns.migrate("session");
  },
};
