/**
 * The dead letter in the file.
 * @module
 */

import { Buffer } from "node:buffer";
import { reasonOf } from "../../../core/errors.ts";
import type { EventType } from "../../../core/stream_ids.ts";
import type { PartitionKeys } from "../../../redis/keys.ts";
import { fieldsOf, letterOf, type LetterRow, storable, streamOf } from "../../common.ts";
import type { Tried } from "../../batch.ts";
import type {
  DeadLetter,
  DeadLetterEvent,
  DeadLetterSelection,
  DeadLetterState,
  ParkedDocument,
  ParkedEvent,
  Settled,
} from "../../dead_letters.ts";
import { isOfTheFile, SqliteError, sqliteErrorKind } from "../errors.ts";
import { type Packed, type PackedRows, unpackAll } from "../packed.ts";
import { writeRows } from "./batches.ts";
import { type Bytes, type Columns, type Database, dateOf, NOW } from "./database.ts";

/** Rows are given out so many at a time. */
const PAGE = 500;

/** Orders stream ids as Redis does: both numbers have no leading zeros, so a longer one is the larger. */
const NEWEST_FIRST =
  `instr(d.stream_id, '-') DESC, substr(d.stream_id, 1, instr(d.stream_id, '-')) DESC,
   length(d.stream_id) DESC, d.stream_id DESC`;
/** What tells documents apart; an entry that could not be decoded is one of its own. */
const ONE_DOCUMENT = "d.doc_id, CASE WHEN d.doc_id IS NULL THEN d.id END";

interface Listed extends LetterRow<string>, Columns {
  id: number;
  doc_id: Bytes | null;
  attempts: number;
  state: DeadLetterState;
}

/** Begins to give out an entity's dead letters, one a document. */
export function openList(db: Database, entity: string, state: DeadLetterState | "all"): void {
  db.cursor = db.iterate(
    `SELECT * FROM (
       SELECT d.id, d.entity, d.stream, d.stream_id, d.doc_id, d.event_type, d.state,
              row_number() OVER (same ORDER BY ${NEWEST_FIRST}) AS place,
              count(*) OVER same AS events,
              min(d.first_at) OVER same AS first_at, max(d.last_at) OVER same AS last_at,
              min(d.id) OVER same AS first_id,
              -- Those that only wait behind another have no code; the one that was tried says why.
              first_value(d.sqlstate) OVER tried AS sqlstate,
              first_value(d.reason) OVER tried AS reason,
              first_value(d.attempts) OVER tried AS attempts
         FROM writebehind_dead_letter d
        WHERE d.entity = ?1 AND (?2 = 'all' OR d.state = ?2)
       WINDOW same AS (PARTITION BY d.stream, d.state, ${ONE_DOCUMENT}),
              tried AS (PARTITION BY d.stream, d.state, ${ONE_DOCUMENT}
                        ORDER BY (d.sqlstate <> '') DESC, ${NEWEST_FIRST})
     ) WHERE place = 1 ORDER BY first_at, first_id`,
    entity,
    state,
  );
}

/** Moves all letters of a stream to those in which their documents are, a page in a transaction. */
export function moveLetters(db: Database, stream: string, to: readonly PartitionKeys[]): void {
  const seq = (of: string) => `CAST(substr(${of}, instr(${of}, '-') + 1) AS INTEGER)`;
  const same = `o.stream = ?1 AND o.id <> d.id AND
    substr(o.stream_id, 1, instr(o.stream_id, '-')) = substr(d.stream_id, 1, instr(d.stream_id, '-'))`;
  // Streams have ids in common, and those of one document keep their order: an id that is taken, or is before one of the
  // document's own, becomes the next of its millisecond that is free.
  const move = `UPDATE writebehind_dead_letter AS d
    SET stream = ?1, stream_id = CASE
          WHEN EXISTS (SELECT 1 FROM writebehind_dead_letter o
                        WHERE o.stream = ?1 AND o.stream_id = d.stream_id AND o.id <> d.id)
            OR EXISTS (SELECT 1 FROM writebehind_dead_letter o
                        WHERE o.doc_id = d.doc_id AND o.state = 'parked' AND ${same}
                          AND ${seq("o.stream_id")} > ${seq("d.stream_id")})
          THEN substr(d.stream_id, 1, instr(d.stream_id, '-')) ||
               (SELECT max(${seq("o.stream_id")}) + 1 FROM writebehind_dead_letter o WHERE ${same})
          ELSE d.stream_id END
    WHERE id = ?2`;
  for (let after = 0;;) {
    const rows = db.all<{ id: number; doc_id: Bytes | null }>(
      `SELECT id, doc_id FROM writebehind_dead_letter WHERE stream = ? AND id > ? ORDER BY id LIMIT ${PAGE}`,
      stream,
      after,
    );
    if (rows.length === 0) return;
    after = rows.at(-1)!.id;
    db.transaction(() => {
      for (const { id, doc_id } of rows) {
        const there = streamOf(doc_id, to);
        if (there !== stream) db.run(move, there, id);
      }
    });
  }
}

/** The next of them; empty at the end. */
export function nextListed(db: Database): DeadLetter[] {
  return page<Listed & { events: number }>(db).map((row) => ({
    ...letterOf(row, dateOf),
    waiting: row.events - 1,
  }));
}

function page<Row extends Columns>(db: Database): Row[] {
  const rows: Row[] = [];
  while (rows.length < PAGE) {
    const { done, value } = db.cursor!.next();
    if (done) break;
    rows.push(value as Row);
  }
  return rows;
}

/** Reads one event, whatever entity it is of. */
export function readLetter(db: Database, id: number): DeadLetterEvent | null {
  const row = db.get<
    Listed & { ts: number | null; payload: Bytes | null; fields: string | null }
  >("SELECT * FROM writebehind_dead_letter WHERE id = ?", id);
  if (row === undefined) return null;
  const { ts, payload, fields } = row;
  return {
    ...letterOf(row, dateOf),
    ts,
    payload: payload && Buffer.from(payload),
    fields: fieldsOf(fields),
  };
}

/** A condition on the parked events of a stream and an entity, the first two parameters, and its own third. */
function conditionOf(selection: DeadLetterSelection): [sql: string, value: Uint8Array | string] {
  if ("docId" in selection) return ["d.doc_id = ?3", Buffer.from(selection.docId)];
  if ("streamId" in selection) return ["d.stream_id = ?3", selection.streamId];
  return ["?3 = ''", ""];
}

/** Begins to give out the selected documents of a stream. */
export function openDocuments(
  db: Database,
  stream: string,
  entity: string,
  selection: DeadLetterSelection,
): void {
  const [condition, value] = conditionOf(selection);
  // An event stands for its document, and so for all that is parked of it.
  const whole = "streamId" in selection
    ? `(${condition} AND d.doc_id IS NULL OR d.doc_id = (
          SELECT n.doc_id FROM writebehind_dead_letter n
           WHERE n.stream = ?1 AND n.stream_id = ?3 AND n.state = 'parked'))`
    : condition;
  db.cursor = db.iterate(
    `SELECT * FROM (
       SELECT d.id, d.doc_id, coalesce(length(d.payload), 0) + coalesce(length(d.fields), 0) AS bytes,
              row_number() OVER (PARTITION BY ${ONE_DOCUMENT} ORDER BY ${NEWEST_FIRST}) AS place
         FROM writebehind_dead_letter d
        WHERE d.stream = ?1 AND d.entity = ?2 AND d.state = 'parked' AND ${whole}
     ) WHERE place = 1 ORDER BY id`,
    stream,
    entity,
    value,
  );
}

/** A document with parked events, and the bytes of the newest. */
export type FoundDocument = Omit<ParkedDocument, "docId"> & { docId: Bytes | null; bytes: number };

/** The next of them; empty at the end. */
export function nextDocuments(db: Database): FoundDocument[] {
  return page<{ id: number; doc_id: Bytes | null; bytes: number }>(db).map(
    ({ id, doc_id, bytes }) => ({ id: String(id), docId: doc_id, bytes }),
  );
}

/** Begins a transaction in which the next batch of the stream will find that what is parked has changed. */
export function hold(db: Database, stream: string): void {
  db.begin();
  try {
    db.run(
      `INSERT INTO writebehind_offset AS o (stream, parked_version) VALUES (?, 1)
       ON CONFLICT (stream) DO UPDATE SET parked_version = o.parked_version + 1`,
      stream,
    );
  } catch (error) {
    db.rollback();
    throw error;
  }
}

/** Ends it. */
export function endHold(db: Database, keep: boolean): void {
  if (keep) db.run("COMMIT");
  else db.rollback();
}

/** The streams of whose events some are parked. */
export function parkedStreams(db: Database, entity: string): string[] {
  return db.all<{ stream: string }>(
    "SELECT DISTINCT stream FROM writebehind_dead_letter WHERE entity = ? AND state = 'parked'",
    entity,
  ).map(({ stream }) => stream);
}

/** Gives parked events up, in such a transaction. */
export function discard(
  db: Database,
  stream: string,
  entity: string,
  selection: DeadLetterSelection,
): number {
  const [condition, value] = conditionOf(selection);
  return db.run(
    `UPDATE writebehind_dead_letter AS d SET state = 'discarded', last_at = ${NOW}
      WHERE d.stream = ?1 AND d.entity = ?2 AND d.state = 'parked' AND ${condition}`,
    stream,
    entity,
    value,
  );
}

/** Those of these events that were discarded. */
export function discardedAmong(db: Database, stream: string, streamIds: string[]): string[] {
  return db.all<{ stream_id: string }>(
    `SELECT stream_id FROM writebehind_dead_letter
      WHERE stream = ? AND stream_id IN (SELECT value FROM json_each(?)) AND state = 'discarded'`,
    stream,
    JSON.stringify(streamIds),
  ).map((row) => row.stream_id);
}

/** Entries that could not be decoded and are parked. */
export function entries(
  db: Database,
  ids: string[],
): { id: string; streamId: string; fields: Buffer[] }[] {
  return db.all<{ id: string; stream_id: string; fields: string | null }>(
    `SELECT CAST(id AS TEXT) AS id, stream_id, fields FROM writebehind_dead_letter
      WHERE id IN (SELECT value FROM json_each(?)) AND state = 'parked'`,
    `[${ids}]`,
  ).map(({ id, stream_id, fields }) => ({
    id,
    streamId: stream_id,
    fields: fieldsOf(fields) ?? [],
  }));
}

/** A parked event without its payload, as it travels. */
export type FoundEvent = Omit<ParkedEvent, "docId"> & { docId: Uint8Array };

/** The parked events of documents. */
export function events(db: Database, stream: string, docIds: Packed): FoundEvent[] {
  return [...unpackAll(docIds)].flatMap((docId) =>
    db.all<{ id: string; stream_id: string; event_type: string; ts: number }>(
      `SELECT CAST(id AS TEXT) AS id, stream_id, event_type, ts FROM writebehind_dead_letter
        WHERE stream = ? AND doc_id = ? AND state = 'parked'`,
      stream,
      docId,
    ).map(({ id, stream_id, event_type, ts }) => ({
      id,
      streamId: stream_id,
      docId: docId.slice(),
      type: event_type as EventType,
      ts,
    }))
  );
}

/** The payloads of parked events. */
export function payloads(db: Database, ids: string[]): [id: string, Bytes | null][] {
  return db.all<{ id: string; payload: Bytes | null }>(
    `SELECT CAST(id AS TEXT) AS id, payload FROM writebehind_dead_letter
      WHERE id IN (SELECT value FROM json_each(?))`,
    `[${ids}]`,
  ).map(({ id, payload }) => [id, payload]);
}

/** Whether a document has a row. */
export function hasRow(db: Database, table: string, docId: string): boolean {
  return db.get(`SELECT 1 FROM "${table}" WHERE id = ?`, docId) !== undefined;
}

/**
 * Writes rows in a transaction that goes on; none of them where one is refused.
 * @param keep whether they stay; else they are taken back
 */
export function attempt(
  db: Database,
  table: string,
  rows: PackedRows,
  keep: boolean,
): Tried | null {
  db.run("SAVEPOINT attempt");
  try {
    writeRows(db, table, rows);
    if (!keep) db.run("ROLLBACK TO attempt");
    db.run("RELEASE attempt");
    return null;
  } catch (error) {
    if (!(error instanceof SqliteError) || isOfTheFile(error)) throw error;
    db.run("ROLLBACK TO attempt");
    db.run("RELEASE attempt");
    return { kind: sqliteErrorKind(error), sqlstate: error.sqlstate, reason: reasonOf(error) };
  }
}

/** Notes what has become of parked events. */
export function settle(db: Database, { replayed, superseded, refused }: Settled): void {
  for (
    const [ids, state, tried] of [[replayed, "replayed", 1], [superseded, "superseded", 0]] as const
  ) {
    db.run(
      `UPDATE writebehind_dead_letter SET state = ?, attempts = attempts + ?, last_at = ${NOW}
        WHERE id IN (SELECT value FROM json_each(?))`,
      state,
      tried,
      `[${ids}]`,
    );
  }
  for (const { id, sqlstate, reason } of refused) {
    db.run(
      `UPDATE writebehind_dead_letter
          SET sqlstate = ?, reason = ?, attempts = attempts + 1, last_at = ${NOW}
        WHERE id = ?`,
      sqlstate,
      storable(reason),
      BigInt(id),
    );
  }
}
