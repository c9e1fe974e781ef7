/**
 * The processes that share an entity's partitions, in MySQL: each has a lease of its own beside those of the
 * partitions. A process has a session for each partition that it owns, and none where it owns none, so that its lease
 * ends with time alone.
 * @module
 */

import type { PartitionKeys } from "../../redis/keys.ts";
import { HEARTBEATS, type Shares } from "../target.ts";
import { changedBy, type Connection, patiently, type Pool, rowsOf } from "./pool.ts";
import { lockOf } from "./sessions.ts";
import { micro, NOW } from "./statements.ts";

/** What a member's lease is named with, before the name of its process. */
const placesOf = ([first]: PartitionKeys[]) => `member of ${first!.stream} `;

/** Which processes are there. */
export class Members {
  #pool: Pool;
  #database: string;
  /** when this process has told of each member last, by `performance.now()` */
  #told = new Map<string, number>();

  constructor(pool: Pool, database: string) {
    this.#pool = pool;
    this.#database = database;
  }

  /** See `share` of the port. */
  share(
    partitions: PartitionKeys[],
    process: string,
    { leaseSeconds, isMember }: { leaseSeconds: number; isMember: boolean },
  ): Promise<Shares> {
    const place = placesOf(partitions) + process;
    const told = this.#told.get(place) ?? -Infinity;
    return patiently(this.#pool, async (connection) => {
      if (isMember && performance.now() - told > leaseSeconds * 1000 / HEARTBEATS) {
        await stay(connection, placesOf(partitions), process, leaseSeconds);
        this.#told.set(place, performance.now());
      } else if (!isMember && this.#told.delete(place)) {
        await changedBy(connection, "DELETE FROM writebehind_lease WHERE stream = ?", [place]);
      }
      return await this.#shares(connection, partitions);
    });
  }

  /** Whoever holds a partition's lock lives; a member does as long as its lease holds. */
  async #shares(connection: Connection, partitions: PartitionKeys[]): Promise<Shares> {
    const places = placesOf(partitions);
    const live = await rowsOf<{ stream: string; owner: string }>(
      connection,
      `SELECT stream, owner FROM writebehind_lease
        WHERE (stream IN (?) OR LEFT(stream, CHAR_LENGTH(?)) = ?) AND lease_until > ${NOW}`,
      [partitions.map(({ stream }) => stream), places, places],
    );
    const owned = live.filter(({ stream }) => !stream.startsWith(places));
    const locks = owned.map(({ stream }) => lockOf(this.#database, stream));
    const [held] = locks.length === 0 ? [{}] : await rowsOf<Record<string, unknown>>(
      connection,
      `SELECT ${locks.map((_, at) => `IS_USED_LOCK(?) AS l${at}`).join()}`,
      locks,
    );
    return {
      members: live.filter(({ stream }) => stream.startsWith(places)).map(({ owner }) => owner),
      owners: new Map(
        owned.filter((_, at) => held![`l${at}`] !== null).map(({ stream, owner }) =>
          [stream, owner] as const
        ),
      ),
    };
  }
}

/** Tells that a process is there; one that comes removes what others have left. */
async function stay(
  connection: Connection,
  places: string,
  process: string,
  leaseSeconds: number,
): Promise<void> {
  const until = `TIMESTAMPADD(MICROSECOND, ?, ${NOW})`;
  const stayed = await changedBy(
    connection,
    `UPDATE writebehind_lease SET lease_until = ${until}, granted_seconds = ? WHERE stream = ?`,
    [micro(leaseSeconds), leaseSeconds, places + process],
  );
  if (stayed > 0) return;
  await changedBy(
    connection,
    `DELETE FROM writebehind_lease WHERE LEFT(stream, CHAR_LENGTH(?)) = ? AND lease_until < ${NOW}`,
    [places, places],
  );
  await changedBy(
    connection,
    `INSERT INTO writebehind_lease (stream, owner, epoch, lease_until, granted_seconds)
     VALUES (?, ?, 0, ${until}, ?)
     ON DUPLICATE KEY UPDATE lease_until = VALUES(lease_until)`,
    [places + process, process, micro(leaseSeconds), leaseSeconds],
  );
}
