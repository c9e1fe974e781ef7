/** What a notebook found out: shown in its cell, and reported to whoever runs it headless. */

import { dirname } from "node:path";
import { escapeHtml, STYLE } from "./charts/theme.ts";
import { show } from "./display.ts";

/** Results by name, in the order in which they are to be shown. */
export type Summary = Record<string, string | number | boolean>;

/** Names the file for the results of a run, one JSON object. */
export const SUMMARY_VARIABLE = "WRITEBEHIND_SUMMARY";

/** Shows a notebook's results, and keeps them where the run asked for them. */
export async function writeSummary(summary: Summary): Promise<void> {
  await show(summaryHtml(summary));
  const file = Deno.env.get(SUMMARY_VARIABLE);
  if (!file) return;
  await Deno.mkdir(dirname(file), { recursive: true });
  await Deno.writeTextFile(file, JSON.stringify(summary, null, 2));
}

function summaryHtml(summary: Summary): string {
  const rows = Object.entries(summary).map(([name, value]) =>
    `<tr><th>${escapeHtml(name)}</th><td>${escapeHtml(String(value))}</td></tr>`
  );
  return `${STYLE}<div class="writebehind"><table>${rows.join("")}</table></div>`;
}

/** Takes the results of a run: they are gone afterwards; empty where there are none. */
export async function takeSummary(file: string): Promise<Summary> {
  try {
    const summary = JSON.parse(await Deno.readTextFile(file)) as Summary;
    await Deno.remove(file);
    return summary;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return {};
    throw error;
  }
}
