/** Shows a notebook's run. */

import { progressBar } from "../progress_bar.ts";
import type { CellProgress } from "./notebook.ts";

const TITLE_WIDTH = 50;

/** Takes the progress of each cell, and the end of the run. */
export interface CellDisplay {
  onCell(progress: CellProgress): void;
  end(): void;
}

/** A bar on a terminal; elsewhere a line for each heading. */
export function cellDisplay(): CellDisplay {
  if (!Deno.stdout.isTerminal()) return headingLines(console.log);
  const bar = progressBar("{value}/{total}  {title}");
  return {
    onCell: ({ index, total, state, ...cell }) =>
      bar.show(state === "done" ? index : index - 1, total, {
        title: nameOf(cell).slice(0, TITLE_WIDTH).padEnd(TITLE_WIDTH),
      }),
    end: bar.end,
  };
}

/**
 * A line for each heading, once all cells under it are done, with what they took together.
 * @param say takes a line
 */
export function headingLines(say: (line: string) => void): CellDisplay {
  let last: CellProgress | undefined;
  let sum = 0;
  const end = () => {
    if (!last) return;
    const { index, total } = last;
    const place = `[${String(index).padStart(String(total).length)}/${total}]`;
    say(`${place} ${sum.toFixed(1).padStart(5)} s  ${nameOf(last).slice(0, 80)}`);
    last = undefined;
    sum = 0;
  };
  return {
    onCell(progress) {
      if (progress.state === "running") return;
      if (last && nameOf(last) !== nameOf(progress)) end();
      last = progress;
      sum += progress.seconds;
    },
    end,
  };
}

/** A cell under no heading goes by its first line. */
function nameOf({ heading, title }: Pick<CellProgress, "heading" | "title">): string {
  return heading || title;
}
