/** Shows on the standard error what is being measured: a bar on a terminal, lines elsewhere. */

import { progressBar } from "writebehind/dev/progress_bar.ts";

/** Takes the groups of rows, and the steps within them. */
export interface Progress {
  group(index: number, what: string): void;
  step(what: string): void;
  end(): void;
}

/** @param groups how many groups of rows there are */
export function benchProgress(groups: number): Progress {
  return Deno.stderr.isTerminal() ? bar(groups) : lines(groups);
}

function bar(groups: number): Progress {
  const bar = progressBar("{duration_formatted}  {what}");
  let done = 0;
  let title = "";
  return {
    group: (index, what) => bar.show(done = index, groups, { what: title = what }),
    step: (what) => bar.show(done, groups, { what: `${title}: ${what}`.slice(0, 70) }),
    end: bar.end,
  };
}

function lines(groups: number): Progress {
  const begin = performance.now();
  const show = (text: string) => {
    const seconds = ((performance.now() - begin) / 1000).toFixed(1);
    console.error(`${seconds.padStart(6)} s  ${text}`);
  };
  return {
    group: (index, what) => show(`[${index + 1}/${groups}] ${what}`),
    step: (what) => show(`      ${what}`),
    end: () => {},
  };
}
