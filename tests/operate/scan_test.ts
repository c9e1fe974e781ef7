import fc from "fast-check";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { documentKey, verify } from "writebehind";
import { equalJson } from "writebehind/core/json/equality.ts";
import { Scan, type Scanned } from "writebehind/operate/verify/scan.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { targetOf } from "writebehind/targets/open.ts";
import { callsOf } from "../support/commands.ts";
import { type Pipeline, testPipeline, withPipeline } from "../support/pipeline.ts";

const scanOf = ({ redis, pool, config }: Pipeline) =>
  new Scan(redis, targetOf(pool, config), config, "session");

/** All that a walk of a scan gives. */
async function all(chunks: AsyncGenerator<Scanned>): Promise<Scanned> {
  const suspected: string[] = [];
  let count = 0;
  for await (const chunk of chunks) {
    count += chunk.count;
    suspected.push(...chunk.suspected);
  }
  return { count, suspected: suspected.sort() };
}

/** Stores documents as any client may, and rows. */
async function store(
  { redis, pool, config }: Pipeline,
  documents: Record<string, string>,
  rows: Record<string, string | null>,
) {
  const pipeline = redis.pipeline();
  for (const [id, text] of Object.entries(documents)) {
    pipeline.call("JSON.SET", documentKey(config, "session", id), "$", text);
  }
  for (const [error] of await pipeline.exec() ?? []) if (error) throw error;
  await pool.query(
    "INSERT INTO sessions (id, payload) SELECT * FROM unnest($1::text[], $2::jsonb[])",
    [Object.keys(rows), Object.values(rows)],
  );
}

/** Documents with the rows that they are stored in: `true` where they are equal. */
const PAIRS: Record<string, [document: string, row: string | null, equal: boolean]> = {
  "order of keys": ['{"a":1,"b":{"d":2,"c":3}}', '{"b": {"c": 3, "d": 2}, "a": 1}', true],
  "spelling of numbers": ['{"a":100.0,"b":0.5e-3}', '{"a": 1e2, "b": 0.000500}', true],
  "-0": ['{"a":-0.0}', '{"a": 0}', true],
  "escapes": ['{"a":"\\u00e9\\/\\n"}', '{"a": "é/\\n"}', true],
  "no object": ["[1,null]", "[1, null]", true],
  "null": ["null", "null", true],
  "a large integer": ['{"a":9007199254740993}', '{"a": 9007199254740993}', true],
  "its last digit": ['{"a":9007199254740993}', '{"a": 9007199254740992}', false],
  "the last digit of a decimal": ['{"a":0.1}', '{"a": 0.10000000000000000001}', false],
  "order of items": ["[1,2]", "[2, 1]", false],
  "a number and its text": ['{"a":1}', '{"a": "1"}', false],
  "null and nothing": ['{"a":null}', "{}", false],
  "no payload": ['{"a":null}', null, false],
  "small and capital letters": ['{"a":"x"}', '{"a": "X"}', false],
  "composed and decomposed letters": ['{"a":"é"}', '{"a": "e\u0301"}', false],
  "a value and an array of it": ["1", "[1]", false],
};

Deno.test("scan", (t) =>
  withPipeline(t, {
    "suspects no document that is equal to its row, however either spells it": async (pipeline) => {
      const pairs = Object.entries(PAIRS);
      await store(
        pipeline,
        Object.fromEntries(pairs.map(([id, [document]]) => [id, document])),
        Object.fromEntries(pairs.map(([id, [, row]]) => [id, row])),
      );
      const scan = scanOf(pipeline);
      assert.deepEqual(await all(scan.rows()), {
        count: pairs.length,
        suspected: pairs.filter(([, [, , equal]]) => !equal).map(([id]) => id).sort(),
      });
      assert.deepEqual(await all(scan.documents()), { count: pairs.length, suspected: [] });
    },

    "suspects every document that the exact comparison finds to differ from its row": async (
      pipeline,
    ) => {
      const { redis } = pipeline;
      const leaf = fc.constantFrom(
        ...["0", "-0.0", "1", "1.0", "1e0", "10", "1e1", "9007199254740993", "9007199254740992"],
        ...["0.1", "0.10", "1e-1", '"1"', '""', '"a"', '"\\u0061"', "null", "true", "[]", "{}"],
      );
      const key = fc.constantFrom('"a"', '"b"', '""', '"aa"');
      const { value } = fc.letrec<{ value: string }>((tie) => ({
        value: fc.oneof(
          { maxDepth: 2, withCrossShrink: true },
          leaf,
          fc.array(tie("value"), { maxLength: 2 }).map((items) => `[${items}]`),
          fc.uniqueArray(fc.tuple(key, tie("value")), { maxLength: 2, selector: ([k]) => k })
            .map((members) => `{${members.map(([k, v]) => `${k}:${v}`)}}`),
        ),
      }));
      const pairs = fc.sample(fc.tuple(value, value), { numRuns: 3000, seed: 20_260_101 });
      const named = pairs.map(([document, row], n) => [`d${n}`, document, row] as const);
      await store(
        pipeline,
        Object.fromEntries(named.map(([id, document]) => [id, document])),
        Object.fromEntries(named.map(([id, , row]) => [id, row])),
      );
      const different: string[] = [];
      for (const [id, , row] of named) {
        const document = await redis.call("JSON.GET", `session:${id}`) as string;
        if (!equalJson(document, row)) different.push(id);
      }
      assert(different.length > 100 && named.length - different.length > 100);
      assert.deepEqual((await all(scanOf(pipeline).rows())).suspected, different.sort());
    },

    "a text that is no JSONB leads to the exact comparison, which reports it": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      await store(
        pipeline,
        { bad: '{"s":"a\\u0000b"}', good: '{"n":1}', other: '{"n":1}' },
        { bad: '{"s": "ab"}', good: '{"n": 1}', other: '{"n": 2}' },
      );
      assert.deepEqual((await all(scanOf(pipeline).rows())).suspected, ["bad", "good", "other"]);
      const { mismatches, equal } = await verify(redis, pool, config, "session");
      assert.deepEqual(mismatches.map(({ id }) => id).sort(), ["bad", "other"]);
      assert.equal(equal, 1);
    },

    "rows without a document, and with a key of another type": async (pipeline) => {
      await store(pipeline, { a: "{}" }, { a: "{}", none: "{}", empty: null, list: "{}" });
      await pipeline.redis.lpush("session:list", "x");
      const scan = scanOf(pipeline);
      assert.deepEqual((await all(scan.rows())).suspected, ["empty", "list", "none"]);
      await pipeline.redis.config("RESETSTAT");
      assert.deepEqual(await all(scan.documents()), { count: 1, suspected: [] });
      assert.equal(await callsOf(pipeline.redis, "scan"), 1);
    },

    "documents that no row has led to, also where the row has come since": async (pipeline) => {
      await store(pipeline, { a: "{}", none: "{}" }, { a: "{}" });
      await pipeline.redis.call("JSON.SET", "session:", "$", "{}");
      const scan = scanOf(pipeline);
      assert.deepEqual(await all(scan.rows()), { count: 1, suspected: [] });
      await store(pipeline, { late: "{}" }, { late: '{"other": 1}' });
      // What went meanwhile does not make up for what came.
      await pipeline.redis.del("session:a");
      assert.deepEqual(await all(scan.documents()), { count: 2, suspected: ["late", "none"] });
      assert.equal(scan.foreign, 1);
    },

    "a failure of either server ends it": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      const ids = Array.from({ length: 5000 }, (_, n) => [`d${n}`, "{}"]);
      await store(pipeline, Object.fromEntries(ids), Object.fromEntries(ids));
      await pool.query("ALTER TABLE sessions RENAME COLUMN payload TO hidden");
      try {
        await assert.rejects(verify(redis, pool, config, "session"), /payload/);
      } finally {
        await pool.query("ALTER TABLE sessions RENAME COLUMN hidden TO payload");
      }
      const other = redis.duplicate();
      await other.connect();
      other.disconnect();
      const cut = new Scan(other as typeof redis, targetOf(pool, config), config, "session");
      await assert.rejects(all(cut.rows()), /closed|Stream isn't writeable/);
      assert.equal(pool.waitingCount, 0);
      assert.equal(pool.idleCount, pool.totalCount);
    },

    "an abort ends it when nothing is under way any more": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      const ids = Array.from({ length: 8000 }, (_, n) => [`d${n}`, "{}"]);
      await store(pipeline, Object.fromEntries(ids), Object.fromEntries(ids));
      for (const compared of [1000, 9000]) {
        const controller = new AbortController();
        let last = 0;
        const onProgress = (soFar: number) => {
          last = soFar;
          if (soFar >= compared) controller.abort();
        };
        const { signal } = controller;
        await assert.rejects(verify(redis, pool, config, "session", { onProgress, signal }), {
          name: "AbortError",
        });
        assert(last < compared + 2000, `it went on to ${last}`);
        assert.equal(pool.idleCount, pool.totalCount);
      }
    },
  }));

Deno.test("scan of four partitions, with documents of many bytes", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 4 } });
  const { config, redis } = pipeline;
  const large = `{"s":"${"x".repeat(1_000_000)}"}`;
  const texts = Array.from(
    { length: 40 },
    (_, n) => [`d${n}`, n % 2 === 0 ? large : `{"n":${n}}`] as const,
  );
  await store(pipeline, Object.fromEntries(texts), Object.fromEntries(texts));
  const { documentPrefix } = partitionKeys(config, "session", 0);
  await redis.call("JSON.SET", documentKey(config, "session", "d6"), "$.s", '"x"');
  await redis.call("JSON.SET", Buffer.from(`${documentPrefix}\xff`, "latin1"), "$", "{}");
  await redis.config("RESETSTAT");
  const scan = scanOf(pipeline);
  assert.deepEqual(await all(scan.rows()), { count: 40, suspected: ["d6"] });
  // One for each partition, and two more since 8 MB is the most that is read at a time.
  assert.equal(await callsOf(pipeline.redis, "eval"), 6);
  assert.deepEqual(await all(scan.documents()), { count: 40, suspected: [] });
  assert.equal(scan.foreign, 1);
});
