/**
 * What offsets belong to, in a file. A table is marked by an index of no rows: it is dropped with the table, follows when
 * that is renamed, and is kept by VACUUM, a dump and a copy of the file.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { checkOffset } from "../common.ts";
import type { Adoption, Belonging, Claim, Doubt, Identities } from "../target.ts";
import type { Connections } from "./connection.ts";

/** Identities in the table `writebehind_offset`. */
export class SqliteIdentities implements Identities {
  #connections: Connections;
  #config: Config;

  constructor(connections: Connections, config: Config) {
    this.#connections = connections;
    this.#config = config;
  }

  #table({ entity }: PartitionKeys): string {
    return entityConfig(this.#config, entity).table;
  }

  async read(keys: PartitionKeys, streams: string[]): Promise<Belonging> {
    return await this.#connections.reader.call("readIdentity", [this.#table(keys), keys, streams]);
  }

  async note({ keys, epoch }: Claim, source: string): Promise<void> {
    await this.#connections.writer.call("noteIdentity", [
      this.#table(keys),
      keys.stream,
      epoch,
      source,
    ]);
  }

  async look({ keys, offset }: Claim): Promise<string | null> {
    checkOffset(await this.#connections.reader.call("offset", [keys.stream]), keys, offset);
    return await this.#connections.reader.call("lookAtTable", [this.#table(keys), keys]);
  }

  async doubt(
    { keys, epoch }: Claim,
    reason: string,
    { keepWitness }: { keepWitness: boolean },
  ): Promise<void> {
    await this.#connections.writer.call("doubt", [keys.stream, epoch, reason, keepWitness]);
  }

  async settle({ stream }: PartitionKeys, doubt: Doubt): Promise<void> {
    await this.#connections.writer.call("settleDoubt", [stream, doubt]);
  }

  async adopt({ stream }: PartitionKeys, adoption: Adoption): Promise<void> {
    await this.#connections.writer.call("adopt", [stream, adoption]);
  }
}
