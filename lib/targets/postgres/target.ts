/**
 * PostgreSQL as a target: its parts, and what they share.
 * @module
 */

import type { Pool } from "./pool.ts";
import { type Config, entityConfig } from "../../config/load.ts";
import { partitionsAtMost } from "../../config/shapes.ts";
import type { ErrorKind } from "../../core/error_kinds.ts";
import { allPartitions, type PartitionKeys } from "../../redis/keys.ts";
import type { Target, TargetDescription } from "../target.ts";
import { PostgresBatches } from "./batch.ts";
import { PostgresColumns } from "./columns.ts";
import { PostgresDeadLetters } from "./dead_letters.ts";
import { postgresErrorKind } from "./errors.ts";
import { PostgresIdentities } from "./identities.ts";
import { PostgresOwnership } from "./lease.ts";
import { Looks } from "./looks.ts";
import { createTable } from "./migrate.ts";
import { PostgresOffsets } from "./offsets.ts";
import { PostgresRows } from "./rows.ts";
import { checkSchema } from "./schema.ts";
import { Sessions } from "./sessions.ts";
import { checkRights } from "./table.ts";

/** The PostgreSQL target of a configuration's entities. */
export class PostgresTarget implements Target {
  readonly ownership: PostgresOwnership;
  readonly batches: PostgresBatches;
  readonly offsets: PostgresOffsets;
  readonly identities: PostgresIdentities;
  readonly rows: PostgresRows;
  readonly deadLetters: PostgresDeadLetters;
  readonly columns: PostgresColumns;
  #pool: Pool;
  #config: Config;
  #sessions: Sessions;
  #name: string;
  #looks: Looks;
  #closePool: (() => PromiseLike<void>) | undefined;
  /** what is under way, by entity */
  #preparing = new Map<string, Promise<string[]>>();

  /**
   * @param pool while partitions are owned, up to `write_behind.connections` are taken from it for each of their
   * entities, and one more; it has to have them for all entities of the configuration, and two
   * @param options.name its name in the configuration
   * @param options.closePool what `close` does with the pool, where it is this target's own. @default {nothing}
   */
  constructor(
    pool: Pool,
    config: Config,
    { name, closePool }: {
      name: string;
      closePool?: () => PromiseLike<void>;
    },
  ) {
    this.#pool = pool;
    this.#name = name;
    this.#config = config;
    this.#closePool = closePool;
    const { entities, write_behind } = config;
    this.#sessions = new Sessions(
      pool,
      Math.min(write_behind.connections, partitionsAtMost(config)),
      entities.map(({ name }) => name),
    );
    this.ownership = new PostgresOwnership(this.#sessions, (keys) => this.#prepare(keys));
    this.batches = new PostgresBatches(this.#sessions, config);
    this.offsets = new PostgresOffsets(pool);
    this.identities = new PostgresIdentities(pool, config);
    this.#looks = new Looks(pool, closePool !== undefined);
    this.rows = new PostgresRows(pool, config, this.#looks);
    this.deadLetters = new PostgresDeadLetters(pool, config);
    this.columns = new PostgresColumns(pool, config);
  }

  /** Partitions that are claimed at the same time share it: the first of them is told which tables were gone. */
  async #prepare({ entity }: PartitionKeys): Promise<string[]> {
    const known = this.#preparing.get(entity);
    if (known) return await known.then(() => []);
    const preparing = this.#prepareOnce(entity);
    this.#preparing.set(entity, preparing);
    try {
      return await preparing;
    } finally {
      this.#preparing.delete(entity);
    }
  }

  async #prepareOnce(entity: string): Promise<string[]> {
    const [pool, config] = [this.#pool, this.#config];
    const { table } = entityConfig(config, entity);
    const made = await createTable(pool, config, entity, undefined, allPartitions(config, entity));
    await checkRights(pool, table);
    return made;
  }

  describe(): TargetDescription {
    const { host, port, database } = this.#config.postgresql;
    return {
      name: this.#name,
      kind: "postgresql",
      address: `PostgreSQL at ${host}:${port}/${database}`,
    };
  }

  kindOf(error: unknown): ErrorKind {
    return postgresErrorKind(error);
  }

  async migrate(entity: string): Promise<void> {
    await createTable(this.#pool, this.#config, entity);
  }

  check(entity: string): Promise<void> {
    return checkSchema(this.#pool, this.#config, entity);
  }

  async close(): Promise<void> {
    this.ownership.close();
    this.#looks.close();
    await this.#closePool?.();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
