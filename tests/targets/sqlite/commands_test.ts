/** The commands on a SQLite file, by their own permissions and without any PostgreSQL. */

import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import { insertDocument, updateDocument } from "writebehind";
import { waitFor } from "../../support/servers.ts";
import { drain, filePipeline } from "../pipelines.ts";

function sql(path: string, statements: string): void {
  using db = new DatabaseSync(path, { timeout: 5000 });
  db.exec(statements);
}

Deno.test("SQLite: the commands name the file, and say what to do before a sink has run", async () => {
  await using pipeline = await filePipeline();
  const first = new RegExp(
    `^Redis redis:\\S+ \\(REDIS_URL\\), SQLite ${pipeline.path} \\(config file\\)$`,
    "m",
  );
  for (const command of [["verify"], ["rebuild"], ["dead-letter", "list"]]) {
    const { code, output } = await pipeline.run(...command);
    assert.equal(code, 1, output);
    assert.match(output, first);
    assert.match(output, /are not there yet: start a sink once/);
  }
  const { code, output } = await pipeline.run("status");
  assert.equal(code, 0, output);
  assert.match(output, /stream:session \| ok \| offset 0-0 \|.*owner none/);
});

Deno.test("SQLite: sink, status, verify and repair by command line", async () => {
  await using pipeline = await filePipeline();
  const { redis, config, path, target } = pipeline;
  await using sink = pipeline.start(["sink"]);
  for (const id of ["a", "b", "c"]) await insertDocument(redis, config, "session", { id }, id);
  await waitFor(async () => await target.rows!.size("session") === 3, {
    what: "the rows",
    deadlineMs: 20_000,
  });
  assert.match(sink.output(), /carrying session events on to local; Ctrl-C/);
  const status = await pipeline.run("status");
  assert.equal(status.code, 0, status.output);
  assert.match(status.output, /\| lag 0 events.*\| owner \S+ \(owner, lease held\) \|/);
  const json = JSON.parse(
    (await pipeline.run("status", "--json")).output.split("\n").slice(1).join("\n"),
  );
  assert.equal(json.partitions[0].leaseSeconds, null);

  sql(
    path,
    `UPDATE sessions SET payload = '{"id":"x"}' WHERE id = 'a'; DELETE FROM sessions WHERE id = 'b'`,
  );
  const differing = await pipeline.run("verify", "--settle", "1");
  assert.equal(differing.code, 1, differing.output);
  assert.match(differing.output, /3 documents, 2 rows, 1 equal, 2 mismatches/);
  const repaired = await pipeline.run("verify", "--settle", "1", "--repair", "target", "--yes");
  assert.equal(repaired.code, 0, repaired.output);
  const same = await pipeline.run("verify");
  assert.match(same.output, /3 documents, 3 rows, 3 equal, 0 mismatches/);

  sql(path, `UPDATE sessions SET payload = '{"id":"y"}' WHERE id = 'a'`);
  const other = await pipeline.run("verify", "--settle", "1", "--repair", "redis", "--yes");
  assert.equal(other.code, 0, other.output);
  assert.equal(await redis.call("JSON.GET", "session:a"), '{"id":"y"}');
  sink.kill("SIGTERM");
  assert.equal((await sink.status).code, 0, sink.output());
});

Deno.test("SQLite: dead letters by command line", async () => {
  await using pipeline = await filePipeline();
  const { redis, config, path } = pipeline;
  await insertDocument(redis, config, "session", { n: 0 }, "fine");
  await drain(pipeline);
  sql(
    path,
    `CREATE TRIGGER bad BEFORE INSERT ON sessions WHEN new.payload ->> '$.bad' IS NOT NULL
       BEGIN SELECT RAISE(ABORT, 'no bad ones'); END`,
  );
  for (const id of ["x", "y"]) {
    await insertDocument(redis, config, "session", { bad: 1 }, id);
    await updateDocument(redis, config, "session", id, { n: 2 });
  }
  await drain(pipeline);
  const listed = await pipeline.run("dead-letter", "list");
  assert.match(listed.output, /"x" \|.*\| 1 behind \|.*SQLITE_CONSTRAINT_TRIGGER no bad ones/);
  assert.match(listed.output, /^2 documents; /m);
  const [number] = listed.output.match(/^\d+(?= \| parked)/m)!;
  const shown = await pipeline.run("dead-letter", "show", number);
  assert.match(shown.output, /^payload: "\{\\"bad\\":1,\\"n\\":2\}"$/m);
  const dry = await pipeline.run("dead-letter", "replay", "--all", "--dry-run");
  assert.match(dry.output, /would be: 0 applied, 0 gone, 0 superseded, 2 stay parked/);
  const discarded = await pipeline.run("dead-letter", "discard", "--doc", "y", "--yes");
  assert.match(discarded.output, /2 events discarded/);
  sql(path, "DROP TRIGGER bad");
  const replayed = await pipeline.run("dead-letter", "replay", "--all");
  assert.equal(replayed.code, 0, replayed.output);
  assert.match(replayed.output, /1 applied, 0 gone, 1 superseded, 0 stay parked/);
  const verified = await pipeline.run("verify", "--settle", "0");
  assert.match(verified.output, /3 documents, 2 rows, 2 equal, 1 mismatch,/);
});

Deno.test("SQLite: an empty Redis is filled from the file", async () => {
  await using pipeline = await filePipeline();
  const { redis, config } = pipeline;
  for (let n = 0; n < 1500; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
  await drain(pipeline);
  await redis.flushall();
  const { code, output } = await pipeline.run("rebuild");
  assert.equal(code, 0, output);
  assert.match(output, /1500 rows: 1500 documents written, 0 left as they were, 0 refused/);
  // New events have ids past the offset that the file holds.
  await insertDocument(redis, config, "session", { n: -1 }, "new");
  await drain(pipeline);
  const verified = await pipeline.run("verify");
  assert.match(verified.output, /1501 documents, 1501 rows, 1501 equal, 0 mismatches/);
});

Deno.test("SQLite: a folder that the task may not write is told, with what to do", async () => {
  await using pipeline = await filePipeline();
  await using sink = pipeline.start(["sink"], { WRITEBEHIND_DATA: "/nowhere" });
  await waitFor(
    () => /name its folder in the environment variable WRITEBEHIND_DATA/.test(sink.output()),
    {
      what: "the sink to say so",
      deadlineMs: 20_000,
    },
  );
});
