/**
 * Partitions in the file: their offsets, and the epoch that fences off earlier owners.
 * @module
 */

import type { Claim, Standing } from "../../target.ts";
import { type Columns, type Database, NOW } from "./database.ts";

/** What a claim finds. */
export type Claimed = Pick<Claim, "epoch" | "offset" | "witness" | "hasParked" | "parkedVersion">;

/** Raises the epoch, for a sink that holds the lock of the stream. */
export function claim(db: Database, stream: string, owner: string): Claimed {
  return db.transaction(() => {
    const row = db.get<
      { epoch: string; last_id: string; witness: string; parked_version: string }
    >(
      `INSERT INTO writebehind_offset AS o (stream, owner, epoch) VALUES (?, ?, 1)
       ON CONFLICT (stream) DO UPDATE SET owner = excluded.owner, epoch = o.epoch + 1
       RETURNING CAST(epoch AS TEXT) AS epoch, last_id, witness,
                 CAST(parked_version AS TEXT) AS parked_version`,
      stream,
      owner,
    )!;
    return {
      epoch: row.epoch,
      offset: row.last_id,
      witness: row.witness,
      hasParked: parkedOf(db, stream) > 0,
      parkedVersion: row.parked_version,
    };
  });
}

/** The epoch of a stream; `null` where it has none. */
export function epoch(db: Database, stream: string): string | null {
  const row = db.get<{ epoch: string }>(
    "SELECT CAST(epoch AS TEXT) AS epoch FROM writebehind_offset WHERE stream = ?",
    stream,
  );
  return row?.epoch ?? null;
}

/** Notes that a stream has gone back. */
export function wentBack(db: Database, stream: string, epoch: string): void {
  db.transaction(() =>
    db.run(
      `UPDATE writebehind_offset
          SET witness = '0-0', went_back = went_back + 1, went_back_at = ${NOW}
        WHERE stream = ? AND epoch = ?`,
      stream,
      BigInt(epoch),
    )
  );
}

/** Moves an offset, whoever owns the partition: the running claim looks anew. */
export function moveOffset(db: Database, stream: string, offset: string, witness: string): void {
  db.transaction(() =>
    db.run(
      `UPDATE writebehind_offset
          SET last_id = ?, witness = ?, parked_version = parked_version + 1
        WHERE stream = ?`,
      offset,
      witness,
      stream,
    )
  );
}

/** The last stream id that the file holds. */
export function offset(db: Database, stream: string): string {
  const row = db.get<{ last_id: string }>(
    "SELECT last_id FROM writebehind_offset WHERE stream = ?",
    stream,
  );
  return row?.last_id ?? "0-0";
}

interface OffsetRow extends Columns {
  last_id: string;
  events: number;
  witness: string;
  went_back: number;
  went_back_at: string | null;
  owner: string | null;
}

/** How a partition stands, as far as the file tells. */
export function standing(
  db: Database,
  stream: string,
): Omit<Standing, "live" | "leaseSeconds" | "waitsFor"> {
  return db.snapshot(() => {
    const row = db.get<OffsetRow>("SELECT * FROM writebehind_offset WHERE stream = ?", stream);
    const at = row?.went_back_at ?? null;
    return {
      offset: row?.last_id ?? "0-0",
      events: row?.events ?? 0,
      witness: row?.witness ?? "0-0",
      wentBack: row?.went_back ?? 0,
      wentBackAt: at === null ? null : new Date(at),
      owner: row?.owner ?? null,
      parked: parkedOf(db, stream),
    };
  });
}

function parkedOf(db: Database, stream: string): number {
  const row = db.get<{ count: number }>(
    "SELECT count(*) AS count FROM writebehind_dead_letter WHERE stream = ? AND state = 'parked'",
    stream,
  );
  return row?.count ?? 0;
}
