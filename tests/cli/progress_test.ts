/** Every long command: on a terminal a bar with an estimate, in a pipe plain lines. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { insertDocument } from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { drain, type Pipeline, testPipeline } from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { isInstalled } from "../support/programs.ts";
import { onTerminal } from "../support/terminal.ts";

const ignore = !isInstalled("script");
/** A bar that is not full, or full, and an estimate, or that nothing can be said yet. */
const BAR = "[█░]{40} ";
const LEFT = "((\\d+ min )?\\d+ s|…) left";

/** 300 documents in Redis and in PostgreSQL, three more parked. */
async function filled({ redis, pool, config }: Pipeline): Promise<void> {
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");
  for (let n = 0; n < 300; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
  for (let n = 0; n < 3; n++) {
    await insertDocument(redis, config, "session", { bad: true }, `bad${n}`);
  }
  await drain({ redis, pool, config });
  await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
}

Deno.test({
  name:
    "verify, replay, repair and rebuild have a bar with an estimate on a terminal, none in a pipe",
  ignore,
  async fn(t) {
    await using pipeline = await testPipeline();
    const { redis, pool, config } = pipeline;
    await filled(pipeline);
    const env = environmentOf(config);
    const cases: [name: string, args: string[], what: string, before?: () => Promise<unknown>][] = [
      ["replay", ["dead-letter", "replay", "--all"], "3/3 events replayed"],
      ["verify", ["verify"], "606/606 documents and rows compared"],
      [
        "repair",
        ["verify", "--repair", "target", "--yes", "--settle", "0"],
        "2/2 documents repaired",
        () => pool.query("DELETE FROM sessions WHERE id IN ('d1', 'd2')"),
      ],
      ["rebuild", ["rebuild"], "301/301 rows", () => redis.flushall()],
    ];
    for (const [name, args, what, before] of cases) {
      await t.step(name, async () => {
        await before?.();
        const { code, text } = await onTerminal(args, env);
        assert.equal(code, 0, text);
        assert.match(text, new RegExp(`${BAR}${what}, ${LEFT}`));
        await using piped = startTask(args, env);
        await piped.status;
        // deno-lint-ignore no-control-regex -- a pipe is told nothing that is for a terminal
        assert.doesNotMatch(piped.output(), /[█░\x1b]/);
      });
    }
  },
});

Deno.test("in a pipe a long command says every few seconds how far it is", async () => {
  const source = `
    import { progressOf } from ${JSON.stringify(join(CHECKOUT, "lib/cli/progress.ts"))};
    const progress = progressOf("rows");
    for (let done = 0; done <= 40; done += 10) {
      progress.update(done, 60.4);
      await new Promise((resolve) => setTimeout(resolve, 700));
    }
    progress.above(() => console.error("a line"));
    progress.end();`;
  const { stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--quiet", source],
    cwd: CHECKOUT,
  }).output();
  assert.equal(new TextDecoder().decode(stderr), "30 of 60 rows\na line\n");
});

Deno.test({
  name: "test has a bar with an estimate on a terminal, below what the tests print",
  ignore,
  async fn() {
    const args = ["test", "tests/core/delay_test.ts", "tests/core/deno_version_test.ts"];
    const { code, text } = await onTerminal(args, {});
    assert.equal(code, 0, text);
    assert.match(text, new RegExp(`${BAR}1/2 files, ${LEFT}  tests/core/delay_test.ts`));
    assert.match(text, new RegExp(`${BAR}2/2 files, 0 s left`));
    assert.match(text, /running 1 test from \.\/tests\/core\/delay_test\.ts/);
    assert.match(text, /2 passed, 0 failed\s*$/);
    await using piped = startTask(args, { NO_COLOR: "1" });
    assert.equal((await piped.status).code, 0);
    assert.doesNotMatch(piped.output(), /[█░]| left/);
  },
});

Deno.test({
  name: "bench has a bar with an estimate on a terminal, and says it in lines elsewhere",
  ignore,
  async fn() {
    const args = ["bench", "--quick", "--rows", "14"];
    const { code, text } = await onTerminal(args, {});
    assert.equal(code, 0, text);
    assert.match(text, new RegExp(`${BAR}1/1 ${LEFT}  write: round 1 of 1: texts`));
    await using piped = startTask(args, { NO_COLOR: "1" });
    assert.equal((await piped.status).code, 0);
    assert.match(piped.errors(), /\[1\/1\] write, about \d+ s left\n/);
    assert.doesNotMatch(piped.output(), /[█░]/);
  },
});
