/** When documents were created. */

import { counted } from "../../core/counted.ts";
import * as Plot from "@observablehq/plot";
import { figure, picture, waiting } from "./figure.ts";
import { clock, compact, countTicks, full, timeStep } from "./scales.ts";
import { COLOUR } from "./theme.ts";

/** Bars that are drawn at most; at least so many have room. */
const MAX_BARS = 40;
const MIN_BARS = 5;
/** Places for bars, so many at most, that leave room for a number above each. */
const MAX_LABELLED = 15;
/** Times on the axis, at most: each takes a tenth of its length. */
const TICKS = 6;

/** Documents by the second in which they were created, on this machine's clock; over a long time, by more. */
export function createdChart(rows: readonly { second: Date; count: number }[]): string {
  const times = rows.map(({ second }) => second.getTime());
  const earliest = times.reduce((least, time) => Math.min(least, time), times[0] ?? 0);
  const latest = times.reduce((most, time) => Math.max(most, time), earliest);
  const step = timeStep((latest - earliest) / 1000 + 1, MAX_BARS);
  const width = 1000 * step;
  const startOf = (time: number) => Math.floor(time / width) * width;
  const counts = new Map<number, number>();
  for (const { second, count } of rows) {
    const start = startOf(second.getTime());
    counts.set(start, (counts.get(start) ?? 0) + count);
  }
  const bars = [...counts].map(([start, count]) => ({ start, count }));
  const first = startOf(earliest);
  const end = Math.max(first + MIN_BARS * width, startOf(latest) + width);
  const tickStep = 1000 * timeStep((end - first) / 1000, TICKS);
  const ticks: number[] = [];
  for (let at = Math.ceil(first / tickStep) * tickStep; at <= end; at += tickStep) ticks.push(at);
  const all = rows.reduce((sum, { count }) => sum + count, 0);
  const total = counted(all, "document", full(all));
  const unit = nameOf(step);
  const svg = picture(`Documents per ${unit}. ${counted(bars.length, "bar")}, ${total}`, {
    height: 240,
    marginLeft: 62,
    marginRight: 42, // half of a time, where one stands at the end
    marginTop: 32,
    marginBottom: 36,
    x: {
      domain: [first, end],
      ticks: bars.length > 0 ? ticks : [],
      tickFormat: (time: number) => clock(new Date(time)).slice(0, tickStep < 60_000 ? 8 : 5),
      label: null,
    },
    y: {
      ...countTicks(bars.reduce((max, { count }) => Math.max(max, count), 0), 4),
      tickFormat: compact,
      label: `documents per ${unit}`,
      labelArrow: "none",
      grid: true,
    },
    marks: [
      Plot.rectY(bars, {
        x1: "start",
        x2: ({ start }) => start + width,
        y: "count",
        fill: COLOUR.stored,
        inset: 1,
      }),
      ...((end - first) / width <= MAX_LABELLED
        ? [Plot.text(bars, {
          x: ({ start }) => start + width / 2,
          y: "count",
          text: ({ count }) => compact(count),
          dy: -8,
          fontWeight: 600,
        })]
        : []),
      Plot.ruleY([0], { strokeOpacity: 0.5 }),
      ...waiting(bars.length === 0),
    ],
  });
  return figure(
    { title: `Documents per ${unit}`, subtitle: `${total} by creation time` },
    svg,
  );
}

/** What a bar stands for: second, 5 seconds, minute, 2 hours. */
function nameOf(seconds: number): string {
  const [size, name] = seconds < 60
    ? [1, "second"]
    : seconds < 3600
    ? [60, "minute"]
    : [3600, "hour"];
  const count = seconds / size;
  return count === 1 ? name : counted(count, name);
}
