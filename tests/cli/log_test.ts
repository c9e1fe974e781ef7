import assert from "node:assert/strict";
import { insertDocument } from "writebehind";
import { testPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

/** The records of a log in JSON, a line each. */
function recordsOf(log: string): Record<string, unknown>[] {
  return log.trimEnd().split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

Deno.test("the sink's log in JSON: each line parses, says what and where, and holds no password", async () => {
  await using pipeline = await testPipeline();
  const { redis, config, pool } = pipeline;
  await redis.call("ACL", "SETUSER", "app", "on", ">hunter2", "+@all", "~*", "&*");
  const secret = pipeline.with({ redis: { username: "app", password: "hunter2" } });
  // PostgreSQL says what it was given.
  await pool.query(`
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      RAISE EXCEPTION 'no row for redis://app:hunter2@host, nor for hunter2' USING ERRCODE = '23514';
    END $$;
    CREATE TRIGGER tell BEFORE INSERT ON sessions FOR EACH ROW
      WHEN (new.id = 'bad') EXECUTE FUNCTION tell();`);
  await using sink = startTask(
    ["sink", "--log-format", "json", "--log-level", "debug"],
    environmentOf(secret),
  );
  const logged = (event: string) =>
    waitFor(() => sink.errors().includes(`"event":"${event}"`), {
      what: event,
      deadlineMs: 20_000,
    });
  await logged("claimed");
  await redis.call("ACL", "SETUSER", "app", "-xtrim");
  await insertDocument(redis, config, "session", { n: 1 }, "good");
  await insertDocument(redis, config, "session", { n: 1 }, "bad");
  await logged("parked");
  await logged("trimFailed");
  sink.kill("SIGTERM");
  assert.equal((await sink.status).code, 0, sink.output());
  assert(!sink.output().includes("hunter2"), sink.output());
  const records = recordsOf(sink.errors());
  for (const record of records) {
    assert.deepEqual(
      { entity: record.entity, partition: record.partition, target: record.target },
      { entity: "session", partition: 0, target: "postgresql" },
      `${record.event}`,
    );
    assert.match(String(record.process), /^\d+-/);
    assert.match(String(record.message), /stream:session/);
  }
  const levels = Object.fromEntries(records.map(({ event, level }) => [event, level]));
  assert.deepEqual(
    { ...levels, released: levels.released },
    {
      claimed: "INFO",
      columnsDiffer: "WARN",
      parked: "WARN",
      applied: "DEBUG",
      trimFailed: "WARN",
      released: "INFO",
    },
  );
  const { reason } = records.find(({ event }) => event === "parked")!;
  assert.match(String(reason), /^no row for \S+app:\*\*\*@host, nor for \*\*\*$/);
});

Deno.test("the log says no more than was asked for, and why a command ended", async () => {
  await using pipeline = await testPipeline();
  const quiet = ["sink", "--log-level", "error"];
  await using sink = startTask(quiet, environmentOf(pipeline.config));
  await waitFor(() => sink.output().includes("carrying session events"), {
    what: "the sink",
    deadlineMs: 20_000,
  });
  sink.kill("SIGTERM");
  await sink.status;
  assert.equal(sink.errors(), "");

  const config = await configFile({ redis: { password: "hunter2", port: 1 } });
  const env = { DATABASE_URL: environmentOf(pipeline.config).DATABASE_URL! };
  await using failing = startTask(["sink", "--config", config, "--log-format", "json"], env);
  assert.equal((await failing.status).code, 1);
  const [{ event, level, error }, ...more] = recordsOf(failing.errors()) as [
    Record<string, unknown>,
  ];
  assert.deepEqual([event, level, more], ["commandFailed", "FATAL", []]);
  assert.match(String(error), /Cannot connect to Redis at localhost:1: connection refused/);
});

Deno.test("the log for people: a sentence a line", async () => {
  await using pipeline = await testPipeline();
  await using sink = startTask(["sink"], environmentOf(pipeline.config));
  const until = (text: string) =>
    waitFor(() => sink.errors().includes(text), { what: text, deadlineMs: 20_000 });
  await until("claimed");
  // The table was made without the columns that the project's own configuration names.
  await until("columns");
  sink.kill("SIGTERM");
  await sink.status;
  const [claimed, columns, released, ...more] = sink.errors().trimEnd().split("\n");
  assert.match(
    claimed!,
    /^[\d:.]+ \[INF\] writebehind·sink: stream:session claimed, epoch 1, at offset 0-0$/,
  );
  assert.match(
    columns!,
    /^[\d:.]+ \[WRN\] writebehind·sink: stream:session: the table is not as its columns are configured \(the column user_id is missing; the column device_type is missing; the column login_time is missing\): deno task target migrate shows the SQL$/,
  );
  assert.match(released!, /given back$/);
  assert.deepEqual(more, []);
});
