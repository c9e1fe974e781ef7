import assert from "node:assert/strict";
import {
  connectPostgres,
  consumePeriodically,
  createTable,
  deleteDocument,
  insertDocument,
  loadMetrics,
  openTarget,
  RedisWriteBehind,
  repartition,
  streamIdOf,
  updateDocument,
  versionOf,
} from "writebehind";
import { delay } from "writebehind/core/delay.ts";
import { consume, produce } from "writebehind/notebook/original.ts";
import { keysOfDocument } from "writebehind/redis/keys.ts";
import {
  assertEqual,
  drain,
  rowsOf,
  sorted,
  testPipeline,
  withPipeline,
} from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

Deno.test("the sink", (t) =>
  withPipeline(t, {
    "carries inserts, updates and deletes on, and trims to the witness": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      const first = await insertDocument(redis, config, "session", { n: 1, gone: true }, "a");
      const second = await updateDocument(redis, config, "session", "a", { gone: null, m: 2 });
      await insertDocument(redis, config, "session", { n: 2 }, "b");
      const last = await deleteDocument(redis, config, "session", "b");
      const status = await drain(pipeline);
      assert.equal(status.events, 4);
      assert.equal(status.rows, 2, "coalesced to the last event of each document");
      const { rows } = await pool.query("SELECT * FROM sessions");
      assert.equal(rows.length, 1);
      assert.deepEqual(rows[0].payload, { n: 1, m: 2 });
      assert.equal(BigInt(rows[0].version), versionOf(second.streamId!));
      assert.equal(streamIdOf(BigInt(rows[0].version)), second.streamId);
      const [entry] = await redis.xrange("stream:session", first.streamId!, "+");
      assert.equal(entry![0], last.streamId, "only the offset's own entry is left");
      assert.equal(await redis.xlen("stream:session"), 1);
      assert.equal(await redis.get("stream:lastid:stream:session"), last.streamId);
      const group = await redis.xinfo("GROUPS", "stream:session") as unknown[][];
      const lag = group[0]![group[0]!.indexOf("lag") + 1];
      assert.equal(lag, 0, "every Redis tool sees the true lag");
    },

    "a clock that is set back does not hold up the trimming of a slow flow": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await using sink = consumePeriodically(redis, pool, config, "session");
      await insertDocument(redis, config, "session", { n: 0 }, "a");
      await waitFor(() => sink.status.events === 1, { what: "the first event" });
      const { now } = Date;
      Date.now = () => now() - 3_600_000;
      try {
        const lengths: number[] = [];
        for (let n = 1; n <= 60; n++) {
          await updateDocument(redis, config, "session", "a", { n });
          await waitFor(() => sink.status.events === 1 + n, { what: `event ${n}` });
          await delay(10);
          lengths.push(await redis.xlen("stream:session"));
        }
        assert(Math.min(...lengths.slice(30)) < 30, `never trimmed: ${lengths}`);
      } finally {
        Date.now = now;
      }
    },

    "created_at is the insert's time, and survives updates": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      const times = async () =>
        (await pool.query("SELECT created_at, updated_at FROM sessions")).rows[0];
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      const [[, fields]] = await redis.xrange("stream:session", "-", "+") as [[string, string[]]];
      await drain(pipeline);
      const before = await times();
      assert.equal(before.created_at.getTime(), Number(fields[1]));
      await updateDocument(redis, config, "session", "a", { n: 2 });
      await drain(pipeline);
      const after = await times();
      assert.deepEqual(after.created_at, before.created_at);
      assert(after.updated_at >= before.updated_at);
    },

    "created_at is that of the last insert, also where a batch has more events of it": async (
      pipeline,
    ) => {
      const { redis, config, pool } = pipeline;
      const add = (ts: number, type: string) =>
        redis.xadd(
          "stream:session",
          "*",
          ...["ts", ts, "doc_id", "a", "event_type", type, "payload", "{}"],
        );
      const times = async () => {
        await drain(pipeline);
        const { rows: [row] } = await pool.query("SELECT created_at, updated_at FROM sessions");
        return [row.created_at.getTime(), row.updated_at.getTime()];
      };
      await insertDocument(redis, config, "session", {}, "a");
      await deleteDocument(redis, config, "session", "a");
      await add(1000, "insert");
      await add(2000, "update");
      assert.deepEqual(await times(), [1000, 2000], "a new row");
      await add(3000, "delete");
      await add(4000, "insert");
      await add(5000, "update");
      assert.deepEqual(await times(), [4000, 5000], "the row was there");
    },

    "a row with a newer version stays as it is": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      const { version } = await insertDocument(redis, config, "session", { n: 1 }, "a");
      await drain(pipeline);
      await updateDocument(redis, config, "session", "a", { n: 2 });
      const newer = String(version! * 2n);
      await pool.query("UPDATE sessions SET version = $1", [newer]);
      await drain(pipeline);
      await deleteDocument(redis, config, "session", "a");
      await drain(pipeline);
      const { rows } = await pool.query("SELECT payload, version FROM sessions");
      assert.deepEqual(rows, [{ payload: { n: 1 }, version: newer }]);
    },

    "an insert after a delete in one batch is a new row": async (pipeline) => {
      const { redis, config } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await deleteDocument(redis, config, "session", "a");
      await insertDocument(redis, config, "session", { n: 2 }, "a");
      await drain(pipeline);
      assert.deepEqual(sorted(await rowsOf(pipeline)), [["a", '{"n":2e0}']]);
    },

    "a batch size of 1 works": async (pipeline) => {
      const small = { ...pipeline, config: pipeline.with({ write_behind: { batch_size: 1 } }) };
      for (let n = 0; n < 20; n++) {
        await insertDocument(pipeline.redis, small.config, "session", { n }, `d${n % 7}`, {
          overwrite: true,
        });
      }
      assert.equal((await drain(small)).events, 20);
      await assertEqual(pipeline);
    },

    "batch_bytes bounds what is read at once": async (pipeline) => {
      const config = pipeline.with({ write_behind: { batch_bytes: 300_000 } });
      for (let n = 0; n < 10; n++) {
        await insertDocument(pipeline.redis, config, "session", { s: "x".repeat(100_000) }, `${n}`);
      }
      const seen: number[] = [];
      const monitor = await pipeline.redis.monitor();
      monitor.on("monitor", (_time: string, args: string[]) => {
        if (args[0]?.toLowerCase() === "xrange" && args.includes("COUNT")) {
          seen.push(Number(args.at(-1)));
        }
      });
      await drain({ ...pipeline, config });
      monitor.disconnect();
      // The last look finds nothing but the witness, and no large event that it should fear.
      const counts = seen.slice(0, -1);
      assert(counts.length > 3 && counts.every((count) => count <= 3), `XRANGE counts: ${counts}`);
      await assertEqual(pipeline);
    },

    "payloads travel untouched": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      const text =
        '{"big":9223372036854775807,"huge":18446744073709551615,"f":1.50,"s":"\\u00e9é😀"}';
      await insertDocument(redis, config, "session", text, "a");
      await drain(pipeline);
      const { rows } = await pool.query("SELECT payload::text AS payload FROM sessions");
      assert.match(rows[0].payload, /9223372036854775807.*|.*18446744073709551615/);
      assert.match(rows[0].payload, /18446744073709551615/);
      await assertEqual(pipeline);
    },

    "understands the original's producer beside our own writers": async (pipeline) => {
      const { redis, config } = pipeline;
      await produce(redis, "theirs", "insert", { from: "python" });
      await insertDocument(redis, config, "session", { from: "us" }, "ours");
      await produce(redis, "theirs", "update", { from: "python", n: 2 });
      await produce(redis, "gone", "insert", { n: 1 });
      await produce(redis, "gone", "delete");
      await produce(redis, "ours", "update", { from: "both" });
      await drain(pipeline);
      await assertEqual(pipeline);
      assert.deepEqual(sorted(await rowsOf(pipeline)).map(([id]) => id), ["ours", "theirs"]);
    },

    "an event without payload whose document is gone is a counted no-op": async (pipeline) => {
      await produce(pipeline.redis, "a", "insert", { n: 1 });
      await pipeline.redis.call("JSON.DEL", "session:a");
      const status = await drain(pipeline);
      assert.equal(status.noops, 1);
      assert.equal((await rowsOf(pipeline)).size, 0, "never {}");
    },

    "the original's consumer can take our events": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await updateDocument(redis, config, "session", "a", { n: 2 });
      await insertDocument(redis, config, "session", { n: 1 }, "b");
      await deleteDocument(redis, config, "session", "b");
      assert.equal(await consume(redis, pool, 5), 4);
      await assertEqual(pipeline);
    },

    "a table that the original filled is upgraded, and its rows can be updated": async (
      pipeline,
    ) => {
      const { redis, config, pool } = pipeline;
      await pool.query("DROP TABLE sessions");
      await pool.query(`CREATE TABLE sessions (
        id TEXT PRIMARY KEY, payload JSONB, created_at TIMESTAMPTZ DEFAULT now())`);
      await pool.query("INSERT INTO sessions (id, payload) VALUES ('a', '{\"old\": true}')");
      await createTable(pool, config, "session");
      await redis.call("JSON.SET", "session:a", "$", '{"old":true}');
      await updateDocument(redis, config, "session", "a", { n: 1 });
      await drain(pipeline);
      await assertEqual(pipeline);
    },

    "runs in the background, and stop lets the running batch finish": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      const sink = consumePeriodically(redis, pool, config, "session");
      for (let n = 0; n < 50; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
      await waitFor(() => sink.status.events === 50, { what: "50 events" });
      await sink.stop();
      await assertEqual(pipeline);
      const metrics = await loadMetrics(redis);
      assert.equal(metrics["metrics:postgres_success"], 50);
      assert.equal(metrics["metrics:redis_success"], 50);
      // A successor need not wait for the lease to end.
      const started = Date.now();
      await drain(pipeline);
      assert(Date.now() - started < 5000);
    },

    "with interval_seconds it drains every so often": async (pipeline) => {
      const { redis, pool } = pipeline;
      const config = pipeline.with({ write_behind: { interval_seconds: 0.05 } });
      await using sink = consumePeriodically(redis, pool, config, "session");
      for (let n = 0; n < 3; n++) {
        await insertDocument(redis, config, "session", { n }, `d${n}`);
        await waitFor(() => sink.status.events === n + 1, { what: `event ${n + 1}` });
      }
      await assertEqual(pipeline);
    },

    "a failure is counted, logged and told, and nothing is lost": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await pool.query("ALTER TABLE sessions RENAME COLUMN payload TO away");
      const sink = consumePeriodically(redis, pool, config, "session");
      try {
        await waitFor(() => sink.status.partitions[0]!.failuresInARow >= 2, { what: "failures" });
        assert.match(sink.lastError!.message, /payload/);
        assert.equal(await redis.xlen("stream:session"), 1);
        await redis.counters.flush();
        const logged = await redis.xrevrange("log:postgres:fail", "+", "-", "COUNT", 1);
        assert.match(JSON.stringify(logged), /payload/);
        assert((await loadMetrics(redis))["metrics:postgres_fail"] >= 2);
      } finally {
        await pool.query("ALTER TABLE sessions RENAME COLUMN away TO payload");
      }
      await waitFor(() => sink.lastError === null, { what: "the sink to go on by itself" });
      await sink.stop();
      await assertEqual(pipeline);
    },

    "two sinks at once: one owns the partition, and nothing is applied twice": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      const other = await connectPostgres(config);
      const sinks = [
        consumePeriodically(redis, pool, config, "session"),
        consumePeriodically(redis, other, config, "session"),
      ];
      for (let n = 0; n < 100; n++) {
        await insertDocument(redis, config, "session", { n }, `d${n % 10}`, { overwrite: true });
      }
      const total = () => sinks.reduce((sum, sink) => sum + sink.status.events, 0);
      await waitFor(() => total() === 100, { what: "100 events" });
      assert.deepEqual(
        sinks.map(({ status }) => status.partitions[0]!.state).sort(),
        ["owner", "standby"],
      );
      await Promise.all(sinks.map((sink) => sink.stop()));
      await other.end();
      await assertEqual(pipeline);
    },
  }));

Deno.test("with four partitions every document reaches its row", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 4 } });
  const { redis, config } = pipeline;
  for (let n = 0; n < 200; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
  for (let n = 0; n < 200; n += 3) await deleteDocument(redis, config, "session", `d${n}`);
  assert.equal((await drain(pipeline)).events, 267);
  const streams = await redis.keys("stream:{session-*}");
  assert.equal(streams.length, 4);
  await assertEqual(pipeline);
});

Deno.test("batches that are written a second way are still what was read, whatever others read meanwhile", async () => {
  const COUNT = 6000;
  await using pipeline = await testPipeline({ streams: { partitions: 4 } });
  const { redis, config, pool } = pipeline;
  const ids = Array.from({ length: COUNT }, (_, n) => `d${n}`);
  for (const round of ["a", "b", "c"]) {
    const writing = redis.pipeline();
    for (const id of ids) {
      const { stream } = keysOfDocument(config, "session", id);
      const payload = JSON.stringify({ text: `${round}${id} `.repeat(150) });
      writing.xadd(stream, "*", "doc_id", id, "event_type", "insert", "payload", payload);
    }
    await writing.exec();
    // From the second round on the rows are there already, which the target sees when it has begun.
    assert.equal((await drain(pipeline)).events, COUNT);
    const { rows: [row] } = await pool.query(
      "SELECT count(*)::int AS equal FROM sessions WHERE payload->>'text' = repeat($1 || id || ' ', 150)",
      [round],
    );
    assert.equal(row.equal, COUNT, round);
  }
});

Deno.test("a drain waits for a repartition that was stopped, and goes on with the new partitions", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: "auto" } });
  const { redis, config, pool } = pipeline;
  const to3 = async (stop?: AbortController) => {
    const onStep = (what: string) => what.startsWith("moving ") && stop?.abort(new Error("halt"));
    await using target = await openTarget(config);
    const options = { to: 3, signal: stop?.signal, onStep };
    await repartition(redis, [target], config, "session", options);
  };
  await insertDocument(redis, config, "session", { n: 1 }, "d1");
  await using sink = new RedisWriteBehind(redis, pool, config, "session");
  await sink.drain();
  await assert.rejects(to3(new AbortController()), /halt/);
  const waits = new Promise((resolve) => sink.events.on("standby", resolve));
  let isOver = false;
  const drained = sink.drain().then(() => isOver = true);
  await waits;
  assert.equal(isOver, false);
  await to3();
  await drained;
  await updateDocument(redis, config, "session", "d1", { n: 2 });
  assert.equal((await sink.drain()).events, 2);
  await assertEqual(pipeline);
});

Deno.test("where Redis is full, partitions that are empty are drained as well", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 4 } });
  const { redis, config, pool } = pipeline;
  await insertDocument(redis, config, "session", { n: 1 }, "d1");
  await redis.config("SET", "maxmemory", "1");
  try {
    await using sink = consumePeriodically(redis, pool, config, "session");
    const states = () => sink.status.partitions.map(({ state }) => state);
    const owned = () => states().every((state) => state === "owner");
    await waitFor(() => sink.status.events === 1 && owned(), { what: "all partitions" });
    assert.equal(sink.lastError, null);
  } finally {
    await redis.config("SET", "maxmemory", "0");
  }
  await insertDocument(redis, config, "session", { n: 2 }, "d2");
  await insertDocument(redis, config, "session", { n: 3 }, "d3");
  await drain(pipeline);
  await assertEqual(pipeline);
});
