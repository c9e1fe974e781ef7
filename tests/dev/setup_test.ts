import assert from "node:assert/strict";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { ensureSetup, venvPython } from "writebehind/dev/setup.ts";
import { testFolder } from "../support/servers.ts";

const SETUP = new URL("../../lib/dev/setup.ts", import.meta.url).href;

/** A checkout with the given requirements, and nothing set up. */
function checkout(requirements: string): string {
  const root = testFolder("setup");
  Deno.mkdirSync(root);
  Deno.writeTextFileSync(join(root, "deno.json"), "{}");
  Deno.writeTextFileSync(join(root, "requirements.txt"), requirements);
  return root;
}

/** Sets up in a process whose PATH holds only the given programs; returns its error, if any. */
async function setUpWith(root: string, programs: Record<string, string>): Promise<string> {
  const bin = testFolder("bin");
  await Deno.mkdir(bin);
  for (const [name, script] of Object.entries(programs)) {
    await Deno.writeTextFile(join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  }
  const { stderr, stdout } = await new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      `const { ensureSetup } = await import(${JSON.stringify(SETUP)});
      await ensureSetup({ root: ${JSON.stringify(root)} }).then(() => console.log("set up"),
        (error) => console.log(error.name + ": " + error.message));`,
    ],
    cwd: CHECKOUT,
    env: { PATH: bin },
  }).output();
  return new TextDecoder().decode(stdout).trim() || new TextDecoder().decode(stderr);
}

Deno.test("without Python, or with an old one, the set-up says what to install", async () => {
  const root = checkout("");
  const none = await setUpWith(root, {});
  assert.match(none, /^SetupError: Python 3\.10 or newer is needed.*none is on the PATH\. Install/);
  const old = await setUpWith(root, { python3: "echo 3.9" });
  assert.match(old, /none is on the PATH \(found: python3 is 3\.9\)/);
});

Deno.test("without venv the set-up names the package that brings it", async () => {
  const root = checkout("");
  const python3 =
    'case "$2" in venv) echo "ensurepip is not available" >&2; exit 1;; esac; echo 3.11';
  assert.match(await setUpWith(root, { python3 }), /SetupError: python3 has no venv.*python3-venv/);
  await assert.rejects(Deno.stat(join(root, ".venv")), Deno.errors.NotFound);
});

Deno.test("the set-up mends a half-made environment, and does nothing the second time", async () => {
  const root = checkout("");
  await Deno.mkdir(join(root, ".venv", "bin"), { recursive: true });
  await Deno.writeTextFile(venvPython(root), "cut off", { mode: 0o755 });
  const lines: string[] = [];
  await ensureSetup({ root, onProgress: (line) => lines.push(line) });
  assert.match(lines.join("\n"), /Python environment[^]*done in [^]*Python packages[^]*done in/);
  const works = await new Deno.Command(venvPython(root), { args: ["-c", "import pip"] }).output();
  assert(works.success);

  const again: string[] = [];
  await ensureSetup({ root, onProgress: (line) => again.push(line) });
  assert.deepEqual(again.filter((line) => line.includes("Python")), []);

  await Deno.writeTextFile(join(root, "requirements.txt"), "./missing-1.0-py3-none-any.whl\n");
  await assert.rejects(
    ensureSetup({ root }),
    /SetupError: pip could not install requirements\.txt; its last line: .*missing-1\.0/,
  );
});
