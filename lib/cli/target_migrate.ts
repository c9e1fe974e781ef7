/** `deno task target migrate`: makes the typed columns of a table what the configuration says. */

import { entityConfig } from "../config/load.ts";
import { counted } from "../core/counted.ts";
import { WriteBehindError } from "../core/errors.ts";
import { type ColumnsReport, migrateColumns } from "../operate/migrate_columns.ts";
import { openTarget } from "../targets/open.ts";
import { configured, oneLine, quoted, sayFor } from "./common.ts";
import type { TargetOptions } from "./target.ts";

export interface TargetMigrateOptions extends TargetOptions {
  /** one of the targets; all where it is left out */
  target?: string;
  yes?: boolean;
}

/** Changes columns, or shows what it would run: the exit status is 1 where that was not asked for, or rows block it. */
export async function runTargetMigrate(options: TargetMigrateOptions): Promise<void> {
  const { yes = false, json } = options;
  const config = await configured(options.config, sayFor(options));
  const names = options.target === undefined
    ? config.targets.map(({ name }) => name)
    : [options.target];
  const entities = config.entities.filter(({ name }) => name === (options.entity ?? name));
  if (options.entity !== undefined) entityConfig(config, options.entity);
  const reports: (ColumnsReport & { target: string; entity: string })[] = [];
  for (const name of names) {
    await using target = await openTarget(config, name);
    // Some kinds have no tables, which matters to nobody who has not named one.
    if (!target.columns && options.target === undefined) continue;
    for (const { name: entity, table } of entities) {
      const looked = await migrateColumns(target, config, entity, { dryRun: true });
      if (!json) show(`${target.describe().address}, ${table}`, looked);
      const report = yes && looked.blocked.length === 0
        ? await migrateColumns(target, config, entity)
        : looked;
      if (report.changed && !json) console.log(`changed: ${table} has its columns as configured`);
      reports.push({ target: name, entity, ...report });
    }
  }
  if (json) console.log(JSON.stringify({ targets: reports }, null, 2));
  if (reports.some(({ blocked }) => blocked.length > 0)) {
    throw new WriteBehindError(
      "nothing was changed where rows block it: mend those documents, or give the column on_error: null",
    );
  }
  if (!yes && reports.some(({ sql }) => sql.length > 0)) {
    throw new WriteBehindError("nothing was changed; --yes does it");
  }
}

function show(where: string, { differences, sql, blocked }: ColumnsReport): void {
  const what = differences.length === 0 ? "the columns are as configured" : differences.join("; ");
  console.log(oneLine(`${where}: ${what}`));
  for (const statement of sql) console.log(`${statement};`);
  for (const { column, type, rows, ids } of blocked) {
    const more = rows > ids.length ? ", …" : "";
    const named = ids.map(quoted).join(", ");
    console.log(
      `the column ${column}, which takes ${type}, is blocked by ${
        counted(rows, "row")
      }: ${named}${more}`,
    );
  }
}
