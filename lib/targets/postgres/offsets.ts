/**
 * The offsets of the partitions in PostgreSQL. Reads only, and works before our tables exist.
 * @module
 */

import type { Pool } from "./pool.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { CLOCK_SECONDS } from "../common.ts";
import type { Offsets, Standing } from "../target.ts";
import { isPostgresError, UNDEFINED_TABLE } from "./errors.ts";
import { SESSION_LIVES } from "./owner_session.ts";
import { patiently } from "./sessions.ts";

const NOTHING: Standing = {
  offset: "0-0",
  events: 0,
  witness: "0-0",
  wentBack: 0,
  wentBackAt: null,
  owner: null,
  live: false,
  leaseSeconds: null,
  parked: 0,
  waitsFor: null,
};

interface StandingRow {
  last_id: string;
  events: string;
  witness: string;
  went_back: number;
  went_back_at: Date | null;
  owner: string | null;
  live: boolean;
  lease: number | null;
  /** whether the lease has ended before its time */
  ended: boolean;
  parked: number;
}

/**
 * Who blocks the session of a lease. Of its query only the first word is told: the rest may hold what is secret, and
 * all of it is hidden from a user who may not see other users' queries.
 */
const BLOCKERS = `
SELECT string_agg(concat('process ', a.pid, ' (',
         concat_ws(', ', nullif(a.application_name, ''), 'user ' || a.usename, a.state,
                   upper(substring(a.query FROM '^\\s*([A-Za-z]{1,20})'))), ')'), ', ' ORDER BY a.pid) AS blockers
  FROM writebehind_lease l, unnest(pg_blocking_pids(l.backend_pid)) AS b (pid), pg_stat_activity a
 WHERE l.stream = $1 AND a.pid = b.pid`;

/**
 * How partition `$1` stands. The lease of an older version has none of the three columns that are read by name: it
 * tells of no session, and ends with time.
 */
const STANDING = `
SELECT coalesce(o.last_id, '0-0') AS last_id, coalesce(o.events, 0) AS events,
       coalesce(o.witness, '0-0') AS witness,
       coalesce(o.went_back, 0) AS went_back, o.went_back_at, l.owner,
       coalesce(l.lease_until > clock_timestamp() AND NOT s.ended, false) AS live,
       CASE WHEN isfinite(l.lease_until)
            THEN extract(epoch FROM l.lease_until - clock_timestamp())::float8 END AS lease,
       s.ended,
       (SELECT count(*)::int FROM writebehind_dead_letter d
         WHERE d.stream = $1 AND d.state = 'parked') AS parked
  FROM (SELECT) one
  LEFT JOIN writebehind_offset o ON o.stream = $1
  LEFT JOIN (SELECT owner, lease_until,
                    CASE WHEN session_epoch = epoch THEN session_key END AS key,
                    CASE WHEN session_epoch = epoch THEN granted_seconds END AS granted
               FROM (SELECT owner, epoch, lease_until, (row->>'session_epoch')::bigint AS session_epoch,
                            (row->>'session_key')::bigint AS session_key,
                            (row->>'granted_seconds')::float8 AS granted_seconds
                       FROM writebehind_lease, to_jsonb(writebehind_lease) AS row
                      WHERE stream = $1) AS older
             OFFSET 0) AS l ON true,
       LATERAL (SELECT ${SESSION_LIVES} AS lives) AS look,
       -- Before its time: its session is gone, or it was granted while the clock was ahead.
       LATERAL (SELECT coalesce(NOT lives, false)
                    OR coalesce(lease_until > clock_timestamp() +
                                make_interval(secs => ${CLOCK_SECONDS} + granted), false)
                       AND lives IS NOT true AS ended) AS s`;

/** Offsets in the table `writebehind_offset`. */
export class PostgresOffsets implements Offsets {
  #pool: Pool;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  async offset({ stream }: Pick<PartitionKeys, "stream">): Promise<string> {
    try {
      const { rows: [row] } = await patiently<{ last_id: string }>(
        this.#pool,
        "SELECT last_id FROM writebehind_offset WHERE stream = $1",
        [stream],
      );
      return row?.last_id ?? "0-0";
    } catch (error) {
      // No sink has ever run here.
      if (isPostgresError(error) && error.code === UNDEFINED_TABLE) return "0-0";
      throw error;
    }
  }

  async standing(
    { stream }: PartitionKeys,
    { waits = true }: { waits?: boolean } = {},
  ): Promise<Standing> {
    const { rows: [tables] } = await patiently<{ there: boolean }>(
      this.#pool,
      `SELECT to_regclass('writebehind_offset') IS NOT NULL
          AND to_regclass('writebehind_lease') IS NOT NULL
          AND to_regclass('writebehind_dead_letter') IS NOT NULL AS there`,
      [],
    );
    // No sink has ever run here, or somebody has dropped some of them.
    if (!tables!.there) return { ...NOTHING, offset: await this.offset({ stream }) };
    const { rows: [row] } = await patiently<StandingRow>(this.#pool, STANDING, [stream]);
    const { last_id, events, witness, went_back, went_back_at, owner, live, lease, ended, parked } =
      row!;
    return {
      offset: last_id,
      events: Number(events),
      witness,
      wentBack: went_back,
      wentBackAt: went_back_at,
      owner,
      live,
      // When it has ended is not known.
      leaseSeconds: lease !== null && ended ? Math.min(lease, 0) : lease,
      parked,
      waitsFor: live && waits ? await this.#blockers(stream) : null,
    };
  }

  async #blockers(stream: string): Promise<string | null> {
    try {
      const { rows: [row] } = await this.#pool.query<{ blockers: string | null }>(BLOCKERS, [
        stream,
      ]);
      return row?.blockers ?? null;
    } catch (error) {
      // Such as a lease of another version: all else is worth being told.
      if (isPostgresError(error)) return null;
      throw error;
    }
  }
}
