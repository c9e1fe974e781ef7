/**
 * Batches in the file: rows, what is parked, and the offset, in one transaction.
 * @module
 */

import { hexOf, isText, storable, utcOf } from "../../common.ts";
import type { Parked, Refusal, Tried } from "../../batch.ts";
import { Code, isOfTheFile, SqliteError, sqliteErrorKind } from "../errors.ts";
import { type Packed, type PackedRows, unpack, unpackAll } from "../packed.ts";
import { type Database, NOW } from "./database.ts";

/** An event for the dead letter, in memory of its own. */
export type ParkedCopy = Omit<Parked, "id" | "payload" | "fields"> & {
  id: Uint8Array | null;
  payload: Uint8Array | null;
  fields: Uint8Array[] | null;
};

/** A batch, and what must be so for it to be applied. */
export interface BatchRequest {
  entity: string;
  table: string;
  stream: string;
  /** of the claim */
  offset: string;
  epoch: string;
  parkedVersion: string;
  /** the offset that the batch moves to */
  lastId: string;
  events: number;
  rows: PackedRows;
  parked: ParkedCopy[];
}

/** How many rows were written and removed. */
export interface WrittenRows {
  written: number;
  removed: number;
}

/** Applies a batch; tells why not where the claim does not hold. */
export function apply(
  db: Database,
  batch: BatchRequest,
): WrittenRows | "ownership lost" | "parked changed" {
  const { stream, lastId, epoch } = batch;
  return db.transaction(() => {
    const moved = db.run(
      `UPDATE writebehind_offset
          SET last_id = ?, witness = ?, events = events + ?, updated_at = ${NOW}
        WHERE stream = ? AND last_id = ? AND epoch = ? AND parked_version = ?`,
      lastId,
      lastId,
      batch.events,
      stream,
      batch.offset,
      BigInt(epoch),
      BigInt(batch.parkedVersion),
    );
    if (moved === 0) {
      const ours = db.get(
        "SELECT 1 FROM writebehind_offset WHERE stream = ? AND epoch = ?",
        stream,
        BigInt(epoch),
      );
      return ours ? "parked changed" : "ownership lost";
    }
    const rows = writeRows(db, batch.table, batch.rows);
    park(db, batch);
    return rows;
  });
}

/** Rows that one statement writes: a statement each takes half as long again. */
const ROWS = 64;
const COLUMNS = 5;

/**
 * Writes and removes rows, in a transaction of the caller's. An older version never replaces a newer one. An update
 * does not know when its document was created: the row does.
 */
export function writeRows(db: Database, table: string, rows: PackedRows): WrittenRows {
  // SQLite does not look. All at once: JSON begins and ends with ASCII, so no character could be cut in two, and the
  // table sees to its being JSON.
  if (!isText(rows.payloads.bytes)) {
    throw new SqliteError("a payload is not UTF-8 text", Code.MISMATCH);
  }
  const [made, changed] = [new Writing(db, table, true), new Writing(db, table, false)];
  // Without the generators of `unpack`, which take longer than all else here.
  const { ids, payloads } = rows;
  let [idAt, payloadAt, updatedMs, updated] = [0, 0, NaN, ""];
  for (let index = 0; index < ids.lengths.length; index++) {
    const [at, updatedAt] = [rows.created[index]!, rows.updated[index]!];
    if (updatedAt !== updatedMs) updated = `${utcOf(updatedMs = updatedAt)}Z`;
    const writing = Number.isNaN(at) ? changed : made;
    writing.add(
      ids.bytes.subarray(idAt, idAt += ids.lengths[index]!),
      payloads.bytes.subarray(payloadAt, payloadAt += payloads.lengths[index]!),
      Number.isNaN(at) || at === updatedAt ? updated : `${utcOf(at)}Z`,
      updated,
      rows.versions[index]!,
    );
  }
  const written = made.end() + changed.end();
  const remove = `DELETE FROM "${table}" WHERE id = CAST(? AS TEXT) AND version < ?`;
  let removed = 0;
  let index = 0;
  for (const id of unpackAll(rows.removedIds)) {
    removed += db.run(remove, id, rows.removedVersions[index++]!);
  }
  return { written, removed };
}

/**
 * Which rows are not as the batch that ends at `lastId` should have left them, if the partition is still there.
 * @param written the ids and versions of rows that it wrote, packed as those of removals are
 */
export function swallowed(
  db: Database,
  table: string,
  stream: string,
  lastId: string,
  epoch: string,
  written: PackedRows,
  removed: PackedRows,
): string[] {
  const here = "SELECT 1 FROM writebehind_offset WHERE stream = ? AND last_id = ? AND epoch = ?";
  return db.get(here, stream, lastId, BigInt(epoch)) ? missed(db, table, written, removed) : [];
}

/** Which rows are missing, or older than written, or still there after a removal. */
export function missed(
  db: Database,
  table: string,
  written: PackedRows,
  removed: PackedRows,
): string[] {
  const find = `SELECT version < ? AS older FROM "${table}" WHERE id = CAST(? AS TEXT)`;
  const look = ({ removedIds, removedVersions: versions }: PackedRows, missing: boolean) =>
    [...unpackAll(removedIds)].filter((id, index) => {
      const row = db.get<{ older: number }>(find, versions[index]!, id);
      return row ? row.older === 1 : missing;
    });
  const found = [...look(written, true), ...look(removed, false)];
  return found.map((id) => new TextDecoder().decode(id));
}

/** Writes rows, many by one statement. */
class Writing {
  #db: Database;
  #sql: (rows: number) => string;
  #many: string;
  /** of the rows that wait; used again for the next ones */
  #values: (Uint8Array | string | bigint)[] = [];
  #used = 0;
  #written = 0;

  /** @param made whether it is known when their documents were created */
  constructor(db: Database, table: string, made: boolean) {
    this.#db = db;
    // A cast takes the bytes as they are, so that nothing is decoded on the way.
    const row = "(CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)";
    this.#sql = (rows) =>
      `INSERT INTO "${table}" (id, payload, created_at, updated_at, version)
       VALUES ${Array(rows).fill(row).join()}
       ON CONFLICT (id) DO UPDATE
          SET payload = excluded.payload, ${made ? "created_at = excluded.created_at," : ""}
              updated_at = excluded.updated_at, version = excluded.version
        WHERE version < excluded.version`;
    this.#many = this.#sql(ROWS);
  }

  add(
    id: Uint8Array,
    payload: Uint8Array,
    created: string,
    updated: string,
    version: bigint,
  ): void {
    const values = this.#values;
    let at = this.#used;
    values[at++] = id;
    values[at++] = payload;
    values[at++] = created;
    values[at++] = updated;
    values[at++] = version;
    this.#used = at;
    if (at < ROWS * COLUMNS) return;
    this.#written += this.#db.run(this.#many, ...values);
    this.#used = 0;
  }

  /** Writes what is left. @returns how many rows were written in all */
  end(): number {
    const one = this.#sql(1);
    for (let at = 0; at < this.#used; at += COLUMNS) {
      this.#written += this.#db.run(one, ...this.#values.slice(at, at + COLUMNS));
    }
    return this.#written;
  }
}

function park(db: Database, { entity, stream, parked }: BatchRequest): void {
  for (const event of parked) {
    const { streamId, id, type, ts, payload, fields, sqlstate, reason } = event;
    db.run(
      `INSERT INTO writebehind_dead_letter AS d
              (entity, stream, stream_id, doc_id, event_type, ts, payload, fields, sqlstate, reason)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT (stream, stream_id) DO UPDATE
          SET attempts = d.attempts + 1, last_at = ${NOW}, reason = excluded.reason,
              state = 'parked'`,
      entity,
      stream,
      streamId,
      id,
      storable(type),
      ts,
      payload,
      hexOf(fields),
      sqlstate,
      storable(reason),
    );
  }
}

/** Which of these byte strings are no JSON text, by their places. */
export function invalidPayloads(
  db: Database,
  payloads: Packed,
): [index: number, refusal: Refusal][] {
  const refused: [number, Refusal][] = [];
  let index = 0;
  for (const payload of unpackAll(payloads)) {
    const reason = refusalOf(db, payload);
    if (reason !== null) refused.push([index, { sqlstate: "SQLITE_MISMATCH", reason }]);
    index++;
  }
  return refused;
}

function refusalOf(db: Database, payload: Uint8Array): string | null {
  if (!isText(payload)) return "the payload is not UTF-8 text";
  const { valid, at } = db.get<{ valid: number; at: number }>(
    "SELECT json_valid(t.text) AS valid, json_error_position(t.text) AS at FROM (SELECT CAST(? AS TEXT) AS text) AS t",
    payload,
  )!;
  if (valid === 1) return null;
  return at > 0
    ? `the payload is no JSON: it ends to be at character ${at}`
    : "the payload is no JSON that SQLite can hold: it may be nested too deeply";
}

/** Tries rows, and takes back what it did. */
export function probe(
  db: Database,
  table: string,
  rows: PackedRows,
  deep: boolean,
): Tried | null {
  db.begin();
  try {
    // Constraints that are checked at the commit only, which must not come here.
    const before = deep ? violations(db) : 0;
    writeRows(db, table, rows);
    if (deep && violations(db) > before) {
      throw new SqliteError("FOREIGN KEY constraint failed", Code.CONSTRAINT | 3 << 8);
    }
    return null;
  } catch (error) {
    if (!(error instanceof SqliteError) || isOfTheFile(error)) throw error;
    return { kind: sqliteErrorKind(error), sqlstate: error.sqlstate, reason: error.message };
  } finally {
    db.rollback();
  }
}

function violations(db: Database): number {
  return db.get<{ count: number }>("SELECT count(*) AS count FROM pragma_foreign_key_check")!.count;
}

/** A row of the table, or none. */
export function anyRow(db: Database, table: string): { id: string; payload: string } | null {
  return db.get<{ id: string; payload: string }>(
    `SELECT id, coalesce(payload, 'null') AS payload FROM "${table}" LIMIT 1`,
  ) ?? null;
}

/** Which of these documents are parked in the streams, by their places. */
export function parkedAmong(db: Database, streams: string[], ids: Packed): number[] {
  const parked: number[] = [];
  const list = JSON.stringify(streams);
  let index = 0;
  for (const id of unpack(ids)) {
    const found = db.get(
      `SELECT 1 FROM writebehind_dead_letter
        WHERE stream IN (SELECT value FROM json_each(?)) AND doc_id = ? AND state = 'parked' LIMIT 1`,
      list,
      id,
    );
    if (found) parked.push(index);
    index++;
  }
  return parked;
}
