/**
 * Reading rows, for verify, repair, rebuild and reads through.
 * @module
 */

import { Buffer } from "node:buffer";
import { isSurelyEqual } from "../../common.ts";
import { PAGE_ROWS, READ_BYTES, type Row, type RowsAt, type ScannedRow } from "../../target.ts";
import { pack, type Packed, unpack, unpackAll } from "../packed.ts";
import { parkedAmong } from "./batches.ts";
import type { Columns, Database } from "./database.ts";
import { offset } from "./partitions.ts";

const TEXT = "coalesce(payload, 'null') AS text, CAST(version AS TEXT) AS version";

/** How many rows there are. */
export function size(db: Database, table: string): number {
  return db.get<{ count: number }>(`SELECT count(*) AS count FROM "${table}"`)?.count ?? 0;
}

/** The ids after one, in the order of their bytes. */
export function ids(db: Database, table: string, after: string): string[] {
  return db.all<{ id: string }>(
    `SELECT id FROM "${table}" WHERE id > ? ORDER BY id LIMIT ${PAGE_ROWS}`,
    after,
  ).map(({ id }) => id);
}

/** The ids of the rows with the highest versions. */
export function newest(db: Database, table: string, limit: number): string[] {
  return db.all<{ id: string }>(
    `SELECT id FROM "${table}" ORDER BY version DESC LIMIT ?`,
    limit,
  ).map(({ id }) => id);
}

/** Which of these documents are not surely equal to their rows, by their places. */
export function notSurelyEqual(
  db: Database,
  table: string,
  ids: Packed,
  texts: Packed,
): number[] {
  const unequal: number[] = [];
  const documents = unpack(texts);
  let index = 0;
  for (const id of unpackAll(ids)) {
    const document = documents.next().value ?? null;
    const row = db.get<{ payload: string | null }>(
      `SELECT payload FROM "${table}" WHERE id = CAST(? AS TEXT)`,
      id,
    );
    if (!isSurelyEqual(document, row?.payload ?? null)) unequal.push(index);
    index++;
  }
  return unequal;
}

/** Rows and the offset of their partition, in one snapshot. */
export function at(db: Database, table: string, stream: string, ids: string[]): RowsAt {
  return db.snapshot(() => {
    const result: RowsAt = { offset: offset(db, stream), rows: [], parked: [] };
    let bytes = 0;
    for (const id of ids) {
      const row = db.get<Row & Columns>(`SELECT ${TEXT} FROM "${table}" WHERE id = ?`, id) ?? null;
      result.rows.push(row && { text: row.text, version: row.version });
      bytes += row === null ? 0 : Buffer.byteLength(row.text);
      if (bytes >= READ_BYTES) break;
    }
    result.parked = parked(db, [stream], ids.slice(0, result.rows.length));
    return result;
  });
}

/** The rows after an id, and the offsets of all streams, in one snapshot. */
export function scan(
  db: Database,
  table: string,
  streams: string[],
  after: string,
): { rows: Omit<ScannedRow, "offset">[]; offsets: string[] } {
  return db.snapshot(() => {
    const found: (Row & { id: string })[] = [];
    let bytes = 0;
    const rows = db.iterate<Row & { id: string } & Columns>(
      `SELECT id, ${TEXT} FROM "${table}" WHERE id > ? ORDER BY id LIMIT ${PAGE_ROWS}`,
      after,
    );
    for (const { id, text, version } of rows) {
      found.push({ id, text, version });
      bytes += Buffer.byteLength(text);
      if (bytes >= READ_BYTES) break;
    }
    const waiting = parked(db, streams, found.map(({ id }) => id));
    return {
      rows: found.map((row, index) => ({ ...row, parked: waiting[index]! })),
      offsets: streams.map((stream) => offset(db, stream)),
    };
  });
}

/** Of each document, whether an event of it is parked. */
function parked(db: Database, streams: string[], ids: string[]): boolean[] {
  const places = new Set(parkedAmong(db, streams, pack(ids, (id) => Buffer.from(id))));
  return ids.map((_, index) => places.has(index));
}
