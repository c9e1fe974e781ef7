/**
 * Runs a notebook headless on the Deno kernel.
 * @module
 */

import { basename, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { CHECKOUT } from "../../config/checkout.ts";
import { WriteBehindError } from "../../core/errors.ts";
import { type Summary, SUMMARY_VARIABLE, takeSummary } from "../../notebook/summary.ts";
import { venvPython } from "../setup.ts";
import { jupyterEnvironment, writeKernelspec } from "./jupyter.ts";

/** A code cell, counted from 1. */
export interface Cell {
  readonly index: number;
  /** How many code cells the notebook has. */
  readonly total: number;
  /** Its first line. */
  readonly title: string;
  /** The heading that it stands under; "" where there is none. */
  readonly heading: string;
}

/** A cell that begins, or one that has succeeded after `seconds`. */
export interface CellProgress extends Cell {
  readonly state: "running" | "done";
  readonly seconds: number;
}

/** The files of a run in which every cell succeeded. */
export interface NotebookRun {
  /** The executed notebook. */
  readonly notebook: string;
  /** The page with its outputs. */
  readonly html: string;
  readonly cells: number;
  readonly seconds: number;
  /** What it found out, by its `writeSummary`. */
  readonly summary: Summary;
}

/** Options of {@linkcode runNotebook}. */
export interface NotebookOptions {
  /** Where the executed notebook and the page go. */
  outDir: string;
  /** The kernel's working folder. @default {this checkout} */
  cwd?: string;
  /** Variables that the kernel gets beside those of this process, such as REDIS_URL. */
  env?: Record<string, string>;
  onCell?: (progress: CellProgress) => void;
  /** How long one cell may take, in seconds. @default {300} */
  cellTimeoutSeconds?: number;
  /** Stops the run and ends the kernel. */
  signal?: AbortSignal;
}

/** A cell failed; both files were written up to it. */
export class NotebookError extends WriteBehindError {
  /**
   * @param cell the one that failed
   * @param traceback as the kernel gave it, with its colours
   */
  constructor(message: string, readonly cell: Cell, readonly traceback: string) {
    super(message);
  }
}

/** A line of run_notebook.py. */
type RunnerEvent = {
  cell?: Cell;
  error?: { name: string; value: string; traceback: string };
  written?: { notebook: string; html: string };
};

/** How long the runner may take to end its kernel after a break, in milliseconds. */
const END_MS = 15_000;

/**
 * Runs a notebook from its first cell to its last.
 *
 * @throws {NotebookError} naming the first cell that failed
 * @throws the signal's reason when it is raised
 */
export async function runNotebook(path: string, options: NotebookOptions): Promise<NotebookRun> {
  const { outDir, cwd = CHECKOUT, onCell, cellTimeoutSeconds = 300, signal } = options;
  signal?.throwIfAborted();
  await Deno.stat(path);
  await writeKernelspec();
  const since = performance.now();
  const summaryFile = join(outDir, `${basename(path, ".ipynb")}.summary.json`);
  await takeSummary(summaryFile); // What an interrupted run left is not this one's.
  const runner = new Deno.Command(venvPython(), {
    args: [
      join(import.meta.dirname ?? ".", "run_notebook.py"),
      ...[resolve(path), resolve(outDir), resolve(cwd), String(cellTimeoutSeconds)],
    ],
    env: {
      ...jupyterEnvironment(),
      [SUMMARY_VARIABLE]: resolve(summaryFile),
      ...options.env,
    },
    // Keeps Ctrl-C from the runner: we stop it by closing its standard input, which our own end does as well.
    detached: true,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const errors = new Response(runner.stderr).text();
  let deadline: ReturnType<typeof setTimeout> | undefined;
  const end = () => {
    runner.stdin.close().catch(() => {}); // it has ended, and closed it
    deadline = setTimeout(() => runner.kill("SIGKILL"), END_MS);
  };
  signal?.addEventListener("abort", end, { once: true });
  let cell: Cell | undefined;
  let begun = 0;
  let failure: WriteBehindError | undefined;
  let written: RunnerEvent["written"];
  const finish = () => {
    if (!cell) return;
    onCell?.({ ...cell, state: "done", seconds: (performance.now() - begun) / 1000 });
  };
  try {
    for await (const line of createInterface({ input: Readable.from(runner.stdout) })) {
      const event = JSON.parse(line) as RunnerEvent;
      if (event.cell) {
        finish();
        cell = event.cell;
        begun = performance.now();
        onCell?.({ ...cell, state: "running", seconds: 0 });
      } else if (event.error) failure = failureOf(path, cell, event.error);
      else written = event.written;
    }
    signal?.throwIfAborted();
    if (failure) throw failure;
    if (!written) {
      const reason = (await errors).trim().split("\n").slice(-5).join("\n");
      throw new WriteBehindError(`running ${path} failed: ${reason}`);
    }
    finish();
    const seconds = (performance.now() - since) / 1000;
    const summary = await takeSummary(summaryFile);
    return { ...written, cells: cell?.total ?? 0, seconds, summary };
  } finally {
    signal?.removeEventListener("abort", end);
    clearTimeout(deadline);
    if (!signal?.aborted) await runner.stdin.close().catch(() => {}); // the same
    await Promise.all([runner.status, errors]);
  }
}

function failureOf(
  path: string,
  cell: Cell | undefined,
  { name, value, traceback }: NonNullable<RunnerEvent["error"]>,
): WriteBehindError {
  if (!cell) return new WriteBehindError(`running ${path} failed: ${name}: ${value}`);
  const { index, total, title } = cell;
  const message = `${path}: cell ${index} of ${total} failed (${title}): ${name}: ${value}`;
  return new NotebookError(message, cell, traceback);
}
