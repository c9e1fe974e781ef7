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

/** What becomes of two batches: how they come to be under way, and what happens then. */
interface Course {
  first: () => Promise<unknown>;
  next: () => Promise<unknown>;
  /** the table that is locked meanwhile @default {"sessions"} */
  table?: string;
  /** whether the next one is sent while the first one is under way @default {true} */
  isSent?: boolean;
  /** before the table is free again */
  meanwhile?: (underWay: UnderWay) => unknown;
}

/** How many queries wait for a lock. */
const waitingFor = async ({ pool }: Pipeline, lock: string) =>
  (await pool.query(`SELECT FROM pg_locks WHERE NOT granted AND ${lock}`)).rowCount;

/** Ends the connections that wait for a lock. */
const endWaiting = ({ pool }: Pipeline, lock: string) =>
  pool.query(`SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND ${lock}`);

/** Writes `first` while a table is locked, and `next` once its batch waits; goes on when `next` was read, and sent. */
async function twoUnderWay(
  pipeline: Pipeline,
  { first, next, table = "sessions", isSent = true, meanwhile = () => {} }: Course,
): Promise<UnderWay & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const { redis, pool, config } = pipeline;
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
  sink.events.on("failed", ({ kind }) => told.push(["failed", kind]));
  sink.events.on("swallowed", ({ documentIds }) => told.push(["swallowed", ...documentIds]));
  sink.start();
  await insertDocument(redis, config, "session", { n: 0 }, "begun");
  await waitFor(() => sink.status.events === 1, { what: "the first event" });
  told.length = 0;
  const holder = await pool.connect();
  stack.defer(() => holder.release(true));
  await holder.query(`BEGIN; LOCK TABLE ${table} IN EXCLUSIVE MODE`);
  await first();
  await waitFor(async () => await waitingFor(pipeline, `relation = '${table}'::regclass`) === 1, {
    what: "the batch that waits",
  });
  const isRead = (blocked: number) => async () =>
    (await redis.info("clients")).includes(`blocked_clients:${blocked}\r`);
  await waitFor(isRead(1), { what: "the reader to wait" });
  await next();
  await waitFor(isRead(0), { what: "the next event to be read" });
  if (isSent) await waitFor(() => ahead === 1, { what: "the batch that is sent ahead" });
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

/** What happens to a row of these ids when it is inserted, in PL/pgSQL. */
const whenInserted = ({ pool }: Pipeline, ids: string, what: string) =>
  pool.query(`
    CREATE OR REPLACE FUNCTION happens() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${what} END $$;
    CREATE OR REPLACE TRIGGER happens BEFORE INSERT ON sessions FOR EACH ROW
      WHEN (NEW.id LIKE '${ids}') EXECUTE FUNCTION happens()`);
const swallow = (pipeline: Pipeline) => whenInserted(pipeline, "lost%", "RETURN NULL;");

const refuseBad = ({ pool }: Pipeline) =>
  pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->'bad' IS NULL) NOT VALID");
const EACH_APPLIED = [["applied", 1], ["applied", 1]];

/** Both are written, and neither fails, where another program has written the row of one. */
function writtenWhere(id: "a" | "b"): (pipeline: Pipeline) => Promise<void> {
  return async (pipeline) => {
    const { insert } = write(pipeline);
    await pipeline.pool.query(
      "INSERT INTO sessions (id, payload, created_at, updated_at, version) VALUES ($1, '{}', now(), now(), 0)",
      [id],
    );
    const course = { first: insert("a", { n: 1 }), next: insert("b", { n: 1 }) };
    await using two = await twoUnderWay(pipeline, course);
    await applied(two.sink, 3);
    assert.deepEqual(two.told, EACH_APPLIED);
    await assertEqual(pipeline);
  };
}

const steps: Record<string, (pipeline: Pipeline) => Promise<void>> = {
  "the server goes on with it, and each is told once": async (pipeline) => {
    const { insert } = write(pipeline);
    await using two = await twoUnderWay(pipeline, { first: insert("a"), next: insert("b") });
    await applied(two.sink, 3);
    assert.deepEqual(two.told, EACH_APPLIED);
    await assertEqual(pipeline);
  },

  "where the first one's row is there already, both are written": writtenWhere("a"),
  "where the next one's row is there already, both are written": writtenWhere("b"),

  "a stop waits for both": async (pipeline) => {
    const { insert } = write(pipeline);
    let stopped: Promise<unknown> | undefined;
    await using two = await twoUnderWay(pipeline, {
      first: insert("a"),
      next: insert("b"),
      meanwhile: ({ sink }) => {
        stopped = sink.stop();
      },
    });
    await stopped;
    assert.deepEqual(two.told, EACH_APPLIED);
    assert.equal(two.sink.status.events, 3);
    await assertEqual(pipeline);
  },

  "both are lost with their connection, and come again": async (pipeline) => {
    const { insert } = write(pipeline);
    await using two = await twoUnderWay(pipeline, {
      first: insert("a"),
      next: insert("b"),
      meanwhile: () => endWaiting(pipeline, "relation = 'sessions'::regclass"),
    });
    await applied(two.sink, 3);
    await waitFor(() => two.sink.lastError === null, { what: "the sink to be well" });
    await assertEqual(pipeline);
    const last = await pipeline.redis.xrevrange(STREAM, "+", "-", "COUNT", 1);
    assert.equal(await offsetOf(pipeline.pool, STREAM), last[0]![0]);
  },

  "the next one alone is lost with its connection: that is a failure, and it comes again": async (
    pipeline,
  ) => {
    const { pool } = pipeline;
    const { insert } = write(pipeline);
    await whenInserted(pipeline, "b", "PERFORM pg_advisory_xact_lock(77); RETURN NEW;");
    await using stack = new AsyncDisposableStack();
    const holder = await pool.connect();
    stack.defer(() => holder.release(true));
    await holder.query("SELECT pg_advisory_lock(77)");
    await using two = await twoUnderWay(pipeline, { first: insert("a"), next: insert("b") });
    await applied(two.sink, 2);
    await waitFor(() => waitingFor(pipeline, "locktype = 'advisory'"), { what: "the next one" });
    await endWaiting(pipeline, "locktype = 'advisory'");
    await waitFor(() => two.told.length > 1, { what: "what is told of it" });
    assert.deepEqual(two.told, [["applied", 1], ["failed", "transient"]]);
    await holder.query("SELECT pg_advisory_unlock(77)");
    await applied(two.sink, 3);
    await assertEqual(pipeline);
  },

  "where the first one fails, the next one holds up nothing, whatever it waits for": async (
    pipeline,
  ) => {
    const { pool } = pipeline;
    const { insert } = write(pipeline);
    const fails = "RAISE EXCEPTION 'a deadlock' USING ERRCODE = '40P01';";
    await whenInserted(pipeline, "a", fails);
    await using stack = new AsyncDisposableStack();
    const another = await pool.connect();
    stack.defer(() => another.release(true));
    let lock: Promise<unknown> | undefined;
    await using two = await twoUnderWay(pipeline, {
      first: insert("a"),
      next: insert("b"),
      meanwhile: async () => {
        lock = another.query("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE");
        const waits = "mode = 'AccessExclusiveLock'";
        await waitFor(() => waitingFor(pipeline, waits), { what: "the other lock" });
      },
    });
    await lock;
    const claims = async () => {
      const { rows: [lease] } = await pool.query("SELECT epoch::int FROM writebehind_lease");
      return lease.epoch;
    };
    await waitFor(async () => await claims() > 1, { what: "another claim" });
    await another.query("ROLLBACK");
    await pool.query("DROP TRIGGER happens ON sessions");
    await applied(two.sink, 3);
    await assertEqual(pipeline);
  },

  "where the first one's row is swallowed, that is told": async (pipeline) => {
    await swallow(pipeline);
    const { insert } = write(pipeline);
    await using two = await twoUnderWay(pipeline, { first: insert("lost"), next: insert("b") });
    await waitFor(() => two.told.length === 3, { what: "what is told" });
    assert.deepEqual(two.told, [["applied", 1], ["swallowed", "lost"], ["applied", 1]]);
  },

  "where the rows of both are swallowed, that is told": async (pipeline) => {
    await swallow(pipeline);
    const { insert } = write(pipeline);
    const course = { first: insert("lost 1"), next: insert("lost 2") };
    await using two = await twoUnderWay(pipeline, course);
    await waitFor(() => two.told.length === 4, { what: "what is told" });
    assert.deepEqual(two.told.filter(([what]) => what === "swallowed"), [
      ["swallowed", "lost 1"],
      ["swallowed", "lost 2"],
    ]);
  },

  "where the next one removes that row, nothing is lost": async (pipeline) => {
    await swallow(pipeline);
    const { insert, remove } = write(pipeline);
    await using two = await twoUnderWay(pipeline, { first: insert("lost"), next: remove("lost") });
    await applied(two.sink, 3);
    assert.deepEqual(two.told, EACH_APPLIED);
  },

  "where the first one is no event, the next one is told too": async (pipeline) => {
    const { redis, pool } = pipeline;
    const { insert } = write(pipeline);
    await using two = await twoUnderWay(pipeline, {
      first: () => redis.xadd(STREAM, "*", "what", "is this"),
      next: insert("b"),
      table: "writebehind_dead_letter",
      isSent: false,
      meanwhile: insert("c"),
    });
    await waitFor(async () => (await rowsOf(pipeline)).has("c"), { what: "the last row" });
    const { rows: [row] } = await pool.query("SELECT events::int FROM writebehind_offset");
    await applied(two.sink, row.events);
  },
};

/** The first one is refused, and what follows it is of the same document. */
const refused: typeof steps = {
  "what was sent before that is parked behind it": async (pipeline) => {
    await parkedBoth(pipeline, {});
  },
  "what comes while it is parked is parked behind it": async (pipeline) => {
    await parkedBoth(pipeline, { table: "writebehind_dead_letter", isSent: false });
  },
};

async function parkedBoth(pipeline: Pipeline, course: Partial<Course>): Promise<void> {
  const { pool, config } = pipeline;
  const { insert, update } = write(pipeline);
  const [first, next] = [insert("a", { bad: 1 }), update("a", { bad: null })];
  await using two = await twoUnderWay(pipeline, { first, next, ...course });
  await applied(two.sink, 3);
  const parked = two.told.filter(([what]) => what === "parked");
  assert.deepEqual(parked, [["parked", "a"], ["parked", "a"]]);
  const [letter] = await Array.fromAsync(listDeadLetters(pool, config, "session"));
  assert.equal(letter!.waiting, 1);
  assert(!(await rowsOf(pipeline)).has("a"));
}

const SENT = "PostgreSQL: a small batch is sent while the one before is under way";
Deno.test(SENT, async (t) => {
  await withPipeline(t, steps, async ({ pool }) => {
    await pool.query("DROP TRIGGER IF EXISTS happens ON sessions");
  });
});
Deno.test(`${SENT}, and that one is refused`, async (t) => {
  await withPipeline(t, refused, async (pipeline) => {
    await pipeline.pool.query("ALTER TABLE sessions DROP CONSTRAINT IF EXISTS good");
    await refuseBad(pipeline);
  });
});
