/** Charts over time: pictures under each other, on one time axis. */

import * as Plot from "@observablehq/plot";
import type { Sample } from "../../metrics/sampler.ts";
import { type Caption, figure, picture, waiting, WIDTH } from "./figure.ts";
import { placeLabels, widthOf } from "./mark_labels.js";
import { type Mark, marksIn } from "./marks.ts";
import {
  clock,
  compact,
  countTicks,
  delayTicks,
  elapsed,
  spanFor,
  type Ticks,
  timeStep,
} from "./scales.ts";
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
  /** The first is drawn last, over the others. */
  lines: Line[];
  /** Fills from the second line up to the first, or from the axis where there is only one. */
  fill?: Colour;
  scale?: { type: "log"; format(value: number): string };
}

/** More samples than these are drawn as the largest of each few. */
const MOST_POINTS = 240;
const MARGIN_LEFT = 74;
const MARGIN_RIGHT = 22;
/** Rows for the words of marks, of which only those needed take room, and the height of each. */
const MARK_ROWS = 10;
const ROW = 20;
const MARK_SIZE = 16;
/** Between a mark's line and its words, and after them. */
const MARK_GAP = 4;

/**
 * Draws samples over time, one picture a panel, with marks of what happened.
 * @param show writes a line's newest value into the legend
 */
export function overTime(
  caption: Caption,
  samples: readonly Sample[],
  show: (value: number) => string,
  panels: Panel[],
  marks: readonly Mark[],
): string {
  const start = samples[0]?.at ?? new Date(NaN);
  const secondsOf = ({ at }: { at: Date }) => (at.getTime() - start.getTime()) / 1000;
  const newest = samples.at(-1);
  const span = spanFor(newest ? secondsOf(newest) : 0);
  const step = timeStep(span, 6);
  const ticks = Array.from({ length: Math.floor(span / step) + 1 }, (_, index) => index * step);
  const legend = panels.flatMap((panel) => panel.lines).map((line) => {
    const value = newest ? line.value(newest) : null;
    const { colour, label, dashed } = line;
    return { colour, label, dashed, value: value === null ? "–" : show(value) };
  });
  const happened = laidOut(marksIn(samples, marks), secondsOf, span);
  const rows = Math.max(0, ...happened.map(({ row }) => row));
  const pictures = panels.map((panel, index) => {
    const first = index === 0;
    const last = index === panels.length - 1;
    const values = panel.lines.map((line) => thinned(samples, line, panel.scale ? FLOOR : null));
    const measured = values.flat().map(({ value }) => value).filter((value) => !isNaN(value));
    const space = first ? rows * ROW : 0;
    const label = `${caption.title}. ${
      panel.lines.map((line) => legend.find(({ label }) => label === line.label))
        .map((key) => `${key?.label}: ${key?.value}`).join(", ")
    }${first ? happened.map(({ text }) => `; ${text}`).join("") : ""}`;
    return picture(label, {
      height: panel.height + space,
      marginLeft: MARGIN_LEFT,
      marginRight: MARGIN_RIGHT,
      marginTop: 30 + space,
      marginBottom: last ? 50 : 12,
      x: {
        domain: [0, span],
        ticks,
        tickFormat: (seconds: number) => last ? elapsed(seconds, span) : "",
        label: last && newest ? `time since ${clock(start)}` : null,
        labelArrow: "none",
        labelAnchor: "center",
        labelOffset: 44,
      },
      y: {
        ...(panel.scale ? { type: panel.scale.type } : {}),
        ...ticksOf(samples, panel, measured),
        tickFormat: panel.scale?.format ?? compact,
        label: null,
        grid: true,
      },
      marks: [
        ...fillOf(panel, values),
        ...rules(happened, first),
        ...curves(panel, values),
        ...(first ? words(happened) : []),
        // Above the topmost tick, clear of the marks' texts.
        Plot.text([panel.unit], {
          frameAnchor: "top-left",
          textAnchor: "start",
          dx: -MARGIN_LEFT + 4,
          dy: -space - 26,
          fontSize: 16,
          fillOpacity: 0.8,
        }),
        ...waiting(measured.length === 0),
      ],
    });
  });
  return figure({ ...caption, legend, newest: newest?.at }, ...pictures);
}

/** A line down where something happened; in the first picture up to its words. */
function rules(happened: readonly Placed[], first: boolean): Plot.Markish[] {
  return happened.map(({ seconds, row }) =>
    Plot.ruleX([seconds], {
      stroke: "currentColor",
      strokeOpacity: 0.55,
      strokeDasharray: "2 3",
      insetTop: first ? -row * ROW - 4 : -12,
    })
  );
}

/** The words for what happened, above a picture. */
function words(happened: readonly Placed[]): Plot.Markish[] {
  return happened.filter(({ row }) => row > 0).map(({ seconds, text, row, before }) =>
    Plot.text([text], {
      x: [seconds],
      frameAnchor: "top",
      textAnchor: before ? "end" : "start",
      dx: before ? -MARK_GAP : MARK_GAP,
      dy: -row * ROW - 7,
      fontSize: MARK_SIZE,
      className: "mark",
    })
  );
}

/** The lines of a panel, the first on top, with dots where one stands out. */
function curves(panel: Panel, values: Point[][]): Plot.Markish[] {
  const dots = panel.lines.flatMap(({ colour }, index) =>
    values[index]!.filter(standsOut).map((point) => ({ ...point, fill: COLOUR[colour] }))
  );
  return [
    ...panel.lines.map((line, index) =>
      Plot.lineY(values[index]!, {
        x: "seconds",
        y: "value",
        stroke: COLOUR[line.colour],
        strokeWidth: line.dashed ? 2.5 : panel.lines.length > 1 ? 3.5 : 2.5,
        ...line.dashed ? { strokeDasharray: "7 5" } : {},
        strokeLinecap: line.dashed ? "butt" : "round",
      })
    ).reverse(),
    Plot.dot(dots, {
      x: "seconds",
      y: "value",
      fill: ({ fill }) => fill,
      r: 4,
    }),
  ];
}

/** The least value that a log axis shows, in ms. */
const FLOOR = 0.1;

interface Point {
  seconds: number;
  /** NaN where nothing was measured */
  value: number;
  /** whether it is the newest, or stands alone, so that a line alone would not show it */
  alone: boolean;
}

const standsOut = ({ alone, value }: Point) => alone && !isNaN(value);

/** The points of a line: of many samples the largest of each few, so that no peak is hidden. */
function thinned(samples: readonly Sample[], line: Line, floor: number | null): Point[] {
  const every = Math.ceil(samples.length / MOST_POINTS);
  const start = samples[0]?.at.getTime() ?? 0;
  const points: Point[] = [];
  // Counted from the newest, which is always drawn as it is.
  for (let end = samples.length; end > 0; end -= every) {
    let largest: number | null = null;
    const from = end === samples.length ? end - 1 : Math.max(0, end - every);
    for (let index = from; index < end; index++) {
      const value = line.value(samples[index]!);
      if (value !== null && (largest === null || value > largest)) largest = value;
    }
    if (end === samples.length) end = from + every;
    const seconds = (samples[Math.min(end, samples.length) - 1]!.at.getTime() - start) / 1000;
    const value = largest === null ? NaN : floor === null ? largest : Math.max(floor, largest);
    points.push({ seconds, value, alone: false });
  }
  points.reverse();
  for (const [index, point] of points.entries()) {
    const nothing = (at: Point | undefined) => at === undefined || isNaN(at.value);
    point.alone = nothing(points[index + 1]) &&
      (index === points.length - 1 || nothing(points[index - 1]));
  }
  return points;
}

function fillOf({ fill, lines }: Panel, values: Point[][]): Plot.Markish[] {
  const [top, bottom] = values;
  if (!fill || !top || lines.length === 0) return [];
  return [Plot.areaY(top, {
    x: "seconds",
    y1: bottom ? bottom.map(({ value }) => value) : 0,
    y2: "value",
    fill: COLOUR[fill],
    fillOpacity: 0.22,
  })];
}

/** The furthest that an axis has reached, by the series that it shows: it does not shrink where a peak has aged. */
const reached = new WeakMap<readonly Sample[], Map<string, [number, number]>>();

function ticksOf(samples: readonly Sample[], panel: Panel, measured: number[]): Ticks {
  const known = reached.getOrInsertComputed(samples, () => new Map());
  let [min, max] = known.get(panel.unit) ?? [Infinity, 0];
  for (const value of measured) {
    min = Math.min(min, value);
    max = Math.max(max, value);
  }
  known.set(panel.unit, [min, max]);
  if (panel.scale) return delayTicks(Math.min(min, 1), max);
  return countTicks(max, panel.height > 160 ? 4 : 2);
}

/** A mark in its place. */
interface Placed {
  seconds: number;
  text: string;
  /** the row of its words, counted from the picture upwards, from 1; 0 where they have no room */
  row: number;
  /** whether its words stand before its line */
  before: boolean;
}

/** Puts each text where it covers no other; where there is no room, only its line is drawn. */
function laidOut(
  marks: Mark[],
  secondsOf: (mark: Mark) => number,
  span: number,
): Placed[] {
  const width = WIDTH - MARGIN_LEFT - MARGIN_RIGHT;
  const lines = marks.map((mark) => {
    const seconds = secondsOf(mark);
    const text = mark.times > 1 ? `${mark.text} ×${mark.times}` : mark.text;
    const needed = widthOf(text, MARK_SIZE) + 2 * MARK_GAP;
    return { seconds, text, x: width * seconds / span, width: needed };
  });
  const space = { left: -MARGIN_LEFT, right: width + MARGIN_RIGHT, rows: MARK_ROWS };
  return placeLabels(lines, space).map((place, index) => {
    const { seconds, text } = lines[index]!;
    return { seconds, text, row: place ? place.height + 1 : 0, before: place?.before ?? false };
  });
}
