/**
 * Checks the notebooks without running them: their cells type-check together, are short, and are committed
 * without outputs.
 *
 *     deno task ok
 */

import { join } from "node:path";

const MAX_LINES = 15;
const CHECKOUT = join(import.meta.dirname!, "..", "..");
const FOLDER = join(CHECKOUT, "notebooks");

interface Notebook {
  cells: {
    cell_type: string;
    source: string | string[];
    outputs?: unknown[];
    execution_count?: number | null;
  }[];
}

/** What is wrong with a notebook, a line each. Cells are joined into one module, as the kernel sees them. */
async function problemsOf(name: string): Promise<string[]> {
  const { cells } = JSON.parse(await Deno.readTextFile(join(FOLDER, name))) as Notebook;
  const problems: string[] = [];
  let module = "";
  cells.forEach(({ cell_type, source, outputs = [], execution_count = null }, index) => {
    if (cell_type !== "code") return;
    const text = Array.isArray(source) ? source.join("") : source;
    const lines = text.split("\n").length;
    const at = `notebooks/${name}, cell ${index + 1}`;
    if (lines > MAX_LINES) problems.push(`${at}: ${lines} lines, at most ${MAX_LINES} are allowed`);
    if (outputs.length > 0 || execution_count !== null) {
      problems.push(`${at}: has outputs; clear them before committing`);
    }
    module += `// cell ${index + 1}\n${text}\n`;
  });
  // Beside the notebook, so that imports resolve as they do in the kernel; `export` makes it a module.
  const path = join(FOLDER, `.${name.replace(/\W/g, "_")}_${crypto.randomUUID()}.ts`);
  await Deno.writeTextFile(path, `${module}\nexport {};\n`);
  try {
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["check", path],
      env: { NO_COLOR: "1" },
    }).output();
    if (!success) problems.push(new TextDecoder().decode(stderr).replaceAll(path, name));
  } finally {
    await Deno.remove(path);
  }
  return problems;
}

const names = [...Deno.readDirSync(FOLDER)].map(({ name }) => name).filter((name) =>
  name.endsWith(".ipynb")
);
const problems = (await Promise.all(names.map(problemsOf))).flat();
for (const problem of problems) console.error(problem);
if (problems.length > 0) Deno.exit(1);
console.log(`Checked ${names.length} notebook${names.length === 1 ? "" : "s"}`);
