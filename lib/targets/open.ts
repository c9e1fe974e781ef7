/**
 * From a configuration to its target. Connecting to PostgreSQL, and the other kinds' own folders, are loaded when they
 * are asked for.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, configWith, targetConfig } from "../config/load.ts";
import { hasPartition, hasRanges } from "../config/ranges.ts";
import { ConfigError, WriteBehindError } from "../core/errors.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { readEvent } from "./postgres/dead_letters.ts";
import type { Pool, PostgresPool } from "./postgres/pool.ts";
import { PostgresTarget } from "./postgres/target.ts";
import type { Rows, Target } from "./target.ts";
import type { DeadLetterEvent, DeadLetters } from "./dead_letters.ts";

export type { Pool, PostgresPool };

/**
 * Connects to PostgreSQL: a pool, whose first connection has been made and checked.
 * @throws {ConnectionError} with the address and the reason: refused, authentication, no such database,
 * older than 16
 *
 * @example
 * ```ts
 * import { connectPostgres, loadConfig } from "writebehind";
 *
 * await using pool = await connectPostgres(await loadConfig());
 * const { rows } = await pool.query("SELECT count(*) FROM sessions");
 * console.log(rows[0].count);
 * ```
 */
export async function connectPostgres(config: Config): Promise<PostgresPool> {
  checkArguments("connectPostgres", { config });
  return await (await import("./postgres/connect.ts")).connectPostgres(config);
}

/**
 * Opens a target of a configuration.
 * @param name one of its `targets`; by default the first
 * @throws {ConfigError} where it has none of that name
 * @throws {ConnectionError} where it cannot be reached or used
 *
 * @example
 * ```ts
 * import { loadConfig, openTarget } from "writebehind";
 *
 * await using target = await openTarget(await loadConfig());
 * console.log(target.describe().address);
 * ```
 */
export async function openTarget(config: Config, name?: string): Promise<Target> {
  checkArguments("openTarget", { config });
  const target = targetConfig(config, name);
  switch (target.kind) {
    case "sqlite":
      return await (await import("./sqlite/target.ts")).openSqlite(config, target);
    case "mysql":
      return await (await import("./mysql/target.ts")).openMysql(config, target);
    case "kafka":
      return await (await import("./kafka/target.ts")).openKafka(config, target);
    case "postgresql": {
      const { kind: _, name: __, on_full: ___, partitions: ____, ...given } = target;
      const { password } = target; // not enumerable
      const own = configWith(config, {
        postgresql: { ...given, ...password === undefined ? {} : { password } },
      });
      const { connectPostgres, keysOf } = await import("./postgres/connect.ts");
      const pool = await connectPostgres(own, keysOf(target, config.postgresql));
      return new PostgresTarget(pool, own, {
        name: target.name,
        closePool: () => pool[Symbol.asyncDispose](),
      });
    }
  }
}

/** The target itself, or a PostgreSQL target on the pool: the first of that kind. */
export function targetOf(target: Target | Pool, config: Config): Target {
  if (isTarget(target)) return target;
  const named = config.targets.find(({ kind }) => kind === "postgresql");
  return new PostgresTarget(target, config, { name: named?.name ?? "postgresql" });
}

/** What documents are read from: several targets, where each has some of the partitions. */
export type Through = Target | Pool | readonly Target[];

/**
 * The one of them that has a document.
 * @throws {ConfigError} where none has its partition
 */
export function targetFor(
  through: Through,
  config: Config,
  { partition }: Pick<PartitionKeys, "partition">,
  docId: string,
): Target {
  const targets = targetsOf(through, config);
  const nameOf = (target: Target) => target.describe().name;
  const found = hasRanges(config.targets)
    ? targets.find((one) => hasPartition(config.targets, nameOf(one), partition))
    : targets[0];
  if (found !== undefined) return found;
  throw new ConfigError(
    `Cannot read ${JSON.stringify(docId)} through to ${
      targets.map(nameOf).join(", ")
    }: its partition, ${partition}, is another ` +
      "target's (targets[].partitions); give all targets that have ranges",
  );
}

/** One target or several, as a list. */
export function targetsOf(given: Through, config: Config): Target[] {
  return (isList(given) ? given : [given]).map((one) => targetOf(one, config));
}

// `Array.isArray` does not narrow a list that is read only.
const isList = (through: Through): through is readonly Target[] => Array.isArray(through);

function isTarget(target: Target | Pool): target is Target {
  return "batches" in target;
}

/**
 * Makes an entity's table and ours where they are missing, and brings older ones up to date. Safe to run at any
 * time, by several processes, and by a user that may not create tables where they are all there.
 * @throws {ConfigError} where the configuration has no such entity
 * @throws {ConnectionError} where the user may not make or change tables, with the SQL to run; or they are of a newer
 * version
 *
 * @example
 * ```ts
 * import { createTable, loadConfig, openTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using target = await openTarget(config);
 * await createTable(target, config, "session");
 * ```
 */
export async function createTable(
  target: Target | Pool,
  config: Config,
  entity: string,
): Promise<void> {
  checkArguments("createTable", { target, config, entity });
  await targetOf(target, config).migrate(entity);
}

/** A target's rows. @throws {WriteBehindError} where it has none that can be read */
export function rowsOf(target: Target): Rows {
  if (target.rows) return target.rows;
  throw new WriteBehindError(`${target.describe().name} has no rows that could be read`);
}

/** A target's dead letter. @throws {WriteBehindError} where it keeps none */
export function deadLettersOf(target: Target): DeadLetters {
  if (target.deadLetters) return target.deadLetters;
  throw new WriteBehindError(`${target.describe().name} keeps no dead letter`);
}

/**
 * Reads one event of a dead letter with everything that was kept of it.
 * @param id from `listDeadLetters`
 * @returns `null` where there is none
 * @throws {WriteBehindError} where the target keeps no dead letter
 *
 * @example
 * ```ts
 * import { listDeadLetters, loadConfig, openTarget, readDeadLetter } from "writebehind";
 *
 * const config = await loadConfig();
 * await using target = await openTarget(config);
 * for await (const { id } of listDeadLetters(target, config, "session")) {
 *   const event = await readDeadLetter(target, id);
 *   console.log(event?.payload?.toString());
 * }
 * ```
 */
export async function readDeadLetter(
  target: Target | Pool,
  id: number,
): Promise<DeadLetterEvent | null> {
  checkArguments("readDeadLetter", { target, id });
  return await (isTarget(target) ? deadLettersOf(target).read(id) : readEvent(target, id));
}
