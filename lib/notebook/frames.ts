/**
 * DataFrames of rows, tables and streams. Columns have types that are given, not guessed, and a value that a
 * column cannot hold is refused: the library below would change it silently.
 * @module
 */

import { partsOf } from "../core/stream_ids.ts";
import type { Metrics } from "../metrics/counters.ts";
import type { Redis } from "../redis/client.ts";
import type { Pool } from "../targets/open.ts";
import { type Column, type DataFrame, FrameError, frameOf, type Schema } from "./columns.ts";
import { show } from "./display.ts";
import { frameHtml, type FrameView } from "./frame_html.ts";
import { columnOf } from "./postgres_columns.ts";

export { type ColumnType, type DataFrame, FrameError, type Schema } from "./columns.ts";
export { frameHtml, type FrameView } from "./frame_html.ts";

/**
 * Builds a DataFrame; without rows it still has its columns.
 *
 * @param rows a missing or undefined value is null
 * @param schema the type of each column
 * @throws {FrameError} naming the row and the column of a value that does not fit, or a key that is no column
 *
 * @example
 * ```ts
 * import { equal, throws } from "node:assert/strict";
 * import { frame } from "writebehind/notebook";
 *
 * const df = frame([{ id: "a", events: 3 }, { id: "b" }], { id: "String", events: "Int64" });
 * equal(df.height, 2);
 * throws(() => frame([{ id: "a", events: 0.5 }], { id: "String", events: "Int64" }), /events/);
 * ```
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

/**
 * Runs one statement and returns its rows as a DataFrame, with columns of the types that PostgreSQL names.
 * Of two columns with the same name the second gets `_2`.
 *
 * @throws {FrameError} where the text is no single statement with rows, or a time is infinite or before Christ
 * @throws what the server says about the statement
 *
 * @example
 * ```ts
 * import { connectPostgres, loadConfig } from "writebehind";
 * import { queryFrame, showFrame } from "writebehind/notebook";
 *
 * await using pool = await connectPostgres(await loadConfig());
 * await showFrame(await queryFrame(pool, "SELECT id, payload FROM sessions LIMIT $1", [10]));
 * ```
 */
export async function queryFrame(
  pool: Pool,
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
 * @param options.count entries at most. @default {100}
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig } from "writebehind";
 * import { showFrame, streamFrame } from "writebehind/notebook";
 *
 * await using redis = await connectRedis(await loadConfig());
 * await showFrame(await streamFrame(redis, "stream:session", { count: 5 }));
 * ```
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
  const { ms } = partsOf(id);
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

/** Shows a DataFrame in the cell that runs. */
export async function showFrame(df: DataFrame, view: FrameView = {}): Promise<void> {
  await show({ html: frameHtml(df, view) });
}
