import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  consumePeriodically,
  type DeadLetter,
  type DeadLetterState,
  deleteDocument,
  discardDeadLetters,
  insertDocument,
  listDeadLetters,
  readDeadLetter,
  replayDeadLetters,
  type ReplayOptions,
  type ReplayOutcome,
  updateDocument,
} from "writebehind";
import { produce } from "writebehind/notebook/original.ts";
import {
  assertEqual,
  documentsOf,
  drain,
  type Pipeline,
  rowsOf,
  sorted,
  testPipeline,
  withPipeline,
} from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

const HOSTILE = `a'b"c\n:{}*[x]; DROP TABLE sessions; -- \\ $(id) 😀‮`;

/** Documents with a key `bad` cannot be stored, until {@linkcode mend}. */
async function refuseBad({ pool }: Pipeline) {
  await pool.query(
    `ALTER TABLE sessions DROP CONSTRAINT IF EXISTS good,
       ADD CONSTRAINT good CHECK (NOT payload ? 'bad')`,
  );
}

async function mend({ pool }: Pipeline) {
  await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
}

async function list(
  { pool, config }: Pipeline,
  state?: DeadLetterState | "all",
): Promise<DeadLetter[]> {
  return await Array.fromAsync(
    listDeadLetters(pool, config, "session", state === undefined ? {} : { state }),
  );
}

async function replay(
  { redis, pool, config }: Pipeline,
  selection: Parameters<typeof replayDeadLetters>[4] = { all: true },
  options: ReplayOptions = {},
) {
  const outcomes: ReplayOutcome[] = [];
  const report = await replayDeadLetters(redis, pool, config, "session", selection, {
    ...options,
    onOutcome: (outcome) => outcomes.push(outcome),
  });
  return { report, outcomes };
}

async function statesOf({ pool }: Pipeline): Promise<string[]> {
  const { rows } = await pool.query(
    "SELECT state FROM writebehind_dead_letter ORDER BY stream_id",
  );
  return rows.map(({ state }) => state);
}

/** Parks an insert of `id` and two updates behind it. */
async function parkThree(pipeline: Pipeline, id = HOSTILE) {
  const { redis, config } = pipeline;
  await insertDocument(redis, config, "session", { bad: 1, n: 1 }, id);
  await drain(pipeline);
  await updateDocument(redis, config, "session", id, { n: 2 });
  const last = await updateDocument(redis, config, "session", id, { n: 3 });
  await drain(pipeline);
  return last;
}

Deno.test("dead letters", (t) =>
  withPipeline(t, {
    "list tells the newest event, how many wait behind, and why": async (pipeline) => {
      const last = await parkThree(pipeline);
      await insertDocument(pipeline.redis, pipeline.config, "session", { fine: 1 }, "other");
      await drain(pipeline);
      const [letter, ...others] = await list(pipeline);
      assert.deepEqual(others, []);
      assert.equal(letter!.docId, HOSTILE);
      assert.equal(letter!.streamId, last.streamId);
      assert.equal(letter!.waiting, 2);
      assert.equal(letter!.sqlstate, "23514");
      assert.match(letter!.reason, /good/);
      assert.equal(letter!.eventType, "update");
      const event = await readDeadLetter(pipeline.pool, letter!.id);
      assert.deepEqual(JSON.parse(event!.payload!.toString()), { bad: 1, n: 3 });
    },

    "10 comes after 9: newest is by stream id, not by its text": async (pipeline) => {
      const { redis } = pipeline;
      for (const seq of [9, 10]) {
        await redis.xadd(
          "stream:session",
          `5-${seq}`,
          ...["ts", "1", "doc_id", "a", "event_type", "insert"],
          ...["payload", `{"bad":${seq}}`],
        );
      }
      await drain(pipeline);
      assert.equal((await list(pipeline))[0]!.streamId, "5-10");
      await mend(pipeline);
      await replay(pipeline);
      assert.deepEqual(sorted(await rowsOf(pipeline)), [["a", '{"bad":1e1}']]);
    },

    "replay applies the newest and marks the others superseded, for audit": async (pipeline) => {
      const last = await parkThree(pipeline);
      await mend(pipeline);
      const { report, outcomes } = await replay(pipeline);
      assert.deepEqual(report, { applied: 1, gone: 0, superseded: 2, failed: 0 });
      assert.equal(outcomes[0]!.streamId, last.streamId);
      await assertEqual(pipeline);
      assert.deepEqual(await statesOf(pipeline), ["superseded", "superseded", "replayed"]);
      assert.deepEqual(await list(pipeline), []);
      const { rows: [row] } = await pipeline.pool.query("SELECT version FROM sessions");
      assert.equal(BigInt(row.version), last.version, "the version is the event's own");
      // Later events flow again.
      await updateDocument(pipeline.redis, pipeline.config, "session", HOSTILE, { n: 4 });
      await drain(pipeline);
      await assertEqual(pipeline);
    },

    "a delete behind a parked insert is replayed as a delete": async (pipeline) => {
      const { redis, config } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await drain(pipeline);
      await updateDocument(redis, config, "session", "a", { bad: 1 });
      await drain(pipeline);
      await deleteDocument(redis, config, "session", "a");
      await drain(pipeline);
      assert.equal((await rowsOf(pipeline)).size, 1);
      assert.equal((await replay(pipeline)).report.applied, 1);
      assert.equal((await rowsOf(pipeline)).size, 0);
    },

    "created_at is the parked insert's time": async (pipeline) => {
      await parkThree(pipeline, "a");
      await mend(pipeline);
      const { rows: [first] } = await pipeline.pool.query(
        "SELECT min(ts)::float8 AS ts FROM writebehind_dead_letter",
      );
      await replay(pipeline);
      const { rows: [row] } = await pipeline.pool.query("SELECT created_at FROM sessions");
      assert.equal(row.created_at.getTime(), first.ts);
    },

    "a failing replay leaves it parked with the new reason, and the others are applied": async (
      pipeline,
    ) => {
      const { redis, config, pool } = pipeline;
      for (let n = 0; n < 40; n++) {
        await insertDocument(redis, config, "session", { bad: n }, `d${n}`);
      }
      await drain(pipeline);
      await mend(pipeline);
      await pool.query(
        "ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->'bad' NOT IN ('7', '30'))",
      );
      const { report, outcomes } = await replay(pipeline);
      assert.deepEqual(report, { applied: 38, gone: 0, superseded: 0, failed: 2 });
      const failed = outcomes.filter(({ outcome }) => outcome === "failed");
      assert.deepEqual(failed.map(({ docId }) => docId).sort(), ["d30", "d7"]);
      assert.equal((await rowsOf(pipeline)).size, 38);
      const left = await list(pipeline);
      assert.deepEqual(left.map(({ docId }) => docId), ["d7", "d30"]);
      for (const { attempts, sqlstate, firstAt, lastAt } of left) {
        assert.equal(attempts, 2);
        assert.equal(sqlstate, "23514");
        assert(lastAt > firstAt);
      }
    },

    "a dry run tells the same and changes nothing": async (pipeline) => {
      await parkThree(pipeline);
      const before = await pipeline.pool.query("SELECT * FROM writebehind_dead_letter ORDER BY id");
      const failing = await replay(pipeline, { all: true }, { dryRun: true });
      assert.equal(failing.report.failed, 1);
      await mend(pipeline);
      const { report } = await replay(pipeline, { all: true }, { dryRun: true });
      assert.deepEqual(report, { applied: 1, gone: 0, superseded: 2, failed: 0 });
      const after = await pipeline.pool.query("SELECT * FROM writebehind_dead_letter ORDER BY id");
      assert.deepEqual(after.rows, before.rows);
      assert.equal((await rowsOf(pipeline)).size, 0);
    },

    "selections take a document, an event, or nothing else": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await parkThree(pipeline);
      const other = await insertDocument(redis, config, "session", { bad: 1 }, "b");
      await insertDocument(redis, config, "session", { bad: 1 }, "c");
      await drain(pipeline);
      await mend(pipeline);
      assert.equal((await replay(pipeline, { docId: "nobody" })).outcomes.length, 0);
      assert.equal((await replay(pipeline, { streamId: "1-1" })).outcomes.length, 0);
      const byId = await replay(pipeline, { docId: HOSTILE });
      assert.deepEqual(byId.outcomes.map(({ docId }) => docId), [HOSTILE]);
      const byEvent = await replay(pipeline, { streamId: other.streamId! });
      assert.deepEqual(byEvent.outcomes.map(({ docId }) => docId), ["b"]);
      assert.equal(await discardDeadLetters(pool, config, "session", { docId: HOSTILE }), 0);
      const others = pipeline.with({ streams: { prefix: "others:" } });
      assert.equal(await discardDeadLetters(pool, others, "session", { docId: "c" }), 0);
      assert.equal(await discardDeadLetters(pool, config, "session", { docId: "c" }), 1);
      assert.deepEqual((await list(pipeline, "discarded")).map(({ docId }) => docId), ["c"]);
    },

    "an event without payload stands for the document's state now": async (pipeline) => {
      const { redis, pool } = pipeline;
      await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
      await produce(redis, "a", "insert", { n: 1 });
      await produce(redis, "b", "insert", { n: 1 });
      await drain(pipeline);
      // Parked without payload, as those behind a parked event are.
      await pool.query(
        `INSERT INTO writebehind_dead_letter
                (entity, stream, stream_id, doc_id, event_type, ts, sqlstate, reason)
         SELECT 'session', stream, split_part(last_id, '-', 1)::int8 + n || '-0', convert_to(id, 'UTF8'),
                'update', 1, '', 'an earlier event of this document is parked'
           FROM writebehind_offset, (VALUES (1, 'a'), (2, 'b')) AS e (n, id)`,
      );
      await redis.call("JSON.SET", "session:a", "$", '{"n":2}');
      await redis.call("JSON.DEL", "session:b");
      const { report } = await replay(pipeline);
      assert.deepEqual(report, { applied: 1, gone: 1, superseded: 0, failed: 0 });
      assert.equal((await rowsOf(pipeline)).get("a"), '{"n":2e0}', "never {}");
    },

    "an entry that could not be decoded is decoded again": async (pipeline) => {
      const { redis, pool } = pipeline;
      const park = (streamId: string, fields: string[]) =>
        pool.query(
          `INSERT INTO writebehind_dead_letter
                  (entity, stream, stream_id, event_type, fields, sqlstate, reason)
           VALUES ('session', 'stream:session', $1, '', $2, '', 'an old reason')`,
          [streamId, fields.map((field) => Buffer.from(field))],
        );
      const event = (id: string) => ["doc_id", id, "event_type", "insert", "payload", '{"n":1}'];
      await redis.call("JSON.SET", `session:${HOSTILE}`, "$", '{"n":1}');
      await park("7-1", event(HOSTILE));
      await park("7-2", ["event_type", "insert"]);
      // Removed since, by an event after it: nothing queued behind an entry without a document.
      await park("7-3", event("gone"));
      const { report, outcomes } = await replay(pipeline);
      assert.deepEqual(report, { applied: 1, gone: 1, superseded: 0, failed: 1 });
      assert.deepEqual([...(await rowsOf(pipeline)).keys()], [HOSTILE]);
      assert.match(outcomes.find(({ outcome }) => outcome === "failed")!.reason, /no doc_id/);
      const [left] = await list(pipeline);
      assert.equal(left!.docId, null);
      assert.match(left!.reason, /no doc_id/);
      assert.equal(left!.attempts, 2);
    },

    "bytes that are no text can be shown": async (pipeline) => {
      await pipeline.redis.xadd(
        "stream:session",
        "*",
        ...["doc_id", Buffer.from([0xff, 0xfe]), "event_type", "insert"],
      );
      await drain(pipeline);
      const [letter] = await list(pipeline);
      const event = await readDeadLetter(pipeline.pool, letter!.id);
      assert.deepEqual([...event!.fields![1]!], [0xff, 0xfe]);
      assert.equal(await readDeadLetter(pipeline.pool, letter!.id + 1000), null);
    },

    "what is parked changes under a running sink, and nothing slips between": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await using sink = consumePeriodically(redis, pool, config, "session");
      try {
        await insertDocument(redis, config, "session", { bad: 1, n: 0 }, "a");
        await waitFor(() => sink.status.parked === 1, { what: "the parked event" });
        await mend(pipeline);
        let writing = true;
        const writer = (async () => {
          for (let n = 1; writing; n++) await updateDocument(redis, config, "session", "a", { n });
        })();
        // Events park behind until one replay finds them all, while the sink goes on.
        for (let round = 0; round < 20; round++) await replay(pipeline);
        writing = false;
        await writer;
        await waitFor(async () => {
          await replay(pipeline);
          return (await rowsOf(pipeline)).get("a") === (await documentsOf(pipeline)).get("a");
        }, { what: "the last state of the document" });
      } finally {
        await sink.stop();
      }
      await assertEqual(pipeline);
      const { rows: [row] } = await pool.query("SELECT version FROM sessions WHERE id = 'a'");
      const { rows: [newest] } = await pool.query("SELECT last_id FROM writebehind_offset");
      assert.equal(BigInt(row.version) >> 20n, BigInt(newest.last_id.split("-")[0]));
    },

    "a batch that waits for a discard to end looks anew at what is parked": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await using sink = consumePeriodically(redis, pool, config, "session");
      await insertDocument(redis, config, "session", { bad: 1 }, "a");
      await waitFor(() => sink.status.parked === 1, { what: "the parked event" });
      await mend(pipeline);
      await pool.query(
        `CREATE OR REPLACE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN PERFORM pg_advisory_xact_lock(42); RETURN new; END $$;
         CREATE TRIGGER hold BEFORE UPDATE ON writebehind_dead_letter
           FOR EACH ROW EXECUTE FUNCTION hold()`,
      );
      const waiting = (count: number) =>
        waitFor(async () => {
          const { rows } = await pool.query(
            `SELECT FROM pg_stat_activity
              WHERE wait_event_type = 'Lock' AND datname = current_database()`,
          );
          return rows.length === count;
        }, { what: `${count} to wait for a lock` });
      const holder = await pool.connect();
      let discarding: Promise<number> | undefined;
      try {
        await holder.query("BEGIN; SELECT pg_advisory_xact_lock(42)");
        discarding = discardDeadLetters(pool, config, "session", { docId: "a" });
        await waiting(1);
        await updateDocument(redis, config, "session", "a", { n: 2 });
        await waiting(2);
      } finally {
        await holder.query("COMMIT");
        holder.release();
        await discarding;
        await pool.query("DROP TRIGGER hold ON writebehind_dead_letter");
      }
      await waitFor(() => sink.status.events === 2, { what: "the second event" });
      assert.equal(sink.status.parked, 1, "nothing is parked behind what was discarded");
      await assertEqual(pipeline);
    },
  }, refuseBad));

Deno.test("a long replay, all of which fails, lets the sink go on between its transactions", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (NOT payload ? 'bad')");
  await using sink = consumePeriodically(redis, pool, config, "session");
  await Promise.all(Array.from(
    { length: 800 },
    (_, n) => insertDocument(redis, config, "session", { bad: n }, `bad${n}`),
  ));
  await waitFor(() => sink.status.parked === 800, { what: "parked", deadlineMs: 60_000 });
  let replaying = true;
  const writing = (async () => {
    for (let n = 0; replaying; n++) {
      const { events } = sink.status;
      await insertDocument(redis, config, "session", { n }, `good${n}`);
      await waitFor(() => sink.status.events > events, { what: "the event", deadlineMs: 60_000 });
    }
  })();
  const appliedAt: number[] = [];
  sink.events.on("applied", () => appliedAt.push(performance.now()));
  const settledAt: number[] = [];
  const report = await replayDeadLetters(redis, pool, config, "session", { all: true }, {
    onOutcome: () => settledAt.push(performance.now()),
  });
  replaying = false;
  await writing;
  assert.equal(report.failed, 800);
  // Four transactions, and so three times between two of them.
  const turns = [200, 400, 600].filter((first) =>
    appliedAt.some((at) => at > settledAt[first - 1]! && at < settledAt[first]!)
  );
  assert(turns.length >= 2, `batches were applied in ${turns.length} of the 3 pauses`);
  await sink.stop();
  assert.equal((await rowsOf(pipeline)).size, sink.status.rows);
});

Deno.test("deno task dead-letter", async (t) => {
  await using pipeline = await testPipeline();
  const env = environmentOf(pipeline.config);
  const run = async (...args: string[]) => {
    await using task = startTask(["dead-letter", ...args], env);
    const { code } = await task.status;
    return { code, output: task.output() };
  };
  await refuseBad(pipeline);
  await parkThree(pipeline);
  await parkThree(pipeline, "-b");
  const [letter] = await list(pipeline);
  await t.step("list shows hostile ids on one line each", async () => {
    const { code, output } = await run("list");
    assert.equal(code, 0, output);
    assert(output.includes("DROP TABLE sessions; --"), output);
    assert(output.includes("\\u202e") && !output.includes("‮"), "nothing turns the line around");
    assert.equal(output.split("\n").filter((line) => line.includes("| parked |")).length, 2);
    assert.match(output, /2 behind.*23514/);
  });
  await t.step("list --json prints nothing but JSON on stdout", async () => {
    const { output } = await run("list", "--json");
    const letters = output.trim().split("\n").filter((line) => line.startsWith("{")).map((line) =>
      JSON.parse(line)
    );
    assert.deepEqual(letters.map(({ docId }) => docId), [HOSTILE, "-b"]);
  });
  await t.step("show prints the event, or says that there is none", async () => {
    const { code, output } = await run("show", String(letter!.id));
    assert.equal(code, 0, output);
    assert.match(output, /payload: "\{\\"bad\\":1,\\"n\\":3\}"/);
    assert.equal((await run("show", "999999")).code, 1);
    assert.equal((await run("show", "1; DROP")).code, 2);
  });
  await t.step("replay fails with status 1 while it cannot be stored", async () => {
    const { code, output } = await run("replay", "--all");
    assert.equal(code, 1, output);
    assert.match(output, /stays parked: 23514/);
  });
  await t.step("replay of a hostile id, first dry", async () => {
    await mend(pipeline);
    const dry = await run("replay", "--doc", HOSTILE, "--dry-run");
    assert.equal(dry.code, 0, dry.output);
    assert.match(dry.output, /would be applied \(2 older superseded\)/);
    assert.equal((await rowsOf(pipeline)).size, 0);
    const { code, output } = await run("replay", "--doc", HOSTILE);
    assert.equal(code, 0, output);
    assert.deepEqual([...(await rowsOf(pipeline)).keys()], [HOSTILE]);
    assert.equal((await run("replay", "--doc", HOSTILE)).code, 1, "nothing is left of it");
  });
  await t.step("discard asks for --yes", async () => {
    const asked = await run("discard", "--doc=-b");
    assert.equal(asked.code, 1, asked.output);
    assert.match(asked.output, /3 events would be discarded/);
    assert.equal((await list(pipeline)).length, 1);
    const { code, output } = await run("discard", "--doc=-b", "--yes");
    assert.equal(code, 0, output);
    assert.deepEqual(await list(pipeline), []);
  });
  await t.step(
    "where nothing is parked, there is nothing to do, but for a document that is named",
    async () => {
      for (const command of ["replay", "discard"]) {
        const { code, output } = await run(command, "--all");
        assert.equal(code, 0, output);
        assert.equal((await run(command, "--doc=-b")).code, 1);
      }
    },
  );
  await t.step("a selection must be given, and one only", async () => {
    assert.equal((await run("replay")).code, 1);
    assert.equal((await run("discard", "--all", "--doc", "a", "--yes")).code, 1);
  });
});
