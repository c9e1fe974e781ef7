/** Shows a notebook's run cell by cell. */

import { progressBar } from "../progress_bar.ts";
import type { CellProgress } from "./notebook.ts";

const TITLE_WIDTH = 50;

/** Takes the progress of each cell, and the end of the run. */
export interface CellDisplay {
  onCell(progress: CellProgress): void;
  end(): void;
}

/** A bar on a terminal; elsewhere a line for each cell. */
export function cellDisplay(): CellDisplay {
  if (!Deno.stdout.isTerminal()) return { onCell: printLine, end: () => {} };
  const bar = progressBar("{value}/{total}  {title}");
  return {
    onCell: ({ index, total, title, state }) =>
      bar.show(state === "done" ? index : index - 1, total, {
        title: title.slice(0, TITLE_WIDTH).padEnd(TITLE_WIDTH),
      }),
    end: bar.end,
  };
}

function printLine({ index, total, title, state, seconds }: CellProgress): void {
  if (state === "running") return;
  const place = `[${String(index).padStart(String(total).length)}/${total}]`;
  console.log(`${place} ${seconds.toFixed(1).padStart(5)} s  ${title.slice(0, 80)}`);
}
