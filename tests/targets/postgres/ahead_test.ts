/** Small batches that are sent while the one before is under way. */

import assert from "node:assert/strict";
import {
  deleteDocument,
  insertDocument,
  listDeadLetters,
  openTarget,
  RedisWriteBehind,
  updateDocument,
} from "writebehind";
import {
  assertEqual,
  offsetOf,
  type Pipeline,
  rowsOf,
  withPipeline,
} from "../../support/pipeline.ts";
import { waitFor } from "../../support/servers.ts";

const STREAM = "stream:session";

/** What is done while two batches are under way. */
interface UnderWay {
  sink: RedisWriteBehind;
  /** the name and the documents of each event that the sink has emitted */
  told: unknown[][];
}

/** Writes `first` while the table is locked, and `next` once its batch waits; lets both go when `next` was sent ahead. */
async function twoUnderWay(
  { redis, pool, config }: Pipeline,
  first: () => Promise<unknown>,
  next: () => Promise<unknown>,
  meanwhile: (underWay: UnderWay) => unknown = () => {},
): Promise<UnderWay & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const target = stack.use(await openTarget(config));
  const { batches } = target;
  const send = batches.sendAhead!.bind(batches);
  let ahead = 0;
  batches.sendAhead = (...args) => {
    const sent = send(...args);
    ahead += Number(sent);
    return sent;
  };
  const sink = stack.use(new RedisWriteBehind(redis, target, config, "session"));
  const told: unknown[][] = [];
  sink.events.on("applied", ({ events }) => told.push(["applied", events]));
  sink.events.on("parked", ({ documentId }) => told.push(["parked", documentId]));
  sink.events.on("failed", ({ error }) => told.push(["failed", error.message]));
  sink.events.on("swallowed", ({ documentIds }) => told.push(["swallowed", ...documentIds]));
  sink.start();
  await insertDocument(redis, config, "session", { n: 0 }, "begun");
  await waitFor(() => sink.status.events === 1, { what: "the first event" });
  told.length = 0;
  const holder = await pool.connect();
  stack.defer(() => holder.release(true));
  await holder.query("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE");
  await first();
  await waitFor(
    async () =>
      (await pool.query(
        "SELECT FROM pg_locks WHERE NOT granted AND relation = 'sessions'::regclass",
      ))
        .rowCount === 1,
    { what: "the batch that waits" },
  );
  await next();
  await waitFor(() => ahead === 1, { what: "the batch that is sent ahead" });
  await meanwhile({ sink, told });
  await holder.query("ROLLBACK");
  const owned = stack.move();
  return { sink, told, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const applied = (sink: RedisWriteBehind, events: number) =>
  waitFor(() => sink.status.events === events, { what: `${events} events` });

const write = ({ redis, config }: Pipeline) => ({
  insert: (id: string, document = {}) => () =>
    insertDocument(redis, config, "session", document, id),
  update: (id: string, document: object) => () =>
    updateDocument(redis, config, "session", id, { ...document }),
  remove: (id: string) => () => deleteDocument(redis, config, "session", id),
});

/** Rows of some ids are swallowed from now on. */
const swallow = ({ pool }: Pipeline) =>
  pool.query(`
    CREATE OR REPLACE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE OR REPLACE TRIGGER swallow BEFORE INSERT ON sessions FOR EACH ROW
      WHEN (NEW.id LIKE 'lost%') EXECUTE FUNCTION swallow()`);

Deno.test("PostgreSQL: a small batch is sent while the one before is under way", async (t) => {
  await withPipeline(t, {
    "the server goes on with it, and each is told once": async (pipeline) => {
      const { insert } = write(pipeline);
      await using two = await twoUnderWay(pipeline, insert("a"), insert("b"));
      await applied(two.sink, 3);
      assert.deepEqual(two.told, [["applied", 1], ["applied", 1]]);
      await assertEqual(pipeline);
    },

    "where the first one's row is there already, both are written": async (pipeline) => {
      const { insert } = write(pipeline);
      await pipeline.pool.query(
        "INSERT INTO sessions (id, payload, created_at, updated_at, version) VALUES ('a', '{}', now(), now(), 0)",
      );
      await using two = await twoUnderWay(pipeline, insert("a", { n: 1 }), insert("b"));
      await applied(two.sink, 3);
      assert.deepEqual(two.told, [["applied", 1], ["applied", 1]]);
      await assertEqual(pipeline);
    },

    "where the first one is parked, an event of its document is parked behind": async (
      pipeline,
    ) => {
      const { redis, config, pool } = pipeline;
      const { insert, update } = write(pipeline);
      await pool.query(
        "ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->'bad' IS NULL) NOT VALID",
      );
      await using two = await twoUnderWay(
        pipeline,
        insert("a", { bad: 1 }),
        update("a", { bad: null }),
      );
      await applied(two.sink, 3);
      assert.deepEqual(two.told.filter(([what]) => what === "parked"), [["parked", "a"], [
        "parked",
        "a",
      ]]);
      const [letter] = await Array.fromAsync(listDeadLetters(pool, config, "session"));
      assert.equal(letter!.waiting, 1);
      assert(!(await rowsOf(pipeline)).has("a"));
      await redis.del("session:a");
      await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
    },

    "where the first one's row is swallowed, that is told": async (pipeline) => {
      await swallow(pipeline);
      const { insert } = write(pipeline);
      await using two = await twoUnderWay(pipeline, insert("lost"), insert("b"));
      await waitFor(() => two.told.length === 3, { what: "what is told" });
      assert.deepEqual(two.told, [["applied", 1], ["swallowed", "lost"], ["applied", 1]]);
    },

    "where the rows of both are swallowed, that is told": async (pipeline) => {
      await swallow(pipeline);
      const { insert } = write(pipeline);
      await using two = await twoUnderWay(pipeline, insert("lost 1"), insert("lost 2"));
      await waitFor(() => two.told.length === 4, { what: "what is told" });
      assert.deepEqual(two.told.filter(([what]) => what === "swallowed"), [
        ["swallowed", "lost 1"],
        ["swallowed", "lost 2"],
      ]);
    },

    "where the next one removes that row, nothing is lost": async (pipeline) => {
      await swallow(pipeline);
      const { insert, remove } = write(pipeline);
      await using two = await twoUnderWay(pipeline, insert("lost"), remove("lost"));
      await applied(two.sink, 3);
      assert.deepEqual(two.told, [["applied", 1], ["applied", 1]]);
    },

    "a stop waits for both": async (pipeline) => {
      const { insert } = write(pipeline);
      let stopped: Promise<unknown> | undefined;
      await using two = await twoUnderWay(pipeline, insert("a"), insert("b"), ({ sink }) => {
        stopped = sink.stop();
      });
      await stopped;
      assert.deepEqual(two.told, [["applied", 1], ["applied", 1]]);
      assert.equal(two.sink.status.events, 3);
      await assertEqual(pipeline);
    },

    "both are lost with their connection, and come again": async (pipeline) => {
      const { pool } = pipeline;
      const { insert } = write(pipeline);
      await using two = await twoUnderWay(pipeline, insert("a"), insert("b"), async () => {
        await pool.query(
          "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND relation = 'sessions'::regclass",
        );
      });
      await applied(two.sink, 3);
      await waitFor(() => two.sink.lastError === null, { what: "the sink to be well" });
      await assertEqual(pipeline);
      const last = await pipeline.redis.xrevrange(STREAM, "+", "-", "COUNT", 1);
      assert.equal(await offsetOf(pool, STREAM), last[0]![0]);
    },
  });
});
