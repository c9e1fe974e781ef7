/** What the README promises: its commands, run as they stand there. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";
import { commandsOf, page } from "./pages.ts";

const commands = commandsOf(page("README.md"));

/** The task and arguments of a command in the README. */
function taskOf(beginning: string): string[] {
  const command = commands.find((one) => one.startsWith(beginning));
  assert(command, `the README has no command ${beginning}`);
  return command.replace(/^.* task /, "").split(" ");
}

Deno.test("the README's pipeline by hand works: services, sink, traffic", async () => {
  const env = { NO_COLOR: "1" };
  await using services = startTask(taskOf("deno task services"), env);
  await waitFor(() => services.output().includes("running; Ctrl-C"), {
    what: "the services",
    deadlineMs: 60_000,
  });
  await using sink = startTask(taskOf("deno task sink"), env);
  await using traffic = startTask(taskOf("deno task traffic"), env);
  const { code } = await traffic.status;
  assert.equal(code, 0, traffic.output());
  assert.match(sink.output(), /^Redis redis:\/\/:\*\*\*@127\.0\.0\.1:\d+ \(embedded\)/);
  await waitFor(() => /\b[12]\d{4} events applied/.test(sink.output()), {
    what: "events applied",
    deadlineMs: 30_000,
  });
  sink.kill("SIGTERM");
  assert.equal((await sink.status).code, 0, sink.output());
  services.kill("SIGTERM");
  assert.equal((await services.status).code, 0, services.output());
  assert.match(services.output(), /stopped|left running/);
});

Deno.test("the README's demo writes its page and stops what it started", async () => {
  await using demo = startTask(taskOf("npx -y deno@2.9.6 task demo"), { NO_COLOR: "1" });
  const { code } = await demo.status;
  assert.equal(code, 0, demo.output());
  assert.match(demo.output(), /rows in PostgreSQL +\d+/);
  assert.match(demo.output(), /documents equal in Redis and PostgreSQL, 0 differ/);
  for (const name of ["writebehind", "faults", "speed"]) {
    await Deno.stat(join(CHECKOUT, "out", `${name}.html`));
    const text = await Deno.readTextFile(join(CHECKOUT, "out", `${name}.ipynb`));
    const { cells } = JSON.parse(text) as { cells: { outputs?: { output_type: string }[] }[] };
    // What a cell's last line happens to be worth is shown as a result, beside what it means to show.
    const stray = cells.flatMap(({ outputs = [] }, cell) =>
      outputs.filter(({ output_type }) => output_type === "execute_result").map(() => cell)
    );
    assert.deepEqual(stray, [], `${name}.ipynb: cells with a stray result`);
  }
});
