/**
 * Numbered changes of a target's tables, for any target: which of them are still to run, and whether this version
 * can work with the tables as they are. A version is the highest number in its list.
 * @module
 */

/** A change of a target's tables that runs once. */
export interface Migration {
  number: number;
  /** its file, for people */
  name: string;
  /** whose tables it changes: our own, once a database; or an entity's, once for each of them */
  of: "ours" | "entity";
  /** the oldest version that can still work with the tables once this has run */
  oldest: number;
  /** whether commands that only read work before it has run. @default {false} */
  canWait?: boolean;
  /** a column that it adds, where the SQL cannot say that it may be there: `[table, column]` */
  adds?: readonly [table: string, column: string];
  sql: string;
}

/** A migration that has run, in a target's record. */
export type RanMigration = Pick<Migration, "number" | "oldest">;

/**
 * The state of the tables, compared with what this version knows:
 * - `missing`: none, or not all of them
 * - `old`: a migration has not run that this version needs
 * - `old, workable`: one has not run, and commands that only read need not wait for it
 * - `current`
 * - `newer, workable`: a newer version has changed them, and says that this one can still work with them
 * - `newer, refused`: it says that this one cannot
 */
export type SchemaState =
  | "missing"
  | "old"
  | "old, workable"
  | "current"
  | "newer, workable"
  | "newer, refused";

/** The tables of a target, as one entity needs them. */
export interface Schema {
  state: SchemaState;
  /** what has not run, in order */
  pending: Migration[];
  /** the version that this program is, and the oldest that can work with the tables */
  version: number;
  oldest: number;
}

/**
 * @param known the migrations of this version, in order
 * @param ran those that the target says have run
 * @param there whether the tables are there at all
 */
export function schemaOf(
  known: readonly Migration[],
  ran: readonly RanMigration[],
  there: boolean,
): Schema {
  const version = known.at(-1)!.number;
  const oldest = Math.max(0, ...ran.map((migration) => migration.oldest));
  const numbers = new Set(ran.map(({ number }) => number));
  const pending = known.filter(({ number }) => !numbers.has(number));
  return { state: state(), pending, version, oldest };

  function state(): SchemaState {
    if (oldest > version) return "newer, refused";
    if (!there) return "missing";
    if (pending.some(({ canWait = false }) => !canWait)) return "old";
    if (ran.some(({ number }) => number > version)) return "newer, workable";
    return pending.length === 0 ? "current" : "old, workable";
  }
}

/**
 * Why this version cannot work with the tables as they are, and what to do about it; `null` where it can.
 * @param what whose tables they are, such as `session in the database app`
 */
export function refusalOf(
  { state, pending, version, oldest }: Schema,
  what: string,
): string | null {
  switch (state) {
    case "missing":
      return `The tables for ${what} are not there yet: start a sink once (deno task sink), it makes them`;
    case "old": {
      const names = pending.map(({ name }) => name).join(", ");
      return `The tables for ${what} are older than this version (missing: ${names}): ` +
        "start a sink of this version once (deno task sink), it brings them up to date";
    }
    case "newer, refused":
      return `The tables for ${what} were changed by a newer version of writebehind, and one older than ` +
        `migration ${oldest} cannot work with them (this one knows ${version}): install the newer version`;
    default:
      return null;
  }
}
