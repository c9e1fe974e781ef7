/**
 * Runs all tests, or those in the files and folders that are named, and closes with a line
 * `N passed, N failed`.
 *
 *     deno task test [path …]
 */

import { join } from "node:path";
import { ensureSetup } from "writebehind/dev/setup.ts";

const CHECKOUT = join(import.meta.dirname!, "..");
const paths = Deno.args.length > 0 ? Deno.args : ["tests"];

await ensureSetup({ onProgress: console.log });
const report = await Deno.makeTempFile({ prefix: "writebehind-junit-" });
const tests = new Deno.Command(Deno.execPath(), {
  args: ["test", "--allow-all", `--junit-path=${report}`, ...paths],
  cwd: CHECKOUT,
}).spawn();
// Ctrl-C reaches the tests as well, which clean up; this process only waits for them.
Deno.addSignalListener("SIGINT", () => {});
const { code } = await tests.status;
const xml = await Deno.readTextFile(report);
await Deno.remove(report);
const count = (name: string) =>
  Number(xml.match(new RegExp(`<testsuites[^>]* ${name}="(\\d+)"`))?.[1] ?? 0);
const failed = count("failures") + count("errors");
const passed = count("tests") - failed;
console.log(`${passed} passed, ${failed} failed`);
Deno.exit(code === 0 && failed === 0 && passed > 0 ? 0 : code || 1);
