/**
 * The processes that share an entity's partitions, in PostgreSQL: each has a lease of its own beside those of the
 * partitions, which ends with its session, or with time.
 * @module
 */

import type { Pool } from "./pool.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import type { Shares } from "../target.ts";
import { CLOCK_SECONDS } from "../common.ts";
import { SESSION_LIVES } from "./owner_session.ts";
import { patiently } from "./sessions.ts";

/**
 * Leases whose owners live, or are taken to. One that ends later than it could tells nothing: a claim looks into it.
 * @param seconds what an older version is taken to have granted
 */
const live = (seconds: string) => `
SELECT stream, owner
  FROM (SELECT stream, owner, lease_until, CASE WHEN session_epoch = epoch THEN session_key END AS key,
               CASE WHEN session_epoch = epoch THEN granted_seconds ELSE ${seconds} END AS granted
          FROM writebehind_lease
         WHERE stream = ANY ($1) OR starts_with(stream, $2) OFFSET 0) AS l
 WHERE lease_until > clock_timestamp()
   AND lease_until <= clock_timestamp() + make_interval(secs => ${CLOCK_SECONDS} + granted)
   AND coalesce(${SESSION_LIVES}, true)`;

/** Takes the first place of a member that nobody has; so there are no more rows than there ever were processes at once. */
const ENTER = `
INSERT INTO writebehind_lease AS l
       (stream, owner, epoch, lease_until, backend_pid, backend_started, session_key, granted_seconds, session_epoch)
SELECT $2 || n, $3, 1 + coalesce(former.epoch, 0), clock_timestamp() + make_interval(secs => $4),
       pg_backend_pid(), clock_timestamp(), $5, $4, 1 + coalesce(former.epoch, 0)
  FROM generate_series(1, 1 + (SELECT count(*) FROM writebehind_lease WHERE starts_with(stream, $2))) AS n
  LEFT JOIN writebehind_lease AS former ON former.stream = $2 || n
 WHERE $2 || n NOT IN (SELECT stream FROM (${live("$4")}) AS live)
 ORDER BY n LIMIT 1
    ON CONFLICT (stream) DO UPDATE
   SET owner = excluded.owner, epoch = excluded.epoch, session_epoch = excluded.epoch,
       lease_until = excluded.lease_until, session_key = excluded.session_key,
       granted_seconds = excluded.granted_seconds, backend_pid = excluded.backend_pid,
       backend_started = excluded.backend_started
 -- As it was found: another may have been faster.
 WHERE l.epoch = excluded.epoch - 1`;

const STAY = `
UPDATE writebehind_lease
   SET lease_until = clock_timestamp() + make_interval(secs => $3), session_key = $4, granted_seconds = $3
 WHERE starts_with(stream, $1) AND owner = $2 AND lease_until > clock_timestamp()`;

const LEAVE =
  "UPDATE writebehind_lease SET lease_until = '-infinity' WHERE starts_with(stream, $1) AND owner = $2";

/** What the places of the members are named with, before their numbers. */
const placesOf = (partitions: PartitionKeys[]) => `member of ${partitions[0]!.stream} `;

/** Tells that a process is there, and keeps telling it; not where another has taken the same place just now. */
export async function stay(
  pool: Pool,
  partitions: PartitionKeys[],
  process: string,
  key: string | null,
  leaseSeconds: number,
): Promise<boolean> {
  const places = placesOf(partitions);
  const stayed = await patiently(pool, STAY, [places, process, leaseSeconds, key]);
  if (stayed.rowCount !== 0) return true;
  const entered = await patiently(pool, ENTER, [[], places, process, leaseSeconds, key]);
  return entered.rowCount !== 0;
}

/** Tells that a process is there no more. */
export async function leave(
  pool: Pool,
  partitions: PartitionKeys[],
  process: string,
): Promise<void> {
  await patiently(pool, LEAVE, [placesOf(partitions), process]);
}

/** Who is there, and who has which partition. */
export async function shares(
  pool: Pool,
  partitions: PartitionKeys[],
  leaseSeconds: number,
): Promise<Shares> {
  const places = placesOf(partitions);
  const streams = partitions.map(({ stream }) => stream);
  const { rows } = await patiently<{ stream: string; owner: string }>(pool, live("$3"), [
    streams,
    places,
    leaseSeconds,
  ]);
  const isPlace = ({ stream }: { stream: string }) => stream.startsWith(places);
  return {
    members: rows.filter(isPlace).map(({ owner }) => owner),
    owners: new Map(
      rows.filter((row) => !isPlace(row)).map(({ stream, owner }) => [stream, owner]),
    ),
  };
}
