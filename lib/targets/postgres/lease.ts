/**
 * Ownership of partitions in PostgreSQL: a lease that a heartbeat keeps, and an epoch that fences off its earlier
 * owners. The lease has a row of its own, so that renewing it never waits for a batch.
 * @module
 */

import { failpoint } from "../../core/failpoints.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { ownershipLost } from "../common.ts";
import type { Claim, Ownership } from "../target.ts";
import { patiently, type Sessions } from "./sessions.ts";

/** Leases in the table `writebehind_lease`, epochs in `writebehind_offset`. */
export class PostgresOwnership implements Ownership {
  #sessions: Sessions;
  #prepare: (keys: PartitionKeys) => Promise<void>;

  /** @param prepare checks an entity's tables and brings them up to date, before each claim */
  constructor(sessions: Sessions, prepare: (keys: PartitionKeys) => Promise<void>) {
    this.#sessions = sessions;
    this.#prepare = prepare;
  }

  async claim(keys: PartitionKeys, owner: string, leaseSeconds: number): Promise<Claim | null> {
    const { stream } = keys;
    const sessions = this.#sessions;
    const seconds = leaseSeconds;
    await this.#prepare(keys);
    const { rows: [self] } = await sessions.query<{ pid: number; started: string }>(keys, {
      name: "self",
      text: `SELECT pid, backend_start::text AS started FROM pg_stat_activity
              WHERE pid = pg_backend_pid()`,
      values: [],
      seconds,
    });
    const { rows: [lease] } = await patiently<
      { epoch: string; old_pid: number | null; old_started: string | null }
    >(
      sessions.pool,
      `WITH old AS (
         SELECT backend_pid, backend_started FROM writebehind_lease WHERE stream = $1
       )
       INSERT INTO writebehind_lease AS l
              (stream, owner, epoch, lease_until, backend_pid, backend_started)
       VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3), $4, $5)
       ON CONFLICT (stream) DO UPDATE
          SET owner = $2, epoch = l.epoch + 1, lease_until = excluded.lease_until,
              backend_pid = $4, backend_started = $5
        WHERE l.lease_until < clock_timestamp() OR l.owner = $2
       RETURNING epoch, (SELECT backend_pid FROM old) AS old_pid,
                 (SELECT backend_started::text FROM old) AS old_started`,
      [stream, owner, leaseSeconds, self!.pid, self!.started],
      seconds,
    );
    if (lease === undefined) return null;
    await failpoint?.("claiming");
    // A batch that the former owner has under way must not hold us up, nor land after ours.
    await patiently(
      sessions.pool,
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid = $1 AND backend_start = $2 AND pid <> $3`,
      [lease.old_pid, lease.old_started, self!.pid],
      seconds,
    );
    await sessions.query(keys, {
      name: "first offset",
      text: "INSERT INTO writebehind_offset (stream) VALUES ($1) ON CONFLICT DO NOTHING",
      values: [stream],
      seconds,
    });
    const { rows: [row] } = await sessions.query<
      { last_id: string; witness: string; parked_version: string }
    >(keys, {
      name: "raise epoch",
      text: `UPDATE writebehind_offset SET epoch = $2, owner = $3 WHERE stream = $1 AND epoch < $2
             RETURNING last_id, witness, parked_version`,
      values: [stream, lease.epoch, owner],
      seconds,
    });
    if (row === undefined) return null;
    // Asked after the update, whose snapshot would miss what the former owner has just parked.
    const { rows: [has] } = await sessions.query<{ parked: boolean }>(keys, {
      name: "has parked",
      text: `SELECT EXISTS (SELECT FROM writebehind_dead_letter
                             WHERE stream = $1 AND state = 'parked') AS parked`,
      values: [stream],
      seconds,
    });
    return {
      keys,
      owner,
      epoch: lease.epoch,
      offset: row.last_id,
      witness: row.witness,
      hasParked: has!.parked,
      parkedVersion: row.parked_version,
    };
  }

  async renew(claim: Claim, leaseSeconds: number): Promise<void> {
    const { keys, owner, epoch } = claim;
    const { rows: [row] } = await patiently<{ working: boolean }>(
      this.#sessions.pool,
      `UPDATE writebehind_lease SET lease_until = clock_timestamp() + make_interval(secs => $4)
        WHERE stream = $1 AND owner = $2 AND epoch = $3
       RETURNING EXISTS (
         SELECT FROM pg_stat_activity
          WHERE pid = backend_pid AND backend_start = backend_started
            AND (state <> 'idle' OR clock_timestamp() - state_change < make_interval(secs => $4))
       ) AS working`,
      [keys.stream, owner, epoch, leaseSeconds],
      leaseSeconds,
    );
    if (row === undefined) throw ownershipLost(keys);
    if (!row.working && this.#sessions.waitingMs(keys) > leaseSeconds * 1000) {
      this.abandon(claim, new Error("Connection lost: the server does not work on the batch"));
    }
  }

  abandon({ keys }: Claim, reason: Error): void {
    this.#sessions.abandon(keys, reason);
  }

  async release({ stream }: PartitionKeys, claim: Claim | null): Promise<void> {
    this.#sessions.disconnect(stream);
    if (claim === null) return;
    await patiently(
      this.#sessions.pool,
      `UPDATE writebehind_lease SET lease_until = '-infinity'
        WHERE stream = $1 AND owner = $2 AND epoch = $3`,
      [stream, claim.owner, claim.epoch],
    );
  }

  async moveOffset({ stream }: PartitionKeys, offset: string): Promise<void> {
    await patiently(
      this.#sessions.pool,
      `UPDATE writebehind_offset
          SET last_id = $2, witness = '0-0', parked_version = parked_version + 1
        WHERE stream = $1`,
      [stream, offset],
    );
  }

  async wentBack({ keys, owner, epoch }: Claim): Promise<void> {
    await patiently(
      this.#sessions.pool,
      `UPDATE writebehind_offset
          SET witness = '0-0', went_back = went_back + 1, went_back_at = clock_timestamp()
        WHERE stream = $1 AND owner = $2 AND epoch = $3`,
      [keys.stream, owner, epoch],
    );
  }
}
