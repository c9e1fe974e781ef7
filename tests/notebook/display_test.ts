import assert from "node:assert/strict";
import { runNotebook } from "writebehind/dev/jupyter/notebook.ts";
import { ensureSetup } from "writebehind/dev/setup.ts";
import { guardKernel, live, show } from "writebehind/notebook";
import { notebookOf } from "../support/notebooks.ts";

await ensureSetup({ onProgress: console.log });

/** Runs cells in a real kernel, whose outputs it returns: for each cell the HTML, or the kind of another output. */
async function outputsOf(...sources: string[]): Promise<string[][]> {
  const { path, outDir } = await notebookOf(...sources);
  const run = await runNotebook(path, { outDir, cellTimeoutSeconds: 20 });
  const executed = JSON.parse(await Deno.readTextFile(run.notebook)) as {
    cells: { outputs: { output_type: string; data?: Record<string, string | string[]> }[] }[];
  };
  return executed.cells.map(({ outputs }) =>
    outputs.map(({ output_type, data = {} }) => [data["text/html"] ?? output_type].flat().join(""))
  );
}

const IMPORTS = `
import { guardKernel, live, show } from "writebehind/notebook";
const until = async (condition: () => boolean) => {
  for (const end = Date.now() + 5000; !condition();) {
    if (Date.now() > end) throw new Error("waited in vain for " + condition);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};`;

Deno.test("kernel: charts and frames are shown as HTML, each once", async () => {
  const [, chart, frames] = await outputsOf(
    `${IMPORTS}
    import { charts, frame, showFrame } from "writebehind/notebook";`,
    `await show(charts.devicesChart([{ device_type: "ios", count: 3 }]));
    await show({ html: "<p>own</p>" });`,
    `const df = frame([{ html: "a", n: 2n ** 63n - 1n }], { html: "String", n: "Int64" });
    await showFrame(df, { rows: 0 });
    await show(df);`,
  );
  assert.equal(chart?.length, 2);
  assert.match(chart[0] ?? "", /<figure class="writebehind"/);
  assert.equal(chart[1], "<p>own</p>");
  assert.equal(frames?.length, 2);
  assert.match(frames[0] ?? "", /0 of 1 row × 2 columns/);
  assert.match(frames[1] ?? "", /9223372036854775807/);
});

Deno.test("kernel: a live display moves in place, survives errors, and is replaced when run again", async () => {
  const [, first, second, last, , failing] = await outputsOf(
    `${IMPORTS}
    let ticks = 0;
    let old = 0;`,
    `const before = await live(() => \`<p>old \${++old}</p>\`, { intervalMs: 100 });
    await until(() => old > 2);`,
    `const now = await live(() => \`<p>tick \${++ticks}</p>\`, { intervalMs: 100 });
    const ended = old;
    await until(() => ticks > 2);
    if (old !== ended) throw new Error("the previous display still runs");`,
    `await Promise.all([now.stop(), now.stop()]);
    const final = ticks;
    await new Promise((resolve) => setTimeout(resolve, 250));
    if (ticks !== final) throw new Error("it moves after its end");
    await show(\`<p>final \${final}</p>\`);`,
    `let entered = 0;
    let release = () => {};
    const held = new Promise((resolve) => release = () => resolve(undefined));
    const slow = await live(async () => {
      if (++entered === 2) await held;
      return "<p>slow</p>";
    }, { intervalMs: 20, name: "slow" });
    await until(() => entered === 2);
    const stopping = slow.stop();
    release();
    await stopping;
    await new Promise((resolve) => setTimeout(resolve, 100));
    if (entered !== 3) throw new Error("drawn " + entered + " times");`,
    `let fail = true;
    const shaky = await live(() => {
      if (fail) throw new Error("no <data>");
      return "<p>mended</p>";
    }, { intervalMs: 100, name: "shaky" });
    await until(() => shaky.lastError !== undefined);
    const reason = String(shaky.lastError);
    fail = false;
    await until(() => shaky.lastError === undefined);
    fail = true;
    await shaky.stop();
    if (reason !== "Error: no <data>") throw new Error(reason);`,
  );
  assert.equal(first?.length, 1);
  assert.match(first[0] ?? "", /^<p>old \d+<\/p>$/);
  assert.equal(last?.length, 1);
  assert.deepEqual(second, [last[0]?.replace("final", "tick")]);
  assert.equal(failing?.length, 1);
  assert.match(failing[0] ?? "", /role="alert">Error: no &#60;data&#62;</);
});

Deno.test("kernel: errors in the background are shown once each, and timers go on", async () => {
  const [, errors, after] = await outputsOf(
    `${IMPORTS}
    guardKernel();
    guardKernel();
    let seen = 0;
    for (const type of ["error", "unhandledrejection"]) addEventListener(type, () => seen++);
    let beats = 0;
    const heart = setInterval(() => beats++, 5);`,
    `for (let i = 0; i < 3; i++) setTimeout(() => { throw new TypeError("late <b>"); }, 5);
    setTimeout(() => void Promise.reject("refused"), 10);
    await until(() => seen === 4);
    const during = beats;
    await until(() => beats > during + 3);
    await show("<p>after them</p>");`,
    `const before = beats;
    await until(() => beats > before + 3);
    clearInterval(heart);`,
  );
  assert.equal(errors?.length, 3, String(errors));
  const text = errors.join("");
  assert.match(text, /TypeError: late &#60;b&#62; \(3 times\)/);
  assert.match(text, />refused</);
  assert.deepEqual(after, []);
});

Deno.test("kernel: an interrupt aborts the newest signal and nothing else", async () => {
  const [, interrupted, after] = await outputsOf(
    `${IMPORTS}
    const background = guardKernel();`,
    `const cell = guardKernel();
    const stopped = new Promise((_, reject) =>
      cell.addEventListener("abort", () => reject(cell.reason)));
    setTimeout(() => Deno.kill(Deno.pid, "SIGINT"), 20);
    const reason = await stopped.catch((error) => error);
    if (reason.name !== "AbortError") throw reason;`,
    `if (background.aborted) throw new Error("the background was stopped");
    if (guardKernel().aborted) throw new Error("the next cell is stopped");
    await show("<p>alive</p>");`,
  );
  assert.deepEqual(interrupted, []);
  assert.deepEqual(after, ["<p>alive</p>"]);
});

Deno.test("outside a kernel nothing is shown, kept running or changed", async () => {
  let drawn = 0;
  await show("<p></p>");
  const display = await live(() => `${++drawn}`, { intervalMs: 1 });
  await display.stop();
  assert.equal(drawn, 2);
  const failing = await live(() => Promise.reject(new Error("no data")), { name: "failing" });
  assert.match(String(failing.lastError), /no data/);
  assert.equal(guardKernel().aborted, false);
});
