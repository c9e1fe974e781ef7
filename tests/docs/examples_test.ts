/** The examples of the reference run where they need no server; `deno task ok` checks the types of all. */

import { equal } from "node:assert/strict";
import { join } from "node:path";

const LIB = join(import.meta.dirname!, "..", "..", "lib");
const NEEDS_SERVER = /\b(connectRedis|connectPostgres|openTarget|main)\(/;

/** The files with examples, and how many each has, where none of them needs a server. */
async function runnable(folder: string): Promise<Map<string, number>> {
  const files = new Map<string, number>();
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    const path = join(folder, name);
    if (isDirectory) { for (const entry of await runnable(path)) files.set(...entry); }
    if (!name.endsWith(".ts")) continue;
    const source = await Deno.readTextFile(path);
    const examples = [...source.matchAll(/^ *\* ```ts\n.*?```$/gms)].map(([text]) => text);
    if (examples.length > 0 && !examples.some((text) => NEEDS_SERVER.test(text))) {
      files.set(path, examples.length);
    }
  }
  return files;
}

Deno.test("examples that need no server run", async () => {
  const files = await runnable(LIB);
  const wanted = [...files.values()].reduce((sum, examples) => sum + examples, 0);
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "--doc", "--no-check", "--permit-no-files", "--allow-all", ...files.keys()],
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  const passed = Number(text.match(/(\d+) passed/)?.[1]);
  equal(success && passed, wanted, text);
  equal(wanted > 10, true, `found ${wanted} examples`);
});
