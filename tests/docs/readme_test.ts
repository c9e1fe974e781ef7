import assert from "node:assert/strict";
import { join } from "node:path";
import { startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

const CHECKOUT = join(import.meta.dirname!, "..", "..");
const README = await Deno.readTextFile(join(CHECKOUT, "README.md"));
const { tasks } = JSON.parse(await Deno.readTextFile(join(CHECKOUT, "deno.json"))) as {
  tasks: Record<string, { description: string }>;
};

/** The commands in the README's shell blocks, without comments. */
const commands = [...README.matchAll(/```sh\n([^]*?)```/g)]
  .flatMap(([, block]) => block!.split("\n"))
  .map((line) => line.replace(/\s+#.*/, "").trim())
  .filter(Boolean);

Deno.test("every command in the README is a task, or docker compose", () => {
  assert(commands.length >= 5);
  for (const command of commands) {
    if (command === "docker compose up -d") continue;
    const [, task] = command.match(/^(?:npx -y deno@2\.9\.6|deno) task (\w+)/) ?? [];
    assert(task !== undefined && task in tasks, command);
  }
  for (const [, name] of README.matchAll(/^\| `([\w-]+)` \| /gm)) {
    if (["memory", "replicas", "fsync"].includes(name!)) continue;
    assert(name! in tasks, `the README names the task ${name}`);
  }
});

Deno.test("the README's files are there", async () => {
  for (const [, path] of README.matchAll(/\]\(((?!https?:)[^)#]+)\)|(?:src|srcset)="([^"]+)"/g)) {
    if (path) await Deno.stat(join(CHECKOUT, path));
  }
});

Deno.test("the README's pipeline by hand works: services, sink, traffic", async () => {
  const env = { NO_COLOR: "1" };
  await using services = startTask(["services"], env);
  await waitFor(() => services.output().includes("running; Ctrl-C"), {
    what: "the services",
    deadlineMs: 60_000,
  });
  await using sink = startTask(["sink"], env);
  await using traffic = startTask(["traffic", "--records", "2000", "--rate", "2000"], env);
  const { code } = await traffic.status;
  assert.equal(code, 0, traffic.output());
  assert.match(sink.output(), /^Redis redis:\/\/127\.0\.0\.1:\d+ \(embedded\)/);
  await waitFor(() => /[12]\d{3} events applied/.test(sink.output()), {
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
  await using demo = startTask(["demo"], { NO_COLOR: "1" });
  const { code } = await demo.status;
  assert.equal(code, 0, demo.output());
  assert.match(demo.output(), /rows in PostgreSQL +\d+/);
  assert.match(demo.output(), /documents equal in Redis and PostgreSQL, 0 differ/);
  await Deno.stat(join(CHECKOUT, "out", "writebehind.html"));
});
