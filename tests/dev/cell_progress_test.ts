import assert from "node:assert/strict";
import { headingLines } from "writebehind/dev/jupyter/cell_progress.ts";

Deno.test("a run is told a line a heading, with the time of all cells under it", () => {
  const lines: string[] = [];
  const display = headingLines((line) => lines.push(line));
  const cells = [["", "import x"], ["1. Set up", "a"], ["1. Set up", "b"], ["2. Go", "import y"]];
  for (const [index, [heading, title]] of cells.entries()) {
    const cell = { index: index + 1, total: 10, heading: heading!, title: title! };
    display.onCell({ ...cell, state: "running", seconds: 0 });
    display.onCell({ ...cell, state: "done", seconds: 1.25 });
  }
  assert.deepEqual(lines, ["[ 1/10]   1.3 s  import x", "[ 3/10]   2.5 s  1. Set up"]);
  display.end();
  display.end();
  assert.deepEqual(lines.slice(2), ["[ 4/10]   1.3 s  2. Go"]);
});
