/** How the rows are shown. */

import { cpus } from "node:os";
import { passes, type Row } from "./measure.ts";
import type { Workbench } from "./workbench.ts";

const figure = (value: number) =>
  value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(value >= 10 ? 1 : 2);

/** The machine and the servers: a ratio travels, but not all the way. */
export async function machine({ redis, pool }: Workbench): Promise<string> {
  const info = await redis.info("server");
  const version = /redis_version:(\S+)/.exec(info)?.[1];
  const { rows: [postgres] } = await pool.query<{ version: string }>(
    "SELECT current_setting('server_version') AS version",
  );
  const processors = cpus();
  return `${processors[0]?.model.trim()}, ${processors.length} cores; Deno ${Deno.version.deno}, ` +
    `Redis ${version}, PostgreSQL ${postgres!.version}`;
}

/** The rows as a table of text. */
export function table(rows: readonly Row[]): string {
  const lines = rows.map((row) => [
    row.id,
    row.name,
    figure(row.value),
    row.min === row.max ? "" : `${figure(row.min)}–${figure(row.max)}`,
    row.goal === null ? "" : `${row.atMost ? "≤" : "≥"} ${row.goal}`,
    row.goal === null ? "" : passes(row) ? "yes" : "NO",
    row.note,
  ]);
  const all = [["#", "measure", "value", "range", "goal", "met", "behind it"], ...lines];
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
