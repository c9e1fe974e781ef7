import assert from "node:assert/strict";
import {
  deleteDocument,
  DocumentError,
  insertDocument,
  type JsonObject,
  readByIds,
  rebuild,
  repairRedis,
  seededRandom,
  updateDocument,
  verify,
} from "writebehind";
import { encodeJson } from "writebehind/core/json/encode.ts";
import { events, stored } from "../support/documents.ts";
import { drain, type Pipeline, withPipeline } from "../support/pipeline.ts";

/** Any finite double: its bits are drawn. */
function anyDouble(random: () => number): number {
  for (;;) {
    const bits = BigUint64Array.of(
      BigInt(Math.floor(random() * 2 ** 32)) << 32n | BigInt(Math.floor(random() * 2 ** 32)),
    );
    const [value] = new Float64Array(bits.buffer);
    if (Number.isFinite(value)) return value!;
  }
}

const numbersOf = async ({ redis, config }: Pipeline, id: string) =>
  JSON.parse(await stored(redis, config, id));

/** Documents that one wrote and that both sides hold as they were written. */
async function assertHeld(pipeline: Pipeline, documents: Record<string, JsonObject | string>) {
  const { redis, pool, config } = pipeline;
  for (const [id, document] of Object.entries(documents)) {
    await insertDocument(redis, config, "session", document, id);
  }
  await drain(pipeline);
  const { counts, equal } = await verify(redis, pool, config, "session");
  assert.deepEqual(counts, { mismatches: 0, behind: 0, parked: 0, notForwarded: 0 });
  assert.equal(equal, Object.keys(documents).length);
}

/** A double that RedisJSON reads rightly in no spelling: its addition is looked for. */
function unspellable(): number {
  const random = seededRandom(7);
  for (;;) {
    const value = anyDouble(random);
    if (encodeJson({ value }, 1000).additions.length > 0) return value;
  }
}

Deno.test("numbers", (t) =>
  withPipeline(t, {
    "every double is held exactly: 100,000 of any size, and 100,000 coordinates": async (
      pipeline,
    ) => {
      const random = seededRandom(42);
      const documents: Record<string, JsonObject> = {};
      for (let index = 0; index < 100; index++) {
        documents[`d${index}`] = {
          any: Array.from({ length: 1000 }, () => anyDouble(random)),
          coordinates: Array.from({ length: 500 }, () => [
            random() * 360 - 180,
            random() * 180 - 90,
          ]),
        };
      }
      await assertHeld(pipeline, documents);
      for (const [id, document] of Object.entries(documents)) {
        assert.deepEqual(await numbersOf(pipeline, id), document);
      }
    },

    "a patch brings doubles exactly, and its event the whole document": async (pipeline) => {
      const { redis, config } = pipeline;
      const value = unspellable();
      await insertDocument(redis, config, "session", { a: { b: 1 } }, "x");
      await updateDocument(redis, config, "session", "x", { a: { c: value, d: [value] } });
      assert.deepEqual(await numbersOf(pipeline, "x"), { a: { b: 1, c: value, d: [value] } });
      const { payload } = (await events(redis)).at(-1)!.fields;
      assert.deepEqual(JSON.parse(payload!), { a: { b: 1, c: value, d: [value] } });
    },

    "whatever keys lead to it, such a number is held, or refused with its path": async (
      pipeline,
    ) => {
      const { redis, config } = pipeline;
      const value = unspellable();
      const keys = [
        "plain",
        "with space",
        "space behind ",
        "\u00a0",
        "a.b",
        "$",
        "[0]",
        "*",
        "ü",
        "😀",
        'quo"te',
        "it's",
        "",
        "'",
      ];
      for (const key of keys) {
        const document = { before: 1, [key]: [[{ [key]: value }]] };
        await insertDocument(redis, config, "session", document, "x", { overwrite: true });
        assert.deepEqual(await numbersOf(pipeline, "x"), document, key);
      }
      for (const key of ["back\\slash", `both " and '`, " ", " space before"]) {
        await assert.rejects(
          insertDocument(redis, config, "session", { list: [1, { [key]: value }] }, "y"),
          (error: Error) =>
            error instanceof DocumentError && error.message.includes("$.list[1][") &&
            error.message.includes("cannot find it behind such a key"),
        );
        assert.equal(await redis.exists("session:y"), 0);
      }
    },

    "it comes back from its row: read through, repaired and rebuilt": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      const documents = {
        one: { value: unspellable() },
        big: { value: 2.5e41, list: [1e300, 5e-324] },
      };
      await assertHeld(pipeline, documents);
      const keys = Object.keys(documents).map((id) => `session:${id}`);
      const both = () => Promise.all(Object.keys(documents).map((id) => numbersOf(pipeline, id)));
      await redis.del(keys);
      assert.deepEqual(
        await readByIds(redis, config, "session", Object.keys(documents), { through: pool }),
        Object.values(documents),
      );
      assert.deepEqual(await both(), Object.values(documents));
      await redis.del(keys);
      const { mismatches } = await verify(redis, pool, config, "session", { settleMs: 100 });
      assert.equal((await repairRedis(redis, pool, config, "session", mismatches)).mended, 2);
      assert.deepEqual(await both(), Object.values(documents));
      await redis.del(keys);
      assert.equal((await rebuild(redis, pool, config, "session")).restored, 2);
      assert.deepEqual(await both(), Object.values(documents));
    },

    "zeros of any exponent, long integers, and a key toJSON": async (pipeline) => {
      await assertHeld(pipeline, {
        zeros: '{"a":[0e400,-0.0e-400,0E0,0.000000000000000000]}',
        integers: '{"a":[18446744073709551615,-9223372036854775808,9007199254740993]}',
        one: { toJSON: 1 },
        nested: { a: { toJSON: { b: [] } } },
        text: '{"toJSON":null}',
      });
    },

    "long tokens and spellings take linear time": async (pipeline) => {
      const config = pipeline.with({ documents: { max_bytes: 32 * 2 ** 20 } });
      const { redis } = pipeline;
      await insertDocument(redis, config, "session", `{"a":"${"x".repeat(10_000_000)}"}`, "long");
      await insertDocument(
        redis,
        config,
        "session",
        `{"a":"${'\\"'.repeat(2_000_000)}"}`,
        "quotes",
      );
      await insertDocument(redis, config, "session", `{"a":0.5${"0".repeat(1_000_000)}}`, "zeros");
      const refused = [
        `{"a":1${"0".repeat(1_000_000)}}`,
        `{"a":0.1${"0".repeat(1_000_000)}1}`,
        `{"a":0.${"3".repeat(1_000_000)}}`,
      ];
      for (const text of refused) {
        await assert.rejects(
          insertDocument(redis, config, "session", text, "refused"),
          /rounded.*|at \$\.a/,
        );
      }
      for (const id of ["long", "quotes", "zeros"]) {
        await deleteDocument(redis, config, "session", id);
      }
    },
  }));
