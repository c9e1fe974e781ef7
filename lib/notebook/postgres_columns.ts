/** What a column of PostgreSQL becomes in a frame. */

// @ts-types="@types/pg"
import pg from "pg";
import type { ColumnType } from "./columns.ts";

const { builtins, getTypeParser } = pg.types;

/** The type and the values of a column, from its type's OID and PostgreSQL's text of each value. */
export function columnOf(
  oid: number,
  texts: readonly (string | null)[],
): { type: ColumnType; values: unknown[] } {
  const column = (type: ColumnType, parse: (text: string) => unknown) => ({
    type,
    values: texts.map((text) => text === null ? null : parse(text)),
  });
  switch (oid) {
    case builtins.INT2:
    case builtins.INT4:
    case builtins.INT8:
      return column("Int64", BigInt);
    case builtins.FLOAT4:
    case builtins.FLOAT8:
      return column("Float64", Number);
    case builtins.NUMERIC:
      return texts.every((text) => text === null || isExact(text))
        ? column("Float64", Number)
        : column("String", (text) => text);
    case builtins.BOOL:
      return column("Boolean", (text) => text === "t");
    case builtins.TIMESTAMPTZ:
      return column("Datetime", instant);
    case builtins.TIMESTAMP:
      // It has no zone: the clock that it shows is kept.
      return column("Datetime", (text) => /^-?infinity$/.test(text) ? text : instant(`${text}+00`));
    case builtins.DATE:
      return column("Date", day);
    default:
      return column("String", (text) => text);
  }
}

/** Decimal digits that a double always holds. */
const DOUBLE_DIGITS = 15;
const SMALLEST_NORMAL = 2.2250738585072014e-308;

/** Whether a numeric, read as a double, is written with the same digits again. */
function isExact(text: string): boolean {
  if (/^(NaN|-?Infinity)$/.test(text)) return true;
  const digits = text.replace(/^-?[0.]*|\./g, "");
  return digits === "" ||
    digits.length <= DOUBLE_DIGITS && Math.abs(Number(text)) >= SMALLEST_NORMAL;
}

/** A moment, or the text itself where it is none that a Date holds: the frame refuses it and names it. */
function instant(text: string): Date | string {
  const parsed: unknown = getTypeParser(builtins.TIMESTAMPTZ)(text);
  return parsed instanceof Date ? parsed : text;
}

/** A day, as midnight UTC, or the text itself as above. */
function day(text: string): Date | string {
  const date = new Date(`${text}T00:00:00Z`);
  return Number.isNaN(date.getTime()) ? text : date;
}
