/** A program in a folder of its own, which links to this one as the README says. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { page } from "./pages.ts";

/** A program's options hold for what it links to as well. */
const STRICTEST = {
  exactOptionalPropertyTypes: true,
  noFallthroughCasesInSwitch: true,
  noImplicitOverride: true,
  noImplicitReturns: true,
  noPropertyAccessFromIndexSignature: true,
  noUncheckedIndexedAccess: true,
  noUnusedParameters: true,
};

Deno.test("a program in its own folder is checked and runs", async () => {
  const readme = page("README.md");
  const settings = /```json\n(\{\n {2}"links".*?\n\})\n```/s.exec(readme)?.[1];
  const program = /## Your own program\n+```ts\n(.*?)```/s.exec(readme)?.[1];
  assert(settings && program, "the README has both");
  const { links, imports } = JSON.parse(settings) as {
    links: string[];
    imports: { writebehind: string };
  };
  assert.equal(links.length, 1);
  // A path that begins so stands for the other exports of the package.
  const others = { "writebehind/": `${imports.writebehind.replace("jsr:", "jsr:/")}/` };
  const folder = await Deno.makeTempDir({ prefix: "writebehind-own-" });
  try {
    const own = {
      links: [CHECKOUT],
      imports: { ...imports, ...others },
      compilerOptions: STRICTEST,
    };
    await Deno.writeTextFile(join(folder, "deno.json"), JSON.stringify(own));
    await Deno.writeTextFile(join(folder, "program.ts"), program);
    const names = ["cli", "config", "notebook", "targets"];
    const all = ["writebehind", ...names.map((name) => `writebehind/${name}`)];
    await Deno.writeTextFile(
      join(folder, "exports.ts"),
      `${all.map((name, n) => `import * as m${n} from "${name}";`).join("\n")}\n` +
        `console.log(${all.map((_, n) => `typeof m${n}`).join(" + ")});`,
    );
    const run = async (...args: string[]) => {
      const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args,
        cwd: folder,
        env: { NO_COLOR: "1" },
      }).output();
      assert(success, new TextDecoder().decode(stderr));
      return new TextDecoder().decode(stdout);
    };
    await run("check", "program.ts", "exports.ts");
    assert.equal(await run("run", "-A", "exports.ts"), `${"object".repeat(all.length)}\n`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
