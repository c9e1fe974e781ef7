/**
 * The typed columns of an entity's table: their keys in the configuration, and the paths that lead to their values.
 * @module
 */

import { z } from "zod";
import { flag, mapping, text } from "./values.ts";

/** The types of columns, few enough to mean the same in every database. */
export const COLUMN_TYPES = [
  "text",
  "integer",
  "number",
  "decimal",
  "boolean",
  "timestamp_ms",
] as const;

/** The key of an object, or a place in an array, from 0. */
export type PathStep = string | number;

/** The columns that every table has. */
const OURS = ["id", "payload", "created_at", "updated_at", "version"];

/** What no column can be called in PostgreSQL or SQLite, or only in quotes; `docs/targets.md` tells of MySQL's. */
const RESERVED = new Set(
  ("tableoid cmax xmax cmin xmin ctid oid rowid all analyse analyze and any array as asc asymmetric authorization " +
    "binary both case cast check collate collation column concurrently constraint create cross current_catalog " +
    "current_date current_role current_schema current_time current_timestamp current_user default deferrable desc " +
    "distinct do else end except false fetch for foreign freeze from full grant group having ilike in index " +
    "initially inner intersect into is isnull join lateral leading left like limit localtime localtimestamp natural " +
    "not notnull null offset on only or order outer overlaps placing primary references returning right select " +
    "session_user similar some symmetric system_user table tablesample then to trailing true union unique update " +
    "user using values variadic verbose when where window with").split(" "),
);

/** What entities, targets and columns may be called. */
export const NAME = /^[a-z][a-z0-9_]{0,40}$/;
const STEP = /\.([A-Za-z_][A-Za-z0-9_]*)|\[(0|[1-9][0-9]{0,5})\]/g;
const PATH = new RegExp(`^\\$(?:${STEP.source}){1,30}$`);

export const NAME_EXPECTED = "expected a name that matches [a-z][a-z0-9_]{0,40}";
const paths =
  "expected a path of keys and places, such as $.a.b[0]: no wildcards, filters or quotes";

/** A column as the file gives it. */
export const columnKeys = mapping({
  name: text(NAME_EXPECTED, NAME),
  path: text(paths, PATH).optional(),
  type: z.enum(COLUMN_TYPES, {
    error: `expected ${COLUMN_TYPES.slice(0, -1).join(", ")} or ${COLUMN_TYPES.at(-1)}`,
  }),
  index: flag(false),
  on_error: z.literal("park", { error: "expected park or null" }).nullable().default("park"),
})
  .refine(({ name }) => !OURS.includes(name), {
    path: ["name"],
    error: ({ input }) => `every table has a column ${nameIn(input)}; choose another name`,
  })
  .refine(({ name }) => !RESERVED.has(name), {
    path: ["name"],
    error: ({ input }) => `${nameIn(input)} is a reserved word of SQL; choose another name`,
  })
  .transform((column) => ({ ...column, path: column.path ?? `$.${column.name}` }));

const nameIn = (input: unknown): string => (input as { name: string }).name;

/** The steps of a column's path. */
export function stepsOf(path: string): PathStep[] {
  return [...path.matchAll(STEP)].map(([, key, place]) => key ?? Number(place));
}
