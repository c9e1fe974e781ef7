/** What a notebook reports to the demo: one JSON object, in a file that is there only after a run. */

import { dirname, join } from "node:path";

/** Results by name, in the order in which they are to be shown. */
export type Summary = Record<string, string | number | boolean>;

const SUMMARY_FILE = join(import.meta.dirname!, "..", "..", "out", "summary.json");

/** Keeps a notebook's results, for the demo to print at its end. */
export async function writeSummary(summary: Summary): Promise<void> {
  await Deno.mkdir(dirname(SUMMARY_FILE), { recursive: true });
  await Deno.writeTextFile(SUMMARY_FILE, JSON.stringify(summary, null, 2));
}

/** Takes the results of the last run: they are gone afterwards; `undefined` where there are none. */
export async function takeSummary(): Promise<Summary | undefined> {
  try {
    const summary = JSON.parse(await Deno.readTextFile(SUMMARY_FILE)) as Summary;
    await Deno.remove(SUMMARY_FILE);
    return summary;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
