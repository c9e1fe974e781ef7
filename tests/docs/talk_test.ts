/** What the run sheet tells a speaker to run is there. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { ACTIONS } from "writebehind/dev/stage/actions.ts";
import { page } from "./pages.ts";

Deno.test("the talk names headings that the notebooks have", async () => {
  const headings = new Set<string>();
  for (const name of ["writebehind", "faults"]) {
    const text = await Deno.readTextFile(join(CHECKOUT, "notebooks", `${name}.ipynb`));
    const { cells } = JSON.parse(text) as { cells: { source: string[] }[] };
    for (const { source } of cells) {
      for (const [, heading] of source.join("").matchAll(/^## (.+)$/gm)) headings.add(heading!);
    }
  }
  const named = [...page("docs/talk.md").matchAll(/"(\d+\. [^"]+)"/g)].map(([, name]) => name!);
  assert(named.length >= 10, named.join());
  assert.deepEqual(named.filter((name) => !headings.has(name)), []);
});

Deno.test("the talk presses every key of the stage, and no others", () => {
  const pressed = new Set(
    [...page("docs/talk.md").matchAll(/`([A-Z])`/g)].map(([, key]) => key!.toLowerCase()),
  );
  // Of the page alone: full screen and theme.
  for (const tool of ["f", "t"]) pressed.delete(tool);
  const keys = new Set(ACTIONS.map(({ key }) => key).filter((key) => key !== ""));
  assert.deepEqual([...pressed].sort(), [...keys].sort());
});
