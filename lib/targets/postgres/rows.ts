/**
 * Reads an entity's rows in PostgreSQL, for verify, repair, rebuild and read-through.
 * @module
 */

import type { Pool } from "./pool.ts";
import { type Config, entityConfig } from "../../config/load.ts";
import { type PartitionKeys, partitionOf } from "../../redis/keys.ts";
import { PAGE_ROWS, READ_BYTES, type Rows, type RowsAt, type ScannedRow } from "../target.ts";
import { bytesArray } from "./arrays.ts";
import { postgresErrorKind } from "./errors.ts";
import { Looks } from "./looks.ts";
import { patiently, within } from "./sessions.ts";
import { parkedOfSql } from "./statements.ts";

/** How long a page of rows or ids may take, in seconds. */
const PAGE_SECONDS = 60;

/** The offset of the stream `$2`. */
const OFFSET = "coalesce((SELECT last_id FROM writebehind_offset WHERE stream = $2), '0-0')";

/** A condition: an event of the document `id` is parked, so its row is not the newest. */
const isParked = (id: string, inStream: string) =>
  `EXISTS (SELECT FROM writebehind_dead_letter d
            WHERE d.stream ${inStream} AND d.fingerprint = sha256(convert_to(${id}, 'UTF8'))
              AND d.state = 'parked')`;

/** The rows of a configuration's entities. */
export class PostgresRows implements Rows {
  #pool: Pool;
  #looks: Looks;
  #config: Config;

  constructor(pool: Pool, config: Config, looks: Looks = new Looks(pool)) {
    this.#pool = pool;
    this.#looks = looks;
    this.#config = config;
  }

  /** Names come from the configuration, which allows only letters, digits and underscores. */
  #table(entity: string): string {
    return `"${entityConfig(this.#config, entity).table}"`;
  }

  async size(entity: string): Promise<number> {
    const { rows: [row] } = await patiently<{ rows: number }>(
      this.#pool,
      "SELECT greatest(reltuples, 0)::float8 AS rows FROM pg_class WHERE oid = to_regclass($1)",
      [this.#table(entity)],
    );
    return row?.rows ?? 0;
  }

  async *ids(entity: string): AsyncGenerator<string[]> {
    let after = "";
    for (;;) {
      const { rows } = await this.#pool.query<[string]>({
        text: `SELECT id FROM ${this.#table(entity)} WHERE id > $1 ORDER BY id LIMIT ${PAGE_ROWS}`,
        values: [after],
        rowMode: "array",
        ...within(PAGE_SECONDS),
      });
      if (rows.length === 0) return;
      yield rows.map(([id]) => id);
      after = rows.at(-1)![0];
    }
  }

  /** It reads the whole table, which has no index on versions, so it may take long. */
  async newest(entity: string, limit: number): Promise<string[]> {
    const { rows } = await this.#pool.query<[string]>({
      text: `SELECT id FROM ${this.#table(entity)} ORDER BY version DESC LIMIT $1`,
      values: [limit],
      rowMode: "array",
    });
    return rows.map(([id]) => id);
  }

  /** PostgreSQL's equality of JSONB is ours: numbers are decimals, there is no -0, and keys have no order. */
  async notSurelyEqual(
    entity: string,
    ids: Buffer[],
    texts: (Buffer | null)[],
  ): Promise<string[]> {
    try {
      // Rows are always looked up by their ids, whatever the planner believes of the table.
      const { rows } = await this.#pool.query<[string]>({
        text: `SELECT e.id
                 FROM unnest($1::text[], $2::text[]) AS e (id, text)
                 LEFT JOIN (SELECT id, payload FROM ${this.#table(entity)} WHERE id = ANY($1)) t
                   ON t.id = e.id
                WHERE e.text IS NULL OR t.payload IS DISTINCT FROM e.text::jsonb`,
        values: [ids, texts].map((column) => bytesArray("text", column, (bytes) => bytes)),
        rowMode: "array",
        ...within(PAGE_SECONDS),
      });
      return rows.map(([id]) => id);
    } catch (error) {
      // One of the texts is no JSONB; another client wrote it.
      if (postgresErrorKind(error) === "document") return ids.map(String);
      throw error;
    }
  }

  /** In one statement, so that rows and offset belong together. */
  async at(keys: PartitionKeys, ids: string[]): Promise<RowsAt> {
    if (ids.length === 1) return await this.#oneAt(keys, ids[0]!);
    const { entity, stream } = keys;
    const { rows } = await this.#looks.query<[string, string | null, string | null, boolean]>({
      name: `rows at ${entity}`,
      text: `
WITH found AS MATERIALIZED (
  SELECT e.n, e.id, t.version::text AS version,
         CASE WHEN t.id IS NOT NULL THEN coalesce(t.payload::text, 'null') END AS text
    FROM unnest($1::text[]) WITH ORDINALITY AS e (id, n)
    LEFT JOIN ${this.#table(entity)} AS t ON t.id = e.id
), measured AS (
  SELECT *, sum(coalesce(octet_length(text), 0)) OVER (ORDER BY n) AS bytes FROM found
)
SELECT ${OFFSET}, text, version,
       ${isParked("measured.id", "= $2")}
  FROM measured WHERE bytes - coalesce(octet_length(text), 0) < $3 ORDER BY n`,
      values: [ids, stream, READ_BYTES],
      rowMode: "array",
    });
    return {
      offset: rows[0]?.[0] ?? "0-0",
      rows: rows.map(([, text, version]) => text === null ? null : { text, version: version! }),
      parked: rows.map(([, , , parked]) => parked),
    };
  }

  /** One row: PostgreSQL plans it once, and what is for many anew each time, which takes longer than to run it. */
  async #oneAt({ entity, stream }: PartitionKeys, id: string): Promise<RowsAt> {
    const { rows: [row] } = await this.#looks.query<
      [offset: string, text: string | null, version: string | null, parked: boolean]
    >({
      name: `row at ${entity}`,
      text: `
SELECT ${OFFSET},
       CASE WHEN t.id IS NOT NULL THEN coalesce(t.payload::text, 'null') END, t.version::text,
       ${isParked("$1::text", "= $2")}
  FROM (VALUES (1)) AS one
  LEFT JOIN ${this.#table(entity)} AS t ON t.id = $1`,
      values: [id, stream],
      rowMode: "array",
    });
    const [offset, text, version, parked] = row!;
    return { offset, rows: [text === null ? null : { text, version: version! }], parked: [parked] };
  }

  async scan(
    entity: string,
    partitions: PartitionKeys[],
    after: string,
  ): Promise<ScannedRow[]> {
    const { rows } = await patiently<
      {
        id: string;
        text: string;
        version: string;
        parked: boolean;
        offsets: Record<string, string>;
      }
    >(
      this.#pool,
      `WITH page AS MATERIALIZED (
         SELECT id, version::text AS version, coalesce(payload::text, 'null') AS text
           FROM ${this.#table(entity)} WHERE id > $1 ORDER BY id LIMIT ${PAGE_ROWS}
       ), measured AS (
         SELECT *, sum(octet_length(text)) OVER (ORDER BY id) AS bytes FROM page
       )
       SELECT id, text, version, ${isParked("measured.id", "= ANY($2::text[])")} AS parked,
              (SELECT coalesce(json_object_agg(stream, last_id), '{}')
                 FROM writebehind_offset WHERE stream = ANY($2::text[])) AS offsets
         FROM measured WHERE bytes - octet_length(text) < $3 ORDER BY id`,
      [after, partitions.map(({ stream }) => stream), READ_BYTES],
      PAGE_SECONDS,
    );
    return rows.map(({ offsets, ...row }) => {
      const { stream } = partitions[partitionOf(row.id, partitions.length)]!;
      return { ...row, offset: offsets[stream] ?? "0-0" };
    });
  }

  async parkedAmong(partitions: PartitionKeys[], ids: string[]): Promise<Set<string>> {
    const { rows } = await patiently<{ doc_id: Buffer }>(
      this.#pool,
      `SELECT DISTINCT d.doc_id ${parkedOfSql("d.stream = ANY($1::text[])")}`,
      [
        partitions.map(({ stream }) => stream),
        bytesArray("bytea", ids, (id) => Buffer.from(id)),
      ],
      PAGE_SECONDS,
    );
    return new Set(rows.map(({ doc_id }) => doc_id.toString()));
  }
}
