import assert from "node:assert/strict";
import {
  connectPostgres,
  consumePeriodically,
  insertDocument,
  readFigures,
  readStatus,
  updateDocument,
} from "writebehind";
import { assertEqual, type Pipeline, rowsOf, testPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

const LEASE_SECONDS = 1;
const STREAM = "stream:session";

/** Counts how often a version of a document was applied. */
async function countApplications({ pool }: Pipeline) {
  await pool.query(`
    CREATE TABLE applied (id TEXT, version BIGINT);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN INSERT INTO applied VALUES (new.id, new.version); RETURN new; END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION note();`);
  return async () => {
    const { rows } = await pool.query(
      "SELECT id, version FROM applied GROUP BY id, version HAVING count(*) > 1",
    );
    assert.deepEqual(rows, [], "applied twice");
  };
}

async function startSink(pipeline: Pipeline) {
  const file = await configFile({ write_behind: { lease_seconds: LEASE_SECONDS } });
  return startTask(["sink", "--config", file], environmentOf(pipeline.config));
}

async function owner({ pool }: Pipeline): Promise<{ owner: string; epoch: string } | undefined> {
  const { rows: [row] } = await pool.query<{ owner: string; epoch: string }>(
    "SELECT owner, epoch FROM writebehind_lease WHERE lease_until > clock_timestamp() AND stream = $1",
    [STREAM],
  );
  return row;
}

Deno.test("a sink stopped for longer than its lease wakes up unable to commit anything", async () => {
  await using pipeline = await testPipeline({ write_behind: { lease_seconds: LEASE_SECONDS } });
  const { redis, pool, config } = pipeline;
  const assertOnce = await countApplications(pipeline);
  await insertDocument(redis, config, "session", { n: 0 }, "held");
  await using first = await startSink(pipeline);
  await waitFor(async () => (await rowsOf(pipeline)).size === 1, {
    what: "the first sink",
    deadlineMs: 20_000,
  });
  const before = await owner(pipeline);

  // The first sink's statement stands in the middle, holding its locks, when the process is stopped.
  const outside = await pool.connect();
  await outside.query("BEGIN; SELECT FROM sessions WHERE id = 'held' FOR UPDATE");
  await updateDocument(redis, config, "session", "held", { n: 1 });
  await waitFor(
    async () =>
      (await pool.query("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'")).rowCount! >
        0,
    { what: "the sink's statement to wait" },
  );
  first.kill("SIGSTOP");
  const second = consumePeriodically(redis, pool, config, "session");
  await waitFor(async () => {
    const now = await owner(pipeline);
    return now !== undefined && now.owner !== before!.owner;
  }, { what: "a successor", deadlineMs: 10_000 });
  await outside.query("COMMIT");
  outside.release();
  for (let n = 0; n < 50; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
  await waitFor(async () => (await rowsOf(pipeline)).size === 51, { what: "the successor's rows" });
  const epoch = (await owner(pipeline))!.epoch;

  first.kill("SIGCONT");
  for (let n = 50; n < 100; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
  await waitFor(async () => (await rowsOf(pipeline)).size === 101, { what: "all rows" });
  assert.equal((await owner(pipeline))!.epoch, epoch, "the old owner did not take it back");
  await second.stop();
  await assertEqual(pipeline);
  await assertOnce();
});

Deno.test("a dead owner is replaced when its lease ends, a cleanly stopped one at once", async () => {
  await using pipeline = await testPipeline({ write_behind: { lease_seconds: LEASE_SECONDS } });
  const { redis, pool, config } = pipeline;
  await using dead = await startSink(pipeline);
  await insertDocument(redis, config, "session", { n: 0 }, "a");
  await waitFor(async () => (await rowsOf(pipeline)).size === 1, {
    what: "the first sink",
    deadlineMs: 20_000,
  });
  dead.kill("SIGKILL");
  await dead.status;
  await insertDocument(redis, config, "session", { n: 0 }, "b");
  const sink = consumePeriodically(redis, pool, config, "session");
  await waitFor(async () => (await rowsOf(pipeline)).size === 2, {
    what: "the successor",
    deadlineMs: LEASE_SECONDS * 1000 + 2000,
  });
  const other = await connectPostgres(config);
  const next = consumePeriodically(redis, other, config, "session");
  await waitFor(() => next.status.partitions[0]!.state === "standby", {
    what: "a third sink to wait",
  });
  const started = Date.now();
  await sink.stop();
  await waitFor(() => next.status.partitions[0]!.state === "owner", { what: "the third sink" });
  assert(Date.now() - started < LEASE_SECONDS * 1000, "it did not wait for the lease to end");
  await next.stop();
  await other.end();
});

Deno.test("a live owner that waits for a lock keeps its lease", async () => {
  await using pipeline = await testPipeline({ write_behind: { lease_seconds: LEASE_SECONDS } });
  const { redis, pool, config } = pipeline;
  const assertOnce = await countApplications(pipeline);
  const other = await connectPostgres(config);
  const sink = consumePeriodically(redis, pool, config, "session");
  await waitFor(() => sink.status.partitions[0]!.state === "owner", { what: "the owner" });
  const { epoch } = (await owner(pipeline))!;
  const standby = consumePeriodically(redis, other, config, "session");
  const outside = await pool.connect();
  await outside.query("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE");
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  const locked = Date.now();
  await waitFor(() => Date.now() - locked > 3 * LEASE_SECONDS * 1000, {
    what: "three leases to pass",
  });
  assert.equal((await owner(pipeline))!.epoch, epoch);
  assert.equal(standby.status.partitions[0]!.state, "standby");
  await outside.query("COMMIT");
  outside.release();
  await waitFor(() => sink.status.events === 1, { what: "the event" });
  await Promise.all([sink.stop(), standby.stop()]);
  await other.end();
  await assertEqual(pipeline);
  await assertOnce();
});

Deno.test("a successor of a killed sink waits for no lease, one of a sink that lives does", async () => {
  await using pipeline = await testPipeline({ write_behind: { lease_seconds: 30 } });
  const { redis, pool, config } = pipeline;
  const file = await configFile({ write_behind: { lease_seconds: 30 } });
  const start = () => startTask(["sink", "--config", file], environmentOf(config));
  const rows = (size: number, deadlineMs: number) =>
    waitFor(async () => (await rowsOf(pipeline)).size === size, {
      what: `${size} rows`,
      deadlineMs,
    });
  await insertDocument(redis, config, "session", { n: 0 }, "a");
  await using first = start();
  await rows(1, 20_000);

  // Its session alone is cut: it takes another one, and the standby goes on waiting.
  await using standby = await connectPostgres(config);
  await using second = consumePeriodically(redis, standby, config, "session");
  await waitFor(() => second.status.partitions[0]!.state === "standby", { what: "the standby" });
  const before = (await owner(pipeline))!;
  const key = async () =>
    (await pool.query<{ key: string }>(
      "SELECT session_key AS key FROM writebehind_lease WHERE stream = $1",
      [STREAM],
    )).rows[0]!.key;
  const cut = await key();
  await pool.query(
    `SELECT pg_terminate_backend(pid) FROM pg_locks
      WHERE locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = $1::bigint`,
    [cut],
  );
  await waitFor(async () => await key() !== cut, { what: "another session", deadlineMs: 2000 });
  assert.deepEqual(await owner(pipeline), before);

  first.kill("SIGKILL");
  await insertDocument(redis, config, "session", { n: 0 }, "b");
  await rows(2, 2000);
  assert.equal(second.status.partitions[0]!.state, "owner");

  // A lease whose owner has no such session, as older versions write it, holds as long as it says.
  await second.stop();
  await pool.query(
    `UPDATE writebehind_lease SET owner = 'older', epoch = epoch + 1, session_key = 1,
            lease_until = clock_timestamp() + interval '2 seconds'`,
  );
  await using third = consumePeriodically(redis, pool, config, "session");
  await waitFor(() => third.status.partitions[0]!.state === "standby", { what: "the third sink" });
  await insertDocument(redis, config, "session", { n: 0 }, "c");
  await rows(3, 5000);
});

Deno.test("a sink whose terminal is closed is replaced at once", async () => {
  await using pipeline = await testPipeline({ write_behind: { lease_seconds: 30 } });
  const { redis, pool, config } = pipeline;
  const file = await configFile({ write_behind: { lease_seconds: 30 } });
  await using first = startTask(["sink", "--config", file], environmentOf(config));
  await insertDocument(redis, config, "session", { n: 0 }, "a");
  const rows = (size: number, deadlineMs: number) =>
    waitFor(async () => (await rowsOf(pipeline)).size === size, {
      what: `${size} rows`,
      deadlineMs,
    });
  await rows(1, 20_000);
  first.kill("SIGHUP");
  await first.status;
  await insertDocument(redis, config, "session", { n: 0 }, "b");
  await using _second = consumePeriodically(redis, pool, config, "session");
  await rows(2, 5000);
});

Deno.test("a lease that was granted while the clock was an hour ahead keeps nobody out", async () => {
  await using pipeline = await testPipeline({ write_behind: { lease_seconds: LEASE_SECONDS } });
  const { redis, pool, config } = pipeline;
  await insertDocument(redis, config, "session", { n: 0 }, "a");
  await pool.query(
    `INSERT INTO writebehind_lease
     VALUES ('stream:session', 'gone', 1, clock_timestamp() + interval '1 hour', 1, now())`,
  );
  await using sink = consumePeriodically(redis, pool, config, "session");
  await waitFor(async () => (await rowsOf(pipeline)).size === 1, { what: "the row" });
  await sink.stop();
});

Deno.test("status says at once that a killed sink owns nothing, long before its lease ends", async () => {
  await using pipeline = await testPipeline({ write_behind: { lease_seconds: 30 } });
  const { redis, pool, config } = pipeline;
  const file = await configFile({ write_behind: { lease_seconds: 30 } });
  const status = async () => (await readStatus(redis, pool, config, "session"))[0]!;
  await using sink = startTask(["sink", "--config", file], environmentOf(config));
  await insertDocument(redis, config, "session", { n: 0 }, "a");
  await waitFor(async () => (await rowsOf(pipeline)).size === 1, {
    what: "the sink",
    deadlineMs: 20_000,
  });
  const owned = await status();
  assert(owned.owner !== null && owned.leaseSeconds! > 15, Deno.inspect(owned));
  // What it waits for does not keep it: its batch's session may live on.
  await using outside = await pool.connect().then((client) => ({
    client,
    [Symbol.asyncDispose]: async () => {
      await client.query("ROLLBACK");
      client.release();
    },
  }));
  await outside.client.query("BEGIN; LOCK TABLE sessions IN SHARE MODE");
  await insertDocument(redis, config, "session", { n: 0 }, "b");
  await waitFor(async () => (await status()).warnings.length > 0, { what: "the batch to wait" });
  sink.kill("SIGKILL");
  await sink.status;
  const left = async () =>
    (await pool.query<{ left: number }>(
      "SELECT extract(epoch FROM lease_until - clock_timestamp())::float8 AS left FROM writebehind_lease WHERE stream = $1",
      [STREAM],
    )).rows[0]!.left;
  await waitFor(async () => (await status()).owner === null, {
    what: "status to say so",
    deadlineMs: 1000,
  });
  assert(await left() > 15, "the lease has ended by itself");
  const task = startTask(["status", "--config", file], environmentOf(config));
  await task.status;
  assert.match(task.output(), / \| owner none \| /);
  const sampler = await readFigures(redis, pool, config, "session");
  assert.equal(sampler.partitions[0]!.owner, null);

  // One that was granted while the clock was ahead is believed by nobody, one of an older version as long as it says.
  await pool.query(
    `UPDATE writebehind_lease SET session_key = NULL, lease_until = now() + interval '1 hour'`,
  );
  assert.equal((await status()).owner, null);
  await pool.query(
    `ALTER TABLE writebehind_lease DROP session_key, DROP session_epoch, DROP granted_seconds`,
  );
  assert((await status()).leaseSeconds! > 3500);
});
