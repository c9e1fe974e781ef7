import assert from "node:assert/strict";
import { deleteDocument, insertDocument, RedisWriteBehind, updateDocument } from "writebehind";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { documentsOf, rowsOf, sorted, testPipeline } from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

Deno.test("a sink killed in mid-drain and started again leaves the table equal to the documents", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  const env = environmentOf(config);
  await pool.query(`
    CREATE TABLE applied (id TEXT, version BIGINT, PRIMARY KEY (id, version));
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN INSERT INTO applied VALUES (new.id, new.version); RETURN new; END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION note();`);
  for (let n = 0; n < 20_000; n++) {
    const id = `d${n % 5000}`;
    if (n % 7 === 6) await deleteDocument(redis, config, "session", id).catch(() => {});
    else if (n < 5000) await insertDocument(redis, config, "session", { n }, id);
    else await updateDocument(redis, config, "session", id, { n }).catch(() => {});
  }
  const count = async () =>
    Number((await pool.query("SELECT count(*) FROM applied")).rows[0].count);
  const backlog = await redis.xlen("stream:session");
  {
    await using sink = startTask(["sink"], env);
    await waitFor(async () => await count() > 0, { what: "the first batch", deadlineMs: 20_000 });
    sink.kill("SIGKILL");
    await sink.status;
  }
  assert(await redis.xlen("stream:session") > 1, `killed in the middle of ${backlog} events`);
  await using second = new RedisWriteBehind(
    redis,
    pool,
    pipeline.with({
      write_behind: { batch_size: 500 },
    }),
    "session",
  );
  await second.drain();
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
});

Deno.test("the sink process says which servers, stops on SIGTERM with status 0, and hides passwords", async () => {
  await using pipeline = await testPipeline();
  const { redis, config, pool } = pipeline;
  await using sink = startTask(["sink", "--metrics", "127.0.0.1:0"], environmentOf(config));
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await waitFor(async () => (await rowsOf(pipeline)).size === 1, {
    what: "the row",
    deadlineMs: 20_000,
  });
  const metrics = sink.output().match(/metrics for Prometheus at (\S+)/)?.[1];
  assert.match(await (await fetch(metrics!)).text(), /^writebehind_lag_events\{.*\} 0$/m);
  sink.kill("SIGTERM");
  assert.equal((await sink.status).code, 0, sink.output());
  const [first] = sink.output().split("\n");
  assert.match(
    first!,
    /^Redis redis:\/\/127\.0\.0\.1:\d+ \(REDIS_URL\), PostgreSQL .*DATABASE_URL\)$/,
  );
  assert(!sink.output().includes(`:${config.postgresql.password}@`));
  assert.match(sink.output(), /1 event applied/);
  assert.match(
    sink.output(),
    /^stopping once [^]*^stopped: 1 event applied, 1 row; 0 events left for the next sink$/m,
  );
  const { rows: [lease] } = await pool.query(
    "SELECT bool_and(lease_until < now()) AS free FROM writebehind_lease",
  );
  assert.equal(lease.free, true, "the partition is given back, and its place among the sinks");
});

Deno.test("a sink that is stopped while Redis is away says that nobody knows what is left", async () => {
  await using pipeline = await testPipeline();
  const { host, port } = pipeline.config.redis;
  const proxy = await TcpProxy.start({ host, port });
  const config = pipeline.with({ redis: { port: proxy.port } });
  await using sink = startTask(["sink"], environmentOf(config));
  await insertDocument(pipeline.redis, config, "session", { n: 1 }, "a");
  await waitFor(async () => (await rowsOf(pipeline)).size === 1, {
    what: "the row",
    deadlineMs: 20_000,
  });
  await proxy.close();
  sink.kill("SIGTERM");
  assert.equal((await sink.status).code, 0, sink.output());
  assert.match(sink.output(), /how many events are left is unknown \(Redis at .* does not answer/);
});

Deno.test("a wrong command, option or file ends with a clear message and status", async () => {
  for (
    const [args, code, message] of [
      [["sink", "--nope"], 2, /unknown option '--nope'/],
      [["traffic", "--rate", "fast"], 2, /Expected a number/],
      [["sink", "--metrics", ":9464"], 2, /Expected a port, or an address:port/],
      [["sink", "--config", "nowhere.yaml"], 1, /nowhere\.yaml/],
      [["sink", "--help"], 0, /--config/],
      [["services", "--help"], 0, /stop/],
      [["traffic", "--help"], 0, /--rate/],
      [["psql", "--help"], 0, /what follows goes to it/],
      [["ok", "--help"], 0, /^Usage: deno task ok/],
      [["ok", "--nope"], 1, /unknown option '--nope'/],
      [["test", "--help"], 0, /^Usage: deno task test/],
      [["bench", "--help"], 0, /^Usage: deno task bench/],
      [["soak", "--help"], 0, /^Usage: deno task soak/],
    ] as [string[], number, RegExp][]
  ) {
    await using task = startTask(args, { NO_COLOR: "1" });
    assert.equal((await task.status).code, code, `${args}: ${task.output()}`);
    assert.match(task.output(), message);
  }
});
