/**
 * The dead letter in MySQL: the table `writebehind_dead_letter`.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import { WriteBehindError } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { fieldsOf, fitting, letterOf, type LetterRow, pages, streamOf } from "../common.ts";
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
import type { Flavor } from "./connect.ts";
import { Held } from "./held_letters.ts";
import { dateOf } from "./offsets.ts";
import { changedBy, type Connection, patiently, type Pool, rowsOf } from "./pool.ts";
import { NOW } from "./statements.ts";

/** How many rows are read at a time. */
const PAGE = 500;
/** How long a query may take that waits for a batch, or sorts all that is there, in ms. */
const LONG_MS = 60_000;

/** Orders stream ids as Redis does: as text, 10 would come before 9. */
const NEWEST_FIRST = `CAST(SUBSTRING_INDEX(d.stream_id, '-', 1) AS DECIMAL(20)) DESC,
   CAST(SUBSTRING_INDEX(d.stream_id, '-', -1) AS DECIMAL(20)) DESC`;
/** What tells documents apart; an entry that could not be decoded is one of its own. */
const ONE_DOCUMENT = "d.doc_id, IF(d.doc_id IS NULL, d.id, NULL)";

/** A condition on parked events, and its value. */
function conditionOf(selection: DeadLetterSelection): [sql: string, values: unknown[]] {
  if ("docId" in selection) return ["d.doc_id = ?", [Buffer.from(selection.docId)]];
  if ("streamId" in selection) return ["d.stream_id = ?", [selection.streamId]];
  return ["true", []];
}

/**
 * Moves a letter to another stream. Streams have ids in common, and those of one document keep their order: an id that is
 * taken, or is before one of the document's own, becomes the next of its millisecond that is free.
 */
const MOVE = `
UPDATE writebehind_dead_letter AS d,
       (SELECT MAX(CAST(SUBSTRING_INDEX(o.stream_id, '-', -1) AS DECIMAL(20))) AS last,
               COALESCE(SUM(o.stream_id = ?), 0) AS taken,
               COALESCE(SUM(o.doc_id <=> ? AND o.state = 'parked' AND
                            CAST(SUBSTRING_INDEX(o.stream_id, '-', -1) AS DECIMAL(20)) > ?), 0) AS newer
          FROM writebehind_dead_letter AS o
         WHERE o.stream = ? AND o.stream_id LIKE ?) AS there
   SET d.stream = ?,
       d.stream_id = IF(there.taken + there.newer > 0, CONCAT(?, '-', there.last + 1), d.stream_id)
 WHERE d.id = ?`;

interface Listed extends LetterRow<string> {
  doc_id: Buffer | null;
}

/** What could not be stored of a configuration's entities. */
export class MysqlDeadLetters implements DeadLetters {
  #pool: Pool;
  #config: Config;
  #flavor: Flavor;

  constructor(pool: Pool, config: Config, flavor: Flavor) {
    this.#pool = pool;
    this.#config = config;
    this.#flavor = flavor;
  }

  async *list(entity: string, state: DeadLetterState | "all"): AsyncGenerator<DeadLetter> {
    const of = `PARTITION BY d.stream, d.state, ${ONE_DOCUMENT}`;
    // Those that only wait behind another have no code; the one that was tried says why.
    const tried = (column: string, as = column) =>
      `FIRST_VALUE(d.${column}) OVER (${of} ORDER BY (d.code <> '') DESC, ${NEWEST_FIRST}) AS ${as}`;
    const all = pages<Listed & { events: string; first_id: string }>(
      this.#ask,
      `SELECT * FROM (
         SELECT d.id, d.entity, d.stream, d.stream_id, d.doc_id, d.event_type, d.state,
                ROW_NUMBER() OVER (${of} ORDER BY ${NEWEST_FIRST}) AS place,
                COUNT(*) OVER (${of}) AS events, MIN(d.first_at) OVER (${of}) AS first_at,
                MAX(d.last_at) OVER (${of}) AS last_at, MIN(d.id) OVER (${of}) AS first_id,
                ${tried("code", "`sqlstate`")}, ${tried("reason")}, ${tried("attempts")}
           FROM writebehind_dead_letter d
          WHERE d.entity = ? AND (? = 'all' OR d.state = ?) AND d.id <= ?
       ) AS documents
       WHERE place = 1 AND (first_at > CAST(? AS DATETIME(6)) OR
                            first_at = CAST(? AS DATETIME(6)) AND first_id > ?)
       ORDER BY first_at, first_id`,
      [entity, state, state],
      ["1970-01-01", "1970-01-01", "0"],
      ({ first_at, first_id }) => [first_at, first_at, String(first_id)],
    );
    for await (const rows of all) {
      for (const row of rows) yield { ...letterOf(row, dateOf), waiting: Number(row.events) - 1 };
    }
  }

  async read(id: number): Promise<DeadLetterEvent | null> {
    const [row] = await patiently(
      this.#pool,
      (connection) =>
        rowsOf<Listed & { ts: string | null; payload: Buffer | null; fields: string | null }>(
          connection,
          "SELECT *, code AS `sqlstate` FROM writebehind_dead_letter WHERE id = ?",
          [id],
        ),
    );
    if (row === undefined) return null;
    const { ts, payload, fields } = row;
    return {
      ...letterOf(row, dateOf),
      ts: ts === null ? null : Number(ts),
      payload,
      fields: fieldsOf(fields),
    };
  }

  async *documents(
    { stream, entity }: PartitionKeys,
    selection: DeadLetterSelection,
    maxBytes: number,
  ): AsyncGenerator<ParkedDocument[]> {
    const [condition, values] = conditionOf(selection);
    // An event stands for its document, and so for all that is parked of it.
    const whole = "streamId" in selection
      ? `(${condition} AND d.doc_id IS NULL OR d.doc_id = (
            SELECT n.doc_id FROM writebehind_dead_letter n
             WHERE n.stream = d.stream AND n.stream_id = ? AND n.state = 'parked'))`
      : condition;
    const found = pages<{ id: string; doc_id: Buffer | null; bytes: string }>(
      this.#ask,
      `SELECT * FROM (
         SELECT d.id, d.doc_id, COALESCE(LENGTH(d.payload), 0) + COALESCE(LENGTH(d.fields), 0) AS bytes,
                ROW_NUMBER() OVER (PARTITION BY ${ONE_DOCUMENT} ORDER BY ${NEWEST_FIRST}) AS place
           FROM writebehind_dead_letter d
          WHERE d.stream = ? AND d.entity = ? AND d.state = 'parked' AND ${whole}
            AND d.id <= ?
       ) AS documents WHERE place = 1 AND id > ? ORDER BY id`,
      [stream, entity, ...values, ..."streamId" in selection ? values : []],
      ["0"],
      ({ id }) => [String(id)],
    );
    for await (const rows of found) {
      yield* fitting(
        rows.map(({ id, doc_id, bytes }) => ({
          id: String(id),
          docId: doc_id,
          bytes: Number(bytes),
        })),
        maxBytes,
      );
    }
  }

  async streams(entity: string): Promise<string[]> {
    const rows = await patiently(
      this.#pool,
      (connection) =>
        rowsOf<{ stream: string }>(
          connection,
          "SELECT DISTINCT stream FROM writebehind_dead_letter WHERE entity = ? AND state = 'parked'",
          [entity],
        ),
    );
    return rows.map(({ stream }) => stream);
  }

  async discard(
    of: LetterStream,
    selection: DeadLetterSelection,
    dryRun: boolean,
  ): Promise<number> {
    const [condition, values] = conditionOf(selection);
    let discarded = 0;
    await this.#locked(of, async (connection) => {
      discarded = await changedBy(
        connection,
        `UPDATE writebehind_dead_letter AS d SET state = 'discarded', last_at = ${NOW}
          WHERE d.stream = ? AND d.entity = ? AND d.state = 'parked' AND ${condition}`,
        [of.stream, of.entity, ...values],
      );
      return !dryRun && discarded > 0;
    });
    return discarded;
  }

  async discardedAmong({ stream }: PartitionKeys, streamIds: string[]): Promise<string[]> {
    if (streamIds.length === 0) return [];
    const rows = await patiently(
      this.#pool,
      (connection) =>
        rowsOf<{ stream_id: string }>(
          connection,
          `SELECT stream_id FROM writebehind_dead_letter
            WHERE stream = ? AND stream_id IN (${
            streamIds.map(() => "?")
          }) AND state = 'discarded'`,
          [stream, ...streamIds],
        ),
    );
    return rows.map((row) => row.stream_id);
  }

  async move({ stream }: PartitionKeys, to: readonly PartitionKeys[]): Promise<void> {
    for (let after = "0";;) {
      const letters = await patiently(
        this.#pool,
        (connection) =>
          rowsOf<{ id: string; stream_id: string; doc_id: Buffer | null }>(
            connection,
            `SELECT id, stream_id, doc_id FROM writebehind_dead_letter
            WHERE stream = ? AND id > ? ORDER BY id LIMIT ${PAGE}`,
            [stream, after],
          ),
      );
      if (letters.length === 0) return;
      after = String(letters.at(-1)!.id);
      for (const { id, stream_id, doc_id } of letters) {
        const there = streamOf(doc_id, to);
        if (there === stream) continue;
        const [ms, seq] = stream_id.split("-");
        await patiently(
          this.#pool,
          (connection) =>
            changedBy(connection, MOVE, [stream_id, doc_id, seq, there, `${ms}-%`, there, ms, id]),
        );
      }
    }
  }

  hold(keys: PartitionKeys, work: (held: HeldDeadLetters) => Promise<boolean>): Promise<void> {
    const { table } = entityConfig(this.#config, keys.entity);
    return this.#locked(
      keys,
      (connection) => work(new Held(connection, keys, table, this.#flavor)),
    );
  }

  #ask = <Row>(text: string, values: unknown[]): Promise<Row[]> =>
    patiently(this.#pool, (connection) => rowsOf<Row>(connection, text, values), LONG_MS);

  /** Runs a transaction that holds the partition's offset row, as a batch of the sink does. */
  async #locked(
    { stream }: Pick<PartitionKeys, "stream">,
    work: (connection: Connection) => Promise<boolean>,
  ): Promise<void> {
    const connection = await this.#pool.take();
    connection.patienceMs = LONG_MS;
    let broken = true;
    try {
      // If this process is stopped in the middle, it must not hold up the sink for ever.
      const seconds = Math.max(1, Math.ceil(this.#config.write_behind.lease_seconds));
      const idle = this.#flavor.mariadb ? "idle_transaction_timeout" : "wait_timeout";
      await connection.query(`SET SESSION ${idle} = ${seconds}`);
      await connection.query("START TRANSACTION");
      await changedBy(
        connection,
        `INSERT INTO writebehind_offset (stream, parked_version) VALUES (?, 1)
         ON DUPLICATE KEY UPDATE parked_version = parked_version + 1`,
        [stream],
      );
      const keep = await work(connection);
      await connection.query(keep ? "COMMIT" : "ROLLBACK");
      await connection.query(`SET SESSION ${idle} = DEFAULT`);
      broken = false;
    } catch (error) {
      if (isLost(error)) {
        throw new WriteBehindError(`the transaction on ${stream} was rolled back; try again`, {
          cause: error,
        });
      }
      throw error;
    } finally {
      // Closing the connection in mid-transaction rolls everything back.
      if (broken) connection.end();
      else connection.release();
    }
  }
}

/** Whether the server has closed the connection, as it does where a transaction is left alone. */
function isLost(error: unknown): boolean {
  const { code = "" } = error as { code?: string };
  return /^(PROTOCOL_CONNECTION_LOST|ECONNRESET|EPIPE|ER_CLIENT_INTERACTION_TIMEOUT)$/.test(code);
}
