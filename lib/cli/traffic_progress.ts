/** Shows how far traffic is: a bar on a terminal, elsewhere a line every few seconds. */

import cliProgress from "cli-progress";
import type { TrafficReport } from "../demo/traffic.ts";

/** The part of cli-progress that is used here: the package brings no types. */
interface Bar {
  start(total: number, value: number): void;
  update(value: number): void;
  stop(): void;
}

const LINE_EVERY_SECONDS = 2;

/**
 * @param total documents to be written, or `undefined` where the traffic runs for a time
 * @returns what takes the reports, and what ends the display
 */
export function trafficProgress(total: number | undefined): {
  update: (report: TrafficReport) => void;
  end: () => void;
} {
  const done = ({ inserted, updated, deleted, failed }: TrafficReport) =>
    inserted + updated + deleted + failed;
  if (total !== undefined && Deno.stdout.isTerminal()) {
    const bar: Bar = new cliProgress.SingleBar({
      format: "  {bar} {value}/{total} documents, {eta_formatted} left",
      hideCursor: true,
    }, cliProgress.Presets.shades_classic);
    bar.start(total, 0);
    return { update: (report) => bar.update(done(report)), end: () => bar.stop() };
  }
  let shown = 0;
  return {
    update: (report) => {
      if (report.seconds - shown < LINE_EVERY_SECONDS) return;
      shown = report.seconds;
      console.log(`${done(report)} documents, ${Math.round(report.perSecond)} a second`);
    },
    end: () => {},
  };
}
