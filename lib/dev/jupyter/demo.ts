/**
 * The demo: the notebooks, headless, on embedded servers, to pages.
 * @module
 */

import { join, relative } from "node:path";
import { CHECKOUT } from "../../config/checkout.ts";
import { describeServers, type ServerSettings } from "../../config/servers.ts";
import { interruptible } from "../../core/interrupt.ts";
import { leaveServices } from "../servers/leave.ts";
import { startServices } from "../servers/services.ts";
import { ensureSetup } from "../setup.ts";
import { cellDisplay } from "./cell_progress.ts";
import { requirePostgres } from "./jupyter.ts";
import { NotebookError, type NotebookRun, runNotebook } from "./notebook.ts";

/** Options of {@linkcode runDemo}. */
export interface DemoOptions {
  /** Paths. @default {the notebooks of this checkout, the main one first} */
  notebooks?: string[];
  /** Names the ports to prefer, and the addresses to use where no embedded server exists. */
  config?: ServerSettings;
}

const NOTEBOOKS = ["writebehind.ipynb", "faults.ipynb", "speed.ipynb"].map((name) =>
  join(CHECKOUT, "notebooks", name)
);

/**
 * Sets up what is missing, starts the servers, runs the notebooks, prints their summaries, and stops the servers
 * that nobody else uses, whatever happened.
 *
 * @throws {ConfigError} where the target is no PostgreSQL
 * @throws {NotebookError} naming the cell that failed, after printing its traceback
 * @throws {InterruptedError} on Ctrl-C
 */
export function runDemo(options: DemoOptions = {}): Promise<void> {
  const { notebooks = NOTEBOOKS, config } = options;
  return interruptible(async (signal) => {
    requirePostgres(config);
    await ensureSetup({ onProgress: console.log, signal });
    try {
      const services = await startServices({ config, onProgress: console.log });
      console.log(describeServers(services));
      for (const notebook of notebooks) {
        console.log(`\n${relative(Deno.cwd(), notebook)}`);
        printSummary(await execute(notebook, signal));
      }
    } finally {
      await leaveServices();
    }
  }, { cleansUp: true });
}

async function execute(notebook: string, signal: AbortSignal): Promise<NotebookRun> {
  const display = cellDisplay();
  try {
    return await runNotebook(notebook, {
      outDir: join(CHECKOUT, "out"),
      onCell: (progress) => display.onCell(progress),
      signal,
    });
  } catch (error) {
    display.end();
    if (error instanceof NotebookError && error.traceback) console.error(error.traceback);
    throw error;
  } finally {
    display.end();
  }
}

function printSummary({ cells, seconds, html, summary }: NotebookRun): void {
  console.log(`\n${cells} cells in ${seconds.toFixed(1)} s`);
  const lines = Object.entries({ ...summary, page: relative(Deno.cwd(), html) });
  const width = Math.max(...lines.map(([name]) => name.length));
  for (const [name, value] of lines) console.log(`  ${name.padEnd(width)}  ${value}`);
}
