import assert from "node:assert/strict";
import { deleteDocument, insertDocument, seededRandom, updateDocument } from "writebehind";
import { produce } from "writebehind/notebook/original.ts";
import { offsetOf } from "../support/pipeline.ts";
import {
  documentsOf,
  type Pipeline,
  reset,
  rowsOf,
  sorted,
  testPipeline,
} from "../support/pipeline.ts";
import type { RunningCommand } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";
import { Author } from "./author.ts";
import { assertExact, clearLedger, judge, keepLedger } from "./ledger.ts";
import { drain, killAt, killSink, startSink } from "./sinks.ts";

const STREAM = "stream:session";
/** Several batches, so that reading ahead, trimming and applying overlap. */
const KEYS = { batch_size: 60 };

const pipeline = await testPipeline({ write_behind: { lease_seconds: 0.5 } });
await keepLedger(pipeline);
Deno.test.afterAll(async () => await pipeline[Symbol.asyncDispose]());

/** Everything that a drain passes, in its order; `name:2` is the second time. */
const PLACES = [
  "claiming",
  "sent first offset",
  "sent raise epoch",
  "sent has parked",
  "claimed",
  "begun",
  "reading",
  "read",
  "coalesced",
  "applying",
  "sent apply session",
  "applied",
  "trimming",
  "trimmed",
  "reading:3",
  "read:3",
  "coalesced:3",
  "applying:3",
  "sent apply session:3",
  "applied:3",
  "trimming:2",
  "trimmed:2",
];

async function fresh(): Promise<Author> {
  await reset(pipeline);
  await clearLedger(pipeline);
  const { redis, config } = pipeline;
  return new Author(redis, config, { random: seededRandom(7), paceMs: 0 });
}

Deno.test("a sink killed at each await of a drain: nothing is lost, nothing twice", async (t) => {
  for (const place of PLACES) {
    await t.step(place, async () => {
      const author = await fresh();
      await author.write({ calls: 240 });
      await killAt(place, pipeline.config, { keys: KEYS });
      await author.write({ calls: 20 });
      await drain(pipeline, KEYS);
      await assertExact(pipeline, author);
    });
  }
});

Deno.test("a sink killed while it waits for events, or gives its partition back", async (t) => {
  const applied = (sink: RunningCommand) =>
    waitFor(() => sink.output().includes("100 events applied"), {
      what: "the events",
      deadlineMs: 20_000,
    });
  const kills: Record<string, () => Promise<void>> = {
    waiting: async () => {
      await using sink = await startSink(pipeline.config, KEYS);
      await applied(sink);
      await killSink(sink);
    },
    releasing: () =>
      killAt("releasing", pipeline.config, {
        keys: KEYS,
        started: async (sink) => {
          await applied(sink);
          sink.kill("SIGTERM");
        },
      }),
  };
  for (const [place, kill] of Object.entries(kills)) {
    await t.step(place, async () => {
      const author = await fresh();
      await author.write({ calls: 100 });
      await kill();
      await author.write({ calls: 20 });
      await drain(pipeline, KEYS);
      await assertExact(pipeline, author);
    });
  }
});

Deno.test("a statement was sent and its reply never read: the offset says whether it happened", async (t) => {
  await t.step("it was committed", async () => {
    await fresh();
    const { redis, config, pool } = pipeline;
    for (let n = 0; n < 150; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
    await killAt("sent apply session:2", config, {
      keys: KEYS,
      there: () =>
        waitFor(async () => {
          const { rows } = await pool.query("SELECT events FROM writebehind_offset");
          return Number(rows[0].events) === 2 * KEYS.batch_size;
        }, { what: "the commit of the second batch" }).then(() => {}),
    });
    await drain(pipeline, KEYS);
    assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
    assert.deepEqual(await judge(pipeline), { lost: 0, twice: 0, outOfOrder: 0 });
  });

  await t.step("it was under way, behind a lock, and its backend outlived its sink", async () => {
    const author = await fresh();
    await author.write({ calls: 200 });
    const { pool } = pipeline;
    const outside = await pool.connect();
    try {
      await outside.query("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE");
      await killAt("sent apply session", pipeline.config, {
        keys: KEYS,
        there: () => waitForLock(pipeline).then(() => {}),
      });
      assert.equal(await offsetOf(pool, STREAM), "0-0");
      await waitForLock(pipeline);
      // The successor ends the old backend, and so need not wait for it.
      const drained = drain(pipeline, KEYS);
      await waitFor(async () => {
        const { rows } = await pool.query("SELECT epoch FROM writebehind_offset");
        return Number(rows[0]?.epoch) === 2;
      }, { what: "the takeover while the table is locked" });
      await outside.query("ROLLBACK");
      await drained;
    } finally {
      outside.release(true);
    }
    await assertExact(pipeline, author);
  });
});

/** Waits until a batch's statement waits for a lock. */
function waitForLock({ pool }: Pipeline) {
  return waitFor(async () => {
    const { rows } = await pool.query(
      "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%moved AS%'",
    );
    return rows.length > 0;
  }, { what: "the batch to wait for the lock" });
}

Deno.test("a sink killed while it parks: each bad event is parked once, later ones behind it", async (t) => {
  const { redis, config, pool } = pipeline;
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");
  for (
    const place of [
      "probing",
      "sent invalid payloads",
      "sent probe session:2",
      "parking",
      "sent park session",
      "applied",
      "parking behind",
      "sent parked among",
    ]
  ) {
    await t.step(place, async () => {
      await fresh();
      for (let n = 0; n < 100; n++) {
        await insertDocument(redis, config, "session", { n, bad: n % 40 === 7 || null }, `d${n}`);
      }
      await updateDocument(redis, config, "session", "d7", { bad: null });
      await deleteDocument(redis, config, "session", "d8");
      await killAt(place, config, { keys: KEYS });
      await updateDocument(redis, config, "session", "d47", { bad: null });
      await drain(pipeline, KEYS);
      const rows = await rowsOf(pipeline);
      assert.deepEqual([rows.size, rows.has("d7"), rows.has("d47"), rows.has("d8")], [
        96,
        false,
        false,
        false,
      ]);
      const { rows: letters } = await pool.query(
        `SELECT convert_from(doc_id, 'UTF8') AS id, event_type, attempts
           FROM writebehind_dead_letter ORDER BY id, stream_id`,
      );
      assert.deepEqual(letters.map(({ id, event_type }) => [id, event_type]), [
        ["d47", "insert"],
        ["d47", "update"],
        ["d7", "insert"],
        ["d7", "update"],
        ["d87", "insert"],
      ]);
      assert.deepEqual(letters.map(({ attempts }) => attempts), [1, 1, 1, 1, 1], "parked once");
      assert.deepEqual(await judge(pipeline), { lost: 0, twice: 0, outOfOrder: 0 });
    });
  }
  await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
});

Deno.test("a sink killed while it rewinds a stream that has gone back", async (t) => {
  const places = ["resending", "forwarded", "forwarded, and no witness was expected", "resent"];
  for (const place of places) {
    await t.step(place, async () => {
      await fresh();
      const { redis, pool, config } = pipeline;
      for (let n = 0; n < 30; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
      await drain(pipeline, KEYS);
      // The stream of a server that has lost what came last, and whose clock is behind: its new ids are
      // below the offset.
      const last = `${Date.now() + 3_600_000}-0`;
      const [name, expectsNone] = place.split(", ");
      await pool.query("UPDATE writebehind_offset SET last_id = $1, witness = $2", [
        last,
        expectsNone ? "0-0" : last,
      ]);
      await redis.xtrim(STREAM, "MAXLEN", 0);
      for (let n = 0; n < 30; n += 2) {
        await updateDocument(redis, config, "session", `d${n}`, { again: n });
      }
      await deleteDocument(redis, config, "session", "d1");
      await killAt(name!, config, { keys: KEYS });
      await updateDocument(redis, config, "session", "d3", { after: true });
      await drain(pipeline, KEYS);
      assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
      const { rows: [offset] } = await pool.query("SELECT went_back FROM writebehind_offset");
      assert(offset.went_back >= 1);
    });
  }
});

Deno.test("a sink killed while it reads documents for events without payload", async () => {
  await fresh();
  const { redis } = pipeline;
  for (let n = 0; n < 100; n++) await produce(redis, `d${n % 30}`, "insert", { n });
  await produce(redis, "d1", "delete");
  await killAt("coalesced", pipeline.config, { keys: KEYS });
  await produce(redis, "d2", "update", { last: true });
  await drain(pipeline, KEYS);
  const rows = await rowsOf(pipeline);
  assert.equal(rows.size, 29);
  assert.equal(rows.get("d2"), '{"last":true}');
  assert.deepEqual(await judge(pipeline), { lost: 0, twice: 0, outOfOrder: 0 });
});
