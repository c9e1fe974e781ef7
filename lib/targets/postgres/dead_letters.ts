/**
 * The dead letter in PostgreSQL: the table `writebehind_dead_letter`.
 * @module
 */

// @ts-types="@types/pg"
import type { QueryResultRow } from "pg";
import { type Config, entityConfig } from "../../config/load.ts";
import { WriteBehindError } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { DOCUMENTS_PAGE, fitting, letterOf, type LetterRow, pages, streamOf } from "../common.ts";
import type {
  DeadLetter,
  DeadLetterEvent,
  DeadLetters,
  DeadLetterSelection,
  DeadLetterState,
  HeldDeadLetters,
  LetterStream,
  ParkedDocument,
} from "../dead_letters.ts";
import { Held } from "./held_letters.ts";
import type { Pool, PoolClient } from "./pool.ts";
import { patiently } from "./sessions.ts";

/** How many rows are read at a time. */
const PAGE = 500;
/** How long a query may take that goes through all that is there, in seconds. */
const LONG_SECONDS = 60;

/** An SQL expression that orders stream ids as Redis does: as text, 10 would come before 9. */
const NEWEST_FIRST =
  "split_part(d.stream_id, '-', 1)::numeric DESC, split_part(d.stream_id, '-', 2)::numeric DESC";
/** What distinguishes documents; an entry that could not be decoded counts as one. */
const ONE_DOCUMENT = "d.fingerprint, CASE WHEN d.doc_id IS NULL THEN d.id END";

/** A condition on the parked events of a stream and an entity, the first two parameters, and its own third. */
function conditionOf(
  selection: DeadLetterSelection,
): [sql: string, value: Buffer | string | number] {
  if ("docId" in selection) {
    return ["d.doc_id = $3 AND d.fingerprint = sha256($3)", Buffer.from(selection.docId)];
  }
  if ("streamId" in selection) return ["d.stream_id = $3", selection.streamId];
  return ["$3::int = 1", 1];
}

/**
 * Moves a letter `$1` to the stream `$2`. Streams have ids in common, and those of one document keep their order: an id that is
 * taken, or is before one of the document's own, becomes the next of its millisecond that is free.
 */
const MOVE = `
UPDATE writebehind_dead_letter AS d
   SET stream = $2,
       stream_id = CASE WHEN NOT (
           EXISTS (SELECT FROM writebehind_dead_letter o WHERE o.stream = $2 AND o.stream_id = d.stream_id)
           OR EXISTS (SELECT FROM writebehind_dead_letter o
                       WHERE o.stream = $2 AND o.fingerprint = d.fingerprint AND o.state = 'parked'
                         AND split_part(o.stream_id, '-', 1) = split_part(d.stream_id, '-', 1)
                         AND split_part(o.stream_id, '-', 2)::numeric > split_part(d.stream_id, '-', 2)::numeric))
         THEN d.stream_id
         ELSE split_part(d.stream_id, '-', 1) || '-' || (
           SELECT max(split_part(o.stream_id, '-', 2)::numeric) + 1 FROM writebehind_dead_letter o
            WHERE o.stream = $2 AND split_part(o.stream_id, '-', 1) = split_part(d.stream_id, '-', 1))
         END
 WHERE id = $1`;

interface Listed extends LetterRow<Date>, QueryResultRow {
  id: string;
  doc_id: Buffer | null;
}

const asItIs = (time: Date): Date => time;

/** Reads one event, whatever entity it is of. */
export async function readEvent(pool: Pool, id: number): Promise<DeadLetterEvent | null> {
  const { rows: [row] } = await pool.query<
    Listed & { ts: string | null; payload: Buffer | null; fields: Buffer[] | null }
  >("SELECT * FROM writebehind_dead_letter WHERE id = $1", [id]);
  if (row === undefined) return null;
  const { ts, payload, fields } = row;
  return { ...letterOf(row, asItIs), ts: ts === null ? null : Number(ts), payload, fields };
}

/** What could not be stored of a configuration's entities. */
export class PostgresDeadLetters implements DeadLetters {
  #pool: Pool;
  #config: Config;

  constructor(pool: Pool, config: Config) {
    this.#pool = pool;
    this.#config = config;
  }

  #ask = async <Row extends QueryResultRow>(text: string, values: unknown[]): Promise<Row[]> =>
    (await patiently<Row>(this.#pool, text, values, LONG_SECONDS)).rows;

  async *list(entity: string, state: DeadLetterState | "all"): AsyncGenerator<DeadLetter> {
    const all = pages<Listed & { events: string; first: string; first_id: string }>(
      this.#ask,
      // Which documents a page has is counted out first: to sort all that is parked, for each page, takes far longer.
      `WITH page AS MATERIALIZED (
         SELECT min(d.first_at) AS first_at, min(d.id) AS first_id, array_agg(d.id) AS ids
           FROM writebehind_dead_letter d
          WHERE d.entity = $1 AND ($2 = 'all' OR d.state = $2) AND d.id <= $3
          GROUP BY d.stream, d.state, ${ONE_DOCUMENT}
         HAVING (extract(epoch FROM min(d.first_at)), min(d.id)) > ($4::numeric, $5::int8)
          ORDER BY first_at, first_id LIMIT ${DOCUMENTS_PAGE}
       )
       SELECT *, extract(epoch FROM first_at) AS first FROM (
         SELECT DISTINCT ON (page.first_id)
                d.id, d.entity, d.stream, d.stream_id, d.doc_id, d.event_type, d.state,
                cardinality(page.ids) AS events, page.first_at, page.first_id,
                max(d.last_at) OVER same AS last_at,
                -- Those that only wait behind another have no code; the one that was tried says why.
                first_value(d.sqlstate) OVER tried AS sqlstate,
                first_value(d.reason) OVER tried AS reason,
                first_value(d.attempts) OVER tried AS attempts
           FROM page CROSS JOIN unnest(page.ids) AS e (id)
           JOIN writebehind_dead_letter d ON d.id = e.id
         WINDOW same AS (PARTITION BY page.first_id),
                tried AS (same ORDER BY (d.sqlstate <> '') DESC, ${NEWEST_FIRST})
          ORDER BY page.first_id, ${NEWEST_FIRST}
       ) AS documents
       ORDER BY first_at, first_id`,
      [entity, state],
      ["-infinity", "0"],
      ({ first, first_id }) => [first, first_id],
    );
    for await (const rows of all) {
      for (const row of rows) yield { ...letterOf(row, asItIs), waiting: Number(row.events) - 1 };
    }
  }

  read(id: number): Promise<DeadLetterEvent | null> {
    return readEvent(this.#pool, id);
  }

  async *documents(
    { stream, entity }: PartitionKeys,
    selection: DeadLetterSelection,
    maxBytes: number,
  ): AsyncGenerator<ParkedDocument[]> {
    const [condition, value] = conditionOf(selection);
    // An event stands for its document, and so for all that is parked of it.
    const whole = "streamId" in selection
      ? `(${condition} AND d.doc_id IS NULL OR (d.fingerprint, d.doc_id) = (
            SELECT n.fingerprint, n.doc_id FROM writebehind_dead_letter n
             WHERE n.stream = $1 AND n.stream_id = $3 AND n.state = 'parked'))`
      : condition;
    const found = pages<{ id: string; doc_id: Buffer | null; bytes: number }>(
      this.#ask,
      `SELECT * FROM (
         SELECT DISTINCT ON (${ONE_DOCUMENT}) d.id, d.doc_id,
                coalesce(octet_length(d.payload), 0) +
                coalesce((SELECT sum(octet_length(f)) FROM unnest(d.fields) f), 0)::int AS bytes
           FROM writebehind_dead_letter d
          WHERE d.stream = $1 AND d.entity = $2 AND d.state = 'parked' AND ${whole}
            AND d.id <= $4
          ORDER BY ${ONE_DOCUMENT}, ${NEWEST_FIRST}
       ) AS documents WHERE id > $5 ORDER BY id`,
      [stream, entity, value],
      ["0"],
      ({ id }) => [id],
    );
    for await (const rows of found) {
      yield* fitting(rows.map(({ id, doc_id, bytes }) => ({ id, docId: doc_id, bytes })), maxBytes);
    }
  }

  async streams(entity: string): Promise<string[]> {
    const { rows } = await patiently<{ stream: string }>(
      this.#pool,
      "SELECT DISTINCT stream FROM writebehind_dead_letter WHERE entity = $1 AND state = 'parked'",
      [entity],
    );
    return rows.map(({ stream }) => stream);
  }

  async discard(
    of: LetterStream,
    selection: DeadLetterSelection,
    dryRun: boolean,
  ): Promise<number> {
    const [condition, value] = conditionOf(selection);
    let discarded = 0;
    await this.#locked(of, async (connection) => {
      const { rowCount } = await connection.query(
        `UPDATE writebehind_dead_letter AS d SET state = 'discarded', last_at = clock_timestamp()
          WHERE d.stream = $1 AND d.entity = $2 AND d.state = 'parked' AND ${condition}`,
        [of.stream, of.entity, value],
      );
      discarded = rowCount ?? 0;
      return !dryRun && discarded > 0;
    });
    return discarded;
  }

  async discardedAmong({ stream }: PartitionKeys, streamIds: string[]): Promise<string[]> {
    const { rows } = await patiently<{ stream_id: string }>(
      this.#pool,
      `SELECT stream_id FROM writebehind_dead_letter
        WHERE stream = $1 AND stream_id = ANY($2::text[]) AND state = 'discarded'`,
      [stream, streamIds],
    );
    return rows.map((row) => row.stream_id);
  }

  async move({ stream }: PartitionKeys, to: readonly PartitionKeys[]): Promise<void> {
    for (let after = "0";;) {
      const { rows } = await this.#pool.query<{ id: string; doc_id: Buffer | null }>(
        `SELECT id, doc_id FROM writebehind_dead_letter WHERE stream = $1 AND id > $2 ORDER BY id LIMIT ${PAGE}`,
        [stream, after],
      );
      if (rows.length === 0) return;
      after = rows.at(-1)!.id;
      for (const { id, doc_id } of rows) {
        const there = streamOf(doc_id, to);
        if (there !== stream) await this.#pool.query(MOVE, [id, there]);
      }
    }
  }

  hold(keys: PartitionKeys, work: (held: HeldDeadLetters) => Promise<boolean>): Promise<void> {
    const { table } = entityConfig(this.#config, keys.entity);
    return this.#locked(keys, (connection) => work(new Held(connection, keys, table)));
  }

  /** Runs a transaction that holds the partition's offset row, as a batch of the sink does. */
  async #locked(
    { stream }: Pick<PartitionKeys, "stream">,
    work: (connection: PoolClient) => Promise<boolean>,
  ): Promise<void> {
    const connection = await this.#pool.connect();
    let broken = true;
    try {
      // If this process is stopped in the middle, it must not hold up the sink for ever.
      const patience = Math.ceil(this.#config.write_behind.lease_seconds * 1000);
      await connection.query(
        `BEGIN;
         SET LOCAL idle_in_transaction_session_timeout = ${patience};
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
      // Closing the connection in mid-transaction rolls everything back.
      connection.release(broken);
    }
  }
}
