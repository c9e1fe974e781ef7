/**
 * The processes that share an entity's partitions, in MySQL: each has a lease of its own beside those of the
 * partitions, and a session of its own that holds a lock (`GET_LOCK`). The lease ends with the session, or with time.
 * @module
 */

import type { PartitionKeys } from "../../redis/keys.ts";
import { HEARTBEATS, type Shares } from "../target.ts";
import { changedBy, type Connection, PATIENCE_MS, patiently, rowsOf } from "./pool.ts";
import { lockOf, type Sessions } from "./sessions.ts";
import { micro, NOW } from "./statements.ts";

/** What a member's lease is named with, before the name of its process. */
const placesOf = ([first]: PartitionKeys[]) => `member of ${first!.stream} `;

/** The epoch of a member whose session holds its lock, and of one that has none: an older version has none ever. */
const [LOCKED, UNLOCKED] = ["1", "0"];

/** Which processes are there. */
export class Members {
  #sessions: Sessions;
  #database: string;
  /** when this process has told of each member last, by `performance.now()` */
  #told = new Map<string, number>();

  constructor(sessions: Sessions, database: string) {
    this.#sessions = sessions;
    this.#database = database;
  }

  /** See `share` of the port. */
  async share(
    partitions: PartitionKeys[],
    process: string,
    { leaseSeconds, isMember }: { leaseSeconds: number; isMember: boolean },
  ): Promise<Shares> {
    const { pool } = this.#sessions;
    const place = placesOf(partitions) + process;
    const told = this.#told.get(place) ?? -Infinity;
    if (isMember && performance.now() - told > leaseSeconds * 1000 / HEARTBEATS) {
      const epoch = await this.#lock(place, process) ? LOCKED : UNLOCKED;
      const places = placesOf(partitions);
      await patiently(pool, (connection) => stay(connection, places, process, epoch, leaseSeconds));
      this.#told.set(place, performance.now());
    } else if (!isMember && this.#told.delete(place)) {
      await patiently(
        pool,
        (connection) =>
          changedBy(connection, "DELETE FROM writebehind_lease WHERE stream = ?", [place]),
      );
      await this.#sessions.disconnect({ stream: place }, process);
    }
    const shares = await patiently(pool, (connection) => this.#shares(connection, partitions));
    // Its session has ended, and it has not: it says so at its next look.
    if (isMember && !shares.members.includes(process)) this.#told.delete(place);
    return shares;
  }

  /** Whether the session of a member holds its lock. Never rejects: without it, the lease ends with time. */
  #lock(place: string, process: string): Promise<boolean> {
    const lock = lockOf(this.#database, place);
    return this.#sessions.run({ stream: place }, process, async (connection) => {
      const [row] = await rowsOf<{ got: unknown }>(
        connection,
        "SELECT IF(IS_USED_LOCK(?) = CONNECTION_ID(), 1, GET_LOCK(?, 0)) AS got",
        [lock, lock],
      );
      return Number(row!.got) === 1;
    }, PATIENCE_MS).catch(() => false); // asked again when the lease is renewed
  }

  /** Whoever holds a lock lives; a member that has none does as long as its lease holds. */
  async #shares(connection: Connection, partitions: PartitionKeys[]): Promise<Shares> {
    const places = placesOf(partitions);
    const leases = await rowsOf<{ stream: string; owner: string; epoch: string }>(
      connection,
      `SELECT stream, owner, epoch FROM writebehind_lease
        WHERE (stream IN (?) OR LEFT(stream, CHAR_LENGTH(?)) = ?) AND lease_until > ${NOW}`,
      [partitions.map(({ stream }) => stream), places, places],
    );
    const isMember = ({ stream }: { stream: string }) => stream.startsWith(places);
    const locks = leases.map(({ stream }) => lockOf(this.#database, stream));
    const [held] = locks.length === 0 ? [{}] : await rowsOf<Record<string, unknown>>(
      connection,
      `SELECT ${locks.map((_, at) => `IS_USED_LOCK(?) AS l${at}`).join()}`,
      locks,
    );
    const live = leases.filter((lease, at) =>
      held![`l${at}`] !== null || isMember(lease) && String(lease.epoch) === UNLOCKED
    );
    return {
      members: live.filter(isMember).map(({ owner }) => owner),
      owners: new Map(
        live.filter((lease) => !isMember(lease)).map(({ stream, owner }) => [stream, owner]),
      ),
    };
  }
}

/** Tells that a process is there; one that comes removes what others have left. */
async function stay(
  connection: Connection,
  places: string,
  process: string,
  epoch: string,
  leaseSeconds: number,
): Promise<void> {
  const until = `TIMESTAMPADD(MICROSECOND, ?, ${NOW})`;
  const stayed = await changedBy(
    connection,
    `UPDATE writebehind_lease SET lease_until = ${until}, granted_seconds = ?, epoch = ?
      WHERE stream = ?`,
    [micro(leaseSeconds), leaseSeconds, epoch, places + process],
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
     VALUES (?, ?, ?, ${until}, ?)
     ON DUPLICATE KEY UPDATE lease_until = VALUES(lease_until), epoch = VALUES(epoch)`,
    [places + process, process, epoch, micro(leaseSeconds), leaseSeconds],
  );
}
