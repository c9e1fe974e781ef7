/**
 * Making the typed columns of a table what the configuration says, on purpose: a sink only tells that they differ.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import type { Config } from "../config/load.ts";
import { WriteBehindError } from "../core/errors.ts";
import type { BlockedColumn } from "../targets/columns.ts";
import { type Pool, targetOf } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";

/** How the columns of a table differ from the configuration, and what was done about it. */
export interface ColumnsReport {
  /** for people; empty where they do not differ */
  differences: string[];
  /** the statements that make them alike, in order; empty where they are */
  sql: string[];
  /** rows that the new columns would not take: as long as there are any, nothing is changed */
  blocked: BlockedColumn[];
  /** whether it was changed */
  changed: boolean;
}

/**
 * Makes the typed columns of an entity's table what the configuration says. The database writes the table anew for it,
 * and batches wait meanwhile.
 * @param options.dryRun looks, and changes nothing. @default {false}
 * @throws {ConfigError} where the table has a column of a configured name that is not of our making
 * @throws {ConnectionError} where the tables are not there yet, the user may not change them, or another transaction
 * holds the table for more than 5 s
 *
 * @example
 * ```ts
 * import { loadConfig, migrateColumns, openTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using target = await openTarget(config);
 * const { sql, blocked } = await migrateColumns(target, config, "session", { dryRun: true });
 * console.log(sql.join(";\n"), blocked);
 * ```
 */
export async function migrateColumns(
  target: Target | Pool,
  config: Config,
  entity: string,
  options: { dryRun?: boolean } = {},
): Promise<ColumnsReport> {
  checkArguments("migrateColumns", { target, config, entity, options });
  const { dryRun = false } = options;
  const opened = targetOf(target, config);
  const { columns } = opened;
  if (!columns) {
    throw new WriteBehindError(`${opened.describe().name} has no tables, and so no columns`);
  }
  await opened.check(entity);
  const [differences, sql] = [await columns.differences(entity), await columns.statements(entity)];
  const blocked = sql.length === 0 ? [] : await columns.blocked(entity);
  let changed = !dryRun && sql.length > 0 && blocked.length === 0;
  if (changed) {
    try {
      await columns.migrate(entity);
    } catch (error) {
      // Somebody else may have made the same change at the same time.
      if ((await columns.statements(entity)).length > 0) throw error;
      changed = false;
    }
  }
  return { differences, sql, blocked, changed };
}

/** How an entity's typed columns in a target differ from the configuration, with what to do; `null` where they do not. */
export async function columnsProblem({ columns }: Target, entity: string): Promise<string | null> {
  const differences = await columns?.differences(entity) ?? [];
  return differences.length === 0
    ? null
    : `the table's typed columns are not as configured: ${
      differences.join("; ")
    }; run deno task target migrate`;
}
