/**
 * Distributions of times, side by side.
 * @module
 */

import * as Plot from "@observablehq/plot";
import { figure, picture, waiting } from "./figure.ts";
import { duration, logTicks } from "./scales.ts";
import { COLOUR, type Colour } from "./theme.ts";

const SERIES: readonly Colour[] = ["written", "lag", "other", "failed"];

/** How deep into the tail a line goes: one call in 10^3. */
const DEEPEST = 3;
const STEPS = 60;
/** What a logarithmic scale can show. */
const LEAST_MS = 0.001;
const TICKS = [
  { tail: 0, name: "least" },
  { tail: -Math.log10(0.5), name: "p50" },
  { tail: 1, name: "p90" },
  { tail: 2, name: "p99" },
  { tail: 3, name: "p99.9" },
];

/**
 * How long each share of the calls took at most, a line for each series; the slowest tenth has as much
 * room as the slowest hundredth.
 * @param series times in ms, by name; what the others are compared with comes last
 */
export function distributionChart(
  title: string,
  subtitle: string,
  series: ReadonlyMap<string, readonly number[]>,
): string {
  const filled = [...series].filter(([, times]) => times.length > 0);
  const lines = filled.map(([name, times], index) => {
    const sorted = times.toSorted((a, b) => a - b);
    const at = (share: number) => sorted[Math.floor(share * (sorted.length - 1))]!;
    const colour: Colour = index === filled.length - 1 ? "stored" : SERIES[index % SERIES.length]!;
    const deepest = Math.min(DEEPEST, Math.log10(sorted.length));
    return {
      name,
      colour,
      value: `p50 ${duration(at(0.5))}, p99 ${duration(at(0.99))}`,
      points: Array.from({ length: STEPS + 1 }, (_, step) => {
        const tail = deepest * step / STEPS;
        return { name, colour, tail, ms: Math.max(LEAST_MS, at(1 - 10 ** -tail)) };
      }),
    };
  });
  const points = lines.flatMap(({ points }) => points);
  const times = points.map(({ ms }) => ms);
  const spoken = lines.map(({ name, value }) => `${name}: ${value}`).join("; ");
  const svg = picture(`${title}. ${spoken}`, {
    height: 260,
    marginLeft: 80,
    marginRight: 24,
    marginTop: 12,
    marginBottom: 50,
    x: {
      domain: [0, DEEPEST],
      ticks: TICKS.map(({ tail }) => tail),
      tickFormat: (_: number, index: number) => TICKS[index]!.name,
      label: "share of the calls that took no longer",
      labelArrow: "none",
      labelAnchor: "center",
      grid: true,
    },
    y: {
      type: "log",
      ...(times.length === 0
        ? logTicks(0.1, 10)
        : logTicks(Math.min(...times), Math.max(...times))),
      tickFormat: duration,
      label: null,
      grid: true,
    },
    marks: [
      Plot.line(points, {
        x: "tail",
        y: "ms",
        z: "name",
        stroke: ({ colour }) => COLOUR[colour as Colour],
        strokeWidth: 3,
      }),
      ...waiting(points.length === 0),
    ],
  });
  const legend = lines.map(({ name, colour, value }) => ({ colour, label: name, value }));
  return figure({ title, subtitle: `${subtitle}; both scales are logarithmic`, legend }, svg);
}
