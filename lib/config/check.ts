/**
 * Checks a configuration against its schema, and describes the problems.
 * @module
 */

import type { z } from "zod";
import type { Config } from "./config.ts";
import { configSchema } from "./schema.ts";
import { isSecret } from "./secrets.ts";
import { formatPath, type Path, type Problem } from "./yaml.ts";

/** A configuration is read once or twice, and compiling the schema takes Zod longer than walking it. */
const ONCE = { jitless: true };

/** Checks a value against the schema, and describes what is wrong. */
export function check(
  raw: unknown,
  lineOf: (path: Path) => number,
): { value?: Config; problems: Problem[] } {
  const { success, data, error } = configSchema.safeParse(raw, ONCE);
  if (success) return { value: data, problems: [] };
  const problems = error.issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => {
        const path = [...issue.path, key];
        return { line: lineOf(path), text: `${formatPath(path)}: unknown key${suggestion(path)}` };
      });
    }
    const got = issue.code === "custom" ? "" : `, got ${describe(at(raw, issue.path), issue)}`;
    const where = formatPath(issue.path) || "the file";
    return [{ line: lineOf(issue.path), text: `${where}: ${issue.message}${got}` }];
  });
  return { problems };
}

/** The value in the file, shown only where it cannot be a secret. */
function describe(value: unknown, issue: z.core.$ZodIssue): string {
  if (value === null) return "null";
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : "a list";
  if (typeof value === "object") return "keys with values";
  const secret = issue.path.some((key) => isSecret(String(key))) || /:\/\/|@/.test(String(value)) ||
    (issue.code === "invalid_type" && issue.expected === "object");
  const shown = typeof value === "string" ? JSON.stringify(value) : String(value);
  const short = shown.length > 60 ? `${shown.slice(0, 60)}…` : shown;
  const quote = typeof value !== "string" && issue.code === "invalid_type" &&
    issue.expected === "string";
  const kind = typeof value === "string" ? "text" : `a ${typeof value}`;
  return (secret ? kind : short) + (quote ? "; quote it" : "");
}

/** The known keys nearest to a mistyped one; if there are none, the sections that have a key of its name. */
function suggestion(path: Path): string {
  const key = String(path.at(-1)).toLowerCase();
  // The defaults have all known keys; every item of a list has the keys of the first.
  const defaults = configSchema.parse({}, ONCE);
  const parent = path.slice(0, -1).map((part) => typeof part === "number" ? 0 : part);
  const near = Object.keys(Object(at(defaults, parent)))
    .map((name) => ({ name, far: distance(key, name) }))
    .filter(({ name, far }) =>
      far < name.length && far <= Math.max(2, Math.floor(name.length / 3))
    );
  const least = Math.min(...near.map(({ far }) => far));
  const nearest = near.filter(({ far }) => far === least).map(({ name }) => name);
  const names = nearest.length > 0 ? nearest : Object.entries(Object(defaults))
    .filter(([, section]) => Object.hasOwn(Object(section), key))
    .map(([section]) => `${section}.${key}`);
  return names.length > 0 ? `; did you mean ${names.join(" or ")}?` : "";
}

function at(value: unknown, path: Path): unknown {
  return path.reduce<unknown>(
    (inner, key) => Object.getOwnPropertyDescriptor(Object(inner), key)?.value,
    value,
  );
}

/** Levenshtein's: characters to insert, delete or replace. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, char] of [...a].entries()) {
    let [above, left] = [i, i + 1];
    row = row.map((cell, j) => {
      if (j > 0) left = Math.min(cell + 1, left + 1, above + (char === b[j - 1] ? 0 : 1));
      above = cell;
      return left;
    });
  }
  return row.at(-1) ?? 0;
}
