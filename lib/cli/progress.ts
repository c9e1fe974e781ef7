/** Shows how far a long command is: a bar on a terminal, elsewhere a line every few seconds, on stderr. */

import cliProgress from "cli-progress";

/** The part of cli-progress that is used here: the package brings no types. */
interface Bar {
  start(total: number, value: number): void;
  setTotal(total: number): void;
  update(value: number): void;
  stop(): void;
}

const LINE_EVERY_MS = 2000;

/**
 * @param what what is counted, such as `documents and rows`
 * @returns what takes the count and about how many there will be, and what ends the display
 */
export function progressOf(what: string): {
  update: (done: number, about?: number) => void;
  end: () => void;
} {
  if (Deno.stderr.isTerminal()) {
    const bar: Bar = new cliProgress.SingleBar({
      format: `  {bar} {value}/{total} ${what}`,
      hideCursor: true,
    }, cliProgress.Presets.shades_classic);
    let started = false;
    return {
      update: (done, about = done) => {
        const total = Math.max(done, Math.round(about));
        if (!started) bar.start(total, done);
        started = true;
        bar.setTotal(total);
        bar.update(done);
      },
      end: () => {
        if (started) bar.stop();
        started = false;
      },
    };
  }
  let shownAt = Date.now();
  return {
    update: (done) => {
      if (Date.now() - shownAt < LINE_EVERY_MS) return;
      shownAt = Date.now();
      console.error(`${done} ${what} so far`);
    },
    end: () => {},
  };
}
