import assert from "node:assert/strict";
import { join } from "node:path";
import { copyNotebooks } from "writebehind/dev/jupyter/copies.ts";
import { jupyterEnvironment, writeLabSettings } from "writebehind/dev/jupyter/jupyter.ts";
import { testFolder } from "../support/servers.ts";

const notebook = (source: string, outputs: unknown[] = []) =>
  JSON.stringify({ cells: [{ cell_type: "code", source, outputs }] });

Deno.test("JupyterLab gets fresh copies; what somebody has changed in one is kept", async () => {
  const [from, to] = [testFolder("notebooks"), testFolder("copies")];
  await Deno.mkdir(from);
  const write = (folder: string, text: string) => Deno.writeTextFile(join(folder, "a.ipynb"), text);
  const copy = () => Deno.readTextFile(join(to, "a.ipynb"));
  const lines: string[] = [];
  const copied = () => copyNotebooks({ from, to, onProgress: (line) => lines.push(line) });
  const visible = () =>
    [...Deno.readDirSync(to)].map(({ name }) => name).filter((name) => !name.startsWith("."));

  await write(from, notebook("one"));
  assert.equal(await copied(), to);
  assert.equal(await copy(), notebook("one"));

  await write(to, notebook("one", ["an output"])); // run, and not changed
  await write(from, notebook("two"));
  await copied();
  assert.equal(await copy(), notebook("two"));
  assert.deepEqual([visible(), lines], [["a.ipynb"], []]);

  await write(to, notebook("two, tried out"));
  await copied();
  assert.equal(await copy(), notebook("two"));
  const [kept] = visible().filter((name) => name !== "a.ipynb");
  assert.match(kept!, /^a 20\d\d-[\d-]+T[\d-]+\.ipynb$/);
  assert.equal(await Deno.readTextFile(join(to, kept!)), notebook("two, tried out"));
  assert.deepEqual(lines, [`cells of a.ipynb were changed: that one is ${kept} now`]);
});

Deno.test("for an audience JupyterLab has large type; without one it has its own", async () => {
  const root = testFolder("root");
  const themes = (present: boolean) =>
    join(
      jupyterEnvironment({ root, present }).JUPYTERLAB_SETTINGS_DIR!,
      "@jupyterlab/apputils-extension/themes.jupyterlab-settings",
    );
  await writeLabSettings({ root, present: true });
  const { overrides } = JSON.parse(await Deno.readTextFile(themes(true)));
  assert.equal(overrides["code-font-size"], "20px");
  await assert.rejects(Deno.stat(themes(false)), Deno.errors.NotFound);
  await Deno.writeTextFile(themes(true), "chosen by somebody");
  await writeLabSettings({ root, present: true });
  assert.equal(await Deno.readTextFile(themes(true)), "chosen by somebody");
});
