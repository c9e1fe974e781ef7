/** `out/bench.html`: a run's rows as charts and as a table. */

import { join, relative } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { comparisonChart } from "writebehind/notebook/charts/charts.ts";
import { distributionChart } from "writebehind/notebook/charts/distribution.ts";
import { escapeHtml, STYLE } from "writebehind/notebook/charts/theme.ts";
import { backlogChart, cpuChart, goalsChart } from "./charts.ts";
import type { CpuTimes } from "./cpu.ts";
import type { Findings, GrowthPoint, Sample } from "./findings.ts";
import { median, passes, type Row } from "./measure.ts";
import { cellsOf, COLUMNS } from "./table.ts";

/** What the page is made of. */
export interface PageContent {
  rows: readonly Row[];
  findings: Findings;
  /** the machine and the versions, as text */
  machine: string;
  /** whether the sizes were small ones */
  quick: boolean;
}

const FILE = join(CHECKOUT, "out", "bench.html");

/** Writes the page and returns its path, as seen from here. */
export async function writePage(content: PageContent): Promise<string> {
  await Deno.mkdir(join(CHECKOUT, "out"), { recursive: true });
  await Deno.writeTextFile(FILE, pageOf(content));
  return relative(Deno.cwd(), FILE);
}

const PAGE_STYLE = `<style>
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:32px auto;padding:0 20px;` +
  `background:light-dark(#fff,#15181d);color:light-dark(#1f2328,#e6e9ee)}
h1{font-size:24px;margin:0 0 6px}
p{margin:0 0 10px;max-width:700px}
figure.writebehind{margin:28px 0}
.writebehind td:nth-child(n+3):nth-child(-n+5){text-align:right!important;font-variant-numeric:tabular-nums}
.writebehind.writebehind table :is(td:nth-child(2),td:last-child){white-space:normal}
.writebehind td.met{color:var(--wb-stored)!important;font-weight:600}
.writebehind td.missed{color:var(--wb-failed)!important;font-weight:600}
</style>`;

const inMicroseconds = ({ deno, postgres, redis }: CpuTimes): CpuTimes => ({
  deno: 1e6 * deno,
  postgres: 1e6 * postgres,
  redis: 1e6 * redis,
});

function pageOf({ rows, findings, machine, quick }: PageContent): string {
  const parts = [
    ...(rows.some(({ goal }) => goal !== null) ? [goalsChart(rows)] : []),
    ...throughput(findings),
    ...latencies(findings),
    ...(findings.backlogs.size > 0 ? [backlogChart(findings.backlogs)] : []),
    ...(findings.cpu.size > 0
      ? [
        cpuChart(
          "CPU per event",
          "µs of all cores together; of a row for COPY",
          [...findings.cpu].map(([name, costs]) => ({ name, times: costs.map(inMicroseconds) })),
          (us) => `${us.toFixed(1)} µs`,
        ),
      ]
      : []),
    ...growth(findings.growth),
    ...(rows.length > 0 ? [tableOf(rows)] : []),
  ];
  const small = quick
    ? "<p><b>A quick run: small sizes and few rounds. It shows that the bench works, not how fast " +
      "anything is.</b></p>"
    : "";
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>writebehind: how fast</title>${PAGE_STYLE}</head><body>
<h1>writebehind: how fast</h1>
<p>${escapeHtml(machine)}; ${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC.</p>
<p>All drains run with the default configuration, on an embedded Redis with its ` +
    `append-only file (everysec) and a PostgreSQL with its default settings. Figures are medians of ` +
    `rounds in which what is compared takes turns.</p>${small}
${parts.join("\n")}
</body></html>
`;
}

function throughput({ rates }: Findings): string[] {
  if (rates.size === 0) return [];
  const bars = [...rates].map(([name, values]) => ({
    name,
    value: Math.round(median(values)),
    unit: "events/s",
  }));
  return [comparisonChart(bars, "Throughput")];
}

const valuesOf = (series: ReadonlyMap<string, Sample>) =>
  new Map([...series].map(([name, { values }]) => [name, values]));

function latencies({ latencies: { write, freshness } }: Findings): string[] {
  const bare = "bare XADD";
  // What is compared with comes last.
  const ordered = valuesOf(write);
  const base = ordered.get(bare);
  if (base && ordered.delete(bare)) ordered.set(bare, base);
  return [
    ...(ordered.size > 0
      ? [distributionChart("Time of a write", "1 in flight, with all checks", ordered)]
      : []),
    ...(freshness.size > 0
      ? [distributionChart("Freshness", "at 1,000 writes a second", valuesOf(freshness))]
      : []),
  ];
}

function growth(points: readonly GrowthPoint[]): string[] {
  if (points.length === 0) return [];
  const count = (number: number, what: string) => `${number} ${what}${number === 1 ? "" : "s"}`;
  const named = points.map((point) => ({
    ...point,
    name: `${count(point.partitions, "partition")}, ${count(point.sinks, "sink")}`,
  }));
  const bars = named.map(({ name, rates }) => ({
    name,
    value: Math.round(median(rates)),
    unit: "events/s",
  }));
  const cores = named.filter(({ cores }) => cores.length > 0);
  return [
    comparisonChart(bars, "Growth"),
    ...(cores.length > 0
      ? [
        cpuChart(
          "Busy cores while draining",
          `of ${navigator.hardwareConcurrency}; where the sum reaches it, the machine is the limit`,
          cores.map(({ name, cores }) => ({ name, times: cores })),
          (value) => value.toFixed(2),
        ),
      ]
      : []),
  ];
}

function tableOf(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const cells = cellsOf(row).map((cell, column) => {
      const mark = COLUMNS[column] !== "met" || row.goal === null
        ? ""
        : ` class="${passes(row) ? "met" : "missed"}"`;
      return `<td${mark}>${escapeHtml(cell)}</td>`;
    });
    return `<tr>${cells.join("")}</tr>`;
  });
  return `${STYLE}<div class="writebehind"><div class="scroll"><table><thead><tr>${
    COLUMNS.map((name) => `<th>${escapeHtml(name)}</th>`).join("")
  }</tr></thead><tbody>${lines.join("")}</tbody></table></div></div>`;
}
