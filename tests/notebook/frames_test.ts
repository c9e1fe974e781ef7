import fc from "fast-check";
import { Redis } from "ioredis";
import assert from "node:assert/strict";
import pl from "nodejs-polars";
import pg from "pg";
import { configWith, createTable, parseConfig } from "writebehind";
import { COLUMN_TYPES } from "writebehind/config/columns.ts";
import {
  type ColumnType,
  type DataFrame,
  frame,
  FrameError,
  frameHtml,
  metricsFrame,
  queryFrame,
  type Schema,
  streamFrame,
} from "writebehind/notebook";
import { testPostgres, testRedis } from "../support/servers.ts";

/** A column's values with nothing rounded: integers as bigints. */
function valuesOf(df: DataFrame, name: string): unknown[] {
  const column = df.getColumn(name);
  if (column.dtype.variant !== "Int64") return column.toArray();
  return column.cast(pl.String).toArray().map((text) => text === null ? null : BigInt(text));
}

/** What `queryFrame` and the others made of the types, by column. */
function typesOf(df: DataFrame): Record<string, string> {
  return Object.fromEntries(df.columns.map((name) => [name, df.getColumn(name).dtype.variant]));
}

function roundTrips<T>(type: ColumnType, values: fc.Arbitrary<T>): void {
  fc.assert(fc.property(fc.array(fc.option(values)), (given) => {
    const df = frame(given.map((value) => ({ value })), { value: type });
    assert.deepEqual(valuesOf(df, "value"), given);
  }));
}

Deno.test("frame: what goes in comes out, of every type and with nulls", () => {
  roundTrips("Int64", fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }));
  roundTrips("String", fc.string({ unit: "binary" }));
  roundTrips("Boolean", fc.boolean());
  roundTrips("Float64", fc.double());
  roundTrips("Datetime", fc.date({ noInvalidDate: true }));
  roundTrips("Date", fc.integer({ min: -1e6, max: 1e6 }).map((day) => new Date(day * 86_400_000)));
});

Deno.test("frame: whole numbers are integers, a missing key is null, empty rows keep columns", () => {
  const df = frame([{ n: -5 }, { n: Number.MAX_SAFE_INTEGER }, {}], { n: "Int64" });
  assert.deepEqual(valuesOf(df, "n"), [-5n, BigInt(Number.MAX_SAFE_INTEGER), null]);
  const empty = frame([], { id: "String", at: "Datetime", n: "Int64" });
  assert.deepEqual(typesOf(empty), { id: "String", at: "Datetime", n: "Int64" });
  assert.equal(empty.height, 0);
});

Deno.test("frame: a value that would be changed is refused, with its place and what to do", () => {
  const refused: [unknown, ColumnType, RegExp][] = [
    [2n ** 63n, "Int64", /column "v", row 1: expected Int64, got 9223372036854775808, .*2\^63/],
    [-(2n ** 63n) - 1n, "Int64", /outside -2\^63/],
    [1.5, "Int64", /no integer/],
    [2 ** 53, "Int64", /rounded; give a bigint/],
    [NaN, "Int64", /no integer/],
    ["x", "Int64", /the text "x"/],
    [1n, "Float64", /the bigint 1/],
    [new Date(NaN), "Datetime", /an invalid date/],
    ["2026-01-01", "Datetime", /give a Date/],
    [new Date(1), "Date", /not midnight UTC/],
    [{}, "String", /an object \(Object\)/],
    ["\ud800", "String", /lone surrogate/],
    [0, "Boolean", /the number 0/],
  ];
  for (const [value, type, message] of refused) {
    assert.throws(() => frame([{ v: null }, { v: value }], { v: type }), (error) => {
      assert.ok(error instanceof FrameError);
      assert.match(error.message, message);
      return true;
    });
  }
  assert.throws(() => frame([{ a: 1, b: 2 }], { a: "Int64" }), /row 0: the key "b" is no column/);
  // A key that every object inherits is no value of a row.
  assert.deepEqual(valuesOf(frame([{}], { valueOf: "String" } as Schema), "valueOf"), [null]);
});

Deno.test("frameHtml: the shape, all digits, escaped and shortened text", () => {
  const rows = Array.from({ length: 3000 }, (_, index) => ({
    id: index === 0 ? `<img src=x onerror="alert(1)">` : String(index),
    n: 2n ** 63n - 1n,
    json: JSON.stringify({ text: "é😀".repeat(100) }),
    at: new Date("2026-01-02T03:04:05.678Z"),
    none: null,
  }));
  const df = frame(rows, {
    id: "String",
    n: "Int64",
    json: "String",
    at: "Datetime",
    none: "Boolean",
  });
  const html = frameHtml(df, { rows: 3 });
  assert.match(html, /3 of 3,000 rows × 5 columns/);
  assert.equal(html.match(/<tr>/g)?.length, 4);
  assert.match(html, /<td class="number">9223372036854775807<\/td>/);
  assert.match(html, /<td>2026-01-02 03:04:05\.678<\/td>/);
  assert.match(html, /<span class="null">null<\/span>/);
  assert.ok(!html.includes("<img"), "cell text is not markup");
  const json = html.match(/<td class="long" title="[^"]*">(&#123;|\{)([^<]*)<\/td>/)?.[0] ?? "";
  assert.match(json, /…<\/td>$/);
  assert.ok(json.replace(/.*">/, "").length < 200);
  assert.ok(html.isWellFormed() && !html.includes("\ufffd"), "no half character at the cut");
});

Deno.test("frameHtml: columns named like members, no rows, no columns, lists", () => {
  const names = ["height", "columns", "head", "getColumn", "html", "width", "1", "<b>"];
  const row = Object.fromEntries(names.map((name) => [name, name]));
  const html = frameHtml(frame([row], Object.fromEntries(names.map((name) => [name, "String"]))));
  assert.match(html, /1 of 1 row × 8 columns/);
  assert.match(html, /<th>height<small>String<\/small><\/th>/);
  assert.ok(!html.includes("<b>"));
  const fractions = [1 / 7, 1e-9 / 7, 1234567890.125, NaN, Infinity, 2].map((f) => ({ f }));
  assert.deepEqual(
    [...frameHtml(frame(fractions, { f: "Float64" })).matchAll(/"number">([^<]*)<\/td>/g)]
      .map(([, text]) => text),
    ["0.142857", "1.42857e-10", "1234567890.125", "NaN", "Infinity", "2"],
  );
  assert.match(frameHtml(frame([], { id: "String" })), /0 of 0 rows × 1 column</);
  assert.match(frameHtml(frame([], {})), /0 of 0 rows × 0 columns/);
  const grouped = frame([{ k: "a", v: 1 }, { k: "a", v: 2 }], { k: "String", v: "Int64" })
    .groupBy("k").agg(pl.col("v").alias("vs"), pl.count("v").alias("count"));
  assert.match(frameHtml(grouped), /\[1,2\]/);
});

Deno.test("metricsFrame: a row a counter", () => {
  const df = metricsFrame({
    "metrics:redis_success": 30,
    "metrics:redis_fail": 0,
    "metrics:redis_retry": 0,
    "metrics:postgres_success": 28,
    "metrics:postgres_fail": 0,
  });
  assert.deepEqual(valuesOf(df, "counter")[0], "metrics:redis_success");
  assert.deepEqual(valuesOf(df, "events"), [30n, 0n, 0n, 28n, 0n]);
});

Deno.test("queryFrame: columns as PostgreSQL has them", async (t) => {
  await using server = await testPostgres();
  const pool = new pg.Pool({ connectionString: server.url, max: 1 });
  // The pool's end does not wait until its clients are gone, and a server that stops would meet them.
  const gone: Promise<void>[] = [];
  pool.on("connect", (client) => gone.push(new Promise((resolve) => client.once("end", resolve))));
  try {
    await t.step("every type, exactly", async () => {
      const df = await queryFrame(
        pool,
        `SELECT 1::int2 AS i2, -2::int4 AS i4, 9223372036854775807::int8 AS i8, 1.5::float4 AS f4,
          'NaN'::float8 AS f8, 12.50::numeric AS price, 123456789012345678.9::numeric AS exact,
          1e400::numeric AS large, 'x'::text AS t, 'y'::varchar(3) AS v, true AS yes,
          '2026-11-23 14:16:05.123456+02'::timestamptz AS at, '1900-01-01 00:00'::timestamp AS wall,
          '1960-02-29'::date AS day, '{"b": 1, "a": 12345678901234567890}'::jsonb AS j,
          '6f1c1b1e-0000-4000-8000-000000000000'::uuid AS u, '\\x00ff'::bytea AS b,
          ARRAY[1,2] AS list, '1 day'::interval AS span, NULL::int8 AS none`,
      );
      const expected: Record<string, [string, unknown]> = {
        i2: ["Int64", 1n],
        i4: ["Int64", -2n],
        i8: ["Int64", 2n ** 63n - 1n],
        f4: ["Float64", 1.5],
        f8: ["Float64", NaN],
        price: ["Float64", 12.5],
        exact: ["String", "123456789012345678.9"],
        large: ["String", "1" + "0".repeat(400)],
        t: ["String", "x"],
        v: ["String", "y"],
        yes: ["Bool", true],
        at: ["Datetime", new Date("2026-11-23T12:16:05.123Z")],
        wall: ["Datetime", new Date("1900-01-01T00:00:00Z")],
        day: ["Date", new Date("1960-02-29T00:00:00Z")],
        j: ["String", '{"a": 12345678901234567890, "b": 1}'],
        u: ["String", "6f1c1b1e-0000-4000-8000-000000000000"],
        b: ["String", "\\x00ff"],
        list: ["String", "{1,2}"],
        span: ["String", "1 day"],
        none: ["Int64", null],
      };
      for (const [name, [type, value]] of Object.entries(expected)) {
        assert.deepEqual([typesOf(df)[name], valuesOf(df, name)[0]], [type, value], name);
      }
      assert.deepEqual(df.columns, Object.keys(expected));
    });

    await t.step("parameters, no rows, names that come twice", async () => {
      const none = await queryFrame(
        pool,
        "SELECT g AS id, now() AS at, g AS id FROM generate_series(1, 3) g WHERE g > $1",
        [3],
      );
      assert.deepEqual(typesOf(none), { id: "Int64", at: "Datetime", id_2: "Int64" });
      assert.equal(none.height, 0);
    });

    await t.step("what would round is text, what does not is a number", async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.tuple(fc.bigInt({ min: -(10n ** 20n), max: 10n ** 20n }), fc.nat(25)), {
            minLength: 1,
            maxLength: 5,
          }),
          async (numbers) => {
            const texts = numbers.map(([digits, scale]) => `${digits}e-${scale}`);
            const sql = "SELECT n, n::text AS t FROM unnest($1::numeric[]) n";
            const df = await queryFrame(pool, sql, [texts]);
            const back =
              "SELECT n::numeric = t::numeric AS same FROM unnest($1::text[], $2::text[]) x(n, t)";
            const { rows } = await pool.query<{ same: boolean }>(back, [
              valuesOf(df, "n").map(String),
              valuesOf(df, "t"),
            ]);
            assert.ok(rows.every(({ same }) => same));
          },
        ),
        { numRuns: 60 },
      );
      const prices = await queryFrame(
        pool,
        "SELECT 0.1::numeric AS n UNION ALL SELECT 1234567890.12345",
      );
      assert.deepEqual(typesOf(prices), { n: "Float64" });
      const tiny = await queryFrame(pool, "SELECT 1e-320::numeric AS n");
      assert.deepEqual(typesOf(tiny), { n: "String" });
    });

    await t.step("times are the same, wherever this process and the session are", async () => {
      const zone = Deno.env.get("TZ");
      Deno.env.set("TZ", "Asia/Kolkata");
      try {
        await pool.query("SET TIME ZONE 'America/St_Johns'");
        const df = await queryFrame(
          pool,
          `SELECT '2026-11-23 14:00'::timestamp AS wall, '2026-11-23 14:00Z'::timestamptz AS at,
            '2026-11-23'::date AS day`,
        );
        assert.deepEqual(valuesOf(df, "wall"), [new Date("2026-11-23T14:00:00Z")]);
        assert.deepEqual(valuesOf(df, "at"), [new Date("2026-11-23T14:00:00Z")]);
        assert.deepEqual(valuesOf(df, "day"), [new Date("2026-11-23T00:00:00Z")]);
      } finally {
        if (zone === undefined) Deno.env.delete("TZ");
        else Deno.env.set("TZ", zone);
      }
    });

    await t.step("errors say what to do, and the process's parsers stay as they were", async () => {
      await assert.rejects(queryFrame(pool, "SELECT 1; SELECT 2"), /expected one statement, got 2/);
      await assert.rejects(
        queryFrame(pool, "CREATE TEMP TABLE t (i int)"),
        /returns rows, got CREATE/,
      );
      await assert.rejects(
        queryFrame(pool, "SELECT 'infinity'::timestamptz AS at"),
        /column "at", row 0: expected Datetime, got the text "infinity"/,
      );
      await assert.rejects(queryFrame(pool, "SELECT * FROM missing"), /"missing" does not exist/);
      const { rows } = await pool.query("SELECT 1::int8 AS n, 1.5::numeric AS d");
      assert.deepEqual(rows, [{ n: "1", d: "1.5" }]);
    });
    await t.step("the columns of a configuration have their types", async () => {
      const types = {
        text: ["String", "ab"],
        integer: ["Int64", 2n ** 62n],
        number: ["Float64", 0.5],
        decimal: ["String", "12345678901234567890.5"],
        boolean: ["Bool", true],
        timestamp_ms: ["Datetime", new Date(1764000000123)],
      } as const;
      const columns = COLUMN_TYPES.map((type) => ({ name: `a_${type}`, type }));
      const config = configWith(parseConfig("", "f"), {
        entities: [{ name: "session", table: "typed", index_name: "i", columns }],
      });
      await createTable(pool, config, "session");
      const values = Object.entries(types).map(([type, [, value]]) =>
        `"a_${type}": ${
          value instanceof Date ? value.getTime() : type === "text" ? `"${value}"` : value
        }`
      );
      await pool.query("INSERT INTO typed (id, payload) VALUES ('a', $1)", [
        `{${values.join()}}`,
      ]);
      const df = await queryFrame(pool, "SELECT * FROM typed");
      for (const [type, expected] of Object.entries(types)) {
        const name = `a_${type}`;
        assert.deepEqual([typesOf(df)[name], valuesOf(df, name)[0]], expected, name);
      }
    });
  } finally {
    await pool.end();
    await Promise.all(gone);
  }
});

Deno.test("streamFrame: the newest entries first", async () => {
  await using server = await testRedis();
  const redis = new Redis(server.url);
  try {
    await redis.xadd("events", "1000-0", "ts", "1000", "doc_id", "a", "event_type", "insert");
    await redis.xadd("events", "2000-5", "ts", "-2", "doc_id", "b", "id", "own", "payload", "{}");
    await redis.xadd("events", "3000-0", "ts", "3000", "doc_id", Buffer.from([0xff]));
    const df = await streamFrame(redis, "events", { count: 2 });
    assert.deepEqual(typesOf(df), {
      id: "String",
      time: "Datetime",
      ts: "Int64",
      doc_id: "String",
      id_2: "String",
      payload: "String",
    });
    assert.deepEqual(valuesOf(df, "id"), ["3000-0", "2000-5"]);
    assert.deepEqual(valuesOf(df, "time"), [new Date(3000), new Date(2000)]);
    assert.deepEqual(valuesOf(df, "ts"), [3000n, -2n]);
    assert.deepEqual(valuesOf(df, "id_2"), [null, "own"]);

    await redis.xadd("events", "18446744073709551615-1", "ts", "soon", "count", "9".repeat(19));
    const foreign = await streamFrame(redis, "events");
    assert.equal(foreign.height, 4);
    assert.deepEqual(typesOf(foreign).ts, "String");
    assert.deepEqual(typesOf(foreign).count, "String");
    assert.equal(valuesOf(foreign, "time")[0], null);

    const none = await streamFrame(redis, "missing");
    assert.deepEqual([none.height, none.columns], [0, ["id", "time"]]);
  } finally {
    redis.disconnect();
  }
});
