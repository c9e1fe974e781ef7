import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  consumePeriodically,
  createTable,
  deleteDocument,
  insertDocument,
  repairRedis,
  repairTarget,
  updateDocument,
  verify,
  type VerifyOptions,
} from "writebehind";
import { DifferenceSketch } from "writebehind/operate/verify/difference_sketch.ts";
import { MAX_LISTED } from "writebehind/operate/verify/verify.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import {
  assertEqual,
  documentsOf,
  drain,
  type Pipeline,
  reset,
  rowsOf,
  sorted,
  testPipeline,
  withPipeline,
} from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

const HOSTILE = `a'b"c\n:{}*[x]; DROP TABLE sessions; -- \\ $(id) 😀`;
const QUICK = { settleMs: 300 };

function compare({ redis, config, pool }: Pipeline, options: VerifyOptions = QUICK) {
  return verify(redis, pool, config, "session", options);
}

async function stored(pipeline: Pipeline, ...ids: string[]) {
  for (const id of ids) {
    await insertDocument(pipeline.redis, pipeline.config, "session", { n: 1, of: id }, id);
  }
  await drain(pipeline);
}

/** Makes one document of each difference, all of them behind the sink's back. */
async function spoil({ redis, pool }: Pipeline) {
  await redis.call("JSON.SET", `session:${HOSTILE}`, "$.n", "2");
  await redis.call("JSON.SET", "session:only:redis", "$", '{"n":0.30000000000000004}');
  await pool.query(`INSERT INTO sessions (id, payload) VALUES ('only:target', '{"n": 1e2}')`);
}

const differences = ({ mismatches }: Awaited<ReturnType<typeof verify>>) =>
  Object.fromEntries(mismatches.map(({ id, difference }) => [id, difference]));
const SPOILT = { [HOSTILE]: "different", "only:redis": "missing", "only:target": "extra" };

Deno.test("verify", (t) =>
  withPipeline(t, {
    "tells the three differences, and all else is equal": async (pipeline) => {
      await stored(pipeline, "a", "b:c", HOSTILE);
      await spoil(pipeline);
      const report = await compare(pipeline);
      assert.deepEqual(differences(report), SPOILT);
      assert.deepEqual(report.counts, { mismatches: 3, behind: 0, parked: 0, notForwarded: 0 });
      assert.equal(report.equal, 2);
      assert.equal(report.documents, 4);
      assert.equal(report.rows, 4);
    },

    "numbers are compared as decimals, whatever their spelling": async (pipeline) => {
      const { redis, pool } = pipeline;
      await redis.call("JSON.SET", "session:a", "$", '{"a":100.0,"b":-0.0,"c":9007199254740993}');
      await redis.call("JSON.SET", "session:b", "$", '{"c":9007199254740993}');
      await pool.query(
        `INSERT INTO sessions (id, payload) VALUES
           ('a', '{"c": 9007199254740993, "b": 0, "a": 1e2}'), ('b', '{"c": 9007199254740992}')`,
      );
      assert.deepEqual(differences(await compare(pipeline)), { b: "different" });
    },

    "what the target has not reached in time is behind, and no mismatch": async (pipeline) => {
      const { redis, config } = pipeline;
      await stored(pipeline, "a", "b");
      await updateDocument(redis, config, "session", "a", { n: 2 });
      await deleteDocument(redis, config, "session", "b");
      await insertDocument(redis, config, "session", { n: 1 }, "c");
      const report = await compare(pipeline);
      assert.deepEqual(report.behind.sort(), ["a", "b", "c"]);
      assert.deepEqual(report.mismatches, []);
      await drain(pipeline);
      assert.equal((await compare(pipeline)).counts.behind, 0);
    },

    "parked documents are parked, and no mismatch": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, "a");
      await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (NOT payload ? 'bad')");
      try {
        await updateDocument(redis, config, "session", "a", { bad: 1 });
        await insertDocument(redis, config, "session", { bad: 1 }, HOSTILE);
        await drain(pipeline);
        await spoil(pipeline);
        const report = await compare(pipeline);
        assert.deepEqual(report.parked.sort(), [HOSTILE, "a"].sort());
        const { [HOSTILE]: _parked, ...others } = SPOILT;
        assert.deepEqual(differences(report), others);
      } finally {
        await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
      }
    },

    "what perform_write_behind leaves out is not forwarded, and no mismatch": async (pipeline) => {
      const config = pipeline.with({
        dummy_data: { perform_write_behind: { insert: false, update: false, delete: false } },
      });
      await stored(pipeline, "a", "b");
      await updateDocument(pipeline.redis, config, "session", "a", { n: 2 });
      await deleteDocument(pipeline.redis, config, "session", "b");
      await insertDocument(pipeline.redis, config, "session", { n: 1 }, "c");
      const report = await compare({ ...pipeline, config });
      assert.deepEqual(report.notForwarded.sort(), ["a", "b", "c"]);
      assert.deepEqual(report.mismatches, []);
      // An overwriting insert that is not forwarded makes a document different as well.
      const inserts = pipeline.with({
        dummy_data: { perform_write_behind: { insert: false, update: true, delete: true } },
      });
      await reset(pipeline);
      await stored(pipeline, "a");
      const overwrite = { overwrite: true };
      await insertDocument(pipeline.redis, inserts, "session", { n: 5 }, "a", overwrite);
      assert.deepEqual((await compare({ ...pipeline, config: inserts })).notForwarded, ["a"]);
    },

    "on a live system there are no mismatches, and a true one is found": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, "wrong", ...Array.from({ length: 50 }, (_, n) => `d${n}`));
      await redis.call("JSON.SET", "session:wrong", "$.n", "99");
      const sink = consumePeriodically(redis, pool, config, "session");
      let writing = true;
      const writer = async (lane: number) => {
        // The same few states again and again: what was seen may come back while it is looked at.
        for (let n = lane; writing; n++) {
          const id = `d${n % 50}`;
          if (n % 3 === 0) await deleteDocument(redis, config, "session", id).catch(() => {});
          else {
            const document = { n: n % 2 };
            await insertDocument(redis, config, "session", document, id, { overwrite: true });
          }
        }
      };
      const writers = [0, 17, 31].map(writer);
      try {
        for (let round = 0; round < 15; round++) {
          const report = await compare(pipeline, { settleMs: 5000 });
          assert.deepEqual(differences(report), { wrong: "different" });
        }
      } finally {
        writing = false;
        await Promise.all(writers);
        await sink.stop();
      }
    },

    "other entities, other types and impossible ids under the prefix": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, "a", "x:a");
      await redis.call("JSON.SET", "session_x:a", "$", "{}");
      await redis.call("JSON.SET", "sessions:a", "$", "{}");
      await redis.call("JSON.SET", "session:", "$", "{}");
      await redis.call("JSON.SET", Buffer.from("session:\xff", "latin1"), "$", "{}");
      await redis.call("JSON.SET", "session:a\0b", "$", "{}");
      await redis.set("session:text", "text");
      const report = await compare(pipeline);
      assert.deepEqual(differences(report), {});
      assert.equal(report.documents, 2);
      assert.equal(report.foreign, 3);
      // A row whose key holds something else has no document.
      await pool.query("INSERT INTO sessions (id, payload) VALUES ('text', '{}'), ('none', NULL)");
      assert.deepEqual(differences(await compare(pipeline)), { text: "extra", none: "extra" });
      assert.equal(config.streams.partitions, 1);
    },

    "large documents are compared few at a time": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      for (let n = 0; n < 30; n++) {
        await insertDocument(redis, config, "session", { s: "x".repeat(1_000_000) }, `d${n}`);
      }
      await drain(pipeline);
      await pool.query("UPDATE sessions SET payload = '{}' WHERE id = 'd29'");
      assert.deepEqual(differences(await compare(pipeline)), { d29: "different" });
    },

    "--repair target sends what still stands as it was seen": async (pipeline) => {
      const { redis, config } = pipeline;
      await stored(pipeline, "a", HOSTILE);
      await spoil(pipeline);
      const { mismatches } = await compare(pipeline);
      await redis.call("JSON.SET", "session:only:redis", "$", '{"changed":true}');
      const report = await repairTarget(redis, config, "session", mismatches);
      assert.deepEqual(report, { mended: 2, changed: 1, refused: [] });
      await drain(pipeline);
      assert.deepEqual(differences(await compare(pipeline)), { "only:redis": "missing" });
      assert.deepEqual([...(await rowsOf(pipeline)).keys()].sort(), [HOSTILE, "a"].sort());
    },

    "--repair redis brings documents to their rows, without events": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, "a", HOSTILE);
      await pool.query(
        `INSERT INTO sessions (id, payload) VALUES ('n', '{"third": 0.3333333333333333}'),
           ('huge', '{"n": 123456789012345678901234567890}')`,
      );
      await spoil(pipeline);
      const before = await redis.xlen("stream:session");
      const { mismatches } = await compare(pipeline);
      const report = await repairRedis(redis, pool, config, "session", mismatches);
      assert.equal(report.mended, 4);
      assert.deepEqual(report.refused.map(({ id }) => id), ["huge"]);
      assert.equal(await redis.xlen("stream:session"), before);
      await pool.query("DELETE FROM sessions WHERE id = 'huge'");
      await assertEqual(pipeline);
      assert.equal(JSON.parse(await redis.call("JSON.GET", "session:n") as string).third, 1 / 3);
    },

    "--repair redis leaves alone what has changed, or is about to": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await stored(pipeline, "document", "row", "event", "parked");
      for (const id of ["document", "row", "event", "parked"]) {
        await redis.call("JSON.SET", `session:${id}`, "$.n", "2");
      }
      const { mismatches } = await compare(pipeline);
      assert.equal(mismatches.length, 4);
      await redis.call("JSON.SET", "session:document", "$.n", "3");
      await pool.query("UPDATE sessions SET payload = '{}' WHERE id = 'row'");
      // The document is as it was seen, but an event is on its way to the row.
      await updateDocument(redis, config, "session", "event", { n: 3 });
      await updateDocument(redis, config, "session", "event", { n: 2 });
      await pool.query(
        `INSERT INTO writebehind_dead_letter
                (entity, stream, stream_id, doc_id, event_type, ts, sqlstate, reason)
         VALUES ('session', 'stream:session', '1-1', 'parked', 'update', 1, '', '')`,
      );
      const before = sorted(await documentsOf(pipeline));
      const report = await repairRedis(redis, pool, config, "session", mismatches);
      assert.deepEqual(report, { mended: 0, changed: 4, refused: [] });
      assert.deepEqual(sorted(await documentsOf(pipeline)), before);
    },
  }));

Deno.test("verify with four partitions, and two entities of like names", async () => {
  await using pipeline = await testPipeline({
    streams: { partitions: 4 },
    entities: [
      { name: "session", table: "sessions", index_name: "idx:sessions" },
      { name: "session_x", table: "sessions_x", index_name: "idx:sessions_x" },
    ],
  });
  const { redis, config, pool } = pipeline;
  await createTable(pool, config, "session_x");
  await stored(pipeline, ...Array.from({ length: 50 }, (_, n) => `d${n}`));
  await insertDocument(redis, config, "session_x", { n: 1 }, "d1");
  // A document under the key of a partition that its id does not hash to.
  const keys = [0, 1, 2, 3].map((partition) => partitionKeys(config, "session", partition));
  const [wrong] = await Promise.all(
    keys.map(async ({ documentPrefix }) =>
      await redis.exists(`${documentPrefix}d1`) === 0 ? documentPrefix : null
    ),
  ).then((prefixes) => prefixes.filter((prefix) => prefix !== null));
  await redis.call("JSON.SET", `${wrong}d1`, "$", '{"n":7}');
  const report = await compare(pipeline);
  assert.deepEqual(report.counts, { mismatches: 0, behind: 0, parked: 0, notForwarded: 0 });
  assert.equal(report.equal, 50);
  assert.equal(report.foreign, 1);
  const other = await verify(redis, pool, config, "session_x", QUICK);
  assert.deepEqual(other.behind, ["d1"]);
});

Deno.test("verify lists a difference once, also where more differ than are held at a time", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool } = pipeline;
  const extra = MAX_LISTED + 10;
  await redis.call("JSON.SET", "session:a", "$", "{}");
  await pool.query(
    `INSERT INTO sessions (id, payload)
     SELECT 'a', '{"n": 1}'::jsonb UNION ALL SELECT 'row-' || n, '{}' FROM generate_series(1, ${extra}) n`,
  );
  // A document without a row makes its neighbour in the sums be looked at as well.
  const sums = new DifferenceSketch();
  sums.add(Buffer.from("a"));
  let missing = 0;
  while (!sums.mayHold(Buffer.from(`document-${missing}`))) missing++;
  await redis.call("JSON.SET", `session:document-${missing}`, "$", "{}");
  const { counts, mismatches, equal, documents, rows } = await compare(pipeline);
  assert.equal(counts.mismatches, extra + 2);
  assert.equal(mismatches.length, MAX_LISTED);
  assert.deepEqual({ equal, documents, rows }, { equal: 0, documents: 2, rows: extra + 1 });
});

Deno.test("deno task verify", async (t) => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  const env = environmentOf(config);
  const run = async (...args: string[]) => {
    await using task = startTask(["verify", "--settle", "0.2", ...args], env);
    const { code } = await task.status;
    return { code, output: task.output() };
  };
  await stored(pipeline, "a", HOSTILE);
  await t.step("equal: status 0", async () => {
    const { code, output } = await run();
    assert.equal(code, 0, output);
    assert.match(output, /2 documents, 2 rows, 2 equal, 0 mismatches/);
  });
  await t.step("behind: status 0", async () => {
    await insertDocument(redis, config, "session", { n: 1 }, "late");
    const { code, output } = await run();
    assert.equal(code, 0, output);
    assert.match(output, /behind: "late"/);
    await drain(pipeline);
  });
  await spoil(pipeline);
  await t.step("mismatches: status 1, hostile ids on a line", async () => {
    const { code, output } = await run();
    assert.equal(code, 1, output);
    assert(output.includes(`different: ${JSON.stringify(HOSTILE)}`), output);
  });
  await t.step("--repair without --yes prints the plan only", async () => {
    for (const side of ["target", "redis"]) {
      const before = [sorted(await documentsOf(pipeline)), await redis.xlen("stream:session")];
      const { code, output } = await run("--repair", side);
      assert.equal(code, 1, output);
      assert.match(output, /would be removed from .*\n[^]*nothing was changed; --yes does it/);
      assert.deepEqual(
        [sorted(await documentsOf(pipeline)), await redis.xlen("stream:session")],
        before,
      );
    }
  });
  await t.step("--json lists them", async () => {
    const { output } = await run("--json");
    const report = JSON.parse(output.slice(output.indexOf("{\n"), output.lastIndexOf("}") + 1));
    assert.equal(report.counts.mismatches, 3);
  });
  await t.step("--repair redis --yes mends Redis: status 0", async () => {
    const { code, output } = await run("--repair", "redis", "--yes");
    assert.equal(code, 0, output);
    await assertEqual(pipeline);
  });
  await t.step("--repair target --yes mends the target: status 0", async () => {
    await spoil(pipeline).catch(() => {});
    const { code, output } = await run("--repair", "target", "--yes");
    assert.equal(code, 0, output);
    await drain(pipeline);
    await assertEqual(pipeline);
  });
  await t.step("Ctrl-C stops it, with status 130", async () => {
    await insertDocument(redis, config, "session", { n: 1 }, "later");
    const { rows: [{ now }] } = await pipeline.pool.query("SELECT clock_timestamp()::text AS now");
    await using task = startTask(["verify", "--settle", "1000"], env);
    // Of the command's own sessions: those of this process have asked such things before.
    const waiting = async () =>
      (await pipeline.pool.query(
        `SELECT FROM pg_stat_activity
          WHERE query LIKE '%last_id%writebehind_offset%' AND backend_start > $1
            AND datname = current_database() AND application_name <> ''`,
        [now],
      )).rowCount;
    await waitFor(waiting, { what: "verify to wait for the target" });
    task.kill("SIGINT");
    assert.equal((await task.status).code, 130, task.output());
    assert.match(task.output(), /stopped/);
  });
});
