/**
 * Checks that every diagram in the pages and the notebooks is read by Mermaid's own parser, so that GitHub
 * draws it.
 *
 *     deno run -A --no-lock --node-modules-dir=none tests/checks/mermaid.ts [path …]
 */

import { parseHTML } from "linkedom";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";

/** A diagram of a page, with the line it starts on. */
export interface Diagram {
  line: number;
  text: string;
}

/** Finds the Mermaid blocks of a Markdown text. */
export function diagramsOf(markdown: string): Diagram[] {
  return [...markdown.matchAll(/^[ \t]*```mermaid[ \t]*\n(.*?)^[ \t]*```/gms)].map((block) => ({
    line: markdown.slice(0, block.index).split("\n").length + 1,
    text: block[1]!,
  }));
}

/**
 * Kept out of deno.json and its lock, since `deno install` would bring its 120 MB to every user; so this
 * script runs with `--no-lock --node-modules-dir=none`.
 */
const MERMAID = "npm:mermaid@12.3.0";

/** The part of Mermaid that is used here. */
interface Mermaid {
  /** Rejects with the reason where it cannot read the text. */
  parse(text: string): Promise<unknown>;
}

/** Loads Mermaid, which looks for a document when it is loaded. */
async function loadMermaid(): Promise<Mermaid> {
  const { window } = parseHTML("<!doctype html><html><body></body></html>");
  Object.assign(globalThis, { window, document: window.document, Element: window.Element });
  const { default: mermaid } = await import(MERMAID) as { default: Mermaid };
  return mermaid;
}

/** The Markdown of a file, by the name of each piece: a page is one, a notebook has one a cell. */
async function textsOf(path: string): Promise<[name: string, markdown: string][]> {
  const text = await Deno.readTextFile(path);
  if (!path.endsWith(".ipynb")) return [[path, text]];
  const { cells } = JSON.parse(text) as {
    cells: { cell_type: string; source: string | string[] }[];
  };
  return cells.flatMap(({ cell_type, source }, index): [string, string][] =>
    cell_type === "markdown" ? [[`${path}, cell ${index + 1}`, [source].flat().join("")]] : []
  );
}

/** The pages and notebooks of the checkout. */
function pages(): string[] {
  return [".", "docs", "notebooks"].flatMap((folder) =>
    [...Deno.readDirSync(join(CHECKOUT, folder))].map(({ name }) => join(CHECKOUT, folder, name))
  ).filter((path) => /\.(md|ipynb)$/.test(path)).sort();
}

if (import.meta.main) {
  const mermaid = await loadMermaid();
  let read = 0;
  let faults = 0;
  const files = Deno.args.length > 0 ? Deno.args : pages();
  for (const [name, markdown] of (await Promise.all(files.map(textsOf))).flat()) {
    for (const { line, text } of diagramsOf(markdown)) {
      try {
        await mermaid.parse(text);
        read++;
      } catch (error) {
        faults++;
        const reason = error instanceof Error ? error.message : String(error);
        console.error(`${name}, line ${line}: Mermaid cannot read this diagram: ${reason}`);
      }
    }
  }
  if (faults > 0) Deno.exit(1);
  console.log(`Checked ${read} diagram${read === 1 ? "" : "s"}`);
}
