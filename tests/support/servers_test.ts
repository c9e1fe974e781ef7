import assert from "node:assert/strict";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { waitFor } from "./servers.ts";

/** A test that starts a command with a file of its folder, in a session of its own, names the file, and never ends. */
const ENDLESS = `
import { configFile } from "./tests/support/processes.ts";
const file = await configFile({});
new Deno.Command("tail", { args: ["-f", file], detached: true, stdin: "null", stdout: "null", stderr: "null" }).spawn();
console.log(file);
setInterval(() => {}, 1000);
`;

/** Processes with a text in their arguments. */
async function processesWith(text: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of Deno.readDir("/proc")) {
    const args = /^\d+$/.test(name)
      ? await Deno.readTextFile(`/proc/${name}/cmdline`).catch(() => "") // it has ended
      : "";
    if (args.includes(text)) found.push(name);
  }
  return found;
}

Deno.test("a test that is killed leaves neither its folder nor its commands", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  await using script = await endless();
  const file = await script.says();
  await waitFor(async () => (await processesWith(file)).length > 0, { what: "the command" });
  script.child.kill("SIGKILL");
  await waitFor(async () => (await processesWith(file)).length === 0, {
    what: "the command to end",
  });
  await waitFor(() => Deno.stat(file).then(() => false, () => true), { what: "no folder" });
});

async function endless() {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "-"],
    cwd: CHECKOUT,
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const stdin = child.stdin.getWriter();
  await stdin.write(new TextEncoder().encode(ENDLESS));
  await stdin.close();
  return {
    child,
    says: async () => {
      const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
      const { value } = await reader.read();
      await reader.cancel();
      assert(value);
      return value.trim();
    },
    [Symbol.asyncDispose]: async () => {
      await child.status;
    },
  };
}
