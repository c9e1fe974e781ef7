/**
 * What offsets belong to, in MySQL. A table is marked in its comment, which is dropped with the table, follows when
 * that is renamed, and is kept in a dump.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { ConfigError } from "../../core/errors.ts";
import { belongingByMark, checkOffset, type MarkedOffset, tableProblems } from "../common.ts";
import type { Adoption, Belonging, Claim, Doubt, Identities } from "../target.ts";
import { changedBy, type Connection, patiently, type Pool, rowsOf } from "./pool.ts";
import { isDenied } from "./errors.ts";
import { checkDurable, underLock } from "./migrate.ts";
import { dateOf, rowsIfThere } from "./offsets.ts";
import { checkTable, commentOf, goneTables } from "./schema.ts";
import { NOW } from "./statements.ts";

const MARK = /writebehind:([0-9a-f]{32})/;

/** Identities in the table `writebehind_offset`. */
export class MysqlIdentities implements Identities {
  #pool: Pool;
  #config: Config;

  constructor(pool: Pool, config: Config) {
    this.#pool = pool;
    this.#config = config;
  }

  #table({ entity }: PartitionKeys): string {
    return entityConfig(this.#config, entity).table;
  }

  async read(keys: PartitionKeys, streams: string[]): Promise<Belonging> {
    const table = this.#table(keys);
    return await patiently(this.#pool, async (connection) => {
      const offsets = await rowsIfThere<MarkedOffset>(
        connection,
        "SELECT stream, last_id, source, mark, doubt, doubt_at, refused FROM writebehind_offset",
        [],
      );
      const comment = await commentOf(connection, table);
      const found = { mark: markIn(comment), there: comment !== null };
      const belonging = belongingByMark(table, keys, streams, offsets, found, dateOf);
      const letters = await rowsIfThere(
        connection,
        "SELECT 1 FROM writebehind_dead_letter WHERE stream = ? AND stream_id = ?",
        [keys.stream, belonging.offset],
      );
      const isAsked = belonging.source === null;
      return {
        ...belonging,
        rows: isAsked ? found.there ? await rowsWrittenBy(connection, table) : "none" : null,
        gone: await goneTables(connection),
        parkedLast: letters.length > 0,
      };
    });
  }

  async note({ keys, owner, epoch }: Claim, source: string): Promise<void> {
    const table = this.#table(keys);
    await underLock(this.#pool, async (connection) => {
      const mark = await marked(connection, table);
      await changedBy(
        connection,
        "UPDATE writebehind_offset SET source = ?, mark = ? WHERE stream = ? AND owner = ? AND epoch = ?",
        [source, mark, keys.stream, owner, epoch],
      );
    });
  }

  async look({ keys, offset }: Claim): Promise<string | null> {
    const table = this.#table(keys);
    return await patiently(this.#pool, async (connection) => {
      const [row] = await rowsOf<{ mark: string | null; last_id: string }>(
        connection,
        "SELECT mark, last_id FROM writebehind_offset WHERE stream = ?",
        [keys.stream],
      );
      if (row !== undefined) checkOffset(row.last_id, keys, offset);
      if (row?.mark != null && row.mark !== markIn(await commentOf(connection, table))) {
        return tableProblems.another(table, keys);
      }
      return await problemIn(async () => {
        await checkDurable(connection);
        await checkTable(connection, table, []);
      });
    });
  }

  async doubt(
    { keys, owner, epoch }: Claim,
    reason: string,
    { keepWitness }: { keepWitness: boolean },
  ): Promise<void> {
    await patiently(this.#pool, (connection) =>
      changedBy(
        connection,
        `UPDATE writebehind_offset
            SET doubt = IF(INSTR(COALESCE(doubt, ''), ?) > 0, doubt, CONCAT_WS('; ', doubt, ?)), doubt_at = ${NOW},
                witness = IF(?, witness, '0-0')
          WHERE stream = ? AND owner = ? AND epoch = ?`,
        [reason, reason, keepWitness, keys.stream, owner, epoch],
      ));
  }

  async settle({ stream }: PartitionKeys, { reason, at }: Doubt): Promise<void> {
    await patiently(this.#pool, (connection) =>
      changedBy(
        connection,
        `UPDATE writebehind_offset SET doubt = NULL, doubt_at = NULL
          WHERE stream = ? AND doubt = ? AND doubt_at = ? AND NOT refused`,
        [stream, reason, at.toISOString().replace("T", " ").slice(0, -1)],
      ));
  }

  async adopt({ stream }: PartitionKeys, adoption: Adoption): Promise<void> {
    const { source, offset, witness, others, doubt } = adoption;
    // One message, so that no transaction is left open that holds up the sink.
    await patiently(this.#pool, (connection) =>
      connection.query(
        `START TRANSACTION;
         UPDATE writebehind_offset SET mark = NULL WHERE stream IN (?);
         INSERT INTO writebehind_offset (stream, last_id, witness, source, doubt, doubt_at)
         VALUES (?, ?, ?, ?, ?, ${NOW})
         ON DUPLICATE KEY UPDATE
            last_id = VALUES(last_id), witness = VALUES(witness), source = VALUES(source), doubt = VALUES(doubt),
            doubt_at = VALUES(doubt_at), refused = 0, mark = NULL, parked_version = parked_version + 1;
         COMMIT`,
        [others.length > 0 ? others : [null], stream, offset, witness, source, doubt],
      ));
  }
}

/** Why a check refuses, for people; `null` where it does not. */
async function problemIn(check: () => Promise<void>): Promise<string | null> {
  try {
    await check();
    return null;
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
}

const markIn = (comment: string | null): string | null => MARK.exec(comment ?? "")?.[1] ?? null;

/** The mark of a table, made where it has none; `null` where the user may not. */
async function marked(connection: Connection, table: string): Promise<string | null> {
  const comment = await commentOf(connection, table);
  const found = markIn(comment);
  if (comment === null || found !== null) return found;
  const mark = crypto.randomUUID().replaceAll("-", "");
  try {
    const text = `${comment} writebehind:${mark}`.trim();
    await connection.query(`ALTER TABLE \`${table}\` COMMENT = ?`, [text]);
    return mark;
  } catch (error) {
    if (isDenied(error)) return null;
    throw error;
  }
}

/** What the rows were written from, by the first of them. */
async function rowsWrittenBy(connection: Connection, table: string): Promise<Belonging["rows"]> {
  const any = async (where: string) =>
    (await rowsOf(connection, `SELECT 1 FROM \`${table}\` WHERE ${where} LIMIT 1`)).length > 0;
  return await any("version > 0") ? "ours" : await any("true") ? "original" : "none";
}
