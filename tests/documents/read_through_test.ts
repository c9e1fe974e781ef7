import assert from "node:assert/strict";
import {
  ConfigError,
  deleteDocument,
  insertDocument,
  readByIds,
  updateDocument,
} from "writebehind";
import { PostgresRows } from "writebehind/targets/postgres/rows.ts";
import { restore } from "writebehind/documents/restore.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import {
  documentsOf,
  drain,
  type Pipeline,
  testPipeline,
  withPipeline,
} from "../support/pipeline.ts";

const HOSTILE = `a'b"c\n:{}*[x]; DROP TABLE sessions; -- \\ $(id) 😀`;

function read({ redis, config, pool }: Pipeline, ...ids: string[]) {
  return readByIds(redis, config, "session", ids, { through: pool });
}

const keyOf = (id: string) => `session:${id}`;
const keys = ({ config }: Pipeline) => partitionKeys(config, "session", 0);

/** Writes documents and lets the target have them. */
async function stored(pipeline: Pipeline, ...ids: string[]) {
  for (const id of ids) {
    await insertDocument(pipeline.redis, pipeline.config, "session", { n: 1, of: id }, id);
  }
  await drain(pipeline);
}

Deno.test("readByIds through to the target", (t) =>
  withPipeline(t, {
    "puts documents back that Redis has lost, in the order that was asked": async (pipeline) => {
      const { redis } = pipeline;
      await stored(pipeline, "a", HOSTILE, "c");
      await redis.del(keyOf("a"), keyOf(HOSTILE));
      assert.deepEqual(await read(pipeline, HOSTILE, "none", "c", "a", HOSTILE), [
        { n: 1, of: HOSTILE },
        null,
        { n: 1, of: "c" },
        { n: 1, of: "a" },
        { n: 1, of: HOSTILE },
      ]);
      assert.equal((await documentsOf(pipeline)).size, 3, "they are in Redis again");
      assert.equal(await redis.xlen("stream:session"), 1, "and no event was appended");
    },

    "a target that cannot be asked says why": async (pipeline) => {
      const { redis } = pipeline;
      const [session] = pipeline.config.entities;
      const config = pipeline.with({ entities: [{ ...session!, table: "not_there" }] });
      const refused = {
        name: "ConnectionError",
        message:
          /^Redis does not have a of session, and its target cannot be asked: The tables for session in the database \S+ are not there yet: start a sink once \(deno task sink\)/,
      };
      const read = readByIds(redis, config, "session", ["a"], { through: pipeline.pool });
      await assert.rejects(read, refused);
      const entities = [{ ...session!, table: "not_there", cache: { enabled: true } }];
      const cached = pipeline.with({ entities });
      await assert.rejects(insertDocument(redis, cached, "session", { n: 1 }, "a"), refused);
      assert.equal(await redis.exists(keyOf("a")), 0);
    },

    "without `through` a miss is null": async (pipeline) => {
      const { redis, config } = pipeline;
      await stored(pipeline, "a");
      await redis.del(keyOf("a"));
      assert.deepEqual(await readByIds(redis, config, "session", ["a"]), [null]);
      assert.equal(await redis.exists(keyOf("a")), 0);
    },

    "deleted, and the delete is still in the stream: null": async (pipeline) => {
      const { redis, config } = pipeline;
      await stored(pipeline, "a", HOSTILE);
      await deleteDocument(redis, config, "session", "a");
      await deleteDocument(redis, config, "session", HOSTILE);
      assert.deepEqual(await read(pipeline, "a", HOSTILE), [null, null]);
      assert.equal((await documentsOf(pipeline)).size, 0);
      await drain(pipeline);
      assert.deepEqual(await read(pipeline, "a", HOSTILE), [null, null]);
    },

    "deleted behind a parked event: null, though the row is there and the offset past it": async (
      pipeline,
    ) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, "a");
      await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (NOT payload ? 'bad')");
      try {
        await updateDocument(redis, config, "session", "a", { bad: 1 });
        await drain(pipeline);
        await deleteDocument(redis, config, "session", "a");
        await drain(pipeline);
        assert.deepEqual(await read(pipeline, "a"), [null]);
        assert.equal(await redis.exists(keyOf("a")), 0);
      } finally {
        await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
      }
    },

    "written between reading the row and putting it back: the newer one is kept": async (
      pipeline,
    ) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, "a", "b");
      await redis.del(keyOf("a"), keyOf("b"));
      const { offset, rows } = await new PostgresRows(pool, config).at(keys(pipeline), ["a", "b"]);
      await insertDocument(redis, config, "session", { n: 2 }, "a");
      await insertDocument(redis, config, "session", { n: 2 }, "b");
      await deleteDocument(redis, config, "session", "b");
      const outcomes = await restore(redis, keys(pipeline), offset, [
        { id: "a", expected: null, wanted: { spelled: rows[0]!.text, additions: [] } },
        { id: "b", expected: null, wanted: { spelled: rows[1]!.text, additions: [] } },
      ]);
      assert.deepEqual(outcomes, [
        { outcome: "changed", text: '{"n":2}' },
        { outcome: "pending", text: null },
      ]);
      assert.deepEqual([...(await documentsOf(pipeline)).keys()], ["a"]);
    },

    "deleted, applied and trimmed between reading the row and putting it back: not put back":
      async (
        pipeline,
      ) => {
        const { redis, config, pool } = pipeline;
        await stored(pipeline, "a", "b");
        const { offset, rows } = await new PostgresRows(pool, config).at(keys(pipeline), ["a"]);
        await deleteDocument(redis, config, "session", "a");
        await updateDocument(redis, config, "session", "b", { n: 2 });
        await drain(pipeline);
        assert.equal(await redis.xlen("stream:session"), 1, "the delete is trimmed away");
        const [outcome] = await restore(redis, keys(pipeline), offset, [
          { id: "a", expected: null, wanted: { spelled: rows[0]!.text, additions: [] } },
        ]);
        assert.deepEqual(outcome, { outcome: "unknown", text: null });
        assert.equal(await redis.exists(keyOf("a")), 0);
      },

    "more events than can be looked through: null, no guess": async (pipeline) => {
      const { redis } = pipeline;
      await stored(pipeline, "a");
      await redis.del(keyOf("a"));
      const write = async (events: number) => {
        const pipe = redis.pipeline();
        for (let n = 0; n < events; n++) {
          pipe.xadd("stream:session", "*", "ts", "1", "doc_id", "x", "event_type", "delete");
        }
        await pipe.exec();
      };
      await write(1100);
      assert.deepEqual(await read(pipeline, "a"), [null]);
      await drain(pipeline);
      await write(900);
      assert.deepEqual(await read(pipeline, "a"), [{ n: 1, of: "a" }]);
    },

    "after a flush: put back, but not what was written and deleted since": async (pipeline) => {
      const { redis } = pipeline;
      await stored(pipeline, "a", "b");
      await redis.flushall();
      // Even where the new server's clock is behind, so that its ids are below the offset.
      await redis.xadd(
        "stream:session",
        "5-1",
        ...["ts", "1", "doc_id", "b", "event_type", "delete"],
      );
      assert.deepEqual(await read(pipeline, "a", "b"), [{ n: 1, of: "a" }, null]);
    },

    "numbers are put back exactly, and what Redis cannot hold is read all the same": async (
      pipeline,
    ) => {
      const { redis, pool } = pipeline;
      await stored(pipeline, "a");
      await pool.query(
        `INSERT INTO sessions (id, payload) VALUES
           ('numbers', '{"big": 18446744073709551615, "f": 9007199254740993.0}'),
           ('other', '{"n": 5e-324, "third": 0.3333333333333333}'), ('null', NULL), ('list', '[1]')`,
      );
      const [numbersRead, other, nothing, list] = await read(
        pipeline,
        "numbers",
        "other",
        "null",
        "list",
      );
      assert.equal(numbersRead!.big, 18446744073709552000);
      assert.equal(await redis.exists(keyOf("numbers")), 0, "it would be rounded: not put back");
      assert.equal(other!.third, 1 / 3);
      const text = await redis.call("JSON.GET", keyOf("other")) as string;
      assert.equal(JSON.parse(text).third, 1 / 3);
      assert.deepEqual([nothing, list], [null, null]);
    },

    "another type of key is left alone": async (pipeline) => {
      const { redis } = pipeline;
      await stored(pipeline, "a");
      await redis.set(keyOf("a"), "text");
      assert.deepEqual(await read(pipeline, "a"), [null]);
      assert.equal(await redis.get(keyOf("a")), "text");
    },

    "is refused where changes are not forwarded": async (pipeline) => {
      const config = pipeline.with({
        dummy_data: { perform_write_behind: { insert: true, update: true, delete: false } },
      });
      await assert.rejects(read({ ...pipeline, config }, "a"), ConfigError);
    },
  }));

Deno.test("reading through with four partitions", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 4 } });
  const ids = Array.from({ length: 40 }, (_, n) => `d${n}`);
  await stored(pipeline, ...ids);
  for (
    const { documentPrefix } of [0, 1, 2, 3].map((p) =>
      partitionKeys(pipeline.config, "session", p)
    )
  ) {
    for (const id of ids) await pipeline.redis.del(documentPrefix + id);
  }
  assert.equal((await documentsOf(pipeline)).size, 0);
  assert.deepEqual(await read(pipeline, ...ids), ids.map((id) => ({ n: 1, of: id })));
  assert.equal((await documentsOf(pipeline)).size, 40);
});
