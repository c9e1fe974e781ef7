/** Shows on a terminal how far the tests are: a bar below what they print, with an estimate by how long each file took. */

import { join, relative } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { progressBar } from "writebehind/dev/progress_bar.ts";
import { Estimate } from "./estimate.ts";

/** What each file took the last time that it ran on a terminal, in seconds. */
const LAST_TIME = join(CHECKOUT, "out", "test-seconds.json");
const REDRAW_MS = 500;
/** As `deno test` says it, among colours. */
const BEGINS = /running \d+ tests? from (?:\.\/)?(\S+?_test\.ts)/;

/** Passes on what `deno test` prints, with a bar below it, until it has ended. */
export async function showTests(paths: string[], tests: Deno.ChildProcess): Promise<void> {
  const files = testFiles(paths.map((path) => relative(CHECKOUT, join(CHECKOUT, path))));
  const took = await lastTime();
  const known = Object.values(took);
  const usual = known.length > 0 ? known.reduce((all, one) => all + one, 0) / known.length : 1;
  const estimate = new Estimate(files.map((file) => took[file] ?? usual), known.length > 0);
  const bar = progressBar("{files} files, {left}  {file}");
  let running: { file: string; since: number } | undefined;
  let begun = 0;
  const show = () =>
    bar.show(estimate.done, estimate.total, {
      files: `${begun}/${files.length}`,
      left: estimate.left,
      file: running?.file ?? "",
    });
  const begin = (file?: string) => {
    const now = performance.now();
    if (running) took[running.file] = (now - running.since) / 1000;
    running = file === undefined ? undefined : { file, since: now };
    if (file !== undefined) begun++;
    estimate.begin(file === undefined ? undefined : files.indexOf(file));
    show();
  };
  const redrawing = setInterval(show, REDRAW_MS);
  const pass = async (from: ReadableStream<Uint8Array>, print: (line: string) => void) => {
    for await (const line of createInterface({ input: Readable.from(from) })) {
      const file = BEGINS.exec(line)?.[1];
      if (file !== undefined) begin(file);
      bar.above(() => print(line));
    }
  };
  try {
    await Promise.all([pass(tests.stdout, console.log), pass(tests.stderr, console.error)]);
    begin();
  } finally {
    clearInterval(redrawing);
    bar.end();
  }
  await Deno.mkdir(join(CHECKOUT, "out"), { recursive: true });
  await Deno.writeTextFile(LAST_TIME, JSON.stringify(took));
}

/** The files that `deno test` runs. */
function testFiles(paths: string[]): string[] {
  return paths.flatMap((path) => {
    const absolute = join(CHECKOUT, path);
    if (!Deno.statSync(absolute).isDirectory) return [path];
    const inside = [...Deno.readDirSync(absolute)]
      .filter(({ isDirectory, name }) => isDirectory || name.endsWith("_test.ts"));
    return testFiles(inside.map(({ name }) => join(path, name)));
  });
}

async function lastTime(): Promise<Record<string, number>> {
  try {
    return JSON.parse(await Deno.readTextFile(LAST_TIME));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return {};
    throw error;
  }
}
