/**
 * The offsets of the partitions in MySQL. Reads only, and works before our tables exist.
 * @module
 */

import type { PartitionKeys } from "../../redis/keys.ts";
import type { Offsets, Standing } from "../target.ts";
import { type Connection, patiently, type Pool, rowsOf } from "./pool.ts";
import { isMysqlError, NO_SUCH_TABLE } from "./errors.ts";
import { lockOf } from "./sessions.ts";
import { NOW } from "./statements.ts";

/** A time as MySQL's driver gives it, in UTC. */
export function dateOf(text: string): Date {
  return new Date(`${text.replace(" ", "T")}Z`);
}

/** The rows of a query; none where the table is not there, since no sink has ever run. */
export async function rowsIfThere<Row>(
  connection: Pick<Connection, "query">,
  sql: string,
  values: unknown[],
): Promise<Row[]> {
  try {
    return await rowsOf<Row>(connection, sql, values);
  } catch (error) {
    if (isMysqlError(error) && error.errno === NO_SUCH_TABLE) return [];
    throw error;
  }
}

interface OffsetRow {
  last_id: string;
  events: string;
  witness: string;
  went_back: number;
  went_back_at: string | null;
}

/** Offsets in the table `writebehind_offset`, owners by their locks. */
export class MysqlOffsets implements Offsets {
  #pool: Pool;
  #database: string;

  constructor(pool: Pool, database: string) {
    this.#pool = pool;
    this.#database = database;
  }

  async offset({ stream }: Pick<PartitionKeys, "stream">): Promise<string> {
    const [row] = await patiently(this.#pool, (connection) =>
      rowsIfThere<{ last_id: string }>(
        connection,
        "SELECT last_id FROM writebehind_offset WHERE stream = ?",
        [stream],
      ));
    return row?.last_id ?? "0-0";
  }

  async standing({ stream }: PartitionKeys): Promise<Standing> {
    return await patiently(this.#pool, async (connection) => {
      const [row] = await rowsIfThere<OffsetRow>(
        connection,
        "SELECT last_id, events, witness, went_back, went_back_at FROM writebehind_offset WHERE stream = ?",
        [stream],
      );
      const [lease] = await rowsIfThere<
        { owner: string; left: number; released: number; holder: string | null }
      >(
        connection,
        `SELECT owner, TIMESTAMPDIFF(MICROSECOND, ${NOW}, lease_until) / 1000000 AS \`left\`,
                lease_until = '1970-01-01' AS released, IS_USED_LOCK(?) AS holder
           FROM writebehind_lease WHERE stream = ?`,
        [lockOf(this.#database, stream), stream],
      );
      const [letters] = await rowsIfThere<{ parked: string }>(
        connection,
        "SELECT COUNT(*) AS parked FROM writebehind_dead_letter WHERE stream = ? AND state = 'parked'",
        [stream],
      );
      const live = lease !== undefined && lease.holder !== null;
      return {
        offset: row?.last_id ?? "0-0",
        events: Number(row?.events ?? 0),
        witness: row?.witness ?? "0-0",
        wentBack: row?.went_back ?? 0,
        wentBackAt: row?.went_back_at == null ? null : dateOf(row.went_back_at),
        owner: lease?.owner ?? null,
        live,
        leaseSeconds: lease === undefined || lease.released === 1
          ? null
          : live
          ? Number(lease.left)
          : Math.min(0, Number(lease.left)),
        parked: Number(letters?.parked ?? 0),
        waitsFor: null,
      };
    });
  }
}
