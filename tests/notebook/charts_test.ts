import fc from "fast-check";
import { parseHTML } from "linkedom";
import assert from "node:assert/strict";
import type { Place, Sample, SinkEvents } from "writebehind";
import { Emitter } from "writebehind/core/events.ts";
import {
  comparisonChart,
  countersChart,
  dashboard,
  devicesChart,
  flowChart,
  freshnessChart,
  latencyChart,
  outcomesChart,
  targetsChart,
} from "writebehind/notebook/charts/charts.ts";
import { Marks } from "writebehind/notebook/charts/marks.ts";
import { overTime } from "writebehind/notebook/charts/timeline.ts";
import { distributionChart } from "writebehind/notebook/charts/distribution.ts";
import { createdChart } from "writebehind/notebook/charts/created.ts";
import {
  compact,
  countTicks,
  duration,
  elapsed,
  logTicks,
  spanFor,
} from "writebehind/notebook/charts/scales.ts";
import { standaloneSvg } from "../docs/standalone_svg.ts";

const START = new Date(2026, 10, 23, 14, 16, 5).getTime();

function sampleAt(second: number, values: Partial<Sample> = {}): Sample {
  return {
    at: new Date(START + 1000 * second),
    redis_success: 100 * second,
    redis_fail: 0,
    redis_retry: 0,
    postgres_success: 90 * second,
    postgres_fail: 0,
    writtenPerSecond: 100,
    appliedPerSecond: 90,
    written: 100 * second,
    applied: 90 * second,
    parked: 0,
    owner: null,
    targetAnswers: true,
    lagEvents: 10 * second,
    lagSeconds: 1.5,
    freshnessP50Ms: 2,
    freshnessP99Ms: 13,
    ...values,
  };
}

const PLACE: Place = {
  entity: "session",
  partition: 0,
  stream: "stream:session",
  target: "postgresql",
  process: "11-a",
};

const samplesOf = (count: number) => Array.from({ length: count }, (_, second) => sampleAt(second));

function parsed(html: string): Document {
  return parseHTML(`<!doctype html><html><body>${html}</body></html>`)
    .document as unknown as Document;
}

/** The text of a chart's legend, without its spaces. */
const legendOf = (html: string) =>
  [...parsed(html).querySelectorAll(".key")].map((key) => key.textContent);

const HOSTILE = `"><img src=x onerror='alert(1)'>&<b>`;
const EMPTY: Record<string, string> = {
  outcomes: outcomesChart([]),
  counters: countersChart([]),
  flow: flowChart([]),
  targets: targetsChart({}),
  freshness: freshnessChart([]),
  latency: latencyChart([]),
  devices: devicesChart([]),
  created: createdChart([]),
  comparison: comparisonChart([]),
};
const FILLED: Record<string, string> = {
  outcomes: outcomesChart(samplesOf(40)),
  counters: countersChart(samplesOf(40)),
  flow: flowChart(samplesOf(40)),
  targets: targetsChart({ one: samplesOf(40), other: samplesOf(39) }),
  freshness: freshnessChart(samplesOf(40)),
  latency: latencyChart([{ level: HOSTILE, ms: [0, 0.2, 0.3, 900] }, { level: "none", ms: [] }]),
  devices: devicesChart([{ device_type: HOSTILE, count: 3 }, { device_type: "ios", count: 12 }]),
  created: createdChart([{ second: new Date(START), count: 7 }]),
  comparison: comparisonChart([
    { name: HOSTILE, value: 58_321, unit: HOSTILE },
    { name: "COPY", value: 480, unit: "events/s" },
  ], HOSTILE),
};

Deno.test("charts: without data, axes and a word about it", () => {
  for (const [name, html] of Object.entries(EMPTY)) {
    const pictures = parsed(html).querySelectorAll("svg");
    assert.ok(pictures.length > 0, name);
    for (const picture of pictures) {
      assert.match(picture.textContent, /waiting for data/, name);
      assert.ok(picture.querySelector('[aria-label*="axis"]'), `${name} has no axis`);
    }
  }
});

Deno.test("charts: each is a named figure without warnings, broken numbers or markup in its text", () => {
  for (const [name, html] of Object.entries({ ...EMPTY, ...FILLED })) {
    const document = parsed(html);
    assert.equal(document.querySelectorAll("figure[aria-label]").length, 1, name);
    assert.ok(document.querySelector("figcaption .title")?.textContent, name);
    for (const picture of document.querySelectorAll("svg")) {
      assert.equal(picture.getAttribute("role"), "img");
      assert.ok(picture.getAttribute("aria-label"), name);
      assert.equal(picture.getAttribute("viewBox")?.split(" ")[2], "700", name);
      // At the narrowest width that the dashboard gives two columns, text has 14 pixels.
      for (const text of [picture, ...picture.querySelectorAll("[font-size]")]) {
        const styled = /font-size: *([\d.]+)/.exec(text.getAttribute("style") ?? "")?.[1];
        const size = styled ?? text.getAttribute("font-size");
        assert.ok(size === null || parseFloat(size) * 620 / 700 >= 14, `${name}: ${size}`);
      }
    }
    assert.ok(!html.includes("⚠"), `${name} has a warning of the chart library`);
    const shapes = [...document.querySelectorAll("svg *")].flatMap((shape) =>
      ["d", "x", "y", "width", "height", "cx", "cy", "transform"].map((attribute) =>
        shape.getAttribute(attribute) ?? ""
      )
    );
    assert.ok(!shapes.some((value) => /NaN|undefined|Infinity/.test(value)), name);
    assert.equal(document.querySelector("img, b:not(.key b)"), null, `${name} lets markup in`);
  }
  for (const name of ["latency", "devices", "comparison"]) {
    assert.ok(parsed(FILLED[name] ?? "").body.textContent.includes(HOSTILE.slice(0, 20)), name);
  }
});

Deno.test("charts: colours are variables that follow the theme, never fixed black", () => {
  for (const html of Object.values(FILLED)) {
    assert.match(html, /\[data-jp-theme-light="false"\] \.writebehind/);
    const document = parsed(html);
    for (const shape of document.querySelectorAll("svg [fill], svg [stroke]")) {
      for (const attribute of ["fill", "stroke"]) {
        const colour = shape.getAttribute(attribute) ?? "none";
        assert.match(colour, /^(none|currentColor|var\(.*\))$/);
      }
    }
  }
});

Deno.test("charts over time: the legend tells the newest values", () => {
  const samples = [...samplesOf(30), sampleAt(30, { postgres_fail: 8, freshnessP50Ms: null })];
  assert.deepEqual(legendOf(outcomesChart(samples)), ["written3,000", "applied2,700"]);
  assert.deepEqual(legendOf(countersChart(samples)), [
    "redis_success3,000",
    "postgres_success2,700",
    "redis_fail0",
    "redis_retry0",
    "postgres_fail8",
  ]);
  assert.match(countersChart(samples), /counted by processes/);
  assert.deepEqual(legendOf(flowChart(samples)), ["written/s100", "applied/s90", "lag300"]);
  assert.match(flowChart(samples), /now 1\.5 s behind/);
  // A target that was sampled at other times ends where it was seen last.
  const at = (seconds: number, lagEvents: number) => sampleAt(seconds, { lagEvents });
  const other = [at(0.5, 7), at(1.5, 9), at(99, 1)];
  assert.deepEqual(legendOf(targetsChart({ one: [at(0, 1), at(2, 5)], other })), [
    "one5",
    "other1",
  ]);
  // One that has stopped is not known any more.
  const goesOn = [at(0, 1), at(5, 2), at(9, 3)];
  assert.deepEqual(legendOf(targetsChart({ one: goesOn, other: [at(0, 7), at(2, 9)] })), [
    "one3",
    "other–",
  ]);
  assert.deepEqual(legendOf(freshnessChart(samples)), ["p9913 ms", "p50–"], "nothing now");
  assert.deepEqual(legendOf(freshnessChart([])), ["p99–", "p50–"]);
  assert.match(outcomesChart(samples), /time since 14:16:05/);
  assert.equal(parsed(dashboard(samples)).querySelectorAll("figure").length, 4);
});

Deno.test("freshnessChart: a moment alone between others without events is a dot", () => {
  const nothing = { freshnessP50Ms: null, freshnessP99Ms: null };
  const alone = [sampleAt(0, nothing), sampleAt(1), sampleAt(2, nothing)];
  assert.equal(parsed(freshnessChart(alone)).querySelectorAll("circle").length, 2);
  assert.equal(parsed(freshnessChart([alone[0]!])).querySelectorAll("circle").length, 0);
});

Deno.test("charts over time: what happened is marked, by hand, by events and by what samples tell", () => {
  const samples = samplesOf(20);
  for (const sample of samples.slice(5, 9)) sample.targetAnswers = false;
  for (const sample of samples.slice(12)) sample.parked = 2;
  for (const sample of samples) {
    sample.owner = sample.at.getTime() < START + 15_000 ? "11-a" : "22-b";
  }
  const label = (html: string) => parsed(html).querySelector("svg")?.getAttribute("aria-label");
  assert.match(
    label(flowChart(samples))!,
    /; target away; target back; event parked ×2; sink 22 owns it$/,
  );
  const marks = new Marks();
  const at = (second: number) => new Date(START + 1000 * second);
  marks.mark("later", at(18));
  marks.mark("PostgreSQL killed", at(5));
  marks.mark("PostgreSQL killed", at(6));
  marks.mark("of another time", at(-100));
  marks.mark(HOSTILE, at(7));
  const emitter = new Emitter<SinkEvents>();
  const leave = marks.follow(emitter);
  emitter.emit("recovered", { ...PLACE, failures: 3 });
  leave();
  emitter.emit("wentBack", { ...PLACE, witness: "1-1" });
  assert.deepEqual(marks.all.map(({ text, times }) => `${text} ${times}`), [
    ...["of another time 1", "PostgreSQL killed 2", `${HOSTILE} 1`, "later 1"],
    ...(Date.now() > START ? ["recovered 1"] : []),
  ]);
  const html = overTime({ title: "t", subtitle: "s" }, samples, String, [
    { height: 100, unit: "u", lines: [{ colour: "lag", label: "l", value: () => 1 }] },
  ], marks.all);
  const shown = parsed(html).body.textContent;
  assert.ok(shown.includes("PostgreSQL killed ×2") && shown.includes(HOSTILE));
  assert.ok(!shown.includes("of another time") && !shown.includes("recovered"));
});

Deno.test("charts over time: an axis does not move from second to second, nor shrink", () => {
  const tops = new Set<string>();
  const samples: Sample[] = [];
  const axisOf = (html: string) =>
    [...parsed(html).querySelectorAll('[aria-label$="tick label"]')].map((axis) => axis.textContent)
      .join();
  for (let second = 0; second <= 28; second++) {
    const peak = second === 3 ? 9000 : 100;
    samples.push(sampleAt(second, { writtenPerSecond: peak, lagEvents: 0 }));
    if (second > 3) tops.add(axisOf(flowChart(samples)));
    // As the sampler thins out: the peak is flattened.
    if (second === 10) samples[3]!.writtenPerSecond = 50;
  }
  // Only the time's axis grows, by steps: 5 s, 10 s, 20 s, 30 s.
  assert.equal(tops.size, 4, [...tops].join("\n"));
  assert.ok([...tops].every((top) => top.includes("10k")), [...tops].join("\n"));
});

Deno.test("charts over time: they say that they have stopped, by themselves or at once", () => {
  const stopped = (html: string) => parsed(html).querySelector(".stopped");
  const old = stopped(flowChart(samplesOf(3)))!;
  assert.equal(old.textContent, "stopped at 14:16:07");
  assert.ok(old.classList.contains("now"));
  // One that goes on says it only once nothing has replaced it for some seconds: the page's own clock shows it.
  const fresh = stopped(flowChart([sampleAt(0, { at: new Date() })]))!;
  assert.ok(!fresh.classList.contains("now"));
  assert.match(flowChart([]), /animation:writebehind-stopped 0s 6s forwards/);
  assert.equal(stopped(flowChart([])), null);
});

Deno.test("dashboard: tiles tell the newest figures, and what a verify has found, and when", () => {
  const tilesOf = (html: string) =>
    [...parsed(html).querySelectorAll(".tile")].map(({ textContent }) => textContent.trim());
  const marks = new Marks();
  const samples = [sampleAt(0), sampleAt(12, { parked: 3 })];
  assert.deepEqual(tilesOf(dashboard(samples, marks)).slice(0, -1), [
    ...["written1,200100/s", "applied1,08090/s", "lag1201.5 s behind", "parked3"],
  ]);
  assert.equal(tilesOf(dashboard(samples, marks)).at(-1), "lost–not verified yet");
  marks.verified = { at: new Date(START), lost: 0, behind: 0, compared: 1234 };
  assert.equal(
    tilesOf(dashboard(samples, marks)).at(-1),
    "lost0of 1,234 documents, verified at 14:16:05",
  );
  marks.verified.behind = 5;
  assert.match(tilesOf(dashboard(samples, marks)).at(-1)!, /14:16:05; 5 more were behind$/);
  marks.found({
    documents: 7,
    counts: { mismatches: 2, behind: 0, parked: 0, notForwarded: 0 },
  });
  assert.equal(marks.verified?.lost, 2);
  assert.equal(marks.all[0]?.text, "verified: 2 lost");
});

Deno.test("numbers in a picture's words are those that were given: points alone are rounded", () => {
  const texts = (html: string) =>
    [...parseHTML(html).document.querySelectorAll("svg text")].map(({ textContent }) =>
      textContent
    );
  const calls = new Map([["calls", [0.05, 0.08, 0.13, 0.29]]]);
  const ticks = texts(distributionChart("Calls", "one at a time", calls)).filter((text) =>
    text?.endsWith(" ms")
  );
  assert.deepEqual(ticks, ["0.05 ms", "0.1 ms", "0.2 ms"]);
  const quantiles = texts(latencyChart([{ level: "memory", ms: [0.29, 0.29, 0.29] }])).join(" ");
  assert.match(quantiles, /p50 0\.29 ms/);
});

Deno.test("latencyChart: quantiles are told, and many calls stay few dots", () => {
  const ms = Array.from({ length: 5001 }, (_, index) => index / 1000);
  const html = latencyChart([{ level: "memory", ms: ms.toReversed() }]);
  assert.match(html, /memory: p50 2\.5 ms, p99 5 ms/);
  assert.match(html, /5,001 calls/);
  assert.ok(parsed(html).querySelectorAll("circle").length <= 200);
});

Deno.test("devicesChart: the most frequent first; comparisonChart: an axis a unit", () => {
  assert.match(FILLED.devices ?? "", /Devices\. ios: 12, /);
  const one = comparisonChart([{ name: "a", value: 1, unit: "x" }, {
    name: "b",
    value: 2,
    unit: "x",
  }]);
  assert.equal(parsed(one).querySelectorAll("svg").length, 1);
  assert.equal(parsed(FILLED.comparison ?? "").querySelectorAll("svg").length, 2);
});

Deno.test("createdChart: few seconds have a bar each, hours have few bars, none is left out", () => {
  const rows = (seconds: number[]) =>
    seconds.map((second) => ({ second: new Date(START + 1000 * second), count: 2 }));
  const few = createdChart(rows([0, 1, 2, 4]));
  assert.match(few, /Documents per second\. 4 bars, 8 documents/);
  assert.match(few, />14:16:05</);
  const hours = createdChart(rows(Array.from({ length: 4 * 3600 }, (_, second) => second)));
  assert.match(hours, /Documents per 10 minutes\. 2[45] bars, 28,800 documents/);
  assert.match(hours, />15:00</);
  assert.ok(parsed(hours).querySelectorAll("rect").length <= 40);
  // A time of eight characters in a wide font takes 74 of the 700 units: none is cut, none touches the next.
  for (let seconds = 5; seconds <= 40; seconds++) {
    const chart = createdChart(rows(Array.from({ length: seconds }, (_, second) => second)));
    const middles = [...parsed(chart).querySelectorAll("text")]
      .filter(({ textContent }) => /^\d\d:\d\d:\d\d$/.test(textContent ?? ""))
      .map((text) => Number(/translate\(([\d.]+)/.exec(text.getAttribute("transform")!)![1]));
    assert.ok(middles.length >= 2 && middles.at(-1)! + 37 <= 700, `${seconds} s: ${middles}`);
    for (const [index, middle] of middles.slice(1).entries()) {
      assert.ok(middle - middles[index]! >= 76, `${seconds} s: ${middles}`);
    }
  }
});

Deno.test("standaloneSvg: well-formed, in fixed colours, with all that the chart says", () => {
  for (const theme of ["light", "dark"] as const) {
    const svg = standaloneSvg(Object.values(FILLED).join(""), theme);
    assert.ok(!/var\(|currentColor/.test(svg.replaceAll(/<style>.*?<\/style>/gs, "")));
    for (const text of ["Outcomes", "written", "3,900", "What durability costs", "Devices"]) {
      assert.ok(svg.includes(text), text);
    }
    assertWellFormed(svg);
  }
});

/** Finds what an XML reader would refuse: bare `<` and `&`, quotes in attributes, tags that do not match. */
function assertWellFormed(xml: string): void {
  const open: string[] = [];
  const token = /<(\/?)([\w:-]+)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>|([^<]+)/gy;
  let end = 0;
  for (const match of xml.matchAll(token)) {
    const [whole, closing, name, attributes = "", selfClosing, text = ""] = match;
    end = match.index + whole.length;
    assert.ok(!/&(?!#?\w+;)/.test(text + attributes), `a bare & in ${whole}`);
    if (closing) assert.equal(open.pop(), name);
    else if (name && !selfClosing) open.push(name);
  }
  assert.equal(end, xml.length, `no XML: ${xml.slice(end, end + 80)}`);
  assert.deepEqual(open, []);
}

Deno.test("scales: numbers as people read them", () => {
  assert.deepEqual([0, 999, 1234, 3_400_000].map(compact), ["0", "999", "1.2k", "3.4M"]);
  assert.deepEqual(
    [0.234, 9.96, 14.2, 999, 1500, 12_345, 180_000].map(duration),
    ["0.23 ms", "10 ms", "14 ms", "999 ms", "1.5 s", "12.3 s", "3 min"],
  );
  assert.deepEqual([elapsed(40, 60), elapsed(90, 600), elapsed(3700, 7200)], [
    "40 s",
    "1:30",
    "1:01:40",
  ]);
});

Deno.test("scales: an axis of time is little longer than what it shows", () => {
  assert.deepEqual([0, 4, 5.1, 12, 29, 31].map(spanFor), [5, 5, 10, 20, 30, 60]);
  fc.assert(fc.property(fc.double({ min: 2, max: 1e6, noNaN: true }), (seconds) => {
    assert.ok(spanFor(seconds) >= seconds && spanFor(seconds) <= 2.5 * seconds);
  }));
});

Deno.test("scales: ticks stand around all values, few and in order", () => {
  const inOrder = (ticks: number[]) =>
    ticks.every((tick, index) => index === 0 || tick > ticks[index - 1]!);
  fc.assert(fc.property(fc.double({ min: 0, max: 1e12, noNaN: true }), (max) => {
    const { domain: [low, high], ticks } = countTicks(max, 4);
    assert.ok(low === 0 && high >= max && high <= Math.max(1, 2.5 * max + 1));
    assert.ok(ticks.length <= 6 && inOrder(ticks) && ticks.at(-1) === high);
    assert.ok(ticks.every(Number.isInteger));
  }));
  const positive = fc.double({ min: 1e-3, max: 1e7, noNaN: true });
  fc.assert(fc.property(positive, positive, (a, b) => {
    const [min, max] = a < b ? [a, b] : [b, a];
    const { domain: [low, high], ticks } = logTicks(min, max);
    assert.ok(low <= min && max <= high && low < high);
    assert.ok(ticks.length > 0 && ticks.length <= 12 && inOrder(ticks));
    assert.ok(ticks.every((tick) => tick >= low && tick <= high));
  }));
});
