/** Shows how far traffic is: a bar on a terminal, elsewhere a line every few seconds. */

import type { TrafficReport } from "../demo/tally.ts";
import { progressBar } from "../dev/progress_bar.ts";

const LINE_EVERY_SECONDS = 2;

/**
 * @param total writes to be made, or `undefined` where the traffic runs for a time
 * @returns functions: one takes the reports, one ends the display
 */
export function trafficProgress(total: number | undefined): {
  update: (report: TrafficReport) => void;
  end: () => void;
} {
  const done = ({ inserted, updated, deleted, failed }: TrafficReport) =>
    inserted + updated + deleted + failed;
  if (total !== undefined && Deno.stdout.isTerminal()) {
    const bar = progressBar("{value}/{total} writes, {eta_formatted} left");
    return { update: (report) => bar.show(done(report), total), end: bar.end };
  }
  let shown = 0;
  return {
    update: (report) => {
      if (report.seconds - shown < LINE_EVERY_SECONDS) return;
      shown = report.seconds;
      console.log(`${done(report)} writes, ${Math.round(report.perSecond)} a second`);
    },
    end: () => {},
  };
}
