import assert from "node:assert/strict";
import pg from "pg";
import {
  configWith,
  connectPostgres,
  insertDocument,
  openTarget,
  parseConfig,
  RedisWriteBehind,
} from "writebehind";
import { allPartitions, type PartitionKeys } from "writebehind/redis/keys.ts";
import { OwnerSession } from "writebehind/targets/postgres/owner_session.ts";
import { largeAtOnce, Sessions } from "writebehind/targets/postgres/sessions.ts";
import { PostgresTarget } from "writebehind/targets/postgres/target.ts";
import { type Claim, OwnershipLostError } from "writebehind/targets/target.ts";
import { assertEqual, type Pipeline, testPipeline } from "../../support/pipeline.ts";
import { testDatabase, testPostgres, waitFor } from "../../support/servers.ts";

/** By which of the server's processes a query ran, and when. */
interface Ran {
  pid: number;
  since: Date;
  until: Date;
}

Deno.test("PostgreSQL: a session that is closed while it is opened gives its connection back", async () => {
  await using postgres = await testPostgres();
  await using database = await testDatabase(postgres);
  const { host, port, user, password } = postgres;
  const config = configWith(parseConfig("", "test.yaml"), {
    postgresql: { host, port, user, password, database: database.name },
  });
  const pool = await connectPostgres(config);
  const [keys] = allPartitions(config, "session");

  const owner = new OwnerSession(pool, () => {});
  const key = owner.key();
  owner.close();
  assert.equal(await key, null);
  assert.notEqual(await owner.key(), null, "it can be opened again");
  owner.close();

  const sessions = new Sessions(pool, 1, ["session"]);
  const query = sessions.query(keys!, { name: "one", text: "SELECT 1", values: [] });
  await waitFor(() => pool.totalCount > pool.idleCount, { what: "a connection that is opened" });
  sessions.close();
  await query.catch(() => {}); // it may come before the end of its connection

  // A connection that nobody gives back would keep the pool from ever ending.
  let ended = false;
  void pool.end().then(() => ended = true);
  await waitFor(() => ended, { what: "the end of the pool", deadlineMs: 10_000 });
});

Deno.test("PostgreSQL: many partitions share a few connections, each in its own order", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 40 } });
  const { pool, config } = pipeline;
  const sessions = new Sessions(pool, 3, ["session"]);
  const partitions = allPartitions(config, "session");
  const ask = (keys: PartitionKeys, n: number) =>
    sessions.query<{ pid: number; n: number }>(keys, {
      name: "",
      text: "SELECT pg_backend_pid() AS pid, $1::int AS n FROM pg_sleep(0.005 * (1 - $1 % 2))",
      values: [n],
    });
  const answers: number[][] = partitions.map(() => []);
  const pids = new Set<number>();
  await Promise.all(partitions.flatMap((keys, index) =>
    [1, 2, 3, 4].map(async (n) => {
      const { rows: [row] } = await ask(keys, n);
      answers[index]!.push(row!.n);
      pids.add(row!.pid);
    })
  ));
  assert.deepEqual(answers, partitions.map(() => [1, 2, 3, 4]));
  assert.equal(pids.size, 3);

  // Those that are lost are replaced, also where others wait for one.
  const ended = partitions.map((keys) =>
    sessions.query(keys, {
      name: "",
      text: "SELECT pg_terminate_backend(pg_backend_pid())",
      values: [],
    })
      .then(() => null, (error) => error)
  );
  for (const error of await Promise.all(ended)) assert(error instanceof Error);
  assert.equal((await ask(partitions[0]!, 1)).rows[0]!.n, 1);
  sessions.close();
});

/** Four sessions, and large batches of partitions, as many of which as may wait at a lock until it is given back. */
async function heldUp({ pool }: Pipeline, partitions: PartitionKeys[]) {
  const sessions = new Sessions(pool, 4, ["session"]);
  const holder = await pool.connect();
  await using stack = new AsyncDisposableStack();
  stack.defer(() => {
    holder.release(true);
    sessions.close();
  });
  await holder.query("SELECT pg_advisory_lock(7)");
  const large = Promise.allSettled(partitions.map((keys) =>
    sessions.query(keys, {
      name: "",
      text: "SELECT pg_advisory_xact_lock_shared(7)",
      values: [],
      bytes: 1_000_000,
    })
  ));
  const waiting = async () => {
    const { rows: [row] } = await holder.query<{ count: number }>(
      "SELECT count(*)::int AS count FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
    );
    return row!.count;
  };
  await waitFor(async () => await waiting() === largeAtOnce(4), { what: "large ones" });
  /** @returns what became of the large ones */
  const goOn = async () => {
    await holder.query("SELECT pg_advisory_unlock(7)");
    return (await large).map(({ status }) => status);
  };
  const owned = stack.move();
  return { sessions, waiting, goOn, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

Deno.test("PostgreSQL: what is sent behind a query goes by its session, and the partition's next one waits for it", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 2 } });
  const sessions = new Sessions(pipeline.pool, 3, ["session"]);
  const [keys, other] = allPartitions(pipeline.config, "session");
  const query = (seconds: number) => ({
    name: "",
    text:
      `SELECT pg_backend_pid() AS pid, statement_timestamp() AS since, clock_timestamp() AS until
             FROM pg_sleep($1)`,
    values: [seconds],
  });
  try {
    assert.equal(sessions.queryBehind(keys!, query(0)), null, "nothing is under way");
    const first = sessions.query<Ran>(keys!, query(0.1));
    await waitFor(() => sessions.underWay(keys!), { what: "the first query" });
    const behind = sessions.queryBehind<Ran>(keys!, query(0.3))!;
    const [begun] = (await first).rows;
    const next = sessions.query<Ran>(keys!, query(0));
    const elsewhere = sessions.query<Ran>(other!, query(0));
    const [[sent], [last], [free]] = [
      (await behind)!.rows,
      (await next).rows,
      (await elsewhere).rows,
    ];
    assert.equal(sent!.pid, begun!.pid);
    assert(last!.since >= sent!.until);
    assert(free!.since < sent!.until, "no other partition waits");
  } finally {
    sessions.close();
  }
});

Deno.test("PostgreSQL: large batches leave a connection to small ones", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 6 } });
  const [small, ...partitions] = allPartitions(pipeline.config, "session");
  await using held = await heldUp(pipeline, partitions);
  const { sessions, waiting, goOn } = held;
  for (let n = 0; n < 3; n++) {
    await sessions.query(small!, { name: "", text: "SELECT 1", values: [], bytes: 1000 });
  }
  assert.equal(await waiting(), largeAtOnce(4));
  assert.deepEqual(await goOn(), partitions.map(() => "fulfilled"));
});

Deno.test("PostgreSQL: as many large batches are under way as there are processors, and two", () => {
  const cases = [[1, 8], [2, 1], [3, 2], [3, 8], [4, 1], [4, 2], [4, 3], [4, 64], [16, 8]] as const;
  const expected = [1, 2, 2, 3, 2, 2, 3, 3, 8];
  assert.deepEqual(cases.map(([most, processors]) => largeAtOnce(most, processors)), expected);
});

Deno.test("PostgreSQL: a large batch that waits when all are closed opens no session", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 6 } });
  const { pool, config } = pipeline;
  const partitions = allPartitions(config, "session");
  await using held = await heldUp(pipeline, partitions);
  held.sessions.close();
  assert.deepEqual(await held.goOn(), partitions.map(() => "rejected"));
  assert.equal(pool.totalCount - pool.idleCount, 1, "the holder alone");
});

Deno.test("PostgreSQL: one statement renews the leases of all, and waits for none that is locked", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 3 } });
  const { pool, config } = pipeline;
  await using target = await openTarget(config);
  const claims: Claim[] = [];
  for (const keys of allPartitions(config, "session")) {
    claims.push((await target.ownership.claim(keys, "one", 8))!);
  }
  const [first, second, third] = claims as [Claim, Claim, Claim];
  await pool.query("UPDATE writebehind_lease SET lease_until = now() + interval '1 second'");
  const left = async () => {
    const { rows } = await pool.query<{ left: number }>(
      "SELECT extract(epoch FROM lease_until - now())::float8 AS left FROM writebehind_lease ORDER BY stream",
    );
    return rows.map(({ left }) => left > 2);
  };
  const connection = await pool.connect();
  try {
    await connection.query("BEGIN");
    await connection.query("SELECT FROM writebehind_lease WHERE stream = $1 FOR UPDATE", [
      second.keys.stream,
    ]);
    await target.ownership.renew(first, 8);
    assert.deepEqual(await left(), [true, false, true]);
    await target.ownership.renew(third, 8);
    // Its own heartbeat waits for it.
    const renewed = target.ownership.renew(second, 8);
    await connection.query("COMMIT");
    await renewed;
    assert.deepEqual(await left(), [true, true, true]);
  } finally {
    connection.release();
  }
  // Of one that was taken by another, only its own heartbeat tells.
  await pool.query(
    "UPDATE writebehind_lease SET epoch = epoch + 1, owner = 'two' WHERE stream = $1",
    [
      second.keys.stream,
    ],
  );
  await assert.rejects(target.ownership.renew({ ...second }, 8), OwnershipLostError);
  await target.ownership.renew({ ...first }, 8);
});

Deno.test("PostgreSQL: a sink of many partitions holds a few connections, and none once it is stopped", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 32 } });
  const { redis, config } = pipeline;
  await using pool = await connectPostgres(config);
  const sink = new RedisWriteBehind(redis, pool, config, "session");
  sink.start();
  const written = Array.from(
    { length: 900 },
    (_, n) => insertDocument(redis, config, "session", { n }, `${n}`),
  );
  await Promise.all(written);
  await waitFor(() => sink.status.events === 900, { what: "all events", deadlineMs: 60_000 });
  // Besides those for batches, the one that holds the leases, and a query.
  const held = () => pool.totalCount - pool.idleCount;
  assert(held() <= config.write_behind.connections + 2, `${held()} connections`);
  await sink.stop();
  assert.equal(held(), 0);
  await assertEqual(pipeline);
});

Deno.test("PostgreSQL: a renewal that comes behind the release opens no session", async () => {
  await using pipeline = await testPipeline();
  const { pool, config } = pipeline;
  await using target = new PostgresTarget(pool, config, { name: "postgresql" });
  const [keys] = allPartitions(config, "session");
  const claim = (await target.ownership.claim(keys!, "one", 8))!;
  await target.ownership.release(keys!, claim);
  await assert.rejects(target.ownership.renew(claim, 8), OwnershipLostError);
  // The release has not arrived, or was overtaken.
  await pool.query("UPDATE writebehind_lease SET lease_until = now() + interval '1 minute'");
  await target.ownership.renew(claim, 8);
  assert.equal(pool.totalCount - pool.idleCount, 0);
});

Deno.test("PostgreSQL: a pool that is too small for a sink is refused, not waited for", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 4 } });
  const { redis, config } = pipeline;
  const { host, port, user, password, database } = config.postgresql;
  const login = { host, port, user, database, ...(password === null ? {} : { password }) };
  const pool = new pg.Pool({ ...login, max: 5 });
  try {
    const sink = new RedisWriteBehind(redis, pool, config, "session");
    await assert.rejects(
      sink.drain(),
      /the pool may have 5 connections, and a sink needs 6: .*write_behind\.connections/,
    );
    const narrower = pipeline.with({ write_behind: { connections: 3 } });
    await new RedisWriteBehind(redis, pool, narrower, "session").drain();
    // The sinks of other entities may share the pool.
    const customer = { name: "customer", table: "customers", index_name: "idx:customers" };
    const entities = [...config.entities, { ...config.entities[0]!, ...customer }];
    const two = new RedisWriteBehind(redis, pool, pipeline.with({ entities }), "session");
    await assert.rejects(two.drain(), /needs 10: 8 for batches of 2 entities, one for its leases/);
  } finally {
    await pool.end();
  }
});
