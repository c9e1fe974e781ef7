/**
 * Reads an entity's rows in MySQL, for verify, repair, rebuild and read-through.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import { type PartitionKeys, partitionOf } from "../../redis/keys.ts";
import {
  PAGE_ROWS,
  READ_BYTES,
  type Row,
  type Rows,
  type RowsAt,
  type ScannedRow,
} from "../target.ts";
import { isSurelyEqual } from "../common.ts";
import { parkedAmong } from "./batch.ts";
import { type Connection, patiently, type Pool, rowsOf } from "./pool.ts";
import { isMysqlError, NO_SUCH_TABLE } from "./errors.ts";
import { rowsIfThere } from "./offsets.ts";
import { doubledId } from "./schema.ts";

/** How long a page may take, in ms. */
const PAGE_MS = 60_000;

const TEXT = "COALESCE(payload, 'null') AS text, version";

interface Found extends Row {
  id: string;
}

/** The rows of a configuration's entities. */
export class MysqlRows implements Rows {
  #pool: Pool;
  #config: Config;

  constructor(pool: Pool, config: Config) {
    this.#pool = pool;
    this.#config = config;
  }

  /** Names come from the configuration, which allows only letters, digits and underscores. */
  #table(entity: string): string {
    return `\`${entityConfig(this.#config, entity).table}\``;
  }

  #query<Row>(sql: string, values: unknown[]): Promise<Row[]> {
    return patiently(this.#pool, (connection) => rowsOf<Row>(connection, sql, values), PAGE_MS);
  }

  async size(entity: string): Promise<number> {
    const [row] = await this.#query<{ count: string }>(
      `SELECT table_rows AS count FROM information_schema.tables
        WHERE table_schema = DATABASE() AND table_name = ?`,
      [entityConfig(this.#config, entity).table],
    );
    return Number(row?.count ?? 0);
  }

  async *ids(entity: string): AsyncGenerator<string[]> {
    let after = "";
    for (;;) {
      const rows = await this.#query<{ id: string }>(
        `SELECT id FROM ${this.#table(entity)} WHERE id > ? ORDER BY id LIMIT ${PAGE_ROWS}`,
        [after],
      );
      if (rows.length === 0) return;
      yield rows.map(({ id }) => id);
      after = rows.at(-1)!.id;
    }
  }

  async newest(entity: string, limit: number): Promise<string[]> {
    const rows = await this.#query<{ id: string }>(
      `SELECT id FROM ${this.#table(entity)} ORDER BY version DESC LIMIT ?`,
      [limit],
    );
    return rows.map(({ id }) => id);
  }

  /** Compared here: a payload is a text to the server. */
  async notSurelyEqual(
    entity: string,
    ids: Buffer[],
    texts: (Buffer | null)[],
  ): Promise<string[]> {
    if (ids.length === 0) return [];
    const names = ids.map(String);
    const rows = await this.#query<{ id: string; payload: string | null }>(
      `SELECT id, payload FROM ${this.#table(entity)} WHERE id IN (?)`,
      [names],
    );
    const payloads = new Map(rows.map(({ id, payload }) => [id, payload]));
    return names.filter((id, index) => !isSurelyEqual(texts[index]!, payloads.get(id) ?? null));
  }

  async at({ entity, stream }: PartitionKeys, ids: string[]): Promise<RowsAt> {
    return await this.#snapshot(async (connection) => {
      const [row] = await rowsIfThere<{ last_id: string }>(
        connection,
        "SELECT last_id FROM writebehind_offset WHERE stream = ?",
        [stream],
      );
      const found = await this.#measured(connection, entity, "id IN (?)", [[...new Set(ids), ""]]);
      const lengths = new Map(found.map(({ id, bytes }) => [id, Number(bytes)]));
      const wanted = fitting(ids, (id) => lengths.get(id) ?? 0);
      const rows = new Map(
        (await this.#texts(connection, entity, wanted)).map(({ id, ...rest }) => [id, rest]),
      );
      const parked = await waiting(connection, [stream], wanted);
      return {
        offset: row?.last_id ?? "0-0",
        rows: wanted.map((id) => rows.get(id) ?? null),
        parked: wanted.map((id) => parked.has(id)),
      };
    });
  }

  async scan(
    entity: string,
    partitions: PartitionKeys[],
    after: string,
  ): Promise<ScannedRow[]> {
    const streams = partitions.map(({ stream }) => stream);
    return await this.#snapshot(async (connection) => {
      const page = await this.#measured(
        connection,
        entity,
        `id > ? ORDER BY id LIMIT ${PAGE_ROWS}`,
        [after],
      );
      const lengths = new Map(page.map(({ id, bytes }) => [id, Number(bytes)]));
      const ids = fitting(page.map(({ id }) => id), (id) => lengths.get(id)!);
      const rows = await this.#texts(connection, entity, ids);
      const parked = await waiting(connection, streams, ids);
      const offsets = new Map(
        (await rowsIfThere<{ stream: string; last_id: string }>(
          connection,
          "SELECT stream, last_id FROM writebehind_offset WHERE stream IN (?)",
          [streams],
        )).map(({ stream, last_id }) => [stream, last_id]),
      );
      return rows.map((row) => ({
        ...row,
        offset: offsets.get(streams[partitionOf(row.id, streams.length)]!) ?? "0-0",
        parked: parked.has(row.id),
      }));
    });
  }

  async parkedAmong(partitions: PartitionKeys[], ids: string[]): Promise<Set<string>> {
    const streams = partitions.map(({ stream }) => stream);
    return await patiently(this.#pool, (connection) => waiting(connection, streams, ids));
  }

  #measured(
    connection: Connection,
    entity: string,
    where: string,
    values: unknown[],
  ): Promise<{ id: string; bytes: string }[]> {
    return rowsIfThere(
      connection,
      `SELECT id, COALESCE(LENGTH(payload), 4) AS bytes FROM ${this.#table(entity)} WHERE ${where}`,
      values,
    );
  }

  async #texts(connection: Connection, entity: string, ids: string[]): Promise<Found[]> {
    if (ids.length === 0) return [];
    const rows = await rowsIfThere<Found>(
      connection,
      `SELECT id, ${TEXT} FROM ${this.#table(entity)} WHERE id IN (?) ORDER BY id`,
      [ids],
    );
    const doubled = rows.find(({ id }, at) => id === rows[at - 1]?.id);
    if (doubled) throw doubledId(entityConfig(this.#config, entity).table, doubled.id);
    return rows.map(({ id, text, version }) => ({ id, text, version: String(version) }));
  }

  /** Reads what belongs together. */
  async #snapshot<T>(work: (connection: Connection) => Promise<T>): Promise<T> {
    return await patiently(this.#pool, async (connection) => {
      await connection.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
      await connection.query("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY");
      const result = await work(connection);
      await connection.query("COMMIT");
      return result;
    }, PAGE_MS);
  }
}

/** The first of these ids, as long as their rows fit; at least one. */
function fitting(ids: string[], bytesOf: (id: string) => number): string[] {
  let bytes = 0;
  const end = ids.findIndex((id) => (bytes += bytesOf(id)) >= READ_BYTES);
  return end < 0 ? ids : ids.slice(0, end + 1);
}

async function waiting(
  connection: Connection,
  streams: string[],
  ids: string[],
): Promise<Set<string>> {
  if (ids.length === 0) return new Set();
  const found = await parkedAmong(connection, streams, ids.map((id) => Buffer.from(id)))
    .catch((error) => {
      if (isMysqlError(error) && error.errno === NO_SUCH_TABLE) return [];
      throw error;
    });
  return new Set(found.map(String));
}
