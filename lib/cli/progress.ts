/** Shows how far a long command is, on stderr: a bar on a terminal, elsewhere a line every few seconds. */

import { progressBar } from "../dev/progress_bar.ts";

const LINE_EVERY_MS = 2000;

/** Shows how much is done, of about how much. */
export interface Progress {
  update(done: number, about?: number): void;
  /** Prints lines without tearing the bar. */
  above(print: () => void): void;
  end(): void;
}

/** @param what what is counted, such as `documents and rows` */
export function progressOf(what: string): Progress {
  if (Deno.stderr.isTerminal()) {
    const bar = progressBar(`{value}/{total} ${what}, {eta_formatted} left`);
    return {
      update: (done, about = done) => bar.show(done, Math.max(done, Math.round(about))),
      above: bar.above,
      end: bar.end,
    };
  }
  let shownAt = performance.now();
  return {
    update: (done, about = 0) => {
      if (performance.now() - shownAt < LINE_EVERY_MS) return;
      shownAt = performance.now();
      console.error(about > done ? `${done} of ${Math.round(about)} ${what}` : `${done} ${what}`);
    },
    above: (print) => print(),
    end: () => {},
  };
}
