/** Shows on the standard error what is being measured: a bar on a terminal, lines elsewhere. */

import { progressBar } from "writebehind/dev/progress_bar.ts";
import { Estimate } from "../support/estimate.ts";

/** Takes the groups of rows, and the steps within them. */
export interface Progress {
  group(index: number, what: string): void;
  step(what: string): void;
  end(): void;
}

/** @param seconds how long each group of rows takes, about */
export function benchProgress(seconds: readonly number[]): Progress {
  return Deno.stderr.isTerminal() ? bar(seconds) : lines(seconds);
}

const REDRAW_MS = 1000;

function bar(seconds: readonly number[]): Progress {
  const bar = progressBar("{groups} {left}  {what}");
  const estimate = new Estimate(seconds, true);
  let [begun, title, what] = [0, "", ""];
  const show = () =>
    bar.show(estimate.done, estimate.total, {
      groups: `${begun}/${seconds.length}`,
      left: estimate.left,
      what: what.slice(0, 70),
    });
  const redrawing = setInterval(show, REDRAW_MS);
  return {
    group(index, name) {
      begun = index + 1;
      what = title = name;
      estimate.begin(index);
      show();
    },
    step(name) {
      what = title === "" ? name : `${title}: ${name}`;
      show();
    },
    end() {
      clearInterval(redrawing);
      bar.end();
    },
  };
}

function lines(seconds: readonly number[]): Progress {
  const begin = performance.now();
  const estimate = new Estimate(seconds, true);
  const show = (text: string) => {
    const seconds = ((performance.now() - begin) / 1000).toFixed(1);
    console.error(`${seconds.padStart(6)} s  ${text}`);
  };
  return {
    group(index, what) {
      estimate.begin(index);
      show(`[${index + 1}/${seconds.length}] ${what}, about ${estimate.left}`);
    },
    step: (what) => show(`      ${what}`),
    end: () => {},
  };
}
