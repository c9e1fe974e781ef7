/**
 * What offsets belong to, in PostgreSQL. A table is told from another of its name by its oid, which a table that is made
 * anew does not get again, and which an owner's right is not needed for; and a file that was emptied by TRUNCATE from
 * one that was rewritten. Both mean something only in their own database: in one that was restored from a dump they are
 * noted anew.
 * @module
 */

import { Mutex } from "async-mutex";
import type { Pool } from "./pool.ts";
import { type Config, entityConfig } from "../../config/load.ts";
import { versionOf } from "../../core/stream_ids.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { checkOffset, problemOf, tableProblems } from "../common.ts";
import type { Adoption, Belonging, Claim, Doubt, Identities } from "../target.ts";
import { isPostgresError, UNDEFINED_COLUMN, UNDEFINED_TABLE } from "./errors.ts";
import { absentSql } from "./schema.ts";
import { patiently } from "./sessions.ts";

/** Rows that are looked at for one that an event has written. */
const SAMPLE = 100_000;

/** The database in which oids mean what they meant: another server, a restored dump and a copy have another. */
const HOME = `(SELECT system_identifier FROM pg_control_system())
  || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
  || '/' || 'writebehind_offset'::regclass::oid`;

/** A row of `writebehind_offset`; a database of an older version lacks what is optional. */
interface OffsetRow {
  stream: string;
  last_id: string;
  source?: string | null;
  table_name?: string | null;
  table_oid?: number | null;
  table_file?: number | null;
  table_home?: string | null;
  doubt?: string | null;
  doubt_at?: string | null;
  refused?: boolean;
}

interface Found {
  offsets: OffsetRow[];
  oid: number | null;
  file: number | null;
  home: string;
}

/** Identities in the table `writebehind_offset`. */
export class PostgresIdentities implements Identities {
  #looking = new Mutex();
  #pool: Pool;
  #config: Config;
  /** offsets that the table was seen to hold whole, by their streams */
  #whole = new Map<string, string>();

  constructor(pool: Pool, config: Config) {
    this.#pool = pool;
    this.#config = config;
  }

  #table({ entity }: PartitionKeys): string {
    return entityConfig(this.#config, entity).table;
  }

  async read(keys: PartitionKeys, streams: string[]): Promise<Belonging> {
    const table = this.#table(keys);
    const gone = await this.#gone();
    const { offsets, oid, file, home } = gone.noOffsets
      ? { offsets: [], oid: null, file: null, home: "" }
      : await this.#find(table);
    const row = offsets.find(({ stream }) => stream === keys.stream);
    const offset = row?.last_id ?? "0-0";
    const source = row?.source ?? null;
    const isHome = row?.table_home === home;
    const others = offsets.filter((other) =>
      oid !== null && other.table_home === home && other.table_oid === oid &&
      !streams.includes(other.stream)
    ).map(({ stream, last_id }) => ({ stream, offset: last_id }));
    const another = row?.table_oid != null &&
      (isHome ? row.table_oid !== oid : (row.table_name ?? table) !== table);
    const problem = problemOf(table, keys, { there: oid !== null, offset, another, others });
    if (problem === null) this.#whole.set(keys.stream, offset);
    return {
      offset,
      source,
      noted: isHome && row.table_oid === oid && row.table_file === file && row.table_name === table,
      begun: offsets.some(({ stream, last_id }) => streams.includes(stream) && last_id !== "0-0"),
      problem,
      others,
      rows: source === null ? await this.#rows(table) : null,
      gone: gone.names,
      parkedLast: gone.noLetters ? false : await this.#isLetter(keys, offset),
      doubt: row?.doubt == null ? null : {
        reason: row.doubt,
        at: new Date(row.doubt_at!),
        refused: row.refused ?? false,
      },
    };
  }

  async #isLetter({ stream }: PartitionKeys, streamId: string): Promise<boolean> {
    const { rowCount } = await patiently(
      this.#pool,
      "SELECT FROM writebehind_dead_letter WHERE stream = $1 AND stream_id = $2",
      [stream, streamId],
    );
    return rowCount !== 0;
  }

  /** Which tables of ours somebody has dropped. */
  async #gone(): Promise<{ names: string[]; noOffsets: boolean; noLetters: boolean }> {
    const { rows: [row] } = await patiently<{ absent: string[]; recorded: boolean }>(
      this.#pool,
      `SELECT ${absentSql} AS absent, to_regclass('writebehind_migration') IS NOT NULL AS recorded`,
      [],
    );
    const { absent, recorded } = row!;
    const noOffsets = absent.includes("writebehind_offset");
    const noLetters = absent.includes("writebehind_dead_letter");
    if (absent.length === 0 || !recorded) return { names: [], noOffsets, noLetters };
    const { rowCount } = await patiently(
      this.#pool,
      "SELECT FROM writebehind_migration WHERE number = 1 AND table_name = ''",
      [],
    );
    return { names: rowCount === 0 ? [] : absent, noOffsets, noLetters };
  }

  async #find(table: string): Promise<Found> {
    const { rows: [found] } = await patiently<Found>(
      this.#pool,
      `SELECT coalesce((SELECT json_agg(o) FROM writebehind_offset o), '[]') AS offsets,
              c.oid::int8::float8 AS oid, pg_relation_filenode(c.oid)::int8::float8 AS file, ${HOME} AS home
         FROM (SELECT to_regclass($1)::oid AS oid) c`,
      [`"${table}"`],
    );
    return found!;
  }

  /** What the rows were written from, by the first of them. */
  async #rows(table: string): Promise<Belonging["rows"]> {
    try {
      const { rows: [found] } = await patiently<{ ours: boolean; any: boolean }>(
        this.#pool,
        `SELECT EXISTS (SELECT FROM (SELECT version FROM "${table}" LIMIT ${SAMPLE}) s WHERE version > 0) AS ours,
                EXISTS (SELECT FROM "${table}") AS any`,
        [],
      );
      return found!.ours ? "ours" : found!.any ? "original" : "none";
    } catch (error) {
      if (!isPostgresError(error)) throw error;
      if (error.code === UNDEFINED_TABLE) return "none";
      // The original's table, as it is before the first claim.
      if (error.code === UNDEFINED_COLUMN) return "original";
      throw error;
    }
  }

  async note({ keys, owner, epoch }: Claim, source: string): Promise<void> {
    const table = this.#table(keys);
    await patiently(
      this.#pool,
      `UPDATE writebehind_offset
          SET source = $4, table_name = $5, table_oid = c.oid::int8,
              table_file = pg_relation_filenode(c.oid)::int8, table_home = ${HOME}
         FROM (SELECT to_regclass($6)::oid AS oid) c
        WHERE stream = $1 AND owner = $2 AND epoch = $3`,
      [keys.stream, owner, epoch, source, table, `"${table}"`],
    );
  }

  /** One after the other: many partitions that look at the same time would each take a connection. */
  look(claim: Claim): Promise<string | null> {
    return this.#looking.runExclusive(() => this.#look(claim));
  }

  async #look({ keys, offset }: Claim): Promise<string | null> {
    const table = this.#table(keys);
    const { rows: [row] } = await patiently<
      { same: boolean; whole: boolean; fresh: boolean; last_id: string }
    >(
      this.#pool,
      `SELECT o.last_id,
              c.oid IS NOT DISTINCT FROM o.table_oid AS same,
              pg_relation_filenode(c.oid) IS NOT DISTINCT FROM o.table_file AS whole,
              coalesce(c.reltuples < 0, false) AS fresh
         FROM writebehind_offset o LEFT JOIN pg_class c ON c.oid = to_regclass($2)
        WHERE o.stream = $1 AND o.table_oid IS NOT NULL`,
      [keys.stream, `"${table}"`],
    );
    if (row === undefined) return null;
    checkOffset(row.last_id, keys, offset);
    if (!row.same) return tableProblems.another(table, keys);
    const before = versionOf(this.#whole.get(keys.stream) ?? offset) ?? 0n;
    // A file of which nothing is known yet was made by TRUNCATE; VACUUM FULL and ALTER TABLE know how many rows it has.
    if (!row.whole && row.fresh && before > 0n) {
      const { rowCount } = await patiently(
        this.#pool,
        `SELECT FROM "${table}" WHERE version <= $1 LIMIT 1`,
        [String(before)],
      );
      if (rowCount === 0) return await this.#refuse(keys, tableProblems.emptied(table, keys));
    }
    if (!row.whole) {
      await patiently(
        this.#pool,
        "UPDATE writebehind_offset SET table_file = pg_relation_filenode(table_oid::oid)::int8 WHERE stream = $1",
        [keys.stream],
      );
    }
    this.#whole.set(keys.stream, offset);
    return null;
  }

  async #refuse({ stream }: PartitionKeys, reason: string): Promise<string> {
    await patiently(
      this.#pool,
      `UPDATE writebehind_offset SET doubt = $2, doubt_at = clock_timestamp(), refused = true WHERE stream = $1`,
      [stream, reason],
    );
    return reason;
  }

  async doubt(
    { keys, owner, epoch }: Claim,
    reason: string,
    { keepWitness }: { keepWitness: boolean },
  ): Promise<void> {
    await patiently(
      this.#pool,
      `UPDATE writebehind_offset
          SET doubt = CASE WHEN strpos(coalesce(doubt, ''), $4) > 0 THEN doubt
                           ELSE concat_ws('; ', doubt, $4::text) END, doubt_at = clock_timestamp(),
              witness = CASE WHEN $5 THEN witness ELSE '0-0' END
        WHERE stream = $1 AND owner = $2 AND epoch = $3`,
      [keys.stream, owner, epoch, reason, keepWitness],
    );
  }

  async settle({ stream }: PartitionKeys, { reason, at }: Doubt): Promise<void> {
    await patiently(
      this.#pool,
      `UPDATE writebehind_offset SET doubt = NULL, doubt_at = NULL
        WHERE stream = $1 AND doubt = $2 AND date_trunc('milliseconds', doubt_at) = $3 AND NOT refused`,
      [stream, reason, at],
    );
  }

  async adopt({ stream }: PartitionKeys, adoption: Adoption): Promise<void> {
    const { source, offset, witness, others, doubt } = adoption;
    await patiently(
      this.#pool,
      `WITH left_behind AS (
         UPDATE writebehind_offset SET table_oid = NULL, table_home = NULL WHERE stream = ANY($6::text[])
       )
       INSERT INTO writebehind_offset AS o (stream, last_id, witness, source, doubt, doubt_at)
       VALUES ($1, $2, $3, $4, $5, clock_timestamp())
       ON CONFLICT (stream) DO UPDATE
          SET last_id = excluded.last_id, witness = excluded.witness, source = excluded.source,
              doubt = excluded.doubt, doubt_at = excluded.doubt_at, refused = false,
              table_oid = NULL, table_home = NULL, parked_version = o.parked_version + 1`,
      [stream, offset, witness, source, doubt, others],
    );
  }
}
