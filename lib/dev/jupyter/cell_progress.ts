/** Shows a notebook's run cell by cell. */

import cliProgress from "cli-progress";
import type { CellProgress } from "./notebook.ts";

/** The part of cli-progress that is used here: the package brings no types. */
interface Bar {
  start(total: number, value: number, payload: { title: string }): void;
  update(value: number, payload: { title: string }): void;
  stop(): void;
}

/** Takes the progress of each cell, and the end of the run. */
export interface CellDisplay {
  onCell(progress: CellProgress): void;
  end(): void;
}

/** A bar on a terminal; elsewhere a line for each cell. */
export function cellDisplay(): CellDisplay {
  return Deno.stdout.isTerminal() ? barDisplay() : lineDisplay();
}

function barDisplay(): CellDisplay {
  const bar: Bar = new cliProgress.SingleBar({
    format: "  {bar} {value}/{total}  {title}",
    hideCursor: true,
    stopOnComplete: false,
  }, cliProgress.Presets.shades_classic);
  let started = false;
  return {
    onCell({ index, total, title, state }) {
      if (!started) bar.start(total, 0, { title });
      started = true;
      bar.update(state === "done" ? index : index - 1, { title: title.slice(0, 50).padEnd(50) });
    },
    end() {
      if (started) bar.stop();
    },
  };
}

function lineDisplay(): CellDisplay {
  return {
    onCell({ index, total, title, state, seconds }) {
      if (state === "running") return;
      const place = `[${String(index).padStart(String(total).length)}/${total}]`;
      console.log(`${place} ${seconds.toFixed(1).padStart(5)} s  ${title.slice(0, 80)}`);
    },
    end() {},
  };
}
