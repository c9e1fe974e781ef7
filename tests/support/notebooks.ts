import { join } from "node:path";
import { testFolder } from "./servers.ts";

/** Writes a notebook with these code cells; returns its path and a folder for its results. */
export async function notebookOf(...sources: string[]): Promise<{ path: string; outDir: string }> {
  const folder = testFolder("notebook");
  await Deno.mkdir(folder);
  const path = join(folder, "small.ipynb");
  const kernelspec = { display_name: "Deno", language: "typescript", name: "deno" };
  const cells = sources.map((source, index) => ({
    cell_type: "code",
    id: `cell-${index}`,
    metadata: {},
    outputs: [],
    execution_count: null,
    source,
  }));
  const content = { cells, metadata: { kernelspec }, nbformat: 4, nbformat_minor: 5 };
  await Deno.writeTextFile(path, JSON.stringify(content));
  return { path, outDir: join(folder, "out") };
}
