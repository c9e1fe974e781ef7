/** The page's charts, in the look of the notebook's. */

import * as Plot from "@observablehq/plot";
import { sideLabels } from "writebehind/notebook/charts/bars.ts";
import { figure, picture } from "writebehind/notebook/charts/figure.ts";
import { compact, countTicks, full } from "writebehind/notebook/charts/scales.ts";
import { COLOUR, type Colour } from "writebehind/notebook/charts/theme.ts";
import type { CpuTimes } from "./cpu.ts";
import { median, passes, type Row } from "./measure.ts";
import { figure as digits, goalOf } from "./table.ts";

/** Bars longer than this many times the goal are cut off: the figure beside them says it all. */
const LONGEST = 2;
const ROW_HEIGHT = 42;

/** Every row against its goal, which is marked at the same place for all of them. */
export function goalsChart(rows: readonly Row[]): string {
  const bars = rows.flatMap((row, place) =>
    row.goal === null ? [] : [{
      place,
      length: Math.min(LONGEST, row.atMost ? row.goal / row.value : row.value / row.goal),
      label: `${row.id}  ${row.name.replace(/, at most\b/, "")}`,
      value: `${digits(row.value)}  (${goalOf(row)})`,
      met: passes(row),
    }]
  ).map((bar, place) => ({ ...bar, place }));
  const label = bars.map(({ label, value, met }) => `${label}: ${value} ${met ? "met" : "missed"}`);
  const svg = picture(`Goals. ${label.join("; ")}`, {
    height: bars.length * ROW_HEIGHT + 30,
    marginLeft: 12,
    marginRight: 120,
    marginTop: 4,
    marginBottom: 26,
    x: {
      domain: [0, LONGEST],
      ticks: [0, 0.5, 1, 1.5, 2],
      tickFormat: (times: number) => times === 1 ? "goal" : `${times} ×`,
      label: null,
      grid: true,
    },
    y: {
      domain: bars.map(({ place }) => place),
      axis: null,
      paddingInner: 0.62,
      paddingOuter: 0.3,
    },
    marks: [
      Plot.barX(bars, {
        x: "length",
        y: "place",
        fill: ({ met }) => COLOUR[met ? "stored" : "failed"],
      }),
      Plot.text(bars, {
        x: 0,
        y: "place",
        dy: -17,
        text: "label",
        textAnchor: "start",
        fontSize: 12,
      }),
      Plot.text(bars, {
        frameAnchor: "right",
        y: "place",
        dx: 8,
        text: "value",
        textAnchor: "start",
        fontSize: 13,
        fontWeight: 600,
      }),
      Plot.tickX(bars, { x: 1, y: "place", strokeWidth: 2.5, insetTop: -3, insetBottom: -3 }),
      Plot.ruleX([0], { strokeOpacity: 0.5 }),
    ],
  });
  const met = bars.filter(({ met }) => met).length;
  return figure({
    title: "Against the goals",
    subtitle: `${met} of ${bars.length} met; a limit from above is shown as goal / value`,
    legend: [{ colour: "stored", label: "met" }, { colour: "failed", label: "missed" }],
  }, svg);
}

/** The rate against the size of the backlog: flat is what it should be. */
export function backlogChart(backlogs: ReadonlyMap<number, readonly number[]>): string {
  const points = [...backlogs].map(([events, rates]) => ({
    events,
    rate: median(rates),
    least: Math.min(...rates),
    most: Math.max(...rates),
  }));
  const sizes = points.map(({ events }) => events);
  const label = points.map(({ events, rate }) =>
    `${full(events)} events: ${full(Math.round(rate))}/s`
  );
  const svg = picture(`Backlog. ${label.join("; ")}`, {
    height: 220,
    marginLeft: 52,
    marginRight: 60,
    marginTop: 24,
    marginBottom: 40,
    x: {
      type: "log",
      domain: [Math.min(...sizes) / 1.5, Math.max(...sizes) * 1.5],
      ticks: sizes,
      tickFormat: full,
      label: "events in the backlog (log scale)",
      labelArrow: "none",
      labelAnchor: "center",
    },
    y: {
      ...countTicks(Math.max(...points.map(({ most }) => most)), 4),
      tickFormat: compact,
      label: null,
      grid: true,
    },
    marks: [
      Plot.ruleX(points, {
        x: "events",
        y1: "least",
        y2: "most",
        strokeWidth: 2,
        strokeOpacity: 0.5,
      }),
      Plot.line(points, { x: "events", y: "rate", stroke: COLOUR.stored, strokeWidth: 2 }),
      Plot.dot(points, { x: "events", y: "rate", r: 4, fill: COLOUR.stored }),
      Plot.text(points, {
        x: "events",
        y: "rate",
        text: ({ rate }) => `${compact(rate)}/s`,
        dy: -13,
        fontSize: 13,
        fontWeight: 600,
      }),
      Plot.ruleY([0], { strokeOpacity: 0.5 }),
    ],
  });
  return figure({
    title: "Cost against backlog size",
    subtitle: "events drained a second: median, and the range of the rounds",
  }, svg);
}

const PARTS = [
  { part: "deno", label: "Deno", colour: "lag" },
  { part: "postgres", label: "PostgreSQL", colour: "stored" },
  { part: "redis", label: "Redis", colour: "written" },
] as const;

/** CPU time of one thing that was measured. */
export interface CpuBar {
  name: string;
  /** one a round */
  times: readonly CpuTimes[];
}

/** CPU time, split into the three parts of the pipeline. */
export function cpuChart(
  title: string,
  subtitle: string,
  bars: readonly CpuBar[],
  format: (sum: number) => string,
): string {
  const rows = bars.map(({ name, times }, row) => {
    const parts = PARTS.map(({ part, colour }) => ({
      row,
      colour,
      value: median(times.map((time) => time[part])),
    }));
    return { name, row, parts, sum: parts.reduce((sum, { value }) => sum + value, 0) };
  });
  const most = Math.max(...rows.map(({ sum }) => sum));
  // Ticks are made for whole numbers; busy cores are fewer than those.
  const scale = most < 10 ? 10 : 1;
  const { domain, ticks } = countTicks(most * scale, 5);
  const label = rows.map(({ name, parts, sum }) =>
    `${name}: ${format(sum)} (${
      parts.map(({ value }, index) => `${PARTS[index]!.label} ${format(value)}`).join(", ")
    })`
  );
  const svg = picture(`${title}. ${label.join("; ")}`, {
    height: Math.max(rows.length, 2) * 34 + 40,
    ...sideLabels(rows.map(({ name }) => name)),
    marginRight: 90,
    marginTop: 6,
    marginBottom: 30,
    x: {
      domain: domain.map((value) => value / scale),
      ticks: ticks.map((value) => value / scale),
      tickFormat: (value: number) => full(value),
      label: null,
      grid: true,
    },
    y: {
      domain: rows.map(({ row }) => row),
      tickFormat: (row: number) => rows[row]?.name ?? "",
      tickSize: 0,
      label: null,
      padding: 0.28,
    },
    marks: [
      Plot.barX(
        rows.flatMap(({ parts }) => parts),
        { x: "value", y: "row", fill: ({ colour }) => COLOUR[colour as Colour] },
      ),
      Plot.text(rows, {
        x: "sum",
        y: "row",
        text: ({ sum }) => format(sum),
        textAnchor: "start",
        dx: 6,
        fontSize: 13,
        fontWeight: 600,
      }),
      Plot.ruleX([0], { strokeOpacity: 0.5 }),
    ],
  });
  return figure(
    { title, subtitle, legend: PARTS.map(({ label, colour }) => ({ colour, label })) },
    svg,
  );
}
