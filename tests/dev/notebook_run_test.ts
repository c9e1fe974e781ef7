import assert from "node:assert/strict";
import { join } from "node:path";
import { ConfigError, parseConfig } from "writebehind";
import { runDemo } from "writebehind/dev/jupyter/demo.ts";
import { runLab } from "writebehind/dev/jupyter/lab.ts";
import { type CellProgress, NotebookError, runNotebook } from "writebehind/dev/jupyter/notebook.ts";
import { ensureSetup } from "writebehind/dev/setup.ts";
import { notebookOf } from "../support/notebooks.ts";
import { testFolder, waitFor } from "../support/servers.ts";

await ensureSetup({ onProgress: console.log });

for (const [task, run] of Object.entries({ demo: runDemo, lab: runLab })) {
  Deno.test(`${task}: where the target is a SQLite file, it says so before it starts anything`, async () => {
    const config = parseConfig("targets: [{ name: a, kind: sqlite, path: a.db }]", "test.yaml");
    await assert.rejects(run({ config }), (error: Error) => {
      assert(error instanceof ConfigError, String(error));
      assert.match(
        error.message,
        /^targets: the notebooks query PostgreSQL, .* `deno task pipeline`/,
      );
      return true;
    });
  });
}

Deno.test("a notebook runs cell by cell; results that come late are kept", async () => {
  const late = Array.from(
    { length: 12 },
    (_, i) => `await new Promise((r) => setTimeout(r, 5));\n${i}`,
  );
  const { path, outDir } = await notebookOf("// nothing", ...late);
  const progress: CellProgress[] = [];
  const run = await runNotebook(path, { outDir, onCell: (cell) => progress.push(cell) });
  assert.equal(run.cells, 13);
  assert.equal(progress.length, 26);
  assert.deepEqual({ ...progress[1], seconds: 0 }, {
    index: 1,
    total: 13,
    title: "// nothing",
    heading: "",
    state: "done",
    seconds: 0,
  });
  const executed = JSON.parse(await Deno.readTextFile(run.notebook)) as {
    cells: { outputs: { data?: Record<string, string | string[]> }[] }[];
  };
  const results = executed.cells.slice(1).map(({ outputs }) =>
    [outputs[0]?.data?.["text/plain"]].flat().join("").replace(/\D*(\d+)(\D|$).*/, "$1")
  );
  assert.equal(results.filter((result) => result === "").length, 0, `lost results: ${results}`);
  const page = await Deno.readTextFile(run.html);
  assert.match(page, /<html/);
  assert.doesNotMatch(
    page,
    /<(script|link)[^>]+(src|href)=|import\(|@import/,
    "it fetches nothing",
  );
  assert.match(page, /media="\(prefers-color-scheme: dark\)"/);
  assert.deepEqual(run.summary, {});
});

for (
  const [what, source, expected] of [
    ["throws", "const x = 1;\nthrow new TypeError('boom')", "TypeError: boom"],
    ["is no TypeScript", "const = ;", "Error: Execution failed"],
    [
      "fails to show its result",
      "({ [Symbol.for('Jupyter.display')]() { throw new Error('no picture'); } })",
      "Error: no picture",
    ],
    ["kills its kernel", "Deno.exit(3)", "DeadKernelError: Kernel died"],
    ["takes too long", "await new Promise(() => setInterval(() => {}, 1000))", "CellTimeoutError"],
  ] as const
) {
  Deno.test(`a cell that ${what} ends the run and is named`, async () => {
    const { path, outDir } = await notebookOf("1", source, "3");
    const started: number[] = [];
    await assert.rejects(
      runNotebook(path, {
        outDir,
        cellTimeoutSeconds: 2,
        onCell: ({ index, state }) => void (state === "running" && started.push(index)),
      }),
      (error: Error) => {
        assert(error instanceof NotebookError);
        assert.equal(error.cell.index, 2);
        assert(
          error.message.includes(`cell 2 of 3 failed (${source.split("\n")[0]}): ${expected}`),
        );
        return true;
      },
    );
    assert.deepEqual(started, [1, 2]);
    await Deno.stat(join(outDir, "small.html"));
  });
}

Deno.test("an interrupted run ends its kernel", async () => {
  const pidFile = testFolder("kernel-pid");
  const { path, outDir } = await notebookOf(
    `await Deno.writeTextFile(${JSON.stringify(pidFile)}, String(Deno.pid));\nwhile (true) {}`,
  );
  const interrupt = new AbortController();
  const run = runNotebook(path, { outDir, signal: interrupt.signal });
  const pid = await waitFor(() => Deno.readTextFile(pidFile).catch(() => ""), {
    what: "the cell's start",
    deadlineMs: 60_000,
  });
  interrupt.abort(new Error("interrupted by the test"));
  await assert.rejects(run, /interrupted by the test/);
  await waitFor(() => Deno.stat(`/proc/${pid}`).then(() => false, () => true), {
    what: "the kernel's end",
  });
});
