/** The typed columns of an entity's table in the file. */

import { type Config, entityConfig } from "../../config/load.ts";
import type { BlockedColumn, Columns } from "../columns.ts";
import type { Connections } from "./connection.ts";
import type { Given } from "./worker/operations.ts";

/** The typed columns of a configuration's entities. */
export class SqliteColumns implements Columns {
  #connections: Connections;
  #config: Config;

  constructor(connections: Connections, config: Config) {
    this.#connections = connections;
    this.#config = config;
  }

  #given(entity: string): Given<"columnDifferences"> {
    const { table, columns } = entityConfig(this.#config, entity);
    return [table, columns];
  }

  differences(entity: string): Promise<string[]> {
    return this.#connections.reader.call("columnDifferences", this.#given(entity));
  }

  statements(entity: string): Promise<string[]> {
    return this.#connections.reader.call("columnStatements", this.#given(entity));
  }

  blocked(entity: string): Promise<BlockedColumn[]> {
    return this.#connections.reader.call("columnsBlocked", this.#given(entity));
  }

  migrate(entity: string): Promise<void> {
    return this.#connections.writer.call("migrateColumns", this.#given(entity));
  }
}
