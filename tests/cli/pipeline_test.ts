import assert from "node:assert/strict";
import { RedisWriteBehind } from "writebehind";
import { assertEqual, documentsOf, type Pipeline, testPipeline } from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { testFolder, waitFor } from "../support/servers.ts";

/** Whether no sink holds a partition any more. */
async function isReleased({ pool }: Pipeline): Promise<boolean> {
  const { rows } = await pool.query("SELECT FROM writebehind_lease WHERE lease_until >= now()");
  return rows.length === 0;
}

Deno.test("the pipeline writes, carries on, counts and compares, and ends with status 0", async () => {
  await using pipeline = await testPipeline();
  await using task = startTask(["pipeline", "--records", "500"], environmentOf(pipeline.config));
  const { code } = await task.status;
  const output = task.output();
  assert.equal(code, 0, output);
  assert.match(output, /^Redis redis:.*\(REDIS_URL\), PostgreSQL .*\(DATABASE_URL\)$/m);
  assert.match(output, /^table sessions is there; search index: created$/m);
  assert.match(output, /^ +\d+\.\d s {2}500 written, 500 applied, 0 behind$/m);
  const [, ...written] = output.match(/^(\d+) inserted, (\d+) updated, (\d+) deleted, 0 failed/m)!;
  const [inserted, updated, deleted] = written.map(Number) as [number, number, number];
  assert.equal(inserted + updated + deleted, 500);
  for (const side of ["redis", "postgres"]) {
    assert.match(output, new RegExp(`^ +metrics:${side}_success +500$`, "m"));
  }
  const live = inserted - deleted;
  assert.match(output, new RegExp(`^${live} documents, ${live} rows, ${live} equal, 0 mis`, "m"));
  assert.equal((await documentsOf(pipeline)).size, live);
  await assertEqual(pipeline);
  assert(await isReleased(pipeline), "the partition is given back");
  assert(!output.includes(`:${pipeline.config.postgresql.password}@`), "no password is shown");
});

Deno.test("Ctrl-C lets calls and the running batch finish, and ends the pipeline with status 130", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await using task = startTask(
    ["pipeline", "--records", "1000000", "--rate", "500"],
    environmentOf(config),
  );
  await waitFor(() => / [1-9]\d* applied/.test(task.output()), {
    what: "events that are carried on",
    deadlineMs: 30_000,
  });
  task.kill("SIGINT");
  const { code } = await task.status;
  const output = task.output();
  assert.equal(code, 130, output);
  assert.match(output, /, 0 failed in /);
  assert(await isReleased(pipeline), "the partition is given back");
  const left = Number(/^stopped; (\d+) events? left for the next sink$/m.exec(output)?.[1]);
  const { events } = await new RedisWriteBehind(redis, pool, config, "session").drain();
  assert.equal(events, left);
  await assertEqual(pipeline);
});

Deno.test("a row that no document has is told, and the status is 1", async () => {
  await using pipeline = await testPipeline();
  await pipeline.pool.query("INSERT INTO sessions (id, payload) VALUES ('stranger', '{}')");
  await using task = startTask(["pipeline", "--records", "10"], environmentOf(pipeline.config));
  const { code } = await task.status;
  assert.equal(code, 1, task.output());
  assert.match(task.output(), /, 1 mismatch, 0 behind/);
  assert.match(task.output(), /`deno task verify` lists where/);
});

Deno.test("on SQLite alone it needs no PostgreSQL, and may be run again on the same file", async () => {
  await using pipeline = await testPipeline();
  const { REDIS_URL } = environmentOf(pipeline.config);
  const path = `${testFolder("sqlite")}.db`;
  for (let run = 1; run <= 2; run++) {
    await using task = startTask(
      ["pipeline", "--target", "sqlite", "--path", path, "--records", "300"],
      { REDIS_URL: REDIS_URL!, DATABASE_URL: "", NO_COLOR: "1" },
    );
    const { code } = await task.status;
    const output = task.output();
    assert.equal(code, 0, output);
    assert.match(output, new RegExp(`^Redis redis:.*, SQLite ${path} `, "m"));
    assert.match(output, /^(\d+) documents, \1 rows, \1 equal, 0 mis/m);
  }
});
