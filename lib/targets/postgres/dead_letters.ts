/**
 * The dead-letter table: what is parked, why, and dropping it. Applying it again is in `replay.ts`.
 * @module
 */

import type { Pool, PoolClient, QueryResultRow } from "pg";
import { type Config, entityConfig } from "../../config/load.ts";
import { WriteBehindError } from "../../core/errors.ts";
import { allPartitions } from "../../redis/keys.ts";

/** What became of a parked event. */
export const DEAD_LETTER_STATES = ["parked", "replayed", "superseded", "discarded"] as const;
/**
 * - `parked`: it waits, and later events of its document queue behind it
 * - `replayed`: it was applied
 * - `superseded`: a newer event of its document was applied in its stead
 * - `discarded`: an operator gave it up
 */
export type DeadLetterState = typeof DEAD_LETTER_STATES[number];

/** The events of one document in one state, told by the newest of them. */
export interface DeadLetter {
  /** of the newest event, for {@linkcode readDeadLetter} */
  id: number;
  entity: string;
  stream: string;
  /** the newest event's stream id */
  streamId: string;
  /** `null` where the entry could not be decoded: it stands for itself then */
  docId: string | null;
  eventType: string;
  state: DeadLetterState;
  /** older events of this document in the same state */
  waiting: number;
  /** PostgreSQL's code, "" where it was not PostgreSQL that refused; of the newest event that was tried */
  sqlstate: string;
  /** why that one was refused */
  reason: string;
  /** how often that one was tried */
  attempts: number;
  /** when the first of them was parked, and when the last of them was touched */
  firstAt: Date;
  lastAt: Date;
}

/** One event of the dead-letter table, as it came. */
export interface DeadLetterEvent extends Omit<DeadLetter, "waiting"> {
  /** `ts` of the event, in ms; `null` where the entry could not be decoded */
  ts: number | null;
  /** the document after the change, as bytes; `null` where there is none */
  payload: Buffer | null;
  /** names and values in turn, where the entry could not be decoded */
  fields: Buffer[] | null;
}

/** Which parked events a command is about. */
export type DeadLetterSelection = { all: true } | { docId: string } | { streamId: string };

/** Rows are fetched so many at a time. */
const PAGE = 500;

/** An SQL expression that orders stream ids as Redis does: as text, 10 would come before 9. */
export const NEWEST_FIRST =
  "split_part(d.stream_id, '-', 1)::numeric DESC, split_part(d.stream_id, '-', 2)::numeric DESC";
/** What tells documents apart; an entry that could not be decoded is one of its own. */
export const ONE_DOCUMENT = "d.fingerprint, CASE WHEN d.doc_id IS NULL THEN d.id END";

/** The rows of a query, a page at a time, through a cursor: memory holds one page. */
export async function* pages<Row extends QueryResultRow>(
  pool: Pool,
  text: string,
  values: unknown[],
): AsyncGenerator<Row[]> {
  const connection = await pool.connect();
  let broken = true;
  try {
    await connection.query("BEGIN READ ONLY");
    await connection.query(`DECLARE page NO SCROLL CURSOR FOR ${text}`, values);
    for (;;) {
      const { rows } = await connection.query<Row>(`FETCH ${PAGE} FROM page`);
      if (rows.length === 0) break;
      yield rows;
    }
    await connection.query("COMMIT");
    broken = false;
  } finally {
    connection.release(broken);
  }
}

interface Listed extends QueryResultRow {
  id: string;
  entity: string;
  stream: string;
  stream_id: string;
  doc_id: Buffer | null;
  event_type: string;
  state: DeadLetterState;
  sqlstate: string;
  reason: string;
  attempts: number;
  first_at: Date;
  last_at: Date;
}

/**
 * Lists an entity's dead letters, one a document, the ones parked first at the top.
 * @param options.state which ones; `"all"` for all of them. @default {"parked"}
 */
export async function* listDeadLetters(
  pool: Pool,
  config: Config,
  entity: string,
  { state = "parked" }: { state?: DeadLetterState | "all" } = {},
): AsyncGenerator<DeadLetter> {
  entityConfig(config, entity);
  const all = pages<Listed & { events: string }>(
    pool,
    `SELECT * FROM (
       SELECT DISTINCT ON (d.stream, d.state, ${ONE_DOCUMENT})
              d.id, d.entity, d.stream, d.stream_id, d.doc_id, d.event_type, d.state,
              count(*) OVER same AS events,
              min(d.first_at) OVER same AS first_at, max(d.last_at) OVER same AS last_at,
              -- Those that only wait behind another have no code; the one that was tried says why.
              first_value(d.sqlstate) OVER tried AS sqlstate,
              first_value(d.reason) OVER tried AS reason,
              first_value(d.attempts) OVER tried AS attempts
         FROM writebehind_dead_letter d
        WHERE d.entity = $1 AND ($2 = 'all' OR d.state = $2)
       WINDOW same AS (PARTITION BY d.stream, d.state, ${ONE_DOCUMENT}),
              tried AS (same ORDER BY (d.sqlstate <> '') DESC, ${NEWEST_FIRST})
        ORDER BY d.stream, d.state, ${ONE_DOCUMENT}, ${NEWEST_FIRST}
     ) AS documents ORDER BY first_at, id`,
    [entity, state],
  );
  for await (const rows of all) {
    for (const row of rows) yield { ...lettered(row), waiting: Number(row.events) - 1 };
  }
}

function lettered(row: Listed): Omit<DeadLetter, "waiting"> {
  const { id, entity, stream, state, sqlstate, reason, attempts } = row;
  return {
    id: Number(id),
    entity,
    stream,
    streamId: row.stream_id,
    docId: row.doc_id?.toString() ?? null,
    eventType: row.event_type,
    state,
    sqlstate,
    reason,
    attempts,
    firstAt: row.first_at,
    lastAt: row.last_at,
  };
}

/**
 * Reads one event with all that is kept of it.
 * @param id from {@linkcode listDeadLetters}
 * @returns `null` where there is none
 */
export async function readDeadLetter(pool: Pool, id: number): Promise<DeadLetterEvent | null> {
  const { rows: [row] } = await pool.query<
    Listed & { ts: string | null; payload: Buffer | null; fields: Buffer[] | null }
  >("SELECT * FROM writebehind_dead_letter WHERE id = $1", [id]);
  if (row === undefined) return null;
  const { ts, payload, fields } = row;
  return { ...lettered(row), ts: ts === null ? null : Number(ts), payload, fields };
}

/**
 * Gives up parked events: they stay in the table, for audit, and later events of their documents flow
 * again once nothing of the document is parked.
 * @param selection a `streamId` names one event, a `docId` all of a document's
 * @param options.dryRun counts, and changes nothing
 * @returns events
 */
export async function discardDeadLetters(
  pool: Pool,
  config: Config,
  entity: string,
  selection: DeadLetterSelection,
  { dryRun = false }: { dryRun?: boolean } = {},
): Promise<number> {
  entityConfig(config, entity);
  const [condition, value] = "docId" in selection
    ? ["d.doc_id = $3 AND d.fingerprint = sha256($3)", Buffer.from(selection.docId)]
    : "streamId" in selection
    ? ["d.stream_id = $3", selection.streamId]
    : ["$3::int = 1", 1];
  let discarded = 0;
  for (const { stream } of allPartitions(config, entity)) {
    await locked(pool, config, stream, async (connection) => {
      const { rowCount } = await connection.query(
        `UPDATE writebehind_dead_letter AS d SET state = 'discarded', last_at = clock_timestamp()
          WHERE d.stream = $1 AND d.entity = $2 AND d.state = 'parked' AND ${condition}`,
        [stream, entity, value],
      );
      discarded += rowCount ?? 0;
      return !dryRun && rowCount !== 0;
    });
  }
  return discarded;
}

/**
 * Runs a transaction that holds a partition as a batch of the sink does: the sink's next batch waits for
 * it, finds that what is parked has changed, and looks anew.
 * @param work returns whether to keep what it did
 */
export async function locked(
  pool: Pool,
  config: Config,
  stream: string,
  work: (connection: PoolClient) => Promise<boolean>,
): Promise<void> {
  const connection = await pool.connect();
  let broken = true;
  try {
    // Stopped in the middle, this must not hold up the sink for ever.
    await connection.query(
      `BEGIN;
       SET LOCAL idle_in_transaction_session_timeout = ${
        Math.ceil(config.write_behind.lease_seconds * 1000)
      };
       SET LOCAL enable_seqscan = off;
       SET CONSTRAINTS ALL IMMEDIATE`,
    );
    await connection.query(
      `INSERT INTO writebehind_offset AS o (stream, parked_version) VALUES ($1, 1)
       ON CONFLICT (stream) DO UPDATE SET parked_version = o.parked_version + 1`,
      [stream],
    );
    const keep = await work(connection);
    const { command } = await connection.query(keep ? "COMMIT" : "ROLLBACK");
    if (keep && command !== "COMMIT") {
      throw new WriteBehindError(`the transaction on ${stream} was rolled back; try again`);
    }
    broken = false;
  } finally {
    // A connection that is closed in mid-transaction has changed nothing.
    connection.release(broken);
  }
}
