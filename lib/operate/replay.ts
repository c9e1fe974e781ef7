/**
 * Applying parked events again. Each event holds the whole document, so the newest one of a document is
 * applied, and those before it are superseded.
 * @module
 */

import type { Pool, PoolClient } from "pg";
import { type Config, entityConfig } from "../config/load.ts";
import { kindOf } from "../core/error_kinds.ts";
import { reasonOf } from "../core/errors.ts";
import type { EventType } from "../core/stream_ids.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, type PartitionKeys } from "../redis/keys.ts";
import { readScript, runScript } from "../redis/scripts/mod.ts";
import { coalesce } from "../sink/coalesce.ts";
import { decodeEntry, type Event, isEvent } from "../sink/decode.ts";
import { bytesArray } from "../targets/postgres/arrays.ts";
import { writeRows } from "../targets/postgres/batch.ts";
import {
  type DeadLetterSelection,
  locked,
  NEWEST_FIRST,
  ONE_DOCUMENT,
  pages,
} from "../targets/postgres/dead_letters.ts";
import type { Refusal, Removal, Upsert } from "../targets/target.ts";

/** What became of a document, or of an entry that could not be decoded. */
export interface ReplayOutcome {
  docId: string | null;
  /** the event that was tried: the newest one */
  streamId: string;
  /** `gone`: its document is not there any more, so there was nothing to write */
  outcome: "applied" | "gone" | "failed";
  /** older events of the document that this one stands for */
  superseded: number;
  /** where it failed: PostgreSQL's code, or "", and the reason */
  sqlstate: string;
  reason: string;
}

/** What a replay did, in documents and, of those superseded, in events. */
export interface ReplayReport {
  applied: number;
  gone: number;
  superseded: number;
  failed: number;
}

/** Options of {@linkcode replayDeadLetters}. */
export interface ReplayOptions {
  /** does everything, tells the outcomes, and takes it all back */
  dryRun?: boolean;
  /** called for each document, once its outcome is settled */
  onOutcome?: (outcome: ReplayOutcome) => void;
  /** ends the replay between two transactions */
  signal?: AbortSignal;
}

/**
 * Applies the newest parked event of each selected document. One that fails stays parked, with the new
 * reason. An event without payload stands for the document's present state in Redis. An entry that could
 * not be decoded is decoded again.
 * @param selection a `streamId` selects the document whose event it is
 * @throws any error that is not about a row; what was replayed before it stays so
 */
export async function replayDeadLetters(
  redis: RedisConnection,
  pool: Pool,
  config: Config,
  entity: string,
  selection: DeadLetterSelection,
  { dryRun = false, onOutcome, signal }: ReplayOptions = {},
): Promise<ReplayReport> {
  const report: ReplayReport = { applied: 0, gone: 0, superseded: 0, failed: 0 };
  for (const keys of allPartitions(config, entity)) {
    const replay = new Replay(redis, config, keys);
    for await (const chunk of chunks(pool, config, keys, selection)) {
      signal?.throwIfAborted();
      let outcomes: ReplayOutcome[] = [];
      await locked(pool, config, keys.stream, async (connection) => {
        outcomes = await replay.run(connection, chunk);
        return !dryRun;
      });
      for (const outcome of outcomes) {
        report[outcome.outcome]++;
        report.superseded += outcome.superseded;
        onOutcome?.(outcome);
      }
    }
  }
  return report;
}

/** A document with parked events, or an entry that could not be decoded. */
interface Candidate {
  id: string;
  doc_id: Buffer | null;
  bytes: number;
}

/** The selected documents, so many at a time that their payloads fit `batch_bytes`. */
async function* chunks(
  pool: Pool,
  config: Config,
  { stream, entity }: PartitionKeys,
  selection: DeadLetterSelection,
): AsyncGenerator<Candidate[]> {
  const [condition, value] = "docId" in selection
    ? ["d.doc_id = $3 AND d.fingerprint = sha256($3)", Buffer.from(selection.docId)]
    : "streamId" in selection
    ? [
      `(d.doc_id IS NULL AND d.stream_id = $3 OR (d.fingerprint, d.doc_id) = (
          SELECT n.fingerprint, n.doc_id FROM writebehind_dead_letter n
           WHERE n.stream = $1 AND n.stream_id = $3 AND n.state = 'parked'))`,
      selection.streamId,
    ]
    : ["$3::int = 1", 1];
  const found = pages<Candidate>(
    pool,
    `SELECT * FROM (
       SELECT DISTINCT ON (${ONE_DOCUMENT}) d.id, d.doc_id,
              coalesce(octet_length(d.payload), 0) +
              coalesce((SELECT sum(octet_length(f)) FROM unnest(d.fields) f), 0)::int AS bytes
         FROM writebehind_dead_letter d
        WHERE d.stream = $1 AND d.entity = $2 AND d.state = 'parked' AND ${condition}
        ORDER BY ${ONE_DOCUMENT}, ${NEWEST_FIRST}
     ) AS documents ORDER BY id`,
    [stream, entity, value],
  );
  let chunk: Candidate[] = [];
  let bytes = 0;
  for await (const rows of found) {
    for (const row of rows) {
      if (chunk.length > 0 && bytes + row.bytes > config.write_behind.batch_bytes) {
        yield chunk;
        [chunk, bytes] = [[], 0];
      }
      chunk.push(row);
      bytes += row.bytes;
    }
    if (chunk.length > 0) yield chunk;
    [chunk, bytes] = [[], 0];
  }
}

/** A parked row: its event, as it came or as it was decoded now. */
interface ParkedEvent {
  id: string;
  event: Event;
  raw: boolean;
}

/** The parked events of one document, the oldest first. */
type Queue = ParkedEvent[];

/** What became of a chunk's events. */
interface Notes {
  outcomes: ReplayOutcome[];
  /** ids of rows */
  replayed: string[];
  superseded: string[];
  refusals: (Refusal & { id: string })[];
}

class Replay {
  #redis: RedisConnection;
  #config: Config;
  #keys: PartitionKeys;
  #table: string;

  constructor(redis: RedisConnection, config: Config, keys: PartitionKeys) {
    this.#redis = redis;
    this.#config = config;
    this.#keys = keys;
    this.#table = entityConfig(config, keys.entity).table;
  }

  /** Replays a chunk in a transaction that holds the partition. What is parked is read anew under the lock. */
  async run(connection: PoolClient, chunk: Candidate[]): Promise<ReplayOutcome[]> {
    const notes: Notes = { outcomes: [], replayed: [], superseded: [], refusals: [] };
    const raw = chunk.filter(({ doc_id }) => doc_id === null).map(({ id }) => id);
    const decoded = raw.length === 0 ? [] : await this.#decode(connection, raw, notes);
    const docIds = new Map<string, Buffer>();
    for (const { doc_id } of chunk) if (doc_id) docIds.set(doc_id.toString("latin1"), doc_id);
    for (const { event } of decoded) docIds.set(event.key, event.docId);

    const queues = new Map<string, Queue>();
    const parked = await this.#parkedOf(connection, [...docIds.values()]);
    for (const one of [...parked, ...decoded]) {
      const { key } = one.event;
      const queue = queues.get(key);
      if (queue) queue.push(one);
      else queues.set(key, [one]);
    }
    const byVersion = (a: ParkedEvent, b: ParkedEvent) =>
      a.event.ms - b.event.ms || a.event.seq - b.event.seq;
    for (const queue of queues.values()) queue.sort(byVersion);
    await this.#withPayloads(connection, [...queues.values()]);
    await this.#dropStale(connection, queues, notes);

    // A coalesced batch ends early where the documents that it had to read would be too many bytes.
    let left = [...queues.values()];
    while (left.length > 0) {
      const items = left.flatMap((queue) => queue.map(({ event }) => event));
      const batch = await coalesce(items, (ids) => this.#documents(ids));
      const refused = new Map<string, Refusal>();
      await this.#write(connection, batch, refused);
      const written = new Set([...batch.upserts, ...batch.removals].map(({ key }) => key));
      let covered = batch.events;
      const done = left.filter((queue) => (covered -= queue.length) >= 0);
      for (const queue of done) {
        const { key } = queue.at(-1)!.event;
        this.#settle(notes, queue, written.has(key) ? "applied" : "gone", refused.get(key));
      }
      left = left.slice(done.length);
    }
    await this.#store(connection, notes);
    return notes.outcomes;
  }

  /** Decodes entries that could not be decoded before; those that still cannot stay parked. */
  async #decode(
    connection: PoolClient,
    ids: string[],
    notes: Notes,
  ): Promise<ParkedEvent[]> {
    const { rows } = await connection.query<
      { id: string; stream_id: string; fields: Buffer[] | null }
    >(
      `SELECT id, stream_id, fields FROM writebehind_dead_letter
        WHERE id = ANY($1::int8[]) AND state = 'parked'`,
      [ids],
    );
    const decoded: ParkedEvent[] = [];
    for (const { id, stream_id: streamId, fields } of rows) {
      const item = decodeEntry([Buffer.from(streamId), fields ?? []]);
      if (isEvent(item)) decoded.push({ id, event: item, raw: true });
      else {
        const { sqlstate, reason } = item;
        notes.refusals.push({ id, sqlstate, reason });
        const tried = { docId: null, streamId, superseded: 0 };
        notes.outcomes.push({ ...tried, outcome: "failed", sqlstate, reason });
      }
    }
    return decoded;
  }

  async #parkedOf(connection: PoolClient, docIds: Buffer[]): Promise<ParkedEvent[]> {
    const { rows } = await connection.query<
      { id: string; stream_id: string; doc_id: Buffer; event_type: EventType; ts: string }
    >(
      `SELECT d.id, d.stream_id, d.doc_id, d.event_type, d.ts
         FROM unnest($2::bytea[]) AS e (id)
         JOIN writebehind_dead_letter d
           ON d.stream = $1 AND d.fingerprint = sha256(e.id) AND d.doc_id = e.id
        WHERE d.state = 'parked'`,
      [this.#keys.stream, bytesArray("bytea", docIds, (id) => id)],
    );
    return rows.map(({ id, stream_id: streamId, doc_id: docId, event_type: type, ts }) => {
      const [ms, seq] = streamId.split("-").map(Number);
      const key = docId.toString("latin1");
      const event = {
        streamId,
        ms: ms!,
        seq: seq!,
        docId,
        key,
        type,
        ts: Number(ts),
        payload: null,
      };
      return { id, event, raw: false };
    });
  }

  /** Reads the payloads of the newest events; no others are needed. */
  async #withPayloads(connection: PoolClient, queues: Queue[]): Promise<void> {
    const newest = new Map(
      queues.map((queue) => queue.at(-1)!).filter(({ raw }) => !raw).map((one) => [one.id, one]),
    );
    const { rows } = await connection.query<{ id: string; payload: Buffer | null }>(
      "SELECT id, payload FROM writebehind_dead_letter WHERE id = ANY($1::int8[])",
      [[...newest.keys()]],
    );
    for (const { id, payload } of rows) newest.get(id)!.event.payload = payload;
  }

  /**
   * Nothing queued behind an entry that could not be decoded, so its document may have been removed since,
   * by an event after it. Where neither the row nor the document is there, it is not brought back.
   */
  async #dropStale(
    connection: PoolClient,
    queues: Map<string, Queue>,
    notes: Notes,
  ): Promise<void> {
    for (const [key, queue] of queues) {
      const { raw, event } = queue.at(-1)!;
      if (!raw || event.type === "delete") continue;
      const { rowCount } = await connection.query(
        `SELECT FROM "${this.#table}" WHERE id = $1`,
        [event.docId.toString()],
      );
      if (rowCount !== 0 || (await this.#documents([event.docId]))[0] !== null) continue;
      queues.delete(key);
      this.#settle(notes, queue, "gone");
    }
  }

  async #documents(docIds: Buffer[]): Promise<(Buffer | null)[]> {
    const keys = docIds.map((id) => this.#keys.documentPrefix + id.toString());
    const limit = String(this.#config.write_behind.batch_bytes);
    const texts = await runScript(this.#redis, readScript, keys, [limit]) as string[];
    return texts.map((text) => text === "" ? null : Buffer.from(text));
  }

  /** Writes rows, and finds by halving those that cannot be stored; the others stay written. */
  async #write(
    connection: PoolClient,
    { upserts, removals }: { upserts: Upsert[]; removals: Removal[] },
    refused: Map<string, Refusal>,
  ): Promise<void> {
    const count = upserts.length + removals.length;
    if (count === 0) return;
    await connection.query("SAVEPOINT attempt");
    try {
      await writeRows(connection, this.#table, upserts, removals);
      await connection.query("RELEASE attempt");
    } catch (error) {
      if (kindOf(error) !== "poison") throw error;
      await connection.query("ROLLBACK TO attempt; RELEASE attempt");
      if (count === 1) {
        const sqlstate = (error as { code: string }).code;
        refused.set((upserts[0] ?? removals[0])!.key, { sqlstate, reason: reasonOf(error) });
        return;
      }
      const [first, second] = upserts.length > 1
        ? halves(upserts).map((part, index) => ({
          upserts: part,
          removals: index === 0 ? [] : removals,
        }))
        : upserts.length === 1
        ? [{ upserts, removals: [] }, { upserts: [], removals }]
        : halves(removals).map((part) => ({ upserts: [], removals: part }));
      await this.#write(connection, first!, refused);
      await this.#write(connection, second!, refused);
    }
  }

  /** Notes what became of a document's events: all of a chunk are stored together. */
  #settle(notes: Notes, queue: Queue, outcome: "applied" | "gone", refusal?: Refusal): void {
    const { id, event: { docId, streamId } } = queue.at(-1)!;
    const tried = { docId: docId.toString(), streamId };
    if (refusal) {
      notes.refusals.push({ id, ...refusal });
      notes.outcomes.push({ ...tried, outcome: "failed", superseded: 0, ...refusal });
      return;
    }
    const older = queue.slice(0, -1);
    notes.replayed.push(id);
    notes.superseded.push(...older.map((one) => one.id));
    const superseded = older.length;
    notes.outcomes.push({ ...tried, outcome, superseded, sqlstate: "", reason: "" });
  }

  async #store(connection: PoolClient, notes: Notes): Promise<void> {
    const { replayed, superseded, refusals } = notes;
    await connection.query(
      `UPDATE writebehind_dead_letter AS d
          SET state = CASE WHEN e.tried THEN 'replayed' ELSE 'superseded' END,
              attempts = attempts + e.tried::int, last_at = clock_timestamp()
         FROM (SELECT unnest($1::int8[]), true UNION ALL SELECT unnest($2::int8[]), false)
              AS e (id, tried)
        WHERE d.id = e.id`,
      [replayed, superseded],
    );
    if (refusals.length === 0) return;
    await connection.query(
      `UPDATE writebehind_dead_letter AS d
          SET sqlstate = e.sqlstate, reason = e.reason, attempts = attempts + 1,
              last_at = clock_timestamp()
         FROM unnest($1::int8[], $2::text[], $3::text[]) AS e (id, sqlstate, reason)
        WHERE d.id = e.id`,
      [
        refusals.map(({ id }) => id),
        refusals.map(({ sqlstate }) => sqlstate),
        refusals.map(({ reason }) => reason.replaceAll("\0", "").toWellFormed()),
      ],
    );
  }
}

function halves<T>(list: T[]): [T[], T[]] {
  const middle = Math.ceil(list.length / 2);
  return [list.slice(0, middle), list.slice(middle)];
}
