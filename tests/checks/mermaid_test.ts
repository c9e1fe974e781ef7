import { deepEqual, equal, match } from "node:assert/strict";
import { join } from "node:path";
import { diagramsOf } from "./mermaid.ts";

Deno.test("mermaid: the diagrams of a page, with their lines", () => {
  const page = "# A\n\n```mermaid\nflowchart LR\n  a --> b\n```\n\n```ts\nx();\n```\n" +
    "\n- b\n\n  ```mermaid\n  pie\n  ```\n";
  deepEqual(diagramsOf(page), [
    { line: 4, text: "flowchart LR\n  a --> b\n" },
    { line: 15, text: "  pie\n" },
  ]);
});

Deno.test("mermaid: a diagram that its parser cannot read is named", async () => {
  const folder = await Deno.makeTempDir({ prefix: "writebehind-mermaid-" });
  try {
    const [page, notebook] = [join(folder, "page.md"), join(folder, "notebook.ipynb")];
    await Deno.writeTextFile(
      page,
      '```mermaid\nflowchart LR\n  a["one <b>or</b> two"] --> b\n```\n',
    );
    const source = ["States\n", "```mermaid\n", "stateDiagram-v2\n", "  [*] -->\n", "```\n"];
    const cells = [{ cell_type: "code", source: "1" }, { cell_type: "markdown", source }];
    await Deno.writeTextFile(notebook, JSON.stringify({ cells }));
    deepEqual(await checked(page), { code: 0, output: "Checked 1 diagram\n" });
    const { code, output } = await checked(page, notebook);
    equal(code, 1);
    match(output, /notebook\.ipynb, cell 2, line 3: Mermaid cannot read this diagram: Parse error/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

async function checked(...paths: string[]): Promise<{ code: number; output: string }> {
  const script = join(import.meta.dirname!, "mermaid.ts");
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "--no-lock", "--node-modules-dir=none", script, ...paths],
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder();
  return { code, output: text.decode(stdout) + text.decode(stderr) };
}
