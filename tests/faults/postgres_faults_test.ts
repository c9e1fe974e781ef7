import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import type { PoolClient } from "pg";
import {
  caughtUp,
  configWith,
  connectPostgres,
  connectRedis,
  consumePeriodically,
  insertDocument,
  type RedisWriteBehind,
  seededRandom,
  updateDocument,
} from "writebehind";
import { below } from "writebehind/core/random.ts";
import { produce } from "writebehind/notebook/original.ts";
import { type PostgresServer, startPostgres } from "writebehind/dev/servers/postgres.ts";
import {
  documentsOf,
  type Pipeline,
  reset,
  rowsOf,
  sorted,
  testPipeline,
} from "../support/pipeline.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { asOwner, waitFor } from "../support/servers.ts";
import { Author } from "./author.ts";
import { assertExact, clearLedger, judge, keepLedger } from "./ledger.ts";
import { withSeed } from "./seed.ts";
import { drain } from "./sinks.ts";

const pipeline = await testPipeline({
  write_behind: { lease_seconds: 1, batch_size: 50, retry_max_ms: 50 },
});
await keepLedger(pipeline);
/** The server that runs now, where it was started again. */
let restarted: PostgresServer | undefined;
Deno.test.afterAll(async () => {
  await pipeline[Symbol.asyncDispose]();
  await restarted?.stop("immediate");
});

const EXACT = { lost: 0, twice: 0, outOfOrder: 0 };

async function fresh(random = seededRandom(3)): Promise<Author> {
  await reset(pipeline);
  await clearLedger(pipeline);
  const { redis, config } = pipeline;
  return new Author(redis, config, { random, paceMs: 2 });
}

const caught = ({ redis, pool, config }: Pipeline) =>
  caughtUp(redis, pool, config, "session", { deadlineMs: 20_000 });

/** A sink in this process with connections of its own. */
async function ownSink({ redis, config }: Pipeline) {
  const pool = await connectPostgres(config);
  const sink = consumePeriodically(redis, pool, config, "session");
  return {
    sink,
    [Symbol.asyncDispose]: async () => {
      await sink.stop();
      await pool.end();
    },
  };
}

/** Traffic while `faults` does its worst; then all of it has to be there, by the same sink. */
async function underTraffic(author: Author, faults: () => Promise<void>): Promise<void> {
  await using own = await ownSink(pipeline);
  const writing = author.start();
  try {
    await faults();
  } finally {
    await writing.stop();
  }
  await caught(pipeline);
  await waitFor(() => own.sink.lastError === null, { what: "the sink to be well" });
}

/** Waits until a batch's statement waits for a lock. */
function batchWaits() {
  return waitFor(async () => {
    const { rows } = await pipeline.pool.query(
      `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%moved AS%'
          AND datname = current_database()`,
    );
    return rows.length > 0;
  }, { what: "the batch to wait for the lock" });
}

/** A connection with an open transaction, rolled back at the end of the scope. */
async function outside(begin: string): Promise<PoolClient & AsyncDisposable> {
  const client = await pipeline.pool.connect();
  await client.query(begin);
  return Object.assign(client, {
    [Symbol.asyncDispose]: async () => {
      await client.query("ROLLBACK");
      client.release();
    },
  });
}

/** Waits until the sink has failed for this reason. */
const failedWith = (sink: RedisWriteBehind, reason: RegExp, state?: string) =>
  waitFor(() => {
    const [partition] = sink.status.partitions;
    return reason.test(partition!.lastError ?? "") &&
      (state ?? partition!.state) === partition!.state;
  }, { what: `the failure ${reason}` });

Deno.test("PostgreSQL stopped in the middle (immediate) and started again, three times", () =>
  withSeed(async (random) => {
    const author = await fresh(random);
    const { dir, port } = pipeline.servers.postgres;
    let server: PostgresServer = pipeline.servers.postgres;
    await underTraffic(author, async () => {
      for (let round = 0; round < 3; round++) {
        await delay(300 + 500 * random());
        await server.stop("immediate");
        await delay(300 * random());
        server = restarted = await startPostgres({ dir, port });
        assert.equal(server.port, port);
      }
      await delay(200);
    });
    await assertExact(pipeline, author);
  }));

Deno.test("backends terminated at random", () =>
  withSeed(async (random) => {
    const author = await fresh(random);
    await underTraffic(author, async () => {
      for (let round = 0; round < 30; round++) {
        await pipeline.pool.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()`,
        );
        await delay(60 * random());
      }
    });
    await assertExact(pipeline, author);
  }));

Deno.test("a table locked for 30 s, thirty leases: its live owner keeps the partition", async () => {
  const author = await fresh();
  await using owner = await ownSink(pipeline);
  await author.write({ calls: 20 });
  await caught(pipeline);
  await using standby = await ownSink(pipeline);
  await waitFor(() => standby.sink.status.partitions[0]!.state === "standby", {
    what: "the other sink to stand by",
  });
  const epoch = async () =>
    (await pipeline.pool.query("SELECT epoch FROM writebehind_lease WHERE stream LIKE 'stream:%'"))
      .rows[0].epoch;
  const before = await epoch();
  {
    await using _lock = await outside("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE");
    await author.write({ calls: 20 });
    await batchWaits();
    // How long the lock is held is the test, not a wait for anything.
    await delay(30_000);
    assert.equal(await epoch(), before);
  }
  await caught(pipeline);
  assert.equal(await epoch(), before);
  assert.equal(owner.sink.status.partitions[0]!.state, "owner");
  assert.equal(standby.sink.status.events, 0);
  await assertExact(pipeline, author);
});

Deno.test("a deadlock with an outside transaction: the batch is tried again", async () => {
  await fresh();
  const { redis, config, pool } = pipeline;
  for (const id of ["a", "b"]) await insertDocument(redis, config, "session", { n: 0 }, id);
  await drain(pipeline);
  const { postgres } = pipeline.servers;
  await asOwner(postgres, `GRANT SET ON PARAMETER deadlock_timeout TO ${postgres.user}`);
  await using other = await outside(
    "SET deadlock_timeout = '1min'; BEGIN; UPDATE sessions SET payload = '{}' WHERE id = 'b'",
  );
  for (const id of ["a", "b"]) await updateDocument(redis, config, "session", id, { n: 1 });
  await using own = await ownSink(pipeline);
  try {
    await batchWaits();
    const waiting = other.query("UPDATE sessions SET payload = '{}' WHERE id = 'a'");
    await failedWith(own.sink, /deadlock/, "retrying");
    await waiting;
  } finally {
    // A batch that waits cannot be stopped.
    await other.query("COMMIT; RESET deadlock_timeout");
  }
  await caught(pipeline);
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
  assert.deepEqual(await judge(pipeline), EXACT);
  assert.equal((await pool.query("SELECT FROM writebehind_dead_letter")).rowCount, 0);
});

Deno.test("statement_timeout: the batch is halved until it fits, and nothing is parked", async () => {
  const author = await fresh();
  const { pool } = pipeline;
  const { rows: [{ name }] } = await pool.query("SELECT current_database() AS name");
  await pool.query(`
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN PERFORM pg_sleep(0.02); RETURN new; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION slow();
    ALTER DATABASE ${name} SET statement_timeout = '300ms'`);
  try {
    await author.write({ calls: 100 });
    await using own = await ownSink(pipeline);
    await failedWith(own.sink, /statement timeout/, "retrying");
    await caught(pipeline);
  } finally {
    await pool.query(`
      DROP TRIGGER slow ON sessions; DROP FUNCTION slow; ALTER DATABASE ${name} RESET ALL`);
  }
  await assertExact(pipeline, author);
  const { rows: moves } = await pool.query("SELECT FROM ledger_moves");
  assert(moves.length > 4, `${moves.length} batches`);
  assert.equal((await pool.query("SELECT FROM writebehind_dead_letter")).rowCount, 0);
});

Deno.test("an outside writer changes and deletes the same rows", () =>
  withSeed(async (random) => {
    const author = await fresh(random);
    const { redis, config, pool } = pipeline;
    await underTraffic(author, async () => {
      for (let round = 0; round < 300; round++) {
        const ids = Array.from({ length: 5 }, () => `d${below(random, 40)}`);
        await pool.query(
          random() < 0.5
            ? "UPDATE sessions SET payload = '{\"outside\": 1}' WHERE id = ANY($1)"
            : "DELETE FROM sessions WHERE id = ANY($1)",
          [ids],
        ).catch((error) => assert.equal(error.code, "40P01"));
      }
    });
    assert.deepEqual(await judge(pipeline), EXACT);
    // What the outside has changed stays until the document's next event.
    for (const id of author.documents().keys()) {
      await updateDocument(redis, config, "session", id, { n: 0 });
    }
    await drain(pipeline);
    const rows = sorted(await rowsOf(pipeline));
    const documents = await documentsOf(pipeline);
    assert.deepEqual(rows, sorted(documents));
    assert.deepEqual([...documents.keys()].sort(), [...author.documents().keys()].sort());
  }));

Deno.test("a permission or password taken away pauses the sink, parks nothing, and it goes on by itself", async (t) => {
  const { redis, pool } = pipeline;
  await pool.query(`
    CREATE ROLE app LOGIN PASSWORD 'right';
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app`);
  const config = pipeline.with({ postgresql: { user: "app", password: "right" } });
  // Each a transaction of its own: a sink that connects again must find the change.
  const endSessions =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
  const changes: Record<string, [away: string[], back: string, reason: RegExp]> = {
    "permission": [
      ["REVOKE INSERT ON sessions FROM app"],
      "GRANT INSERT ON sessions TO app",
      /permission denied/,
    ],
    "password": [
      ["ALTER ROLE app PASSWORD 'other'", endSessions],
      "ALTER ROLE app PASSWORD 'right'",
      /password authentication failed/,
    ],
    // Sessions stay as they began, as those with a primary that was demoted do: the sink has to leave them.
    // A role's own default does not stop a sink; a server that is a standby by now answers with this code.
    "read-only server": [
      [`CREATE FUNCTION standby() RETURNS trigger LANGUAGE plpgsql AS $$
          BEGIN RAISE EXCEPTION 'in a read-only transaction' USING ERRCODE = '25006'; END $$;
        CREATE TRIGGER standby BEFORE INSERT ON sessions
          FOR EACH ROW EXECUTE FUNCTION standby();`],
      "DROP TRIGGER standby ON sessions; DROP FUNCTION standby",
      /read-only transaction/,
    ],
    "table": [
      ["ALTER TABLE sessions RENAME TO moved_away"],
      "ALTER TABLE moved_away RENAME TO sessions",
      /permission denied|does not exist/,
    ],
    ...Object.fromEntries(["53100", "58030"].map((code) => [
      `disk error ${code}, as the server reports it`,
      [
        [`CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '${code}'; END $$;
          CREATE TRIGGER full_disk BEFORE INSERT ON sessions
            FOR EACH ROW EXECUTE FUNCTION full_disk();`],
        "DROP TRIGGER full_disk ON sessions; DROP FUNCTION full_disk",
        /could not extend file/,
      ],
    ])),
  };
  try {
    for (const [what, [away, back, reason]] of Object.entries(changes)) {
      await t.step(what, async () => {
        const author = await fresh();
        await using own = await ownSink({ ...pipeline, config });
        await author.write({ calls: 20 });
        await caught(pipeline);
        for (const statement of away) await pool.query(statement);
        try {
          await author.write({ calls: 20 });
          await failedWith(own.sink, reason, "paused");
          await waitFor(() => own.sink.status.partitions[0]!.failuresInARow >= 3, {
            what: "more attempts",
          });
          assert.equal((await pool.query("SELECT FROM writebehind_dead_letter")).rowCount, 0);
          assert((await redis.xlen("stream:session")) >= 20, "nothing is trimmed");
        } finally {
          await pool.query(back);
        }
        await caught(pipeline);
        await waitFor(() => own.sink.lastError === null, { what: "the sink to be well" });
        await assertExact(pipeline, author);
      });
    }
  } finally {
    await pool.query("DROP OWNED BY app; DROP ROLE app");
  }
});

Deno.test("a successor that had to wait for its predecessor's parking knows what was parked", async () => {
  await fresh();
  const { redis, config, pool } = pipeline;
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await insertDocument(redis, config, "session", { n: 1 }, "b");
  await pool.query("INSERT INTO writebehind_offset (stream) VALUES ('stream:session')");
  const [[first]] = await redis.xrange("stream:session", "-", "+") as [[string, string[]]];
  await using predecessor = await outside("BEGIN");
  await predecessor.query(
    "UPDATE writebehind_offset SET last_id = $1, witness = $1, events = 1",
    [first],
  );
  await predecessor.query(
    `INSERT INTO writebehind_dead_letter
            (entity, stream, stream_id, doc_id, event_type, sqlstate, reason)
     VALUES ('session', 'stream:session', $1, 'a', 'insert', '', 'its predecessor parked it')`,
    [first],
  );
  await updateDocument(redis, config, "session", "a", { n: 2 });
  const draining = drain(pipeline);
  await waitFor(async () => {
    const { rows } = await pool.query(
      "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INTO writebehind_offset%'",
    );
    return rows.length > 0;
  }, { what: "the successor to wait" });
  await predecessor.query("COMMIT");
  await draining;
  assert.deepEqual([...(await rowsOf(pipeline)).keys()], ["b"], "a is behind its parked event");
});

Deno.test("poison is looked for among events without payload while the next batch is read: no reply is mixed up", async () => {
  await fresh();
  const { redis, config, pool, servers } = pipeline;
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");
  try {
    for (let n = 0; n < 150; n++) {
      await produce(redis, `d${n}`, "insert", n === 20 ? { n, bad: 1 } : { n });
    }
    await using proxy = await TcpProxy.start(servers.redis);
    // So slow that the batch's poison is found before the next batch is read.
    proxy.delay(60);
    const distant = configWith(config, { redis: { port: proxy.port } });
    await drain({ ...pipeline, config: distant });
  } finally {
    await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
  }
  const documents = await documentsOf(pipeline);
  documents.delete("d20");
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(documents));
  assert.deepEqual(await judge(pipeline), EXACT);
});

Deno.test("Redis is lost while a batch waits in PostgreSQL and the next is read: the sink lives on", async () => {
  const author = await fresh();
  await author.write({ calls: 200 });
  const { config, servers } = pipeline;
  await using proxy = await TcpProxy.start(servers.redis);
  await using redis = await connectRedis(configWith(config, { redis: { port: proxy.port } }));
  {
    await using _lock = await outside("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE");
    proxy.delay(150);
    await using own = await ownSink({
      ...pipeline,
      redis,
      config: configWith(config, { redis: { port: proxy.port } }),
    });
    await batchWaits();
    // The prefetch is under way, and fails long before the batch ends.
    proxy.resetAll();
    await proxy.heal();
    await redis.ping().catch(() => {});
    await _lock.query("ROLLBACK");
    await caught(pipeline);
    assert.equal(own.sink.status.partitions[0]!.state, "owner");
  }
  await assertExact(pipeline, author);
});
