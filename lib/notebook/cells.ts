/** The cells of a table: a value as short, safe text. */

import { escapeHtml } from "./charts/theme.ts";

/** Characters of a cell that are shown; more of them, up to {@linkcode MAX_TITLE}, when it is pointed at. */
const MAX_CELL = 50;
const MAX_TITLE = 1000;
/** Characters of a text that stand on one line whatever room there is. */
const MAX_LINE = 24;

/**
 * A cell with its value.
 * @param open the start of its tag
 * @param isDay whether a Date stands for a day
 */
export function cellHtml(open: string, value: unknown, isDay: boolean): string {
  if (value === null || value === undefined) return `${open}><span class="null">null</span></td>`;
  const text = cellText(value, isDay);
  if (text.length <= MAX_LINE) return `${open}>${escapeHtml(text)}</td>`;
  if (text.length <= MAX_CELL) return `${open} class="long">${escapeHtml(text)}</td>`;
  return `${open} class="long" title="${escapeHtml(cut(text, MAX_TITLE))}">${
    escapeHtml(cut(text, MAX_CELL))
  }</td>`;
}

function cellText(value: unknown, isDay: boolean): string {
  if (value instanceof Date) {
    const [day = "", time = ""] = value.toISOString().split("T");
    return isDay ? day : `${day} ${time.slice(0, -1)}`;
  }
  if (typeof value === "number" && !Number.isInteger(value)) return decimal(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** A fraction in six digits after the point, or six significant ones where it is small. */
function decimal(value: number): string {
  return String(Number(Math.abs(value) < 0.001 ? value.toPrecision(6) : value.toFixed(6)));
}

/** The start of a long text; never half a character. */
function cut(text: string, length: number): string {
  return text.length <= length
    ? text
    : text.slice(0, length - 1).toWellFormed().replace(/\uFFFD$/, "") + "…";
}
