/**
 * Ownership of partitions in MySQL: a lock of the owner's session (`GET_LOCK`), which ends with it, an epoch that
 * fences off earlier owners, and a lease for a session that the server has not noticed to be gone.
 * @module
 */

import { failpoint } from "../../core/failpoints.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { CLOCK_SECONDS, ownerName, ownershipLost } from "../common.ts";
import { type Claim, HEARTBEATS, type Ownership, type Shares } from "../target.ts";
import { isMysqlError } from "./errors.ts";
import { Members } from "./members.ts";
import { changedBy, type Connection, kill, patiently, rowsOf } from "./pool.ts";
import { lockOf, type Sessions } from "./sessions.ts";
import { micro, NOW } from "./statements.ts";

/** How long a session may take to end that was told to, in seconds. */
const KILL_SECONDS = 5;

/**
 * How long the same session must hold the lock of a lease that is over before it is ended, in ms: one that has just
 * taken it writes its lease next.
 */
const GRACE_MS = 500;

/** What somebody waits for: the session that holds the lock without a lease, and since when (ms). */
interface Waiting {
  holder: string | null;
  since: number;
}

/** Locks by `GET_LOCK`, leases in the table `writebehind_lease`, epochs in `writebehind_offset`. */
export class MysqlOwnership implements Ownership {
  #sessions: Sessions;
  #database: string;
  #prepare: (keys: PartitionKeys) => Promise<string[]>;
  #members: Members;
  /** those who wait, by stream and owner */
  #waiting = new Map<string, Waiting>();

  /**
   * @param prepare checks an entity's tables and brings them up to date, before each claim; returns those of ours that
   * were gone
   */
  constructor(
    sessions: Sessions,
    database: string,
    prepare: (keys: PartitionKeys) => Promise<string[]>,
  ) {
    this.#sessions = sessions;
    this.#database = database;
    this.#prepare = prepare;
    this.#members = new Members(sessions, database);
  }

  async claim(keys: PartitionKeys, owner: string, leaseSeconds: number): Promise<Claim | null> {
    const { stream } = keys;
    // Who waits looks for ever, so that each look is one short query.
    const waits = this.#waiting.get(ownerName(stream, owner));
    if (waits && await this.#look(stream, owner, waits) === "held") return null;
    await this.#sessions.renewRights(keys, owner);
    const madeAnew = await this.#prepare(keys);
    // The patience of the first look counts for the second as well, or nobody would ever have enough of it.
    const former = await this.#look(stream, owner, waits);
    if (former === "held") return null;
    await failpoint?.("claiming");
    const claimed = await this.#sessions.run(keys, owner, async (connection) => {
      if (!await this.#lock(connection, stream, former)) return null;
      await changedBy(
        connection,
        "INSERT IGNORE INTO writebehind_offset (stream) VALUES (?)",
        [stream],
      );
      await connection.query("START TRANSACTION");
      // The row lock waits for what a former owner has under way; its session was ended.
      const [row] = await rowsOf<
        { last_id: string; witness: string; parked_version: string; epoch: string }
      >(
        connection,
        `SELECT last_id, witness, parked_version,
                1 + GREATEST(epoch, COALESCE((SELECT epoch FROM writebehind_lease l WHERE l.stream = o.stream), 0))
                AS epoch
           FROM writebehind_offset o WHERE stream = ? FOR UPDATE`,
        [stream],
      );
      const { epoch, last_id, witness, parked_version } = row!;
      await changedBy(
        connection,
        "UPDATE writebehind_offset SET epoch = ?, owner = ? WHERE stream = ?",
        [epoch, owner, stream],
      );
      await changedBy(
        connection,
        `REPLACE INTO writebehind_lease (stream, owner, epoch, lease_until, granted_seconds)
         VALUES (?, ?, ?, TIMESTAMPADD(MICROSECOND, ?, ${NOW}), ?)`,
        [stream, owner, epoch, micro(leaseSeconds), leaseSeconds],
      );
      const parked = await rowsOf(
        connection,
        "SELECT 1 FROM writebehind_dead_letter WHERE stream = ? AND state = 'parked' LIMIT 1",
        [stream],
      );
      await connection.query("COMMIT");
      return {
        epoch: String(epoch),
        offset: last_id,
        witness,
        hasParked: parked.length > 0,
        parkedVersion: String(parked_version),
      };
    }, 1000 * Math.max(leaseSeconds, KILL_SECONDS + 1)); // nobody renews yet, who would watch it
    if (claimed !== null) return { keys, owner, ...claimed, madeAnew };
    await this.#sessions.disconnect(keys, owner);
    return null;
  }

  /** The session that holds a partition and may be ended, `null` where it is free; or that another owner holds it. */
  async #look(
    stream: string,
    owner: string,
    before: Waiting | undefined,
  ): Promise<string | null | "held"> {
    const name = ownerName(stream, owner);
    this.#waiting.delete(name); // where it fails, the next claim prepares the tables first
    const [found] = await patiently(
      this.#sessions.pool,
      (connection) =>
        rowsOf<{ holder: string | null; owner: string | null; ended: number | null }>(
          connection,
          `SELECT IS_USED_LOCK(?) AS holder, l.owner, l.lease_until <= ${NOW}
                OR l.lease_until > TIMESTAMPADD(MICROSECOND, 1000000 * (l.granted_seconds + ${CLOCK_SECONDS}), ${NOW})
                AS ended
           FROM (SELECT 1) AS one LEFT JOIN writebehind_lease l ON l.stream = ?`,
          [lockOf(this.#database, stream), stream],
        ),
    );
    const { holder, owner: of, ended } = found!;
    if (holder === null) return null;
    const session = String(holder);
    // A former session of this owner's own needs no patience.
    if (of === owner) return session;
    const suspect = Number(ended ?? 1) === 0 ? null : session;
    const since = before?.holder === suspect ? before.since : performance.now();
    if (suspect !== null && performance.now() - since >= GRACE_MS) return suspect;
    this.#waiting.set(name, { holder: suspect, since });
    return "held";
  }

  /**
   * Takes the partition's lock.
   * @param former the session that holds it and is ended; another may have been faster
   */
  async #lock(connection: Connection, stream: string, former: string | null): Promise<boolean> {
    const lock = lockOf(this.#database, stream);
    const take = async (seconds: number) => {
      const [row] = await rowsOf<{ got: unknown }>(connection, "SELECT GET_LOCK(?, ?) AS got", [
        lock,
        seconds,
      ]);
      return Number(row!.got) === 1;
    };
    if (await take(0)) return true;
    const [holder] = await rowsOf<{ id: string | null }>(
      connection,
      "SELECT IS_USED_LOCK(?) AS id",
      [lock],
    );
    const holds = holder!.id === null ? null : String(holder!.id);
    if (holds !== null && holds !== former) return false;
    if (holds !== null) await kill(connection, holds);
    return await take(KILL_SECONDS);
  }

  async renew(claim: Claim, leaseSeconds: number): Promise<void> {
    const { keys, owner, epoch } = claim;
    const renew = (seconds: number) =>
      patiently(this.#sessions.pool, (connection) =>
        changedBy(
          connection,
          `UPDATE writebehind_lease
              SET lease_until = TIMESTAMPADD(MICROSECOND, ?, ${NOW}), granted_seconds = ?
            WHERE stream = ? AND owner = ? AND epoch = ?`,
          [micro(leaseSeconds), leaseSeconds, keys.stream, owner, epoch],
        ), seconds * 1000);
    // A connection that is silent must not cost the lease: there is time for another one.
    const renewed = await renew(leaseSeconds / HEARTBEATS).catch((error) => {
      if (isMysqlError(error)) throw error;
      return renew(leaseSeconds);
    });
    if (renewed === 0) throw ownershipLost(keys);
    if (await this.#sessions.waitingMs(keys, owner) <= leaseSeconds * 1000) return;
    const works = await patiently(this.#sessions.pool, async (connection) => {
      const [row] = await rowsOf<{ command: string }>(
        connection,
        "SELECT command AS command FROM information_schema.processlist WHERE id = IS_USED_LOCK(?)",
        [lockOf(this.#database, keys.stream)],
      );
      return row !== undefined && row.command !== "Sleep";
    });
    if (!works) {
      this.abandon(claim, new Error("Connection lost: the server does not work on the batch"));
    }
  }

  abandon({ keys, owner }: Claim, reason: Error): void {
    void this.#sessions.abandon(keys, owner, reason);
  }

  async release(keys: PartitionKeys, claim: Claim | null): Promise<void> {
    if (claim === null) return;
    const { owner, epoch } = claim;
    // Also where that is not known: else the session would keep the lock for as long as the process lives.
    let isMine = true;
    try {
      isMine = await patiently(this.#sessions.pool, (connection) =>
        changedBy(
          connection,
          `UPDATE writebehind_lease SET lease_until = '1970-01-01' WHERE stream = ? AND owner = ? AND epoch = ?`,
          [keys.stream, owner, epoch],
        )) > 0;
    } finally {
      // An owner that has claimed anew goes on.
      if (isMine) await this.#sessions.disconnect(keys, owner);
    }
  }

  share(
    partitions: PartitionKeys[],
    process: string,
    options: { leaseSeconds: number; isMember: boolean },
  ): Promise<Shares> {
    return this.#members.share(partitions, process, options);
  }

  async moveOffset({ stream }: PartitionKeys, offset: string, witness: string): Promise<void> {
    await patiently(this.#sessions.pool, (connection) =>
      changedBy(
        connection,
        `UPDATE writebehind_offset
            SET last_id = ?, witness = ?, parked_version = parked_version + 1
          WHERE stream = ?`,
        [offset, witness, stream],
      ));
  }

  async wentBack({ keys, owner, epoch }: Claim): Promise<void> {
    await patiently(this.#sessions.pool, (connection) =>
      changedBy(
        connection,
        `UPDATE writebehind_offset SET witness = '0-0', went_back = went_back + 1, went_back_at = ${NOW}
          WHERE stream = ? AND owner = ? AND epoch = ?`,
        [keys.stream, owner, epoch],
      ));
  }
}
