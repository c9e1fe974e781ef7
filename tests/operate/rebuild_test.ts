import assert from "node:assert/strict";
import {
  addTarget,
  consumePeriodically,
  deleteDocument,
  insertDocument,
  readStatus,
  rebuild,
  RebuildRefusedError,
  repairTarget,
  repartition,
  search,
  updateDocument,
  verify,
} from "writebehind";
import { compareStreamIds } from "writebehind/core/stream_ids.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { setState } from "writebehind/redis/registrations.ts";
import { lastGeneratedId } from "writebehind/redis/streams.ts";
import { targetOf } from "writebehind/targets/open.ts";
import { killedAtEach } from "../support/dying.ts";
import {
  assertEqual,
  documentsOf,
  drain,
  offsetOf,
  type Pipeline,
  reset,
  rowsOf,
  testPipeline,
  withPipeline,
} from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { once } from "../support/two_targets.ts";

const HOSTILE = `a'b"c\n:{}*[x]; DROP TABLE sessions; -- \\ $(id) 😀`;

function rebuilt({ redis, config, pool }: Pipeline) {
  return rebuild(redis, pool, config, "session");
}

async function stored(pipeline: Pipeline, count: number) {
  const { redis, config } = pipeline;
  for (let n = 0; n < count; n++) {
    const document = { user_id: `user_${n}`, n, third: 1 / 3, deep: { list: [1, "é", null] } };
    await insertDocument(redis, config, "session", document, `d${n}`);
  }
  await insertDocument(redis, config, "session", { user_id: "hostile" }, HOSTILE);
  await drain(pipeline);
}

Deno.test("rebuild", (t) =>
  withPipeline(t, {
    "fills an empty Redis, with its index and without events": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, 2500);
      await redis.flushall();
      const { refused, ...report } = await rebuilt(pipeline);
      assert.deepEqual(report, {
        rows: 2501,
        restored: 2501,
        kept: 0,
        refusedRows: 0,
        index: "created",
      });
      assert.deepEqual(refused, []);
      await assertEqual(pipeline);
      assert.equal(await redis.xlen("stream:session"), 0);
      const found = await search(redis, config, "session", { text: { user_id: "user_77" } });
      assert.deepEqual(found.documents.map(({ id }) => id), ["d77"]);
      const offset = await offsetOf(pool, "stream:session");
      assert(compareStreamIds(await lastGeneratedId(redis, "stream:session"), offset) >= 0);
    },

    "no new event is skipped, though the clock is behind the offset": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, 3);
      // As if the target had been fed by a server whose clock was an hour ahead.
      const ahead = `${Date.now() + 3_600_000}-5`;
      await pool.query("UPDATE writebehind_offset SET last_id = $1, witness = $1", [ahead]);
      await redis.flushall();
      await rebuilt(pipeline);
      const { streamId } = await updateDocument(redis, config, "session", "d1", { n: 100 });
      assert(compareStreamIds(streamId!, ahead) > 0);
      await drain(pipeline);
      await assertEqual(pipeline);
      assert.match((await rowsOf(pipeline)).get("d1")!, /"n":1e2/);
    },

    "refuses while events wait": async (pipeline) => {
      const { redis, config } = pipeline;
      await stored(pipeline, 2);
      await updateDocument(redis, config, "session", "d0", { n: 5 });
      await redis.del("session:d0", "session:d1");
      await assert.rejects(rebuilt(pipeline), RebuildRefusedError);
      assert.equal((await documentsOf(pipeline)).size, 1);
      await drain(pipeline);
      const { restored, kept } = await rebuilt(pipeline);
      assert.deepEqual({ restored, kept }, { restored: 2, kept: 1 });
      await assertEqual(pipeline);
    },

    "refuses while parked events would be overtaken": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, 2);
      await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (NOT payload ? 'bad')");
      try {
        await updateDocument(redis, config, "session", "d0", { bad: 5 });
        await drain(pipeline);
        await redis.flushall();
        await assert.rejects(rebuilt(pipeline), /parked/);
        assert.equal((await documentsOf(pipeline)).size, 0);
      } finally {
        await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
      }
    },

    "refuses while a stream has gone back, until a sink has rewound it": async (pipeline) => {
      const { redis } = pipeline;
      await stored(pipeline, 2);
      await redis.flushall();
      await redis.call("JSON.SET", "session:d0", "$", '{"n":9}');
      await redis.xadd(
        "stream:session",
        "5-1",
        ...["ts", "1", "doc_id", "d0", "event_type", "update", "payload", '{"n":9}'],
      );
      await assert.rejects(rebuilt(pipeline), /gone back/);
      await drain(pipeline);
      await rebuilt(pipeline);
      await assertEqual(pipeline);
      assert.equal((await documentsOf(pipeline)).get("d0"), '{"n":9e0}');
    },

    "beside writers and a sink: nothing is overwritten, nothing comes back": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, 3000);
      await redis.flushall();
      await rebuilt(pipeline);
      await redis.call("EVAL", "for n = 0, 2999 do redis.call('DEL', 'session:d' .. n) end", 0);
      await drain(pipeline);
      const sink = consumePeriodically(redis, pool, config, "session");
      try {
        let writing: Promise<void> | undefined;
        const write = async () => {
          for (let n = 0; n < 300; n++) {
            const id = `d${n * 10}`;
            await insertDocument(redis, config, "session", { newer: n }, id, { overwrite: true });
            if (n % 2 === 0) await deleteDocument(redis, config, "session", id);
          }
        };
        await rebuild(redis, pool, config, "session", { onProgress: () => writing ??= write() });
        await writing;
      } finally {
        await sink.stop();
      }
      await drain(pipeline);
      await rebuilt(pipeline);
      await assertEqual(pipeline);
      const documents = await documentsOf(pipeline);
      assert.equal(documents.size, 3001 - 150);
      assert.equal(documents.get("d10"), '{"newer":1e0}');
      assert(!documents.has("d0"));
    },

    "what Redis cannot hold is told, and the rest is there": async (pipeline) => {
      const { pool } = pipeline;
      await pool.query(
        `INSERT INTO sessions (id, payload) VALUES ('a', '{"n":1}'),
           ('huge', '{"n": 123456789012345678901234567890}'), ('list', '[1]'), ('none', NULL)`,
      );
      const { restored, refusedRows, refused } = await rebuilt(pipeline);
      assert.deepEqual([restored, refusedRows], [1, 3]);
      assert.deepEqual(refused.map(({ id }) => id), ["huge", "list", "none"]);
      assert.match(refused[0]!.reason, /rounded/);
    },

    "large documents are read few at a time": async (pipeline) => {
      const { redis, config } = pipeline;
      for (let n = 0; n < 30; n++) {
        await insertDocument(redis, config, "session", { s: "x".repeat(1_000_000) }, `d${n}`);
      }
      await drain(pipeline);
      await redis.flushall();
      const steps: number[] = [];
      await rebuild(redis, pipeline.pool, config, "session", {
        onProgress: (done) => steps.push(done),
      });
      assert(steps.length >= 4, `pages end at ${steps}`);
      await assertEqual(pipeline);
    },
  }));

Deno.test("deno task rebuild", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 1 } });
  const env = environmentOf(pipeline.config);
  const { redis, config } = pipeline;
  await stored(pipeline, 20);
  await redis.flushall();
  {
    await using task = startTask(["rebuild"], env);
    assert.equal((await task.status).code, 0, task.output());
    assert.match(task.output(), /21 rows: 21 documents written, 0 left as they were, 0 refused/);
  }
  await assertEqual(pipeline);
  await updateDocument(redis, config, "session", HOSTILE, { n: 5 });
  await using refused = startTask(["rebuild"], env);
  assert.equal((await refused.status).code, 1);
  assert.match(refused.output(), /events wait that the target does not have/);
});

Deno.test("rebuild with four partitions", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 4 } });
  await stored(pipeline, 200);
  await pipeline.redis.flushall();
  assert.equal((await rebuilt(pipeline)).restored, 201);
  await assertEqual(pipeline);
});

Deno.test("rebuild, killed at each of its awaits, is told until it was run to its end", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  const target = targetOf(pool, config);
  const killed = await killedAtEach(async (command) => {
    await reset(pipeline);
    await stored(pipeline, 3);
    await redis.flushall();
    await command((life) => rebuild(life.of(redis), life.of(target), config, "session"));
    await drain(pipeline);
    const [status] = await readStatus(redis, pool, config, "session");
    const { mismatches } = await verify(redis, pool, config, "session");
    const some = (await documentsOf(pipeline)).size;
    if (some === 4) assert.deepEqual(mismatches, []);
    else if (some > 0 || status!.warnings.length > 0) {
      assert.match(
        status!.warnings.join(),
        /run deno task rebuild --entity session --target postgresql/,
      );
      const refused = /Cannot .*: the documents of stream:session are .* from postgresql/;
      for (
        const command of [
          () => repairTarget(redis, config, "session", mismatches),
          () => addTarget(redis, target, config, "session"),
          () => repartition(redis, [target], config, "session", { to: 2 }),
        ]
      ) await assert.rejects(command(), refused);
    }
    await rebuilt(pipeline);
    await assertEqual(pipeline);
    const [after] = await readStatus(redis, pool, config, "session");
    assert.deepEqual([after!.warnings, after!.stuck], [[], []]);
  });
  assert(killed > 10, `killed ${killed} times`);
});

Deno.test("rebuild sees that Redis was emptied meanwhile", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await stored(pipeline, 3000);
  await redis.flushall();
  const empties = once(async () => void await redis.flushall());
  const onProgress = () => void empties();
  await assert.rejects(
    rebuild(redis, pool, config, "session", { onProgress }),
    /Redis was emptied while the documents of stream:session were brought back/,
  );
  await Promise.all([rebuilt(pipeline), rebuilt(pipeline)]);
  await assertEqual(pipeline);
});

Deno.test("rebuild waits for a target that is being added", async () => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  await stored(pipeline, 3);
  const keys = partitionKeys(config, "session", 0);
  await setState(redis, keys, "postgresql", "filling");
  await redis.del("session:d1");
  await assert.rejects(
    rebuilt(pipeline),
    /Cannot rebuild stream:session: the target postgresql is/,
  );
  await setState(redis, keys, "postgresql", "active");
  assert.equal((await rebuilt(pipeline)).restored, 1);
});
