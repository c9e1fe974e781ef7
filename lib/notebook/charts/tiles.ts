/** The newest figures, large enough for the back row. */

import type { Sample } from "../../metrics/sampler.ts";
import type { Verified } from "./marks.ts";
import { clock, duration, full } from "./scales.ts";
import { COLOUR, type Colour, escapeHtml } from "./theme.ts";

/** A tile for each figure, and one for what a verify has found. */
export function tiles(sample: Sample | undefined, verified: Verified | null): string {
  const number = (value: number | undefined) => value === undefined ? "–" : full(value);
  const behind = sample?.lagSeconds ? `${duration(1000 * sample.lagSeconds)} behind` : "";
  const rate = (value: number | undefined) =>
    value === undefined ? "" : `${full(Math.round(value))}/s`;
  const parts: [Colour, string, string, string][] = [
    ["written", "written", number(sample?.written), rate(sample?.writtenPerSecond)],
    ["stored", "applied", number(sample?.applied), rate(sample?.appliedPerSecond)],
    ["lag", "lag", number(sample?.lagEvents), behind],
    ["retried", "parked", number(sample?.parked), ""],
    [
      "failed",
      "lost",
      verified ? full(verified.lost) : "–",
      verified
        ? `of ${full(verified.compared)} documents, verified at ${clock(verified.at)}`
        : "not verified yet",
    ],
  ];
  return `<div class="writebehind tiles">${
    parts.map(([colour, name, value, note]) =>
      `<div class="tile" style="--key:${COLOUR[colour]}">${name}<b>${escapeHtml(value)}</b><small>${
        escapeHtml(note) || "&nbsp;"
      }</small></div>`
    ).join("")
  }</div>`;
}
