/**
 * MySQL or MariaDB as a target: its parts, and what they share.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import { ConnectionError } from "../../core/errors.ts";
import type { ErrorKind } from "../../core/error_kinds.ts";
import { allPartitions, type PartitionKeys } from "../../redis/keys.ts";
import { refusalOf } from "../migrations.ts";
import { closedError } from "../common.ts";
import type { Target, TargetDescription } from "../target.ts";
import { MysqlBatches } from "./batch.ts";
import { MysqlColumns } from "./columns.ts";
import { addressOf, connectMysql, type Flavor, type MysqlAddress } from "./connect.ts";
import { MysqlDeadLetters } from "./dead_letters.ts";
import { mysqlErrorKind } from "./errors.ts";
import { MysqlIdentities } from "./identities.ts";
import { MysqlOwnership } from "./lease.ts";
import { createTables } from "./migrate.ts";
import { MysqlOffsets } from "./offsets.ts";
import { MysqlRows } from "./rows.ts";
import { patiently, type Pool } from "./pool.ts";
import { readSchema } from "./schema.ts";
import { Sessions } from "./sessions.ts";

/**
 * Connects to a MySQL or MariaDB server.
 * @throws {ConnectionError} where it cannot be reached or used, with the address and what to do
 */
export async function openMysql(config: Config, address: MysqlAddress): Promise<MysqlTarget> {
  const { pool, flavor } = await connectMysql(address, config);
  return new MysqlTarget(pool, flavor, config, address);
}

/** The MySQL target of a configuration's entities. */
export class MysqlTarget implements Target {
  readonly ownership: MysqlOwnership;
  readonly batches: MysqlBatches;
  readonly offsets: MysqlOffsets;
  readonly identities: MysqlIdentities;
  readonly rows: MysqlRows;
  readonly deadLetters: MysqlDeadLetters;
  readonly columns: MysqlColumns;
  #pool: Pool;
  #flavor: Flavor;
  #config: Config;
  #address: MysqlAddress;
  #sessions: Sessions;

  constructor(pool: Pool, flavor: Flavor, config: Config, address: MysqlAddress) {
    this.#pool = pool;
    this.#flavor = flavor;
    this.#config = config;
    this.#address = address;
    const { database } = address;
    this.#sessions = new Sessions(pool);
    this.ownership = new MysqlOwnership(
      this.#sessions,
      database,
      ({ entity }) => this.#migrate(entity, allPartitions(config, entity)),
    );
    this.batches = new MysqlBatches(this.#sessions, config, flavor);
    this.offsets = new MysqlOffsets(pool, database);
    this.identities = new MysqlIdentities(pool, config);
    this.rows = new MysqlRows(pool, config);
    this.deadLetters = new MysqlDeadLetters(pool, config, flavor);
    this.columns = new MysqlColumns(pool, config, flavor);
  }

  describe(): TargetDescription {
    return { name: this.#address.name, kind: "mysql", address: addressOf(this.#address) };
  }

  kindOf(error: unknown): ErrorKind {
    return mysqlErrorKind(error);
  }

  async migrate(entity: string): Promise<void> {
    await this.#migrate(entity, []);
  }

  async check(entity: string): Promise<void> {
    const { table } = entityConfig(this.#config, entity);
    const schema = await patiently(this.#pool, (connection) => readSchema(connection, table));
    const refusal = refusalOf(schema, this.#whatOf(entity));
    if (refusal !== null) throw new ConnectionError(refusal);
  }

  /** @param claimed the entity's partitions, where they are about to be claimed */
  #migrate(entity: string, claimed: PartitionKeys[]): Promise<string[]> {
    const { table, columns } = entityConfig(this.#config, entity);
    return createTables(
      this.#pool,
      this.#flavor,
      { table, columns },
      this.#whatOf(entity),
      claimed,
    );
  }

  /** Whose tables they are, for people. */
  #whatOf(entity: string): string {
    return `${entity} in ${addressOf(this.#address)}`;
  }

  async close(): Promise<void> {
    this.#sessions.close();
    await this.#pool.end(closedError(addressOf(this.#address)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
