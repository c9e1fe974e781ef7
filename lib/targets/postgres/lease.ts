/**
 * Ownership of partitions in PostgreSQL: a lease that a heartbeat keeps, and an epoch that fences off its earlier
 * owners. The lease has a row of its own, so that renewing it never waits for a batch.
 * @module
 */

import type { Pool } from "./pool.ts";
import { failpoint } from "../../core/failpoints.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { CLOCK_SECONDS, ownerName, ownershipLost } from "../common.ts";
import { type Claim, HEARTBEATS, type Ownership, type Shares } from "../target.ts";
import { isPostgresError } from "./errors.ts";
import { leave, shares, stay } from "./members.ts";
import { OwnerSession, SESSION_LIVES } from "./owner_session.ts";
import { patiently, type Sessions } from "./sessions.ts";
import { BATCH_BEGINS } from "./statements.ts";

/**
 * How long a lease holds on whose owner's session has ended while its batches' has not, in ms. An owner that lives
 * notices it at once, and has another session by then.
 */
const GRACE_MS = 500;

/** A lease, as somebody finds it who wants the partition. */
interface Found {
  owner: string;
  epoch: string;
  until: string;
  ended: boolean;
  /** whether it ends later than it could: it was granted while the clock was ahead */
  tooLate: boolean;
  /** the advisory lock of its owner's session; `null` where none tells of it */
  key: string | null;
  /** whether that session lives; `null` where there is none */
  lives: boolean | null;
  /** whether the session of its batches may be there */
  working: boolean | null;
}

/** What somebody waits for: the owner's session that was found gone, and since when (ms). */
interface Waiting {
  gone: string | null;
  since: number;
}

/** Looks at the lease of stream `$1`; `$2` is what an older version is taken to have granted, in seconds. */
const LOOK = `
SELECT owner, epoch, lease_until::text AS until, key, lives,
       lease_until <= clock_timestamp() AS ended,
       lease_until > clock_timestamp() + make_interval(secs => ${CLOCK_SECONDS} + granted) AS "tooLate",
       CASE WHEN NOT lives THEN EXISTS (
         -- Of another role's session we see only the process id.
         SELECT FROM pg_stat_get_activity(backend_pid) AS a
          WHERE coalesce(a.backend_start, backend_started) = backend_started
       ) END AS working
  FROM (SELECT *, CASE WHEN session_epoch = epoch THEN session_key END AS key,
               CASE WHEN session_epoch = epoch THEN granted_seconds ELSE $2 END AS granted
          FROM writebehind_lease WHERE stream = $1 OFFSET 0) AS l,
       LATERAL (SELECT ${SESSION_LIVES} AS lives) AS s`;

/**
 * Ends the session that holds the offset row by a batch: of a former owner, which must not hold us up. The row names
 * the transaction, and its lock the session; what a pooler said of sessions would be out of date.
 */
const END_BATCH = `
SELECT pg_terminate_backend(a.pid)
  FROM writebehind_offset o
  JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = o.xmax
  JOIN pg_stat_activity a ON a.pid = l.pid AND a.usename = current_user
 WHERE o.stream = $1 AND a.query LIKE '%' || $2 || '%'`;

/** Renews leases for `$1` seconds; `$2` is the lock of their owners' session. */
const renewSql = (locked: "wait" | "skip") => `
UPDATE writebehind_lease AS l
   SET lease_until = clock_timestamp() + make_interval(secs => $1),
       session_key = $2, granted_seconds = $1, session_epoch = l.epoch,
       -- Behind a pooler, which has no session of the owner, that of the batch before may be another client's by now.
       backend_pid = coalesce(
         r.pid, CASE WHEN coalesce($2, l.session_key) IS NULL THEN 0 ELSE l.backend_pid END),
       backend_started = coalesce(r.started, l.backend_started)
  FROM (SELECT r.stream, r.owner, r.epoch,
               coalesce(a.pid, r.pid) AS pid, coalesce(a.backend_start, r.started) AS started
          FROM unnest($3::text[], $4::text[], $5::bigint[], $6::int[], $7::timestamptz[], $8::text[])
               AS r (stream, owner, epoch, pid, started, mark)
          JOIN writebehind_lease AS l USING (stream)
          LEFT JOIN LATERAL (
            SELECT pid, backend_start FROM pg_stat_activity
             WHERE r.mark IS NOT NULL AND starts_with(query, r.mark)
             ORDER BY query_start DESC LIMIT 1
          ) AS a ON true
         -- One that was given back stays so.
         WHERE l.owner = r.owner AND l.epoch = r.epoch AND l.lease_until > '-infinity'
           FOR UPDATE OF l ${locked === "skip" ? "SKIP LOCKED" : ""}) AS r
 WHERE l.stream = r.stream AND l.owner = r.owner AND l.epoch = r.epoch AND l.lease_until > '-infinity'
RETURNING l.stream, l.owner, EXISTS (
  SELECT FROM pg_stat_activity
   WHERE pid = l.backend_pid AND backend_start = l.backend_started
     AND (state <> 'idle' OR clock_timestamp() - state_change < make_interval(secs => $1))
) AS working`;

/** Leases in the table `writebehind_lease`, epochs in `writebehind_offset`. */
export class PostgresOwnership implements Ownership {
  #sessions: Sessions;
  #prepare: (keys: PartitionKeys) => Promise<string[]>;
  #session: OwnerSession;
  /** the newest claims of those who own a partition, by stream and owner; `null` while one is begun */
  #held = new Map<string, Claim | null>();
  /** when members told last that they are there, by `performance.now()` */
  #told = new Map<string, number>();
  /** the same of renewals */
  #renewedAt = new WeakMap<Claim, number>();
  /** the same of heartbeats: a claim that has none any more is renewed by no other */
  #askedAt = new WeakMap<Claim, number>();
  /** those who wait, by stream and owner */
  #waiting = new Map<string, Waiting>();

  /**
   * @param prepare checks an entity's tables and brings them up to date, before each claim; returns those of ours that
   * were gone
   */
  constructor(sessions: Sessions, prepare: (keys: PartitionKeys) => Promise<string[]>) {
    this.#sessions = sessions;
    this.#prepare = prepare;
    this.#session = new OwnerSession(sessions.pool, () => void this.#noteSession());
  }

  async claim(keys: PartitionKeys, owner: string, leaseSeconds: number): Promise<Claim | null> {
    const name = ownerName(keys.stream, owner);
    let claim: Claim | null = null;
    // From now on, so that nobody else's end closes the session.
    if (!this.#held.has(name)) this.#held.set(name, null);
    try {
      claim = await this.#claim(keys, owner, leaseSeconds);
      if (claim !== null) {
        this.#held.set(name, claim);
        this.#askedAt.set(claim, performance.now());
      }
      return claim;
    } finally {
      if (claim === null) this.#forget(name, null);
    }
  }

  /** The lock of the owner's session; `null` also where nobody owns anything any more, who would close it. */
  async #key(): Promise<string | null> {
    return this.#held.size === 0 ? null : await this.#session.key();
  }

  async #claim(keys: PartitionKeys, owner: string, leaseSeconds: number): Promise<Claim | null> {
    const { stream } = keys;
    const sessions = this.#sessions;
    const seconds = leaseSeconds;
    const name = ownerName(stream, owner);
    // Who waits looks for ever, so that each look is one short query.
    const waits = this.#waiting.get(name);
    if (waits && await this.#look(keys, name, owner, seconds, waits) === "held") return null;
    const madeAnew = await this.#prepare(keys);
    // The patience of the first look counts for the second as well, or nobody would ever have enough of it.
    const found = await this.#look(keys, name, owner, seconds, waits);
    if (found === "held") return null;
    const [key, self] = await Promise.all([this.#key(), sessions.backend(keys)]);
    const { rows: [lease] } = await patiently<{ epoch: string }>(
      sessions.pool,
      `INSERT INTO writebehind_lease AS l
              (stream, owner, epoch, lease_until, backend_pid, backend_started,
               session_key, granted_seconds, session_epoch)
       -- Past the epoch of the offset: a lease that was dropped begins anew.
       SELECT $1, $2, e.epoch, clock_timestamp() + make_interval(secs => $3), $4, $5, $6, $3, e.epoch
         FROM (SELECT 1 + coalesce((SELECT epoch FROM writebehind_offset WHERE stream = $1), 0) AS epoch) e
       ON CONFLICT (stream) DO UPDATE
          SET owner = $2, epoch = l.epoch + 1, lease_until = excluded.lease_until,
              backend_pid = $4, backend_started = $5,
              session_key = $6, granted_seconds = $3, session_epoch = l.epoch + 1
        -- As it was found: another may have been faster, or its owner may have renewed it.
        WHERE l.owner = $2 OR l.epoch = $7 AND l.lease_until = $8
       RETURNING epoch`,
      [stream, owner, leaseSeconds, self.pid, self.started, key, found?.epoch, found?.until],
      seconds,
    );
    if (lease === undefined) return null;
    await failpoint?.("claiming");
    await patiently(sessions.pool, END_BATCH, [stream, BATCH_BEGINS], seconds);
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
      madeAnew,
    };
  }

  /** The lease of a partition that may be taken, `null` where there is none; or that it is held. */
  async #look(
    { stream }: PartitionKeys,
    name: string,
    owner: string,
    seconds: number,
    before: Waiting | undefined,
  ): Promise<Found | null | "held"> {
    const { pool } = this.#sessions;
    this.#waiting.delete(name); // where it fails, the next claim prepares the tables first
    const { rows: [found] } = await patiently<Found>(pool, LOOK, [stream, seconds], seconds);
    if (found === undefined) return null;
    const { ended, tooLate, key, lives, working, epoch, until } = found;
    if (found.owner === owner || ended || tooLate && !lives) return found;
    const gone = lives === false ? key : null;
    const since = before?.gone === gone ? before.since : performance.now();
    if (gone !== null && (!working || performance.now() - since >= GRACE_MS)) return found;
    this.#waiting.set(name, { gone, since });
    this.#held.set(name, null); // an older claim is lost
    if (tooLate) {
      // Its owner lives, and may be frozen: it has from now on what it was granted.
      await patiently(
        pool,
        `UPDATE writebehind_lease
            SET lease_until = clock_timestamp() + make_interval(secs => granted_seconds)
          WHERE stream = $1 AND epoch = $2 AND lease_until = $3`,
        [stream, epoch, until],
        seconds,
      );
    }
    return "held";
  }

  async renew(claim: Claim, leaseSeconds: number): Promise<void> {
    const name = ownerName(claim.keys.stream, claim.owner);
    if (this.#held.get(name) === claim) {
      // The heartbeat of another partition may just have done it.
      const now = performance.now();
      this.#askedAt.set(claim, now);
      const since = now - (this.#renewedAt.get(claim) ?? -Infinity);
      if (since < leaseSeconds * 1000 / HEARTBEATS / 2) return;
      // A row that somebody has locked must not hold up the others.
      const inUse = (claim: Claim) =>
        now - (this.#askedAt.get(claim) ?? -Infinity) < 1000 * leaseSeconds;
      const held = [...this.#held.values()].filter((held) => held !== null).filter(inUse);
      if ((await this.#renew(held, leaseSeconds, "skip")).has(claim)) return;
    }
    if ((await this.#renew([claim], leaseSeconds, "wait")).has(claim)) return;
    this.#forget(name, claim);
    throw ownershipLost(claim.keys);
  }

  /** Renews claims, and returns those that still hold. */
  async #renew(
    claims: Claim[],
    leaseSeconds: number,
    locked: "wait" | "skip",
  ): Promise<Set<Claim>> {
    const key = await this.#key();
    // What a lease names is the process at which the partition's batch is under way, or was last where it is our own.
    const backends = claims.map(({ keys }) => this.#sessions.underWay(keys)?.backend);
    const renew = (connection: Pick<Pool, "query">, key: string | null, seconds: number) =>
      patiently<{ stream: string; owner: string; working: boolean }>(
        connection,
        renewSql(locked),
        [
          leaseSeconds,
          key,
          claims.map(({ keys }) => keys.stream),
          claims.map(({ owner }) => owner),
          claims.map(({ epoch }) => epoch),
          backends.map((backend) => backend?.pid ?? null),
          backends.map((backend) => backend?.started ?? null),
          backends.map((backend) => backend?.mark ?? null),
        ],
        seconds,
      );
    const { connection } = this.#session;
    const { rows } = connection === undefined
      ? await renew(this.#sessions.pool, null, leaseSeconds)
      // By the session itself, so that one which has silently died is noticed, and given up.
      : await renew(connection, key, leaseSeconds / HEARTBEATS).catch((error) => {
        if (isPostgresError(error)) throw error;
        if (this.#session.connection === connection) this.#session.close();
        return renew(this.#sessions.pool, null, leaseSeconds);
      });
    const working = new Map(
      rows.map(({ stream, owner, working }) => [ownerName(stream, owner), working]),
    );
    const kept = new Set<Claim>();
    for (const claim of claims) {
      const works = working.get(ownerName(claim.keys.stream, claim.owner));
      if (works === undefined) continue;
      kept.add(claim);
      this.#renewedAt.set(claim, performance.now());
      const waitingMs = this.#sessions.underWay(claim.keys)?.ms ?? 0;
      if (!works && waitingMs > leaseSeconds * 1000) {
        this.abandon(claim, new Error("Connection lost: the server does not work on the batch"));
      }
    }
    return kept;
  }

  /** A session was lost, and its owner lives: leases are told of another, or that none tells of them. */
  async #noteSession(): Promise<void> {
    this.#told.clear(); // told anew at the next look
    const claims = [...this.#held.values()].filter((claim) => claim !== null);
    if (claims.length === 0) return;
    const key = await this.#key();
    const note = ({ keys, owner, epoch }: Claim) =>
      patiently(
        this.#sessions.pool,
        `UPDATE writebehind_lease SET session_key = $4
          WHERE stream = $1 AND owner = $2 AND epoch = $3 AND session_epoch = epoch`,
        [keys.stream, owner, epoch, key],
      );
    // One that fails now is renewed soon, which tells it as well.
    await Promise.allSettled(claims.map(note));
  }

  /** Forgets a claim, unless its owner has claimed anew; the session ends with the last one. */
  #forget(name: string, claim: Claim | null): void {
    if (this.#held.get(name)?.epoch === claim?.epoch) this.#held.delete(name);
    if (this.#held.size === 0) this.#closeSessions();
  }

  async share(
    partitions: PartitionKeys[],
    process: string,
    { leaseSeconds, isMember }: { leaseSeconds: number; isMember: boolean },
  ): Promise<Shares> {
    const { pool } = this.#sessions;
    const [{ stream }] = partitions as [PartitionKeys];
    const member = ownerName(`member of ${stream}`, process);
    const told = this.#told.get(member) ?? -Infinity;
    const isKnown = this.#held.has(member);
    if (isMember && performance.now() - told > leaseSeconds * 1000 / HEARTBEATS) {
      // From now on, so that nobody else's end closes the session.
      this.#held.set(member, null);
      const key = await this.#key();
      const isThere = await stay(pool, partitions, process, key, leaseSeconds);
      if (isThere) this.#told.set(member, performance.now());
    } else if (!isMember && isKnown) {
      this.#told.delete(member);
      this.#forget(member, null);
      await leave(pool, partitions, process);
    }
    return await shares(pool, partitions, leaseSeconds);
  }

  /** Ends the sessions for batches, and the one that tells that this process lives. */
  close(): void {
    this.#held.clear();
    this.#closeSessions();
  }

  #closeSessions(): void {
    this.#session.close();
    this.#sessions.close();
  }

  abandon({ keys }: Claim, reason: Error): void {
    this.#sessions.abandon(keys, reason);
  }

  async release({ stream }: PartitionKeys, claim: Claim | null): Promise<void> {
    if (claim === null) return;
    const name = ownerName(stream, claim.owner);
    // No renewal of others renews it any more.
    const isNewest = this.#held.get(name)?.epoch === claim.epoch;
    if (isNewest) this.#held.set(name, null);
    try {
      await patiently(
        this.#sessions.pool,
        `UPDATE writebehind_lease SET lease_until = '-infinity'
          WHERE stream = $1 AND owner = $2 AND epoch = $3`,
        [stream, claim.owner, claim.epoch],
      );
    } finally {
      if (isNewest) this.#forget(name, null);
    }
  }

  async moveOffset({ stream }: PartitionKeys, offset: string, witness: string): Promise<void> {
    await patiently(
      this.#sessions.pool,
      `UPDATE writebehind_offset
          SET last_id = $2, witness = $3, parked_version = parked_version + 1
        WHERE stream = $1`,
      [stream, offset, witness],
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
