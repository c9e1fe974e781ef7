/**
 * PgBouncer between a sink and PostgreSQL, with a server's session for each client and for each transaction: batches
 * are applied once, a sink that was killed is followed when its lease ends, and a batch that is long is left alone.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { type Config, insertDocument, updateDocument, verify } from "writebehind";
import { killSink, startSink } from "../faults/sinks.ts";
import { freePort } from "writebehind/dev/servers/processes.ts";
import type { RunningCommand } from "../support/processes.ts";
import { type Pipeline, testPipeline } from "../support/pipeline.ts";
import { isInstalled } from "../support/programs.ts";
import { testFolder, waitFor } from "../support/servers.ts";

const MODES = ["session", "transaction"] as const;

/** A PgBouncer in front of the pipeline's PostgreSQL; ended at the end of the scope. */
async function pgbouncer({ config }: Pipeline, mode: typeof MODES[number]) {
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
default_pool_size = ${mode === "session" ? 20 : 1}
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
  return {
    port: own,
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
    await using pooler = await pgbouncer(pipeline, mode);
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
