/** Charts over time: pictures under each other, on one time axis. */

import * as Plot from "@observablehq/plot";
import type { Sample } from "../../metrics/sampler.ts";
import { type Caption, figure, picture, waiting } from "./figure.ts";
import { clock, compact, countTicks, elapsed, logTicks, type Ticks, timeStep } from "./scales.ts";
import { COLOUR, type Colour } from "./theme.ts";

/** A line of a chart over time: `value` is null where nothing was measured. */
export interface Line {
  colour: Colour;
  label: string;
  value(sample: Sample): number | null;
  dashed?: boolean;
}

/** One picture of a chart over time. */
export interface Panel {
  height: number;
  /** What the vertical axis counts. */
  unit: string;
  lines: Line[];
  /** Fills from the second line up to the first, or from the axis where there is only one. */
  fill?: Colour;
  scale?: { type: "log"; format(value: number): string };
}

/**
 * Draws samples over time, one picture a panel.
 * @param show writes a line's newest value into the legend
 */
export function overTime(
  caption: Caption,
  samples: readonly Sample[],
  show: (value: number) => string,
  ...panels: Panel[]
): string {
  const start = samples[0]?.at ?? new Date(NaN);
  const secondsOf = (sample: Sample) => (sample.at.getTime() - start.getTime()) / 1000;
  const newest = samples.at(-1);
  const span = Math.max(10, newest ? secondsOf(newest) : 0);
  const step = timeStep(span, 8);
  const ticks = Array.from({ length: Math.floor(span / step) + 1 }, (_, index) => index * step);
  const legend = panels.flatMap((panel) => panel.lines).map((line) => {
    const value = samples.findLast((sample) => line.value(sample) !== null);
    const number = value && line.value(value);
    return {
      colour: line.colour,
      label: line.label,
      dashed: line.dashed,
      value: typeof number === "number" ? show(number) : "–",
    };
  });
  const pictures = panels.map((panel, index) => {
    const last = index === panels.length - 1;
    const measured = samples.flatMap((sample) => panel.lines.map((line) => line.value(sample)))
      .filter((value) => value !== null);
    const floor = 0.1;
    const height = (line: Line) => (sample: Sample) => {
      const value = line.value(sample) ?? NaN;
      return panel.scale ? Math.max(value, floor) : value;
    };
    const [top, bottom] = panel.lines;
    const label = `${caption.title}. ${
      panel.lines.map((line) => legend.find(({ label }) => label === line.label))
        .map((key) => `${key?.label}: ${key?.value}`).join(", ")
    }`;
    return picture(label, {
      height: panel.height,
      marginLeft: 52,
      marginRight: 26,
      marginTop: 24,
      marginBottom: last ? 38 : 10,
      x: {
        domain: [0, span],
        ticks,
        tickFormat: (seconds: number) => last ? elapsed(seconds, span) : "",
        label: last && newest ? `time since ${clock(start)}` : null,
        labelArrow: "none",
        labelAnchor: "center",
      },
      y: {
        ...(panel.scale ? { type: "log", ...around(measured, floor) } : countTicks(
          measured.reduce((max, value) => Math.max(max, value), 0),
          panel.height > 120 ? 4 : 2,
        )),
        tickFormat: panel.scale?.format ?? compact,
        label: panel.unit,
        labelArrow: "none",
        grid: true,
      },
      marks: [
        ...(panel.fill && top
          ? [Plot.areaY(samples, {
            x: secondsOf,
            y1: bottom ? height(bottom) : 0,
            y2: height(top),
            fill: COLOUR[panel.fill],
            fillOpacity: 0.18,
          })]
          : []),
        ...panel.lines.map((line) =>
          Plot.lineY(samples, {
            x: secondsOf,
            y: height(line),
            stroke: COLOUR[line.colour],
            strokeWidth: 2,
            strokeDasharray: line.dashed ? "5 4" : undefined,
            strokeLinecap: "round",
          })
        ),
        ...panel.lines.map((line) =>
          Plot.dot(samples.filter(standsOut(line)), {
            x: secondsOf,
            y: height(line),
            fill: COLOUR[line.colour],
            r: 3,
          })
        ),
        ...waiting(measured.length === 0),
      ],
    });
  });
  return figure({ ...caption, legend }, ...pictures);
}

/** Picks what a line alone would not show: where it is now, and moments with nothing measured around them. */
function standsOut({ value }: Line) {
  return (sample: Sample, index: number, samples: readonly Sample[]) => {
    const measured = (at: Sample | undefined) => at !== undefined && value(at) !== null;
    return measured(sample) && !measured(samples[index + 1]) &&
      (index === samples.length - 1 || !measured(samples[index - 1]));
  };
}

/** Log ticks around what was measured, at least from 1 to 100 ms so that a live axis rarely jumps. */
function around(measured: number[], floor: number): Ticks {
  const min = measured.reduce((least, value) => Math.min(least, Math.max(value, floor)), 1);
  const max = measured.reduce((most, value) => Math.max(most, value), 100);
  const { domain, ticks } = logTicks(min, max);
  const powers = ticks.filter((tick) => Number.isInteger(Math.log10(tick)));
  const every = powers.length > 4 ? 2 : 1;
  return { domain, ticks: powers.filter((_, index) => index % every === 0) };
}
