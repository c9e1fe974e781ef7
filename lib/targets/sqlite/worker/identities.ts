/**
 * What offsets belong to, in the file.
 * @module
 */

import type { PartitionKeys } from "../../../redis/keys.ts";
import { belongingByMark, type MarkedOffset, tableProblems } from "../../common.ts";
import type { Adoption, Belonging, Doubt } from "../../target.ts";
import { type Columns, type Database, dateOf, NOW } from "./database.ts";
import { goneTables, has } from "./schema.ts";

/** How the index begins that marks a table. */
const MARK = "writebehind_mark_";

type OffsetRow = MarkedOffset & Columns;

/** The mark of a table; `null` where it has none. */
function markOf(db: Database, table: string): string | null {
  const found = db.get<{ name: string }>(
    `SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND name GLOB '${MARK}*'`,
    table,
  );
  return found?.name ?? null;
}

/** What is noted, and what is there. */
export function read(
  db: Database,
  table: string,
  keys: PartitionKeys,
  streams: string[],
): Belonging {
  return db.snapshot(() => {
    // A file of an older version lacks some columns.
    const offsets = db.all<OffsetRow>("SELECT * FROM writebehind_offset");
    const found = { mark: markOf(db, table), there: has(db, table) };
    const belonging = belongingByMark(table, keys, streams, offsets, found, dateOf);
    return {
      ...belonging,
      rows: belonging.source === null ? rowsOf(db, table) : null,
      gone: goneTables(db),
      parkedLast: db.get(
        "SELECT 1 FROM writebehind_dead_letter WHERE stream = ? AND stream_id = ?",
        keys.stream,
        belonging.offset,
      ) !== undefined,
    };
  });
}

function rowsOf(db: Database, table: string): Belonging["rows"] {
  const any = (where: string) =>
    db.get(`SELECT 1 FROM "${table}" WHERE ${where} LIMIT 1`) !== undefined;
  return !has(db, table) ? "none" : any("version > 0") ? "ours" : any("true") ? "original" : "none";
}

/** Notes the identity of the data in Redis, and marks the table. */
export function note(
  db: Database,
  table: string,
  stream: string,
  epoch: string,
  source: string,
): void {
  db.transaction(() => {
    let mark = markOf(db, table);
    if (mark === null) {
      mark = MARK + crypto.randomUUID().replaceAll("-", "");
      db.script(`CREATE INDEX ${mark} ON "${table}" (id) WHERE id IS NULL`);
    }
    db.run(
      "UPDATE writebehind_offset SET source = ?, mark = ? WHERE stream = ? AND epoch = ?",
      source,
      mark,
      stream,
      BigInt(epoch),
    );
  });
}

/** Why the table is not the one that was noted; `null` where it is. */
export function look(db: Database, table: string, keys: PartitionKeys): string | null {
  const row = db.get<OffsetRow>("SELECT * FROM writebehind_offset WHERE stream = ?", keys.stream);
  if (row?.mark == null || row.mark === markOf(db, table)) return null;
  return tableProblems.another(table, keys);
}

/** Notes why rows may be missing. */
export function doubt(
  db: Database,
  stream: string,
  epoch: string,
  reason: string,
  keepWitness: boolean,
): void {
  db.transaction(() =>
    db.run(
      `UPDATE writebehind_offset
          SET doubt = CASE WHEN instr(doubt, ?1) > 0 THEN doubt
                           ELSE coalesce(doubt || '; ', '') || ?1 END, doubt_at = ${NOW},
              witness = CASE WHEN ?2 THEN witness ELSE '0-0' END
        WHERE stream = ?3 AND epoch = ?4`,
      reason,
      keepWitness ? 1 : 0,
      stream,
      BigInt(epoch),
    )
  );
}

/** Ends a doubt, if it is still the same. */
export function settle(db: Database, stream: string, { reason, at }: Doubt): void {
  db.transaction(() =>
    db.run(
      `UPDATE writebehind_offset SET doubt = NULL, doubt_at = NULL
        WHERE stream = ? AND doubt = ? AND doubt_at = ? AND NOT refused`,
      stream,
      reason,
      at.toISOString(),
    )
  );
}

/** Lets a partition go on; the running claim looks anew. */
export function adopt(db: Database, stream: string, adoption: Adoption): void {
  const { source, offset, witness, others, doubt } = adoption;
  db.transaction(() => {
    for (const other of others) {
      db.run("UPDATE writebehind_offset SET mark = NULL WHERE stream = ?", other);
    }
    db.run(
      `INSERT INTO writebehind_offset AS o (stream, last_id, witness, source, doubt, doubt_at)
       VALUES (?, ?, ?, ?, ?, ${NOW})
       ON CONFLICT (stream) DO UPDATE
          SET last_id = excluded.last_id, witness = excluded.witness, source = excluded.source,
              doubt = excluded.doubt, doubt_at = excluded.doubt_at, refused = 0, mark = NULL,
              parked_version = o.parked_version + 1`,
      stream,
      offset,
      witness,
      source,
      doubt,
    );
  });
}
