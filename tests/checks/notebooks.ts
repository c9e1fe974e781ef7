/**
 * Checks the notebooks without running them: their cells type-check together, are short, and are committed
 * without outputs.
 *
 *     deno task ok
 */

import { createHash } from "node:crypto";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";

const MAX_LINES = 15;
const FOLDER = join(CHECKOUT, "notebooks");

interface Notebook {
  cells: {
    cell_type: string;
    source: string | string[];
    outputs?: unknown[];
    execution_count?: number | null;
  }[];
}

/** A notebook's code as one module, as the kernel sees it, and what is wrong with its cells. */
interface Reading {
  name: string;
  module: string;
  problems: string[];
}

async function read(name: string): Promise<Reading> {
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
  return { name, module: `${module}\nexport {};\n`, problems };
}

/** Type-checks modules that are written beside the notebooks, so that imports resolve as in the kernel. */
async function typeProblems(readings: readonly Reading[]): Promise<string[]> {
  const paths = new Map(readings.map(({ name, module }) => {
    // The same text has the same path, for which Deno remembers that it is right.
    const hash = createHash("sha256").update(module).digest("hex").slice(0, 8);
    return [join(FOLDER, `.${name.replace(/\W/g, "_")}_${hash}.ts`), { name, module }];
  }));
  try {
    for (const [path, { module }] of paths) await Deno.writeTextFile(path, module);
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["check", ...paths.keys()],
      env: { NO_COLOR: "1" },
    }).output();
    if (success) return [];
    let text = new TextDecoder().decode(stderr);
    for (const [path, { name }] of paths) text = text.replaceAll(path, name);
    return [text];
  } finally {
    for (const path of paths.keys()) await Deno.remove(path);
  }
}

const names = [...Deno.readDirSync(FOLDER)].map(({ name }) => name).filter((name) =>
  name.endsWith(".ipynb")
);
const readings = await Promise.all(names.map(read));
const problems = [
  ...readings.flatMap(({ problems }) => problems),
  ...await typeProblems(readings),
];
for (const problem of problems) console.error(problem);
if (problems.length > 0) Deno.exit(1);
console.log(`Checked ${names.length} notebook${names.length === 1 ? "" : "s"}`);
