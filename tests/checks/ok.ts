/**
 * What must hold before a change lands, without a server: formatting, lint, types, the reference, the pages, and
 * the checks of the house. Ends at the first that fails.
 *
 *     deno task ok
 */

import { Command } from "commander";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { ending } from "writebehind/core/ending.ts";
import { requireDeno } from "writebehind/core/deno_version.ts";

/** The modules that are exported: each name of theirs is documented. */
export const MODULES: readonly string[] = [
  "mod",
  "cli/main",
  "config/mod",
  "notebook/mod",
  "targets/mod",
]
  .map((name) => `lib/${name}.ts`);
const PAGES = [...Deno.readDirSync(`${CHECKOUT}/docs`)].map(({ name }) => `docs/${name}`)
  .filter((path) => path.endsWith(".md"));

/** The check of all types: what has passed is not checked again until it changes. */
export const TYPES: string[] = [
  "check",
  "--quiet",
  "--doc",
  "lib",
  "tests",
  "README.md",
  "CONTRIBUTING.md",
  ...PAGES,
];

/** Tests that hold pages and exports against the code, without a server: a second that saves a whole run. */
const PAGE_TESTS = [
  "docs/pages_test",
  "docs/pictures_test",
  "docs/talk_test",
  "mod_test",
].map((name) => `tests/${name}.ts`);

/** What deno is asked to do, one after the other. */
const CHECKS: readonly string[][] = [
  ["fmt", "--check"],
  ["lint"],
  TYPES,
  ["doc", "--quiet", "--lint", "lib/mod.ts"],
  ["doc", "--quiet", "--lint", ...MODULES],
  ["run", "-A", "tests/checks/floors.ts"],
  ["run", "-A", "--no-lock", "--node-modules-dir=none", "tests/checks/mermaid.ts"],
  ["run", "-A", "tests/checks/notebooks.ts"],
  ["test", "-P", "--no-check", "--quiet", "--reporter=dot", ...PAGE_TESTS],
];

if (import.meta.main) Deno.exit(await ending(check, console.error));

async function check(): Promise<number | void> {
  requireDeno();
  new Command("deno task ok")
    .description("formatting, lint, types, the reference, floors, diagrams, notebooks, pages")
    .parse(Deno.args, { from: "user" });
  for (const args of CHECKS) {
    const { code } = await new Deno.Command(Deno.execPath(), { args, cwd: CHECKOUT }).spawn()
      .status;
    if (code !== 0) {
      console.error(`failed: deno ${args.join(" ")}`);
      return code;
    }
  }
}
