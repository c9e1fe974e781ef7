import assert from "node:assert/strict";
import {
  caughtUp,
  consumePeriodically,
  deleteDocument,
  DocumentError,
  insertDocument,
  mendStreams,
  readStatus,
  updateDocument,
} from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { waitFor } from "../support/servers.ts";
import { killedAtEach } from "../support/dying.ts";
import {
  assertEqual,
  drain,
  type Pipeline,
  reset,
  testPipeline,
  withPipeline,
} from "../support/pipeline.ts";
import { once, watched } from "../support/two_targets.ts";
import { targetOf } from "../../lib/targets/open.ts";
import type { Identities } from "../../lib/targets/target.ts";

const FAR = ["9000000000000-0", "18446744073709551615-18446744073709551615"];

const COPY = "stream:session:mend";

/** Everything but counters and logs, for comparing. */
async function keysOf({ redis }: Pipeline) {
  await redis.counters.flush();
  const keys = (await redis.keys("*")).filter((key) => !/^(metrics|log):/.test(key)).sort();
  return await Promise.all(keys.map(async (key) => [key, await redis.dumpBuffer(key)]));
}

/** The same with other members. */
function overriding<T extends object>(object: T, members: Partial<T>): T {
  return new Proxy(object, {
    get(of, name) {
      const value = Reflect.get(name in members ? members : of, name);
      return typeof value === "function" ? value.bind(of) : value;
    },
  });
}

Deno.test("entries with ids that no version can hold", (t) =>
  withPipeline(
    t,
    Object.fromEntries(FAR.map((far) => [
      `${far}: writers are refused and write nothing, the sink parks it, and mend puts it right`,
      async (pipeline: Pipeline) => {
        const { redis, pool, config } = pipeline;
        for (const id of ["a", "b", "c"]) {
          await insertDocument(redis, config, "session", { id }, id);
        }
        await redis.xadd(
          "stream:session",
          far,
          "doc_id",
          "a",
          "event_type",
          "update",
          "other",
          "x",
        );
        const before = await keysOf(pipeline);
        const refused = (error: Error) =>
          error instanceof DocumentError && error.code === "stream" &&
          /stream:session has an entry .* deno task mend/.test(error.message);
        await assert.rejects(insertDocument(redis, config, "session", {}, "d"), refused);
        await assert.rejects(updateDocument(redis, config, "session", "b", { n: 1 }), refused);
        await assert.rejects(deleteDocument(redis, config, "session", "b"), refused);
        assert.deepEqual(await keysOf(pipeline), before);

        await using _sink = consumePeriodically(redis, pool, config, "session");
        // What is no event of a version is parked, and those before it are applied.
        await caughtUp(redis, pool, config, "session");
        assert.equal((await pool.query("SELECT FROM sessions")).rowCount, 3);
        await assert.rejects(insertDocument(redis, config, "session", {}, "d"), refused);
        const plan = await mendStreams(redis, pool, config, "session", { dryRun: true });
        assert.deepEqual(plan.entries.map(({ streamId }) => streamId), [far]);
        assert.equal(await redis.xlen("stream:session") > 0, true);
        const report = await mendStreams(redis, pool, config, "session");
        assert.deepEqual(report, plan);
        assert.equal(report.resent, 1);
        await updateDocument(redis, config, "session", "b", { n: 1 });
        await insertDocument(redis, config, "session", {}, "d");
        await caughtUp(redis, pool, config, "session");
        await assertEqual(pipeline);
        const { rows } = await pool.query("SELECT stream_id FROM writebehind_dead_letter");
        assert.deepEqual(rows, [{ stream_id: far }]);
        assert.deepEqual((await mendStreams(redis, pool, config, "session")).streams, []);
      },
    ])),
  ));

Deno.test("an entry with such an id that was removed by XDEL", (t) => {
  const farAndGone = async ({ redis }: Pipeline) => {
    await redis.xadd("stream:session", FAR[0]!, "doc_id", "a", "event_type", "update");
    await redis.xdel("stream:session", FAR[0]!);
  };
  const noted = ({ redis }: Pipeline) =>
    waitFor(async () => await redis.hget("stream:settings:session", "far") === "1", {
      what: "the sink's note",
    });
  const refusedThenMended = async (pipeline: Pipeline) => {
    const { redis, pool, config } = pipeline;
    await assert.rejects(
      insertDocument(redis, config, "session", {}, "late"),
      (error: Error) =>
        error instanceof DocumentError && error.code === "stream" &&
        /or had one; .* deno task mend/.test(error.message),
    );
    assert.equal(await redis.exists("session:late"), 0);
    await mendStreams(redis, pool, config, "session");
    await insertDocument(redis, config, "session", {}, "late");
    await updateDocument(redis, config, "session", "b", { n: 1 });
    await caughtUp(redis, pool, config, "session");
    await assertEqual(pipeline);
  };
  const begin = async ({ redis, config }: Pipeline) => {
    for (const id of ["a", "b"]) await insertDocument(redis, config, "session", { id }, id);
  };
  return withPipeline(t, {
    "once a sink has looked, writers are refused until it is mended": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      await begin(pipeline);
      await using _sink = consumePeriodically(redis, pool, config, "session");
      await caughtUp(redis, pool, config, "session");
      await farAndGone(pipeline);
      await noted(pipeline);
      await refusedThenMended(pipeline);
    },
    "a write before a sink looks is parked, and mending brings it to the target": async (
      pipeline,
    ) => {
      const { redis, pool, config } = pipeline;
      await begin(pipeline);
      await farAndGone(pipeline);
      await insertDocument(redis, config, "session", {}, "early");
      await using _sink = consumePeriodically(redis, pool, config, "session");
      await noted(pipeline);
      await refusedThenMended(pipeline);
    },
    "a sink that was just rewinding to such an offset does not move the mended stream there":
      async (
        pipeline,
      ) => {
        const { redis, pool, config } = pipeline;
        await begin(pipeline);
        await redis.xadd("stream:session", FAR[0]!, "doc_id", "a", "event_type", "update");
        await drain(pipeline);
        await redis.xdel("stream:session", FAR[0]!);
        const target = targetOf(pool, config);
        const mended = Promise.withResolvers<void>();
        // A sink reads it when it has claimed, and before it rewinds.
        const read: Identities["read"] = async (keys, streams) => {
          const belonging = await target.identities.read(keys, streams);
          if (first) {
            first = false;
            await mendStreams(redis, pool, config, "session");
            await insertDocument(redis, config, "session", {}, "late");
            mended.resolve();
          }
          return belonging;
        };
        let first = true;
        const hooked = overriding(target, { identities: overriding(target.identities, { read }) });
        await using _sink = consumePeriodically(redis, hooked, config, "session");
        await mended.promise;
        await caughtUp(redis, pool, config, "session");
        await updateDocument(redis, config, "session", "b", { n: 1 });
        await caughtUp(redis, pool, config, "session");
        await assertEqual(pipeline);
      },
    "an offset at such an id of a stream that was emptied since is moved back, and said": async (
      pipeline,
    ) => {
      const { redis, pool, config } = pipeline;
      await begin(pipeline);
      await redis.xadd("stream:session", FAR[0]!, "doc_id", "a", "event_type", "update");
      await drain(pipeline);
      await redis.del("stream:session");
      await drain(pipeline);
      await insertDocument(redis, config, "session", {}, "late");
      await drain(pipeline);
      await assertEqual(pipeline);
      const [partition] = await readStatus(redis, pool, config, "session");
      assert.match(partition!.doubts.join(), /moved back from 9000000000000-0/);
    },
    "a stream that was removed since is free again": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      await redis.hset("stream:settings:session", "far", 1);
      await mendStreams(redis, pool, config, "session");
      await insertDocument(redis, config, "session", {}, "a");
    },
  });
});

/** Two documents, one of which only an entry names that is too far: its writer did not see the one before. */
async function withEarly({ redis, config }: Pipeline): Promise<void> {
  await insertDocument(redis, config, "session", {}, "a");
  await redis.xadd("stream:session", FAR[0]!, "doc_id", "a", "event_type", "update");
  await redis.xdel("stream:session", FAR[0]!);
  await insertDocument(redis, config, "session", {}, "early");
}

Deno.test("mend, killed at each of its awaits: no write is lost, and status tells", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  const target = targetOf(pool, config);
  const killed = await killedAtEach(async (command) => {
    await reset(pipeline);
    await withEarly(pipeline);
    await command((life) => mendStreams(life.of(redis), life.of(target), config, "session"));
    await drain(pipeline);
    const [status] = await readStatus(redis, pool, config, "session");
    if (status!.stuck.length === 0) await assertEqual(pipeline);
    else assert.match(status!.stuck.join(), /run deno task mend/);
    await mendStreams(redis, pool, config, "session");
    await insertDocument(redis, config, "session", {}, "late");
    await drain(pipeline);
    await assertEqual(pipeline);
    assert.equal(await redis.exists(COPY), 0);
  });
  assert(killed > 10, `killed ${killed} times`);
});

Deno.test("two that mend at once lose nothing", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  for (let round = 0; round < 10; round++) {
    await reset(pipeline);
    await withEarly(pipeline);
    // Between the copy and the step that puts it in place, another one begins its own.
    const begins = once(async () => void await redis.del(COPY));
    const disturbed = watched(redis, "evalsha", async () => {
      if (await redis.exists(COPY)) await begins();
    });
    const reports = await Promise.all([
      mendStreams(disturbed, pool, config, "session"),
      mendStreams(redis, pool, config, "session"),
    ]);
    assert.deepEqual(reports.map(({ resent }) => resent).sort(), [0, 1]);
    await drain(pipeline);
    await assertEqual(pipeline);
  }
});

Deno.test("with a cache, what mending resends is noted until its source has it", async () => {
  await using pipeline = await testPipeline({
    entities: [{
      name: "session",
      table: "sessions",
      index_name: "idx:sessions",
      cache: { enabled: true, keep_seconds: 100 },
    }],
  });
  const { redis, pool, config } = pipeline;
  const { notes } = partitionKeys(config, "session", 0);
  await withEarly(pipeline);
  await mendStreams(redis, pool, config, "session");
  const [last] = await redis.xrevrange("stream:session", "+", "-", "COUNT", 1);
  assert.equal(await redis.hget(notes, "early"), last?.[0]);
  await drain(pipeline);
  assert.deepEqual([await redis.hlen(notes), await redis.ttl("session:early") > 0], [0, true]);
  await assertEqual(pipeline);
});
