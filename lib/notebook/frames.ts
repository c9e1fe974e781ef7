/**
 * DataFrames of rows, tables and streams. Columns have types that are given, not guessed, and a value that a
 * column cannot hold is refused: the library below would change it silently.
 * @module
 */

import type { Redis } from "ioredis";
import pl from "nodejs-polars";
import type pg from "pg";
import { WriteBehindError } from "../core/errors.ts";
import type { Metrics } from "../metrics/counters.ts";
import { cellHtml } from "./cells.ts";
import { full } from "./charts/scales.ts";
import { escapeHtml, STYLE } from "./charts/theme.ts";
import { show } from "./display.ts";
import { columnOf } from "./postgres_columns.ts";

/** A DataFrame of polars. */
export type DataFrame = pl.DataFrame;

/** A value cannot stand in its column; the message says which and why. */
export class FrameError extends WriteBehindError {}

/** What a column holds, null beside it. A `Datetime` has milliseconds and is UTC; a `Date` is a day. */
export type ColumnType = "Int64" | "Float64" | "String" | "Boolean" | "Datetime" | "Date";
/** The columns of a frame, in their order. */
export type Schema = Record<string, ColumnType>;

/** A column with its values, not yet checked. */
interface Column {
  name: string;
  type: ColumnType;
  values: readonly unknown[];
}

/**
 * Builds a DataFrame; without rows it still has its columns.
 *
 * @param rows a missing or undefined value is null
 * @throws {FrameError} naming the row and the column of a value that does not fit, or a key that is no column
 */
export function frame(rows: readonly Record<string, unknown>[], schema: Schema): DataFrame {
  for (const [index, row] of rows.entries()) {
    const stranger = Object.keys(row).find((key) => !Object.hasOwn(schema, key));
    if (stranger === undefined) continue;
    throw new FrameError(
      `row ${index}: the key "${stranger}" is no column; expected ` +
        `${Object.keys(schema).join(", ")}; add it to the schema, or leave it out of the row`,
    );
  }
  return frameOf(
    Object.entries(schema).map(([name, type]) => ({
      name,
      type,
      values: rows.map((row) => Object.hasOwn(row, name) ? row[name] : null),
    })),
  );
}

function frameOf(columns: readonly Column[]): DataFrame {
  return pl.DataFrame(columns.map(({ name, type, values }) => {
    const checked = values.map((value, index) => {
      if (value === null || value === undefined) return null;
      const problem = problemOf(value, type);
      if (problem === undefined) return value;
      throw new FrameError(`column "${name}", row ${index}: expected ${type}, got ${problem}`);
    });
    switch (type) {
      case "Int64":
        // By text: given as bigints they would all turn into null.
        return pl.Series(
          name,
          checked.map((value) => value === null ? null : `${value}`),
          pl.String,
        )
          .cast(pl.Int64, true);
      case "Float64":
        return pl.Series(name, checked, pl.Float64);
      case "String":
        return pl.Series(name, checked, pl.String);
      case "Boolean":
        return pl.Series(name, checked, pl.Bool);
      case "Datetime":
        return pl.Series(name, checked, pl.Datetime("ms", "UTC"));
      case "Date":
        return pl.Series(name, checked, pl.Date);
    }
  }));
}

const DAY_MS = 86_400_000;

/** Why a value cannot stand in a column of this type; undefined if it can. */
function problemOf(value: unknown, type: ColumnType): string | undefined {
  switch (type) {
    case "Int64":
      if (typeof value === "bigint") {
        if (BigInt.asIntN(64, value) === value) return undefined;
        return `${value}, which is outside -2^63 to 2^63-1; make the column String`;
      }
      if (typeof value !== "number") return described(value);
      if (Number.isSafeInteger(value)) return undefined;
      return Number.isInteger(value)
        ? `the number ${value}, which may have been rounded; give a bigint`
        : `the number ${value}, which is no integer; make the column Float64`;
    case "Float64":
      return typeof value === "number" ? undefined : described(value);
    case "String":
      if (typeof value !== "string") return described(value);
      return value.isWellFormed() ? undefined : "text with a lone surrogate, which is not Unicode";
    case "Boolean":
      return typeof value === "boolean" ? undefined : described(value);
    case "Datetime":
    case "Date":
      if (!(value instanceof Date)) return `${described(value)}; give a Date`;
      if (Number.isNaN(value.getTime())) return "an invalid date";
      if (type === "Datetime" || value.getTime() % DAY_MS === 0) return undefined;
      return `${value.toISOString()}, which is not midnight UTC; make the column Datetime`;
  }
}

function described(value: unknown): string {
  if (typeof value === "string") {
    return `the text ${JSON.stringify(value.length > 40 ? value.slice(0, 40) + "…" : value)}`;
  }
  if (typeof value === "object") return `an object (${value?.constructor?.name ?? "no prototype"})`;
  return `the ${typeof value} ${String(value)}`;
}

/**
 * Runs one statement and returns its rows as a DataFrame, with columns of the types that PostgreSQL tells.
 * Of two columns with the same name the second gets `_2`.
 *
 * @throws {FrameError} where the text is no single statement with rows, or a time is infinite or before Christ
 * @throws what the server says about the statement
 */
export async function queryFrame(
  pool: pg.Pool,
  sql: string,
  params: readonly unknown[] = [],
): Promise<DataFrame> {
  // Values arrive as PostgreSQL's text, whatever parsers the process has set: nothing is rounded on the way.
  const result = await pool.query<(string | null)[], unknown[]>({
    text: sql,
    values: [...params],
    rowMode: "array",
    types: { getTypeParser: () => (text: string) => text },
  });
  if (Array.isArray(result)) {
    throw new FrameError(`expected one statement, got ${result.length}; run them one by one`);
  }
  if (result.fields.length === 0) {
    throw new FrameError(`expected a statement that returns rows, got ${result.command}`);
  }
  const names = distinct(result.fields.map(({ name }) => name));
  return frameOf(
    result.fields.map(({ dataTypeID }, index) => ({
      name: names[index] ?? "",
      ...columnOf(dataTypeID, result.rows.map((row) => row[index] ?? null)),
    })),
  );
}

/** Fields of our streams that are whole numbers. */
const NUMBER_FIELDS = ["ts", "count"];

/**
 * The newest entries of a Redis Stream, newest first: id, time, then every field that one of them has.
 * A missing stream has no entries.
 *
 * @param options `count` is how many entries. @default {100}
 */
export async function streamFrame(
  redis: Redis,
  key: string,
  { count = 100 }: { count?: number } = {},
): Promise<DataFrame> {
  const entries = await redis.xrevrange(key, "+", "-", "COUNT", count);
  const rows = entries.map(([id, fields]) => {
    const row = new Map<string, string>();
    for (let index = 0; index < fields.length; index += 2) {
      row.set(fields[index] ?? "", fields[index + 1] ?? "");
    }
    return { id, row };
  });
  const fields = [...new Set(rows.flatMap(({ row }) => [...row.keys()]))];
  const [, , ...names] = distinct(["id", "time", ...fields]);
  return frameOf([
    { name: "id", type: "String", values: rows.map(({ id }) => id) },
    { name: "time", type: "Datetime", values: rows.map(({ id }) => timeOf(id)) },
    ...fields.map((field, index): Column => {
      const texts = rows.map(({ row }) => row.get(field) ?? null);
      const name = names[index] ?? field;
      // Any producer may write any text under these names.
      return NUMBER_FIELDS.includes(field) && texts.every((text) => !text || isInt64(text))
        ? { name, type: "Int64", values: texts.map((text) => text ? BigInt(text) : null) }
        : { name, type: "String", values: texts.map((text) => text?.toWellFormed()) };
    }),
  ]);
}

const MAX_DATE_MS = 8.64e15;

/** A stream id's time; null where a producer chose ids that are no times. */
function timeOf(id: string): Date | null {
  const ms = Number(id.split("-")[0]);
  return ms <= MAX_DATE_MS ? new Date(ms) : null;
}

function isInt64(text: string): boolean {
  return /^-?\d{1,19}$/.test(text) && BigInt.asIntN(64, BigInt(text)) === BigInt(text);
}

/** The counters, a row each. */
export function metricsFrame(metrics: Metrics): DataFrame {
  return frame(
    Object.entries(metrics).map(([counter, events]) => ({ counter, events })),
    { counter: "String", events: "Int64" },
  );
}

/** Gives names that came before a number: `id`, `id_2`. */
function distinct(names: readonly string[]): string[] {
  const given = new Set<string>();
  return names.map((name) => {
    let unique = name;
    for (let number = 2; given.has(unique); number++) unique = `${name}_${number}`;
    given.add(unique);
    return unique;
  });
}

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
    `${full(shown)} of ${full(height)} ${height === 1 ? "row" : "rows"} × ` +
    `${full(all.length)} ${all.length === 1 ? "column" : "columns"}</div></div>`;
}

/** Shows a DataFrame in the cell that runs. */
export async function showFrame(df: DataFrame, view: FrameView = {}): Promise<void> {
  await show({ html: frameHtml(df, view) });
}
