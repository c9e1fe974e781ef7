/** Rows that a table swallows without an error: told, and in doubt until a verify has looked. */

import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import {
  type Config,
  connectPostgres,
  deleteDocument,
  insertDocument,
  openTarget,
  readStatus,
  type RedisConnection,
  RedisWriteBehind,
  repairTarget,
  replayDeadLetters,
  type ReplayOutcome,
  updateDocument,
  verify,
} from "writebehind";
import { killAt } from "../faults/sinks.ts";
import { assertEqual, type Pipeline, rowsOf, withPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";
import { filePipeline } from "../targets/pipelines.ts";

const DOUBT = /rows were not written or removed, though the target refused none/;

/** A pipeline on either target, and how to change its tables. */
interface Place {
  redis: RedisConnection;
  config: Config;
  target: ConstructorParameters<typeof RedisWriteBehind>[1];
  execute(sql: string): unknown;
}

const placeOf = ({ redis, config, pool }: Pipeline): Place => ({
  redis,
  config,
  target: pool,
  execute: (sql) => pool.query(sql),
});

/** Applies all events that are there; returns what was swallowed: how many rows, and the ids that are named. */
async function drain({ redis, target, config }: Place): Promise<[number, string[]][]> {
  await using sink = new RedisWriteBehind(redis, target, config, "session");
  const told: [number, string[]][] = [];
  sink.events.on(
    "swallowed",
    ({ rows, documentIds }) => told.push([rows, documentIds.toSorted()]),
  );
  await sink.drain();
  return told;
}

async function doubtsOf({ redis, target, config }: Place): Promise<string[]> {
  const [status] = await readStatus(redis, target, config, "session");
  return status!.doubts;
}

const fill = async ({ redis, config }: Place, ids: string[]) => {
  for (const id of ids) await insertDocument(redis, config, "session", { n: 1 }, id);
};

/** Swallows what is written of the documents: those whose ids begin with bad. */
const POSTGRES_TRIGGER = `
  CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF coalesce(NEW.id, OLD.id) ~ '^bad' THEN RETURN NULL; END IF;
    RETURN coalesce(NEW, OLD); END $$;
  CREATE TRIGGER swallow BEFORE INSERT OR UPDATE OR DELETE ON sessions
    FOR EACH ROW EXECUTE FUNCTION swallow()`;
const NO_POSTGRES_TRIGGER = "DROP FUNCTION IF EXISTS swallow CASCADE";

const SQLITE_TRIGGER = ["INSERT", "UPDATE", "DELETE"].map((event) =>
  `CREATE TRIGGER swallow_${event} BEFORE ${event} ON sessions
     WHEN ${event === "DELETE" ? "old" : "new"}.id LIKE 'bad%' BEGIN SELECT RAISE(IGNORE); END;`
).join("\n");
const NO_SQLITE_TRIGGER = ["INSERT", "UPDATE", "DELETE"].map((event) =>
  `DROP TRIGGER swallow_${event};`
).join("\n");

/** Inserts, updates and removals that a trigger swallows, until all is mended. */
async function swallows(place: Place, trigger: string, noTrigger: string): Promise<void> {
  const { redis, config, target, execute } = place;
  const settled = async () => {
    const { mismatches, doubts } = await verify(redis, target, config, "session");
    assert.deepEqual(doubts.map((doubt) => doubt.settled), [mismatches.length === 0]);
    return mismatches;
  };
  await fill(place, ["bad-old", "bad-gone", "fine"]);
  assert.deepEqual(await drain(place), []);
  await execute(trigger);

  await updateDocument(redis, config, "session", "bad-old", { n: 2 });
  await deleteDocument(redis, config, "session", "bad-gone");
  await fill(place, ["bad-new", "also fine"]);
  assert.deepEqual(await drain(place), [[3, ["bad-gone", "bad-new", "bad-old"]]]);
  const doubts = await doubtsOf(place);
  assert.match(doubts.join(), DOUBT);

  // All rows of a batch: whether the offset moved has to be asked then.
  await fill(place, ["bad"]);
  assert.deepEqual(await drain(place), [[1, ["bad"]]]);

  // Said each time, noted once; five ids of all are named.
  await fill(place, [1, 2, 3, 4, 5, 6].map((n) => `bad-${n}`));
  await fill(place, ["fine too"]);
  assert.deepEqual((await drain(place)).map(([rows, ids]) => [rows, ids.length]), [[6, 5]]);
  assert.equal((await doubtsOf(place)).join().match(new RegExp(DOUBT, "g"))!.length, 1);

  const mismatches = await settled();
  assert.equal(mismatches.length, 10);
  await execute(noTrigger);
  await repairTarget(redis, config, "session", mismatches);
  assert.deepEqual(await drain(place), []);
  assert.deepEqual(await settled(), []);
  assert.deepEqual(await doubtsOf(place), []);
}

/** Fewer rows than events, and none is lost. */
async function saysNothing(place: Place, newer: string, removed: string): Promise<void> {
  const { redis, config, execute } = place;
  await fill(place, ["a", "b", "c", "d"]);
  assert.deepEqual(await drain(place), []);
  // Rows that are newer than the next events, and one that is gone when it is to be removed.
  await execute(newer);
  await execute(removed);
  await updateDocument(redis, config, "session", "a", { n: 2 });
  await deleteDocument(redis, config, "session", "b");
  await deleteDocument(redis, config, "session", "c");
  await fill(place, ["never there", "e"]);
  await deleteDocument(redis, config, "session", "never there");
  assert.deepEqual(await drain(place), []);
  assert.deepEqual(await doubtsOf(place), []);
}

const NEWER = "UPDATE sessions SET version = version + 1099511627776 WHERE id IN ('a', 'b')";
const REMOVED = "DELETE FROM sessions WHERE id = 'c'";

Deno.test("rows that PostgreSQL swallows", (t) =>
  withPipeline(t, {
    "a trigger that returns NULL is told until a verify has looked": (pipeline) =>
      swallows(placeOf(pipeline), POSTGRES_TRIGGER, NO_POSTGRES_TRIGGER),

    "what is no loss is not told": (pipeline) => saysNothing(placeOf(pipeline), NEWER, REMOVED),

    "nor is what a trigger puts elsewhere under the same table": async (pipeline) => {
      const place = placeOf(pipeline);
      await pipeline.pool.query(`
        CREATE TABLE elsewhere () INHERITS (sessions);
        CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          INSERT INTO elsewhere SELECT NEW.*; RETURN NULL; END $$;
        CREATE TRIGGER swallow BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION swallow()`);
      try {
        await fill(place, ["a", "b"]);
        assert.deepEqual(await drain(place), []);
        assert.equal((await rowsOf(pipeline)).size, 2);
      } finally {
        await pipeline.pool.query("DROP TABLE elsewhere");
      }
    },

    "a trigger that comes while a sink runs is told at once": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      // Else the table is still known as one that had triggers and tables under it.
      await pool.query("VACUUM ANALYZE sessions");
      await using sink = new RedisWriteBehind(redis, pool, config, "session");
      const told: string[] = [];
      sink.events.on("swallowed", ({ documentIds }) => told.push(...documentIds));
      await fill(placeOf(pipeline), ["fine"]);
      await sink.drain();
      await pool.query(POSTGRES_TRIGGER);
      await fill(placeOf(pipeline), ["bad", "fine too"]);
      await sink.drain();
      assert.deepEqual(told, ["bad"]);
    },

    "a connection that is lost before anybody looked: all is told, and looked at again": async (
      pipeline,
    ) => {
      const { redis, config, pool } = pipeline;
      const place = placeOf(pipeline);
      await fill(place, ["fine"]);
      await drain(place);
      await pool.query(`${POSTGRES_TRIGGER};
        ALTER TABLE sessions ADD CONSTRAINT refuse CHECK (id <> 'refused')`);
      await using target = await openTarget(config);
      const { batches } = target;
      const swallowed = batches.swallowed.bind(batches);
      let looks = 0;
      batches.swallowed = async (...args) => {
        if (looks++ > 0) return await swallowed(...args);
        const locking = await pool.connect();
        try {
          await locking.query("BEGIN; LOCK TABLE sessions");
          const look = swallowed(...args);
          look.catch(() => {}); // awaited below
          const ended = async () => {
            const { rowCount } = await locking.query(
              `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'`,
            );
            return rowCount! > 0;
          };
          await waitFor(ended, { what: "the look waits for the lock", deadlineMs: 30_000 });
          return await look;
        } finally {
          await locking.query("ROLLBACK");
          locking.release();
        }
      };
      try {
        await fill(place, ["a", "bad", "refused", "z"]);
        await using sink = new RedisWriteBehind(redis, target, config, "session");
        const told: string[] = [];
        sink.events.on("applied", ({ events, parked }) => told.push(`applied ${events} ${parked}`));
        sink.events.on("parked", ({ documentId }) => told.push(`parked ${documentId}`));
        sink.events.on("swallowed", ({ documentIds }) => told.push(`swallowed ${documentIds}`));
        sink.events.on("failed", ({ kind }) => told.push(kind));
        const { events, parked } = await sink.drain();
        assert.deepEqual(told, ["parked refused", "applied 4 1", "transient", "swallowed bad"]);
        assert.deepEqual([events, parked, looks], [4, 1, 2]);
        assert.match((await doubtsOf(place)).join(), DOUBT);
      } finally {
        await pool.query("ALTER TABLE sessions DROP CONSTRAINT refuse");
      }
    },

    "a batch that a killed sink had applied, or had not, is not told": async (pipeline) => {
      const config = pipeline.with({ write_behind: { lease_seconds: 0.5 } });
      const killed = { ...pipeline, config };
      for (const point of ["applying", "sent apply session", "applied"]) {
        await fill(placeOf(killed), [1, 2, 3].map((n) => `${point} ${n}`));
        await killAt(point, config);
        assert.deepEqual(await drain(placeOf(killed)), []);
      }
      assert.equal((await rowsOf(pipeline)).size, 9);
      assert.deepEqual(await doubtsOf(placeOf(killed)), []);
    },

    "a rule that does nothing instead is an error: nothing is applied": async (pipeline) => {
      const { pool, redis, config } = pipeline;
      await fill(placeOf(pipeline), ["a", "b"]);
      const events = {
        INSERT: () => Promise.resolve(),
        UPDATE: () => updateDocument(redis, config, "session", "a", { n: 2 }),
        DELETE: () => deleteDocument(redis, config, "session", "b"),
      };
      for (const [event, write] of Object.entries(events)) {
        await write();
        const id = event === "DELETE" ? "OLD.id" : "NEW.id";
        // A rule that takes only some new rows away is told as a trigger is.
        for (const condition of event === "INSERT" ? [""] : ["", `WHERE ${id} = 'b'`]) {
          const before = await rowsOf(pipeline);
          await pool.query(
            `CREATE RULE swallow AS ON ${event} TO sessions ${condition} DO INSTEAD NOTHING`,
          );
          await assert.rejects(drain(placeOf(pipeline)), /rules|cannot perform \w+ RETURNING/);
          await pool.query("DROP RULE swallow ON sessions");
          assert.deepEqual(await rowsOf(pipeline), before);
        }
        assert.deepEqual(await drain(placeOf(pipeline)), []);
      }
      await assertEqual(pipeline);
    },

    "a document stays parked whose replay a trigger swallows": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      const place = placeOf(pipeline);
      const replay = async () => {
        const reasons: string[] = [];
        const onOutcome = ({ reason }: ReplayOutcome) => reasons.push(reason);
        const all = { all: true } as const;
        const done = await replayDeadLetters(redis, pool, config, "session", all, { onOutcome });
        return [done.applied, done.failed, reasons.join()];
      };
      await pool.query("ALTER TABLE sessions ADD CONSTRAINT refuse CHECK (id !~ '^bad')");
      await fill(place, ["bad", "fine"]);
      await drain(place);
      await pool.query(`ALTER TABLE sessions DROP CONSTRAINT refuse; ${POSTGRES_TRIGGER}`);
      const [applied, failed, reason] = await replay();
      assert.deepEqual([applied, failed], [0, 1]);
      assert.match(String(reason), /a trigger swallows it/);
      await pool.query(NO_POSTGRES_TRIGGER);
      assert.deepEqual(await replay(), [1, 0, ""]);
      await assertEqual(pipeline);
    },

    "a rule that takes some new rows away is told": async (pipeline) => {
      const place = placeOf(pipeline);
      await pipeline.pool.query(
        "CREATE RULE swallow AS ON INSERT TO sessions WHERE NEW.id = 'b' DO INSTEAD NOTHING",
      );
      await fill(place, ["a", "b"]);
      assert.deepEqual(await drain(place), [[1, ["b"]]]);
      assert.match((await doubtsOf(place)).join(), DOUBT);
    },

    "a policy that hides rows from another role is an error: nothing is applied": async (
      pipeline,
    ) => {
      const { pool } = pipeline;
      await fill(placeOf(pipeline), ["bad", "fine"]);
      await pool.query(`
        CREATE ROLE other LOGIN PASSWORD 'word';
        GRANT ALL ON ALL TABLES IN SCHEMA public TO other;
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO other;
        ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
        CREATE POLICY hidden ON sessions TO other USING (id <> 'bad')`);
      try {
        const config = pipeline.with({ postgresql: { user: "other", password: "word" } });
        await using own = await connectPostgres(config);
        await assert.rejects(
          drain(placeOf({ ...pipeline, config, pool: own })),
          /a policy of the table sessions may hide rows from the PostgreSQL user other; .* ALTER ROLE other BYPASSRLS/,
        );
        assert.equal((await rowsOf(pipeline)).size, 0);
      } finally {
        await pool.query(`
          DROP POLICY hidden ON sessions; ALTER TABLE sessions DISABLE ROW LEVEL SECURITY;
          DROP OWNED BY other; DROP ROLE other`);
      }
      assert.deepEqual(await drain(placeOf(pipeline)), []);
      assert.equal((await rowsOf(pipeline)).size, 2);
    },
  }, ({ pool }) => pool.query(NO_POSTGRES_TRIGGER)));

Deno.test("rows that SQLite swallows", async (t) => {
  for (
    const [name, test] of Object.entries({
      "a trigger that ignores is told until a verify has looked": (place: Place) =>
        swallows(place, SQLITE_TRIGGER, NO_SQLITE_TRIGGER),
      "what is no loss is not told": (place: Place) => saysNothing(place, NEWER, REMOVED),
    })
  ) {
    await t.step(name, async () => {
      await using pipeline = await filePipeline();
      const execute = (sql: string) => {
        using db = new DatabaseSync(pipeline.path, { timeout: 5000 });
        db.exec(sql);
      };
      await test({ ...pipeline, execute });
    });
  }
});
