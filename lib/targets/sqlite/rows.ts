/**
 * Reading an entity's rows in a file, for verify, repair, rebuild and reads through.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import { type PartitionKeys, partitionOf } from "../../redis/keys.ts";
import type { Rows, RowsAt, ScannedRow } from "../target.ts";
import type { Connections } from "./connection.ts";
import { memoryOf, pack } from "./packed.ts";

/** The rows of a configuration's entities. */
export class SqliteRows implements Rows {
  #connections: Connections;
  #config: Config;

  constructor(connections: Connections, config: Config) {
    this.#connections = connections;
    this.#config = config;
  }

  #table(entity: string): string {
    return entityConfig(this.#config, entity).table;
  }

  size(entity: string): Promise<number> {
    return this.#connections.reader.call("size", [this.#table(entity)]);
  }

  async *ids(entity: string): AsyncGenerator<string[]> {
    let after = "";
    for (;;) {
      const ids = await this.#connections.reader.call("ids", [this.#table(entity), after]);
      if (ids.length === 0) return;
      yield ids;
      after = ids.at(-1)!;
    }
  }

  async newest(entity: string, limit: number): Promise<string[]> {
    return await this.#connections.reader.call("newest", [this.#table(entity), limit]);
  }

  /** Compared in the worker: SQLite has no equality of JSON that is ours. */
  async notSurelyEqual(
    entity: string,
    ids: Buffer[],
    texts: (Buffer | null)[],
  ): Promise<string[]> {
    const [packedIds, packedTexts] = [pack(ids, (id) => id), pack(texts, (text) => text)];
    const places = await this.#connections.reader.call(
      "notSurelyEqual",
      [this.#table(entity), packedIds, packedTexts],
      memoryOf(packedIds, packedTexts),
    );
    return places.map((place) => ids[place]!.toString());
  }

  at({ entity, stream }: PartitionKeys, ids: string[]): Promise<RowsAt> {
    return this.#connections.reader.call("at", [this.#table(entity), stream, ids]);
  }

  async scan(
    entity: string,
    partitions: PartitionKeys[],
    after: string,
  ): Promise<ScannedRow[]> {
    const streams = partitions.map(({ stream }) => stream);
    const { rows, offsets } = await this.#connections.reader.call("scan", [
      this.#table(entity),
      streams,
      after,
    ]);
    return rows.map((row) => ({ ...row, offset: offsets[partitionOf(row.id, streams.length)]! }));
  }

  async parkedAmong(partitions: PartitionKeys[], ids: string[]): Promise<Set<string>> {
    const packed = pack(ids.map((id) => Buffer.from(id)), (id) => id);
    const streams = partitions.map(({ stream }) => stream);
    const places = await this.#connections.reader.call(
      "parkedAmong",
      [streams, packed],
      memoryOf(packed),
    );
    return new Set(places.map((place) => ids[place]!));
  }
}
