import assert from "node:assert/strict";
import { caughtUp, configWith, connectPostgres } from "writebehind";
import { testPipeline } from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { testDatabase } from "../support/servers.ts";

Deno.test("on a database without tables, commands that read say so in one line and make none", async (t) => {
  await using pipeline = await testPipeline();
  await using database = await testDatabase(pipeline.servers.postgres);
  const config = configWith(pipeline.config, { postgresql: { database: database.name } });
  await using pool = await connectPostgres(config);
  for (const command of ["verify", "rebuild", "dead-letter list", "dead-letter replay --all"]) {
    await t.step(command, async () => {
      await using task = startTask(command.split(" "), environmentOf(config));
      const { code } = await task.status;
      assert.equal(code, 1);
      const lines = task.output().trim().split("\n");
      assert.match(lines.at(-1)!, /tables for session .* are not there yet: start a sink once/);
      assert(lines.length <= 2, task.output());
    });
  }
  await t.step("status says that nothing was applied", async () => {
    await using task = startTask(["status"], environmentOf(config));
    assert.equal((await task.status).code, 0);
    assert.match(task.output(), /offset 0-0/);
  });
  await caughtUp(pipeline.redis, pool, config, "session");
  const { rowCount } = await pool.query("SELECT FROM pg_tables WHERE schemaname = 'public'");
  assert.equal(rowCount, 0);
});
