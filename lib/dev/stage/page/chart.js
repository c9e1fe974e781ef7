/**
 * The moving chart: three panels over the same two minutes, drawn by Observable Plot.
 * @module
 */

import { placeLabels } from "../../../notebook/charts/mark_labels.js";

/* global Plot, d3 */

/** After a sample, nothing is known for longer than this, in ms, unless another one follows. */
export const STALE_MS = 3000;
/** How much of the past is shown, in ms: at most, and at the beginning. */
const WINDOW_MS = 120_000;
const FIRST_WINDOW_MS = 30_000;
/** Room for the numbers beside the panels, in px. */
const MARGIN_LEFT = 62;
const MARGIN_RIGHT = 36;
/** Rows of words beside the marks, so that they do not cover each other, and how high a row is, in sizes of the text. */
const MARK_ROWS = 4;
const ROW_HEIGHT = 1.25;
/** Between a mark's line and its words, in px. */
const GAP = 6;
/** Measures words. */
const pen = document.createElement("canvas").getContext("2d");

const COLOURS = {
  break: "var(--warn)",
  mend: "var(--good)",
  note: "var(--soft)",
  wrong: "var(--bad)",
};

/** This part of the time axis, from the left, has no numbers. */
const CORNER = 0.045;

const RULE = {
  x: "at",
  stroke: ({ tone }) => COLOURS[tone],
  strokeWidth: 1.5,
  strokeOpacity: 0.8,
};

/** Waiting for less than this, in seconds, is how it always is. */
const WORTH_DRAWING_SECONDS = 0.7;

/** Axes grow at once and shrink only when far too large, so that they do not jump. */
class Ceiling {
  #value;
  #least;

  constructor(least) {
    this.#value = this.#least = least;
  }

  over(values) {
    const most = Math.max(this.#least, ...values) * 1.05;
    if (most > this.#value || most < this.#value / 4) {
      this.#value = Math.max(this.#least, d3.scaleLinear([0, most], [0, 1]).nice(4).domain()[1]);
    }
    return this.#value;
  }
}

const ceilings = { rates: new Ceiling(100), lag: new Ceiling(100) };

const shortTime = d3.timeFormat("%H:%M:%S");
const shortNumber = (value) => value < 10_000 ? d3.format(",")(value) : d3.format("~s")(value);
const duration = (ms) => ms < 1000 ? `${ms} ms` : `${ms / 1000} s`;

/** The text's size in the page, which follows the screen's. */
const textSize = () => parseFloat(getComputedStyle(document.querySelector("figcaption")).fontSize);

/**
 * Draws all panels.
 * @param samples the figures, the oldest first
 * @param marks what happened and has a mark
 * @param now where the chart ends, in ms
 */
export function drawChart(samples, marks, now) {
  const began = Math.min(samples[0]?.at ?? now, now - FIRST_WINDOW_MS);
  const from = Math.max(began, now - WINDOW_MS);
  // One more on the left, so that the lines come from outside.
  const first = Math.max(0, samples.findIndex(({ at }) => at >= from) - 1);
  const known = samples.slice(first).map((sample) => ({
    ...sample,
    at: new Date(sample.at),
    ageMs: sample.lagSeconds > WORTH_DRAWING_SECONDS ? sample.lagSeconds * 1000 : NaN,
    p50: sample.freshnessP50Ms === null ? NaN : Math.max(1, sample.freshnessP50Ms),
    p99: sample.freshnessP99Ms === null ? NaN : Math.max(1, sample.freshnessP99Ms),
  }));
  // No line leads over a time of which nothing is known.
  const shown = known.flatMap((sample, index) =>
    known[index + 1]?.at - sample.at > STALE_MS ? [sample, { at: sample.at }] : [sample]
  );
  const lines = marks.filter(({ at }) => at >= from && at <= now)
    .map((mark) => ({ ...mark, at: new Date(mark.at) }));
  const size = textSize();
  const common = { x: { domain: [new Date(from), new Date(now)], axis: null, label: null }, size };
  const rules = Plot.ruleX(lines, RULE);

  draw("#panel-rates", {
    ...common,
    marginTop: MARK_ROWS * size * ROW_HEIGHT + 4,
    // By the root, so that a quiet flow is still seen beside the peak of catching up.
    y: rootAxis(
      ceilings.rates.over(known.flatMap((s) => [s.writtenPerSecond, s.appliedPerSecond])),
    ),
    marks: (width) => [
      Plot.areaY(shown, {
        x: "at",
        y: "appliedPerSecond",
        fill: "var(--stored)",
        fillOpacity: 0.14,
      }),
      ...marked(lines, from, now, width, size),
      Plot.line(shown, { x: "at", y: "appliedPerSecond", stroke: "var(--stored)", strokeWidth: 3 }),
      Plot.line(shown, {
        x: "at",
        y: "writtenPerSecond",
        stroke: "var(--written)",
        strokeWidth: 2.5,
        strokeDasharray: "7 5",
      }),
    ],
  });
  draw("#panel-lag", {
    ...common,
    marginTop: 8,
    y: axis(ceilings.lag.over(known.map(({ lag }) => lag)), 3),
    marks: () => [
      Plot.areaY(shown, { x: "at", y: "lag", fill: "var(--lag)", fillOpacity: 0.3 }),
      rules,
      Plot.line(shown, { x: "at", y: "lag", stroke: "var(--lag)", strokeWidth: 2.5 }),
    ],
  });
  // A little below, so that no line runs along the upper edge.
  const longest = d3.max(known, ({ ageMs, p99 }) => d3.max([ageMs, p99])) ?? 0;
  const isLong = longest > 8000;
  draw("#panel-freshness", {
    ...common,
    marginTop: 8,
    marginBottom: size * 1.9,
    x: {
      ...common.x,
      axis: "bottom",
      ticks: 6,
      // Under the corner there is the other axis's lowest number.
      tickFormat: (at) => (at - from) / (now - from) < CORNER ? "" : shortTime(at),
      tickSize: 4,
    },
    y: {
      type: "log",
      domain: [1, isLong ? 100_000 : 10_000],
      ticks: [1, 10, 100, 1000, 10_000, ...isLong ? [100_000] : []],
      tickFormat: duration,
      label: null,
      grid: true,
    },
    marks: () => [
      Plot.areaY(shown, {
        x: "at",
        y1: "p50",
        y2: "p99",
        fill: "var(--freshness)",
        fillOpacity: 0.4,
      }),
      rules,
      Plot.line(shown, { x: "at", y: "p99", stroke: "var(--freshness)", strokeWidth: 2 }),
      Plot.line(shown, { x: "at", y: "ageMs", stroke: "var(--lag)", strokeWidth: 2 }),
    ],
  });
}

function axis(most, ticks = 4) {
  return { domain: [0, most], ticks, tickFormat: shortNumber, grid: true, label: null };
}

/** Its numbers stand at 1, 2 or 5 times a power of ten, where there is room for them. */
function rootAxis(most) {
  const ticks = [most];
  for (let decade = 10 ** Math.floor(Math.log10(most)); decade >= 1; decade /= 10) {
    for (const tick of [5 * decade, 2 * decade, decade]) {
      const [above, here] = [ticks.at(-1), tick].map((value) => Math.sqrt(value / most));
      if (above - here >= 0.13 && here >= 0.12) ticks.push(tick);
    }
  }
  return { ...axis(most), type: "sqrt", ticks: [...ticks, 0] };
}

/** The marks, each with its words above the panel where they have room, and its line up to them. */
function marked(lines, from, now, width, size) {
  const right = width - MARGIN_LEFT - MARGIN_RIGHT;
  pen.font = `600 ${size}px ${getComputedStyle(document.body).fontFamily}`;
  const places = placeLabels(
    lines.map(({ at, mark }) => ({
      x: (at - from) * right / (now - from),
      width: pen.measureText(mark).width + 2 * GAP,
    })),
    { left: 0, right: right + MARGIN_RIGHT, rows: MARK_ROWS },
  );
  const placed = lines.map((line, index) => ({ ...line, ...places[index] }));
  const each = (row, before) => placed.filter((one) => one.height === row && one.before === before);
  return [
    Plot.ruleX(placed.filter(({ height }) => height === undefined), RULE),
    ...d3.range(MARK_ROWS).flatMap((row) => [
      Plot.ruleX(placed.filter(({ height }) => height === row), {
        ...RULE,
        insetTop: -(row + 1) * size * ROW_HEIGHT,
        clip: false,
      }),
      ...[true, false].map((before) =>
        Plot.text(each(row, before), {
          x: "at",
          frameAnchor: "top",
          textAnchor: before ? "end" : "start",
          lineAnchor: "top",
          dx: before ? -GAP : GAP,
          dy: -(row + 1) * size * ROW_HEIGHT,
          text: "mark",
          fill: ({ tone }) => COLOURS[tone],
          fontWeight: 600,
          fontSize: size,
          className: "mark",
          clip: false,
        })
      ),
    ]),
  ];
}

function draw(panel, { size, marks, ...options }) {
  const container = document.querySelector(`${panel} .plot`);
  const { clientWidth: width, clientHeight: height } = container;
  if (width === 0 || height < 20) return;
  container.replaceChildren(Plot.plot({
    width,
    height,
    marginLeft: MARGIN_LEFT,
    marginRight: MARGIN_RIGHT,
    marginBottom: 6,
    clip: true,
    style: { fontSize: `${size}px`, overflow: "visible" },
    ...options,
    marks: marks(width),
  }));
}
