/** Shows on the standard error what is being measured: a bar on a terminal, lines elsewhere. */

import cliProgress from "cli-progress";

/** The part of cli-progress that is used here: the package brings no types. */
interface Bar {
  start(total: number, value: number, payload: { what: string }): void;
  update(value: number, payload: { what: string }): void;
  stop(): void;
}

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
  const bar: Bar = new cliProgress.SingleBar({
    format: "  {bar} {duration_formatted}  {what}",
    hideCursor: true,
    stopOnComplete: false,
  }, cliProgress.Presets.shades_classic);
  bar.start(groups, 0, { what: "" });
  let done = 0;
  let title = "";
  return {
    group: (index, what) => bar.update(done = index, { what: title = what }),
    step: (what) => bar.update(done, { what: `${title}: ${what}`.slice(0, 70) }),
    end: () => bar.stop(),
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
