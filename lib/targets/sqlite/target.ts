/**
 * A SQLite file as a target: its parts, and what they share.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import type { ErrorKind } from "../../core/error_kinds.ts";
import { allPartitions, type PartitionKeys } from "../../redis/keys.ts";
import type { Target, TargetDescription } from "../target.ts";
import { SqliteBatches } from "./batch.ts";
import { SqliteColumns } from "./columns.ts";
import { addressOf, Connections } from "./connection.ts";
import { SqliteDeadLetters } from "./dead_letters.ts";
import { sqliteErrorKind } from "./errors.ts";
import { truePath } from "./files.ts";
import { SqliteIdentities } from "./identities.ts";
import { SqliteOwnership } from "./lease.ts";
import { SqliteOffsets } from "./offsets.ts";
import { SqliteRows } from "./rows.ts";
import type { Given } from "./worker/operations.ts";

/**
 * Opens a SQLite file. Where it is missing, it is made when a sink claims a partition.
 * @throws {ConnectionError} where it cannot be read, or is no SQLite file
 */
export async function openSqlite(
  config: Config,
  file: { name: string; path: string },
): Promise<SqliteTarget> {
  const target = new SqliteTarget(config, file);
  try {
    await target.offsets.offset({ stream: "" });
    return target;
  } catch (error) {
    await target.close();
    throw error;
  }
}

/** The SQLite target of a configuration's entities. */
export class SqliteTarget implements Target {
  readonly ownership: SqliteOwnership;
  readonly batches: SqliteBatches;
  readonly offsets: SqliteOffsets;
  readonly identities: SqliteIdentities;
  readonly rows: SqliteRows;
  readonly deadLetters: SqliteDeadLetters;
  readonly columns: SqliteColumns;
  #name: string;
  #config: Config;
  #connections: Connections;

  /** @param path the file; made when a sink claims a partition, where it is missing */
  constructor(config: Config, { name, path }: { name: string; path: string }) {
    this.#name = name;
    this.#config = config;
    const patienceMs = config.write_behind.lease_seconds * 1000;
    const connections = new Connections(truePath(path), patienceMs);
    this.#connections = connections;
    const batches = new SqliteBatches(connections, config);
    this.batches = batches;
    this.ownership = new SqliteOwnership(
      connections,
      ({ entity }) => this.#migrate(entity, allPartitions(config, entity)),
      (keys, reason) => batches.abandon(keys, reason),
    );
    this.offsets = new SqliteOffsets(connections);
    this.identities = new SqliteIdentities(connections, config);
    this.rows = new SqliteRows(connections, config);
    this.deadLetters = new SqliteDeadLetters(connections, config);
    this.columns = new SqliteColumns(connections, config);
  }

  describe(): TargetDescription {
    return { name: this.#name, kind: "sqlite", address: addressOf(this.#connections) };
  }

  kindOf(error: unknown): ErrorKind {
    return sqliteErrorKind(error);
  }

  async migrate(entity: string): Promise<void> {
    await this.#migrate(entity, []);
  }

  check(entity: string): Promise<void> {
    const { table } = entityConfig(this.#config, entity);
    return this.#connections.reader.call("check", [table, this.#whatOf(entity)]);
  }

  /** @param claimed the entity's partitions, where they are about to be claimed */
  #migrate(entity: string, claimed: PartitionKeys[]): Promise<string[]> {
    const { table, columns } = entityConfig(this.#config, entity);
    const given: Given<"migrate"> = [table, columns, this.#whatOf(entity), claimed];
    return this.#connections.writer.call("migrate", given);
  }

  /** Whose tables they are, for people. */
  #whatOf(entity: string): string {
    return `${entity} in ${this.#connections.path}`;
  }

  async close(): Promise<void> {
    try {
      await this.#connections.close();
    } finally {
      this.ownership.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
