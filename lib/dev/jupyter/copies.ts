/** The copies of the notebooks that JupyterLab opens: what is run and tried out changes no file of the project. */

import { basename, join } from "node:path";
import { CHECKOUT } from "../../config/checkout.ts";
import { isThere } from "../servers/binaries.ts";

interface Notebook {
  cells: { cell_type: string; source: string | string[] }[];
}

/** Options of {@linkcode copyNotebooks}. */
export interface CopyOptions {
  /** The folder of the originals. @default {"notebooks"} of this checkout */
  from?: string;
  /** The folder of the copies. @default {"out/lab"} of this checkout */
  to?: string;
  /** Takes a line about a copy that is kept. */
  onProgress?: (line: string) => void;
}

/**
 * Copies the notebooks, each without outputs. A copy whose cells somebody has changed is kept, under another name.
 * @returns the folder of the copies
 */
export async function copyNotebooks(options: CopyOptions = {}): Promise<string> {
  const { from = join(CHECKOUT, "notebooks"), to = join(CHECKOUT, "out", "lab") } = options;
  await Deno.mkdir(to, { recursive: true });
  for await (const { name } of Deno.readDir(from)) {
    if (!name.endsWith(".ipynb")) continue;
    const [original, copy] = [join(from, name), join(to, name)];
    const copied = join(to, `.${name}.copied`); // the original as it was when it was copied
    if (await isThere(copy) && await textOf(copy) !== await textOf(copied).catch(() => "")) {
      const { mtime } = await Deno.stat(copy);
      const when = (mtime ?? new Date()).toISOString().slice(0, 19).replaceAll(":", "-");
      const kept = `${basename(name, ".ipynb")} ${when}.ipynb`;
      await Deno.rename(copy, join(to, kept));
      options.onProgress?.(`cells of ${name} were changed: that one is ${kept} now`);
    }
    await Deno.copyFile(original, copy);
    await Deno.copyFile(original, copied);
  }
  return to;
}

/** What people write in a notebook, apart from outputs and numbers of runs. */
async function textOf(path: string): Promise<string> {
  const { cells } = JSON.parse(await Deno.readTextFile(path)) as Notebook;
  const texts = cells.map(({ cell_type, source }) => [cell_type, [source].flat().join("")]);
  return JSON.stringify(texts);
}
