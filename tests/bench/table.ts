/** How the rows are shown. */

import { cpus, totalmem } from "node:os";
import { passes, type Row } from "./measure.ts";
import type { Workbench } from "./workbench.ts";

/** A value with the digits that matter. */
export const figure = (value: number): string =>
  value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(value >= 10 ? 1 : 2);

/** The machine and the servers: a ratio travels, but not all the way. */
export async function machine({ redis, pool }: Workbench): Promise<string> {
  const info = await redis.info("server");
  const version = /redis_version:(\S+)/.exec(info)?.[1];
  const { rows: [postgres] } = await pool.query<{ version: string }>(
    "SELECT current_setting('server_version') AS version",
  );
  const processors = cpus();
  return `${processors[0]?.model.trim()}, ${processors.length} cores, ` +
    `${(totalmem() / 2 ** 30).toFixed(1)} GiB of memory; Deno ${Deno.version.deno}, ` +
    `Redis ${version}, PostgreSQL ${postgres!.version}; the default configuration`;
}

/** The columns of the table. */
export const COLUMNS = ["#", "measure", "value", "range", "goal", "met", "behind it"] as const;

/** A row's cells. */
export function cellsOf(row: Row): string[] {
  return [
    row.id,
    row.name,
    figure(row.value),
    row.min === row.max ? "" : `${figure(row.min)}–${figure(row.max)}`,
    goalOf(row),
    row.goal === null ? "" : passes(row) ? "yes" : "NO",
    row.note,
  ];
}

/** A row's goal as text; empty where it has none. */
export function goalOf({ goal, atMost }: Row): string {
  return goal === null ? "" : `${atMost ? "≤" : "≥"} ${goal}`;
}

/** The rows as a table of text. */
export function table(rows: readonly Row[]): string {
  const all = [[...COLUMNS], ...rows.map(cellsOf)];
  const widths = all[0]!.map((_, column) => Math.max(...all.map((line) => line[column]!.length)));
  const toTheRight = new Set([2, 3, 4]);
  return all.map((line) =>
    line.map((cell, column) =>
      toTheRight.has(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)
    ).join("  ").trimEnd()
  ).join("\n");
}

/** The rows for programs; a row without a goal passes. */
export function json(rows: readonly Row[]): string {
  return JSON.stringify(
    rows.map((row) => ({
      id: row.id,
      name: row.name,
      value: Number(row.value.toPrecision(6)),
      goal: row.goal,
      pass: passes(row),
    })),
    null,
    2,
  );
}
