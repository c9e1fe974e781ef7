/**
 * PgBouncer between a sink and PostgreSQL, with a server's session for each client and for each transaction: batches
 * are applied once, a sink that was killed is followed when its lease ends, and a batch that is long is left alone,
 * whichever of the server's connections it goes by.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import pg from "pg";
import {
  type Config,
  connectPostgres,
  insertDocument,
  openTarget,
  readStatus,
  RedisWriteBehind,
  updateDocument,
  verify,
} from "writebehind";
import { keepLedger, noted } from "../faults/ledger.ts";
import { killSink, startSink } from "../faults/sinks.ts";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import type { RunningCommand } from "../support/processes.ts";
import { type Pipeline, testPipeline } from "../support/pipeline.ts";
import { isInstalled } from "../support/programs.ts";
import { testFolder, waitFor } from "../support/servers.ts";

const MODES = ["session", "transaction"] as const;

/** A PgBouncer in front of the pipeline's PostgreSQL; ended at the end of the scope. */
async function pgbouncer(
  { config }: Pipeline,
  mode: typeof MODES[number],
  settings: Record<string, number>,
) {
  const { host, port, user, password, database } = config.postgresql;
  const dir = testFolder("pgbouncer");
  await Deno.mkdir(dir);
  const own = freePort();
  await Deno.writeTextFile(join(dir, "users.txt"), `"${user}" "${password}"\n`);
  await Deno.writeTextFile(
    join(dir, "pgbouncer.ini"),
    `[databases]
${database} = host=${host} port=${port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${own}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${join(dir, "users.txt")}
pool_mode = ${mode}
${Object.entries(settings).map(([key, value]) => `${key} = ${value}`).join("\n")}
ignore_startup_parameters = extra_float_digits
server_login_retry = 1
`,
  );
  // It refuses to run as root.
  const account = Deno.uid() === 0 ? { uid: 65534, gid: 65534 } : null;
  if (account) {
    const { uid, gid } = account;
    await Deno.chown(dir, uid, gid);
    for await (const { name } of Deno.readDir(dir)) await Deno.chown(join(dir, name), uid, gid);
  }
  const child = new Deno.Command("pgbouncer", {
    args: [join(dir, "pgbouncer.ini")],
    cwd: dir,
    ...account,
    stdout: "null",
    stderr: "null",
  }).spawn();
  const ended = child.status;
  const address = { host: "127.0.0.1", port: own };
  const answers = async () => {
    using _ = await Deno.connect({ hostname: address.host, port: own });
    return true;
  };
  await waitFor(answers, { what: "PgBouncer to listen" });
  return {
    ...address,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

async function assertEqual({ redis, pool, config }: Pipeline) {
  const report = await verify(redis, pool, config, "session");
  assert.deepEqual(report.mismatches, []);
  return report.documents;
}

async function offsetReaches({ pool }: Pipeline, events: number, sink: RunningCommand) {
  await waitFor(
    async () => {
      const { rows } = await pool.query(
        "SELECT sum(events)::int AS events FROM writebehind_offset",
      );
      return rows[0].events >= events;
    },
    { what: `${events} events applied`, deadlineMs: 30_000 },
  ).catch((error) => {
    throw new Error(`${error.message}; the sink said:\n${sink.output()}`);
  });
}

for (const mode of MODES) {
  const name = `behind PgBouncer, a session a ${mode === "session" ? "client" : mode}`;
  Deno.test({ name, ignore: !isInstalled("pgbouncer") }, async () => {
    await using pipeline = await testPipeline();
    const { redis, config } = pipeline;
    const default_pool_size = mode === "session" ? 20 : 1;
    await using pooler = await pgbouncer(pipeline, mode, { default_pool_size });
    const pooled: Config = pipeline.with({ postgresql: { port: pooler.port } });
    const write = (from: number, count: number) =>
      Promise.all(
        Array.from({ length: count }, async (_, index) => {
          const id = `d${from + index}`;
          await insertDocument(redis, config, "session", { n: index }, id);
          await updateDocument(redis, config, "session", id, { n: -index });
        }),
      );
    {
      await using sink = await startSink(pooled);
      await write(0, 500);
      await offsetReaches(pipeline, 1000, sink);
      await write(500, 500);
      await killSink(sink);
    }
    {
      await using sink = await startSink(pooled);
      await offsetReaches(pipeline, 2000, sink);
      assert.equal(await assertEqual(pipeline), 1000);
      // Longer than the lease: nobody may take the batch's session for somebody else's.
      const holder = await pipeline.pool.connect();
      try {
        await holder.query("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE");
        await write(1000, 100);
        await waitFor(async () => {
          const { rows } = await pipeline.pool.query(
            `SELECT count(*)::int AS n FROM pg_locks
              WHERE NOT granted AND clock_timestamp() - waitstart > interval '1200 ms'`,
          );
          return rows[0].n > 0;
        }, { what: "a batch that waits", deadlineMs: 10_000 });
      } finally {
        await holder.query("COMMIT");
        holder.release();
      }
      await offsetReaches(pipeline, 2200, sink);
      assert.equal(await assertEqual(pipeline), 1100);
      sink.kill("SIGTERM");
      assert.equal((await sink.status).code, 0);
    }
  });
}

/** A sink in this process behind a pooler that gives each transaction any of several connections, and changes them. */
async function pooledSink(pipeline: Pipeline) {
  await using stack = new AsyncDisposableStack();
  const pooler = stack.use(
    await pgbouncer(pipeline, "transaction", { default_pool_size: 10, server_lifetime: 1 }),
  );
  const proxy = stack.use(await TcpProxy.start(pooler));
  const config = pipeline.with({
    postgresql: { port: proxy.port, application_name: "behind the pooler" },
  });
  const pool = stack.use(await connectPostgres(config));
  const sink = stack.use(new RedisWriteBehind(pipeline.redis, pool, config, "session"));
  const failures: string[] = [];
  sink.events.on("failed", ({ error }) => failures.push(error.message));
  await keepLedger(pipeline);
  sink.start();
  await waitFor(() => sink.status.partitions.every(({ state }) => state === "owner"), {
    what: "the claims",
  });
  const owned = stack.move();
  return { config, sink, proxy, failures, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The pooler has closed each of the server's connections that it has now. */
async function connectionsChange({ pool }: Pipeline) {
  const processes = async () => {
    const { rows } = await pool.query<{ pid: number }>(
      "SELECT pid FROM pg_stat_activity WHERE application_name = 'behind the pooler'",
    );
    return new Set(rows.map(({ pid }) => pid));
  };
  const before = await processes();
  await waitFor(async () => before.isDisjointFrom(await processes()), {
    what: "other connections of the pooler",
  });
}

/** Locks the table; the lock is given back at the end of the scope. */
async function lockTable({ pool }: Pipeline) {
  const holder = await pool.connect();
  await holder.query("SET application_name = 'a visitor'; BEGIN; LOCK TABLE sessions");
  return {
    /** A batch has waited for the lock for so long. */
    keepsWaiting: (seconds: number) =>
      waitFor(async () => {
        const { rows } = await pool.query(
          `SELECT FROM pg_locks WHERE relation = 'sessions'::regclass AND NOT granted
              AND clock_timestamp() - waitstart > make_interval(secs => $1)`,
          [seconds],
        );
        return rows.length > 0;
      }, { what: "a batch that waits" }),
    [Symbol.asyncDispose]: async () => {
      await holder.query("COMMIT; RESET application_name");
      holder.release();
    },
  };
}

const LEASE_SECONDS = 0.5;

const behindPooler = (name: string, test: (pipeline: Pipeline) => Promise<void>) =>
  Deno.test({
    name: `behind PgBouncer, a session a transaction, ${name}`,
    ignore: !isInstalled("pgbouncer"),
  }, async () => {
    await using pipeline = await testPipeline({
      streams: { partitions: 4 },
      write_behind: { lease_seconds: LEASE_SECONDS },
    });
    await test(pipeline);
  });

behindPooler("a batch outlives its lease on a connection that is new", async (pipeline) => {
  const { redis, pool, config } = pipeline;
  await using pooled = await pooledSink(pipeline);
  await connectionsChange(pipeline);
  {
    await using lock = await lockTable(pipeline);
    await insertDocument(redis, config, "session", { n: 1 }, "a");
    await lock.keepsWaiting(4 * LEASE_SECONDS);
    const warnings = (await readStatus(redis, pool, config, "session"))
      .flatMap(({ warnings }) => warnings);
    assert.match(warnings.join(), /^the batch waits for a lock of process \d+ \(a visitor, /);
  }
  await waitFor(() => pooled.sink.status.events === 1, { what: "the event" });
  assert.deepEqual(pooled.failures, []);
  assert.equal(await assertEqual(pipeline), 1);
  assert.deepEqual(await noted(pipeline), { twice: 0, outOfOrder: 0 });
});

behindPooler("a batch whose connection died without a word is given up", async (pipeline) => {
  const { redis, config } = pipeline;
  await using pooled = await pooledSink(pipeline);
  {
    await using lock = await lockTable(pipeline);
    await insertDocument(redis, config, "session", { n: 1 }, "a");
    await lock.keepsWaiting(0);
    pooled.proxy.vanish();
  }
  await updateDocument(redis, config, "session", "a", { n: 2 });
  await waitFor(() => pooled.sink.status.events === 1, {
    what: "the second event",
    deadlineMs: 30_000,
  });
  assert.equal(await assertEqual(pipeline), 1);
  assert.deepEqual(await noted(pipeline), { twice: 0, outOfOrder: 0 });
});

behindPooler("connections must begin with what a batch relies on", async (pipeline) => {
  const { pool, config: { postgresql: { user, database } } } = pipeline;
  await using pooler = await pgbouncer(pipeline, "transaction", { default_pool_size: 10 });
  const pooled = (more = {}) =>
    connectPostgres(pipeline.with({ postgresql: { port: pooler.port, ...more } }));
  const role = `ALTER ROLE "${user}" IN DATABASE "${database}"`;
  await pool.query(`${role} SET synchronous_commit = off; ${role} SET bytea_output = escape`);
  try {
    await assert.rejects(
      pooled(),
      /^ConnectionError: Cannot use PostgreSQL at .*: behind a pooler .* bytea_output = escape: ALTER ROLE .* SET bytea_output = hex; then let the pooler/,
    );
    await pool.query(`${role} RESET bytea_output`);
    await using again = await pgbouncer(pipeline, "transaction", { default_pool_size: 10 });
    const config = pipeline.with({ postgresql: { port: again.port } });
    // Who only looks on does without.
    await using own = await connectPostgres(config);
    await using sink = new RedisWriteBehind(pipeline.redis, own, config, "session");
    await assert.rejects(
      sink.drain(),
      /^ConfigError: behind a pooler .* synchronous_commit = off: ALTER ROLE .* SET synchronous_commit = on; then let the pooler/,
    );
  } finally {
    await pool.query(`${role} RESET synchronous_commit; ${role} RESET bytea_output`);
  }
  await pool.query("CREATE SCHEMA app");
  await using other = await pgbouncer(pipeline, "transaction", { default_pool_size: 10 });
  const inSchema = () =>
    connectPostgres(pipeline.with({ postgresql: { port: other.port, schema: "app" } }));
  await assert.rejects(
    inSchema(),
    /behind a pooler no search path .*: ALTER ROLE .* SET search_path = app; then/,
  );
  await pool.query(`${role} SET search_path = app`);
  try {
    await using third = await pgbouncer(pipeline, "transaction", { default_pool_size: 10 });
    await using well = await connectPostgres(
      pipeline.with({ postgresql: { port: third.port, schema: "app" } }),
    );
    const { rows } = await well.query("SELECT current_schema() AS schema");
    assert.deepEqual(rows, [{ schema: "app" }]);
  } finally {
    await pool.query(`${role} RESET search_path; DROP SCHEMA app`);
  }
});

behindPooler("nothing is left to the pooler's other clients", async (pipeline) => {
  const { redis, config } = pipeline;
  await using pooler = await pgbouncer(pipeline, "transaction", { default_pool_size: 1 });
  const pooled = pipeline.with({ postgresql: { port: pooler.port } });
  await using pool = await connectPostgres(pooled);
  await using sink = new RedisWriteBehind(redis, pool, pooled, "session");
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await sink.drain();
  const { host, port, user, password, database } = pooled.postgresql;
  const other = new pg.Pool({ host, port, user, password: password!, database, max: 1 });
  const { rows } = await other.query(
    `SELECT name, setting FROM pg_settings
      WHERE name IN ('enable_seqscan', 'row_security', 'idle_session_timeout') AND setting <> reset_val`,
  );
  await other.end();
  assert.deepEqual(rows, []);
});

behindPooler("no batch or look misses what another connection has prepared", async (pipeline) => {
  const { redis, config } = pipeline;
  await using pooled = await pooledSink(pipeline);
  await using target = await openTarget(pooled.config);
  const [keys] = allPartitions(config, "session");
  const ids = Array.from({ length: 40 }, (_, n) => `d${n}`);
  const write = (n: number) =>
    Promise.all(
      ids.map((id) => insertDocument(redis, config, "session", { n }, id, { overwrite: true })),
    );
  for (let n = 1; n <= 5; n++) {
    await write(n);
    await waitFor(() => pooled.sink.status.events === n * ids.length, { what: `round ${n}` });
    for (const looked of [ids, ids.slice(0, 1)]) {
      const { rows } = await target.rows!.at(keys!, looked);
      assert(rows.every((row) => row !== null));
    }
    await connectionsChange(pipeline);
  }
  assert.deepEqual(pooled.failures, []);
  assert.equal(await assertEqual(pipeline), ids.length);
});
