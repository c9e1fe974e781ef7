/**
 * A DataFrame as an HTML table.
 * @module
 */

import { counted } from "../core/counted.ts";
import pl from "nodejs-polars";
import { cellHtml } from "./cells.ts";
import { full } from "./charts/scales.ts";
import { escapeHtml, STYLE } from "./charts/theme.ts";
import type { DataFrame } from "./columns.ts";

/** How much of a frame is shown. */
export interface FrameView {
  /** How many rows, from the first. @default {10} */
  rows?: number;
}

/** A DataFrame's first rows as an HTML table, with its shape below. */
export function frameHtml(df: DataFrame, { rows = 10 }: FrameView = {}): string {
  // A column hides the frame's own member of its name (`height`, `columns`): only its entries are sure.
  const all: [string, pl.Series][] = Object.entries(df);
  const height = all[0]?.[1].len() ?? 0;
  const shown = Math.min(rows, height);
  const columns = all.map(([name, series]) => {
    const column = series.head(shown);
    const variant = column.dtype.variant;
    const numeric = /^(U?Int|Float|Decimal)/.test(variant);
    return {
      type: variant === "Datetime" ? "Datetime, UTC" : variant,
      open: numeric ? '<td class="number"' : "<td",
      name: `<th${numeric ? ' class="number"' : ""}>${escapeHtml(name)}`,
      // As numbers, integers past 2^53 would be rounded.
      values: (/Int64$/.test(variant) ? column.cast(pl.String) : column).toArray() as unknown[],
      isDay: variant === "Date",
    };
  });
  const header = columns.map(({ name, type }) => `${name}<small>${escapeHtml(type)}</small></th>`);
  const body = Array.from({ length: shown }, (_, index) => {
    const cells = columns.map(({ open, values, isDay }) => cellHtml(open, values[index], isDay));
    return `<tr>${cells.join("")}</tr>`;
  });
  return `${STYLE}<div class="writebehind"><div class="scroll"><table><thead><tr>${
    header.join("")
  }` +
    `</tr></thead><tbody>${body.join("")}</tbody></table></div><div class="shape">` +
    `${full(shown)} of ${counted(height, "row", full(height))} × ` +
    `${counted(all.length, "column", full(all.length))}</div></div>`;
}
