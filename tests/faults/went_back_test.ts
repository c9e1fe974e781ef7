import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import {
  caughtUp,
  consumePeriodically,
  deleteDocument,
  insertDocument,
  repartition,
  updateDocument,
  verify,
} from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import { goalOf, isReached } from "writebehind/sink/goal.ts";
import { forward } from "writebehind/sink/rewind.ts";
import { targetOf } from "writebehind/targets/open.ts";
import { assertEqual, drain, type Pipeline, rowsOf, withPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** Entries of a day ago, as a replica with a slow clock, or an old snapshot, would hold them. */
const PAST = Date.now() - 86_400_000;

/**
 * What a sink leaves that dies in its rewind, before it has resent anything: new ids begin above the offset, and the
 * event of `b` lies below it.
 */
async function halfRewound({ redis, config, pool }: Pipeline): Promise<void> {
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await drain({ redis, config, pool });
  const { last_id } = await offsetOf({ pool });
  await redis.flushall();
  await redis.call("JSON.SET", "session:a", "$", '{"n":1}');
  await insertDocument(redis, config, "session", { n: 2 }, "c"); // for its settings
  await deleteDocument(redis, config, "session", "c");
  await redis.del("stream:session");
  await redis.call("JSON.SET", "session:b", "$", '{"n":2}');
  await redis.xadd(
    "stream:session",
    `${PAST}-0`,
    ...["ts", "1", "doc_id", "b", "event_type", "insert", "payload", '{"n":2}'],
  );
  const [keys] = allPartitions(config, "session");
  await forward(redis, keys!, last_id);
}

async function offsetOf({ pool }: Pick<Pipeline, "pool">) {
  const { rows: [row] } = await pool.query(
    "SELECT last_id, witness, went_back FROM writebehind_offset",
  );
  return row;
}

Deno.test("a stream that has gone back", (t) =>
  withPipeline(t, {
    "after a flush: it is said, nothing is trimmed, and no new write is skipped": async (
      pipeline,
    ) => {
      const { redis, config } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await drain(pipeline);
      await redis.flushall();
      // The new server's clock is behind: it mints ids that the target has passed.
      await redis.call("JSON.SET", "session:b", "$", '{"n":2}');
      await redis.xadd(
        "stream:session",
        `${PAST}-0`,
        ...["ts", "1", "doc_id", "b", "event_type", "insert", "payload", '{"n":2}'],
      );
      await redis.xadd(
        "stream:session",
        `${PAST}-1`,
        ...["ts", "1", "doc_id", "a", "event_type", "delete"],
      );
      const status = await drain(pipeline);
      assert.equal(status.wentBack, 1);
      assert.equal((await offsetOf(pipeline)).went_back, 1);
      await assertEqual(pipeline);
      const receipt = await insertDocument(redis, config, "session", { n: 3 }, "c");
      assert(Number(receipt.streamId!.split("-")[0]) > PAST);
      await drain(pipeline);
      await assertEqual(pipeline);
    },

    "a flush under a running sink is found by its trim": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      const sink = consumePeriodically(redis, pool, config, "session");
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await waitFor(() => sink.status.events === 1, { what: "the first event" });
      await waitFor(async () => (await redis.get("stream:lastid:stream:session")) !== null, {
        what: "the trim",
      });
      await redis.flushall();
      await insertDocument(redis, config, "session", { n: 2 }, "b");
      await waitFor(() => sink.status.wentBack === 1, { what: "the sink to notice" });
      await updateDocument(redis, config, "session", "b", { n: 3 });
      await waitFor(async () => (await rowsOf(pipeline)).get("b") === '{"n":3e0}', {
        what: "the row",
      });
      await sink.stop();
      assert.equal(sink.lastError, null, "well again");
      await redis.counters.flush();
      const logged = JSON.stringify(await redis.xrange("log:postgres:fail", "-", "+"));
      assert.match(logged, /has gone back/);
    },

    "a sink with nothing to do notices too, and reads what came below the offset": async (
      pipeline,
    ) => {
      const { redis, config, pool } = pipeline;
      const sink = consumePeriodically(redis, pool, config, "session");
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await waitFor(() => sink.status.events === 1, { what: "the first event" });
      await redis
        .multi()
        .flushall()
        .call("JSON.SET", "session:b", "$", '{"n":2}')
        .xadd(
          "stream:session",
          `${PAST}-0`,
          ...["ts", "1", "doc_id", "b", "event_type", "insert", "payload", '{"n":2}'],
        )
        .exec();
      await waitFor(async () => (await rowsOf(pipeline)).has("b"), { what: "the row of b" });
      assert.equal(sink.status.wentBack, 1);
      await sink.stop();
    },

    "new ids never fall behind the offset, whatever the clock does": async (pipeline) => {
      const { redis, config } = pipeline;
      const future = Date.now() + 3_600_000;
      await redis.call("JSON.SET", "session:a", "$", '{"n":1}');
      await redis.xadd(
        "stream:session",
        `${future}-5`,
        ...["ts", "1", "doc_id", "a", "event_type", "insert", "payload", '{"n":1}'],
      );
      await drain(pipeline);
      // A replica that had none of it is promoted: the stream is empty, its clock an hour behind the offset.
      await redis.flushall();
      await drain(pipeline);
      const receipt = await insertDocument(redis, config, "session", { n: 2 }, "b");
      assert(Number(receipt.streamId!.split("-")[0]) >= future, receipt.streamId!);
      await drain(pipeline);
      assert.equal((await rowsOf(pipeline)).get("b"), '{"n":2e0}');
    },

    "an outsider's XTRIM is noticed": async (pipeline) => {
      const { redis, config } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await drain(pipeline);
      await redis.xtrim("stream:session", "MAXLEN", 0);
      const status = await drain(pipeline);
      assert.equal(status.wentBack, 1);
      assert.equal((await drain(pipeline)).wentBack, 0, "said once");
    },

    "a document deleted meanwhile is resent as a delete": async (pipeline) => {
      const { redis, config } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await insertDocument(redis, config, "session", { n: 1 }, "b");
      await drain(pipeline);
      await redis.del("stream:session");
      await redis.xadd(
        "stream:session",
        `${PAST}-0`,
        ...["ts", "1", "doc_id", "a", "event_type", "update", "payload", '{"n":0}'],
      );
      await redis.del("session:a");
      await drain(pipeline);
      await assertEqual(pipeline);
    },

    "half way through a rewind: nobody is told that the target holds all": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await halfRewound(pipeline);
      const wait = (deadlineMs: number) => caughtUp(redis, pool, config, "session", { deadlineMs });
      await assert.rejects(wait(0), /stream:session has gone back, and is to be rewound/);
      await assert.rejects(
        repartition(redis, [targetOf(pool, config)], config, "session", { to: 4, patienceMs: 0 }),
        /stream:session has gone back, .* for the target postgresql; no sink owns it: start one/,
      );
      const verifying = verify(redis, pool, config, "session", { settleMs: 60_000 });
      assert.equal(await Promise.race([verifying, delay(500, "waits")]), "waits");
      // From here on, what is waited for is what the sink resends.
      const waiting = wait(30_000);
      assert.equal((await drain(pipeline)).wentBack, 1);
      await waiting;
      assert.equal((await rowsOf(pipeline)).get("b"), '{"n":2e0}');
      assert.equal((await verifying).counts.mismatches, 0);
    },

    "nor is one told while a sink begins to rewind": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await halfRewound(pipeline);
      const [keys] = allPartitions(config, "session");
      const { offsets, ownership } = targetOf(pool, config);
      const goal = await goalOf(redis, offsets, keys!);
      const claim = await ownership.claim(keys!, "another", 600);
      let looks = 0;
      const rewinding: typeof offsets = Object.create(offsets, {
        standing: {
          value: async (...args: Parameters<typeof offsets.standing>) => {
            if (++looks === 2) await ownership.wentBack(claim!);
            return await offsets.standing(...args);
          },
        },
      });
      assert.equal((await isReached(redis, rewinding, keys!, goal)).is, "old");
      await ownership.release(keys!, claim);
    },

    "an event that only a primary had is not waited for": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      const [keys] = allPartitions(config, "session");
      const { offsets } = targetOf(pool, config);
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await drain(pipeline);
      await redis.copy(keys!.stream, "replica");
      await insertDocument(redis, config, "session", { n: 1 }, "b");
      const goal = await goalOf(redis, offsets, keys!);
      assert.equal((await isReached(redis, offsets, keys!, goal)).is, "behind");
      await redis.rename("replica", keys!.stream);
      assert.equal((await isReached(redis, offsets, keys!, goal)).is, "old");
      await caughtUp(redis, pool, config, "session", { deadlineMs: 0 });
    },

    "a drain beside a sink that is half way through a rewind waits for it": async (pipeline) => {
      const { pool, config } = pipeline;
      await halfRewound(pipeline);
      const [keys] = allPartitions(config, "session");
      const owner = targetOf(pool, config);
      const claim = await owner.ownership.claim(keys!, "another", 600);
      const draining = drain(pipeline);
      const ended = draining.then(() => "told early");
      assert.equal(await Promise.race([ended, delay(1500, "waits")]), "waits");
      await owner.ownership.release(keys!, claim);
      await draining;
      await assertEqual(pipeline);
    },

    "a sink that is not behind sees no going back": async (pipeline) => {
      const { redis, config } = pipeline;
      for (let n = 0; n < 5; n++) {
        await insertDocument(redis, config, "session", { n }, `d${n}`);
        assert.equal((await drain(pipeline)).wentBack, 0);
      }
      await deleteDocument(redis, config, "session", "d0");
      assert.equal((await drain(pipeline)).wentBack, 0);
      await assertEqual(pipeline);
    },
  }));
