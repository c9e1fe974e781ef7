/**
 * The columns of a DataFrame: their types, and which values each can hold.
 * @module
 */

import pl from "nodejs-polars";
import { WriteBehindError } from "../core/errors.ts";

/** A DataFrame of polars. */
export type DataFrame = pl.DataFrame;

/** A value cannot stand in its column; the message says which and why. */
export class FrameError extends WriteBehindError {}

/** What a column holds, null beside it. A `Datetime` has milliseconds and is UTC; a `Date` is a day. */
export type ColumnType = "Int64" | "Float64" | "String" | "Boolean" | "Datetime" | "Date";
/** The columns of a frame, in their order. */
export type Schema = Record<string, ColumnType>;

/** A column with its values, not yet checked. */
export interface Column {
  name: string;
  type: ColumnType;
  values: readonly unknown[];
}

/**
 * Builds a DataFrame of checked columns.
 *
 * @throws {FrameError} naming the row and the column of a value that does not fit
 */
export function frameOf(columns: readonly Column[]): DataFrame {
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
