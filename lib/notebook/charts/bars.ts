/** Rows with a name each: room for the names, and horizontal bars. */

import * as Plot from "@observablehq/plot";
import { picture, waiting } from "./figure.ts";
import { compact, countTicks } from "./scales.ts";
import { COLOUR, type Colour } from "./theme.ts";

/** @param emphasised where given, only the bar of this name has the colour */
export function horizontalBars(
  title: string,
  bars: { name: string; value: number; label: string }[],
  colour: Colour,
  emphasised?: { name: string },
): string {
  const { domain, ticks } = countTicks(bars.reduce((max, { value }) => Math.max(max, value), 0), 5);
  const rows = bars.map((bar, row) => ({ ...bar, row }));
  return picture(`${title}. ${bars.map(({ name, label }) => `${name}: ${label}`).join(", ")}`, {
    height: Math.max(rows.length, 2) * 40 + 46,
    ...sideLabels(bars.map(({ name }) => name)),
    marginRight: 30 + 9.5 * Math.max(4, ...bars.map(({ label }) => label.length)),
    marginTop: 6,
    marginBottom: 36,
    x: { domain, ticks, tickFormat: compact, label: null, grid: true },
    y: {
      domain: rows.map(({ row }) => row),
      tickFormat: (row: number) => shortened(rows[row]?.name ?? ""),
      tickSize: 0,
      label: null,
      padding: 0.28,
    },
    marks: [
      Plot.barX(rows, {
        x: "value",
        y: "row",
        fill: ({ name }) => COLOUR[emphasised && name !== emphasised.name ? "other" : colour],
      }),
      Plot.text(rows, {
        x: "value",
        y: "row",
        text: "label",
        textAnchor: "start",
        dx: 6,
        fontSize: 16,
        fontWeight: 600,
      }),
      Plot.ruleX([0], { strokeOpacity: 0.5 }),
      ...waiting(rows.length === 0),
    ],
  });
}

const MAX_LABEL = 30;

/** A name that fits beside its row. */
export function shortened(name: string): string {
  const characters = [...name];
  return characters.length > MAX_LABEL ? characters.slice(0, MAX_LABEL - 1).join("") + "…" : name;
}

/** Room for the rows' names on the left, by their length. */
export function sideLabels(names: string[]): { marginLeft: number } {
  return { marginLeft: 24 + 9 * Math.max(4, ...names.map((name) => [...shortened(name)].length)) };
}
