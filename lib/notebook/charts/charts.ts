/**
 * The charts. Each function returns one HTML figure, for any theme; without data it shows empty axes.
 * @module
 */

import * as Plot from "@observablehq/plot";
import type { Sample } from "../../metrics/sampler.ts";
import { horizontalBars, shortened, sideLabels } from "./bars.ts";
import { figure, picture, STOPPED_MS, waiting } from "./figure.ts";
import { kernelMarks, type Marks } from "./marks.ts";
import { duration, full, logTicks } from "./scales.ts";
import { COLOUR, type Colour } from "./theme.ts";
import { tiles } from "./tiles.ts";
import { overTime } from "./timeline.ts";

/** What was written and applied, in events since sampling began. */
export function outcomesChart(samples: readonly Sample[], marks: Marks = kernelMarks): string {
  // From what was applied before: less than that is never written, whatever becomes of what waits.
  const before = samples[0]?.applied ?? 0;
  return overTime(
    { title: "Outcomes", subtitle: "events since sampling began; what is between the lines waits" },
    samples,
    full,
    [{
      height: 360,
      unit: "events",
      fill: "lag",
      lines: [
        { colour: "written", label: "written", value: (at) => at.written - before, dashed: true },
        { colour: "stored", label: "applied", value: (at) => at.applied - before },
      ],
    }],
    marks.all,
  );
}

/** The original's counters: what processes have counted, in events since sampling began. */
export function countersChart(samples: readonly Sample[], marks: Marks = kernelMarks): string {
  return overTime(
    {
      title: "Counters",
      subtitle:
        "counted by processes since sampling began; a killed one takes its last counts along",
    },
    samples,
    full,
    [{
      height: 150,
      unit: "events that succeeded",
      lines: [
        {
          colour: "written",
          label: "redis_success",
          value: (at) => at.redis_success,
          dashed: true,
        },
        { colour: "stored", label: "postgres_success", value: (at) => at.postgres_success },
      ],
    }, {
      height: 160,
      unit: "failed and retried",
      lines: [
        { colour: "failed", label: "redis_fail", value: (at) => at.redis_fail, dashed: true },
        { colour: "retried", label: "redis_retry", value: (at) => at.redis_retry, dashed: true },
        { colour: "other", label: "postgres_fail", value: (at) => at.postgres_fail },
      ],
    }],
    marks.all,
  );
}

/** Events written and applied each second, and below them the lag, in events. */
export function flowChart(samples: readonly Sample[], marks: Marks = kernelMarks): string {
  const seconds = samples.at(-1)?.lagSeconds;
  const behind = !seconds ? "" : `; now ${duration(1000 * seconds)} behind`;
  return overTime(
    { title: "Flow and lag", subtitle: `events per second, and events behind${behind}` },
    samples,
    (value) => full(Math.round(value)),
    [{
      height: 210,
      unit: "events per second",
      lines: [
        { colour: "written", label: "written/s", value: (at) => at.writtenPerSecond, dashed: true },
        { colour: "stored", label: "applied/s", value: (at) => at.appliedPerSecond },
      ],
    }, {
      height: 150,
      unit: "events behind",
      fill: "lag",
      lines: [{ colour: "lag", label: "lag", value: (at) => at.lagEvents }],
    }],
    marks.all,
  );
}

/** The colours of targets, in their order. */
const OF_TARGETS: Colour[] = ["stored", "written", "lag", "retried", "failed", "other"];

/**
 * How far each of several targets is behind, in events.
 * @param series the samples of a `Sampler` of each target, by its name; the first one's times are those of the chart
 */
export function targetsChart(
  series: Readonly<Record<string, readonly Sample[]>>,
  marks: Marks = kernelMarks,
): string {
  const [samples = []] = Object.values(series);
  const newest = samples.at(-1);
  // Each is sampled at times of its own: what it said last stands, and the end is the end of all. Of one that has stopped
  // while the first goes on, nothing is known.
  const at = (of: readonly Sample[], sample: Sample) => {
    const last = of.at(-1);
    if (last && sample.at.getTime() - last.at.getTime() > STOPPED_MS) return undefined;
    return sample === newest ? last : of.findLast((one) => one.at <= sample.at);
  };
  return overTime(
    { title: "Targets", subtitle: "events that each is behind" },
    samples,
    full,
    [{
      height: 210,
      unit: "events behind",
      lines: Object.entries(series).map(([label, of], index) => ({
        colour: OF_TARGETS[index % OF_TARGETS.length]!,
        label,
        value: (sample) => at(of, sample)?.lagEvents ?? null,
        dashed: index % 2 === 1,
      })),
    }],
    marks.all,
  );
}

/** How long after the write call a row is visible: from the median to the slowest of a hundred. */
export function freshnessChart(samples: readonly Sample[], marks: Marks = kernelMarks): string {
  return overTime(
    { title: "Freshness", subtitle: "from the write call to the row being visible (log scale)" },
    samples,
    duration,
    [{
      height: 310,
      unit: "from p50 to p99",
      fill: "stored",
      scale: { type: "log", format: duration },
      lines: [
        { colour: "written", label: "p99", value: (at) => at.freshnessP99Ms, dashed: true },
        { colour: "stored", label: "p50", value: (at) => at.freshnessP50Ms },
      ],
    }],
    marks.all,
  );
}

/**
 * The figures as tiles, and outcomes, flow, freshness and counters: what a live display shows.
 * @param marks what happened, and what the newest verify has found. @default {what this kernel has marked}
 */
export function dashboard(
  samples: readonly Sample[],
  marks: Marks = kernelMarks,
): string {
  return `<div class="writebehind-board">${tiles(samples.at(-1), marks)}${
    [outcomesChart, flowChart, freshnessChart, countersChart].map((chart) => chart(samples, marks))
      .join("")
  }</div>`;
}

/** The latencies that were measured at one durability level, in ms. */
export interface Latencies {
  level: string;
  ms: readonly number[];
}

/** Dots that are drawn for one level; more measurements are thinned out evenly. */
const MAX_DOTS = 150;
const ROW = 52;

/** What each durability level costs: every call a dot, the middle half a box, the median a line. */
export function latencyChart(points: readonly Latencies[]): string {
  const levels = points.filter(({ ms }) => ms.length > 0).map(({ level, ms }, row) => {
    const sorted = ms.toSorted((a, b) => a - b);
    const at = (part: number) => sorted[Math.floor(part * (sorted.length - 1))] ?? NaN;
    const dots = Math.min(sorted.length, MAX_DOTS);
    return {
      level,
      row,
      quarter: at(0.25),
      p50: at(0.5),
      threeQuarters: at(0.75),
      p99: at(0.99),
      calls: sorted.length,
      // Scattered over the row, the same way each time.
      dots: Array.from({ length: dots }, (_, index) => ({
        ms: at(dots > 1 ? index / (dots - 1) : 0),
        row: row + 0.5 * (Math.abs(1e4 * Math.sin(index + 1)) % 1 - 0.5),
      })),
    };
  });
  const all = levels.flatMap(({ dots }) => dots.map(({ ms }) => ms));
  const least = 0.001;
  const scale = all.length === 0
    ? logTicks(0.1, 100)
    : logTicks(Math.max(least, Math.min(...all)), Math.max(2 * least, ...all));
  const rows = Math.max(levels.length, 2);
  const svg = picture(
    `Latency by durability. ${
      levels.map(({ level, p50, p99 }) => `${level}: p50 ${duration(p50)}, p99 ${duration(p99)}`)
        .join("; ")
    }`,
    {
      height: rows * ROW + 50,
      ...sideLabels(levels.map(({ level }) => level)),
      marginRight: 190,
      marginTop: 8,
      marginBottom: 40,
      x: {
        type: "log",
        ...scale,
        tickFormat: duration,
        label: "time of one call (log scale)",
        labelArrow: "none",
        labelAnchor: "center",
        grid: true,
      },
      y: {
        domain: [rows - 0.5, -0.5],
        ticks: levels.map(({ row }) => row),
        tickFormat: (row: number) => shortened(levels[row]?.level ?? ""),
        tickSize: 0,
        label: null,
      },
      marks: [
        Plot.rect(levels, {
          x1: ({ quarter }) => Math.max(least, quarter),
          x2: ({ threeQuarters }) => Math.max(least, threeQuarters),
          y1: ({ row }) => row - 0.32,
          y2: ({ row }) => row + 0.32,
          fill: COLOUR.written,
          fillOpacity: 0.16,
          stroke: COLOUR.written,
          strokeOpacity: 0.6,
        }),
        Plot.dot(levels.flatMap(({ dots }) => dots), {
          x: ({ ms }) => Math.max(least, ms),
          y: "row",
          r: 2.2,
          fill: COLOUR.written,
          fillOpacity: 0.5,
        }),
        Plot.ruleX(levels, {
          x: ({ p50 }) => Math.max(least, p50),
          y1: ({ row }) => row - 0.38,
          y2: ({ row }) => row + 0.38,
          stroke: COLOUR.stored,
          strokeWidth: 4,
        }),
        Plot.text(levels, {
          y: "row",
          frameAnchor: "right",
          textAnchor: "start",
          dx: 12,
          text: ({ p50, p99 }) => `p50 ${duration(p50)}\np99 ${duration(p99)}`,
          fontSize: 16,
          fontWeight: 600,
        }),
        ...waiting(levels.length === 0),
      ],
    },
  );
  const calls = full(levels.reduce((sum, level) => sum + level.calls, 0));
  return figure({
    title: "What durability costs",
    subtitle: `${calls} calls; each dot one call, box the middle half`,
    legend: [{ colour: "written", label: "calls" }, { colour: "stored", label: "median (p50)" }],
  }, svg);
}

/** Documents by the type of their device, the most frequent first. */
export function devicesChart(rows: readonly { device_type: string; count: number }[]): string {
  const bars = rows.map(({ device_type, count }) => ({ name: device_type, value: count }))
    .sort((a, b) => b.value - a.value);
  return figure(
    { title: "Devices", subtitle: "documents by device type" },
    horizontalBars("Devices", bars.map((bar) => ({ ...bar, label: full(bar.value) })), "stored"),
  );
}

/** A named figure to compare with others of its unit. */
export interface Bar {
  name: string;
  value: number;
  unit: string;
}

/**
 * Figures side by side, the first one emphasised; each unit has an axis of its own.
 * @param title what is compared
 */
export function comparisonChart(bars: readonly Bar[], title = "Side by side"): string {
  const units = Map.groupBy(bars, ({ unit }) => unit);
  if (units.size === 0) units.set("", []);
  const pictures = [...units].map(([unit, group]) =>
    horizontalBars(
      `${title}, ${unit}`,
      group.map(({ name, value }) => ({ name, value, label: `${full(value)} ${unit}` })),
      "stored",
      bars[0],
    )
  );
  return figure(
    { title, subtitle: [...units.keys()].join(", ") },
    ...pictures,
  );
}
