/**
 * Applies parked events again. Each event holds the whole document, so the newest one of a document is
 * applied, and those before it are superseded. Where a target wants every event, each is applied in order, as far as
 * the first that is refused.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { Buffer } from "node:buffer";
import { type Config, entityConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { isOfRows } from "../core/error_kinds.ts";
import { WriteBehindError } from "../core/errors.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { readDocuments } from "../redis/documents.ts";
import { type PartitionKeys, partitionsOf } from "../redis/keys.ts";
import { checkShape } from "../redis/shape.ts";
import { checkBelonging } from "../sink/belonging.ts";
import { coalesce } from "../sink/coalesce.ts";
import { decodeEntry, type Event, eventOf, isEvent } from "../sink/decode.ts";
import { refusedRows, rowsWith } from "../sink/poison.ts";
import { harmlessRowsGo } from "../targets/common.ts";
import { deadLettersOf, type Pool, targetOf } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import { type BatchRows, byPlace, type Refusal, type Removal } from "../targets/batch.ts";
import type {
  DeadLetterSelection,
  HeldDeadLetters,
  ParkedDocument,
  Settled,
} from "../targets/dead_letters.ts";

/** The least time between two transactions on a partition, in ms: enough for its sink to claim it and apply a batch. */
const SINKS_TURN_MS = 200;

/** The outcome for a document, or for an entry that could not be decoded. */
export interface ReplayOutcome {
  /** `null` for an entry that could not be decoded */
  docId: string | null;
  /** the event that was tried: the newest one */
  streamId: string;
  /** `gone`: its document no longer exists, so there was nothing to write */
  outcome: "applied" | "gone" | "failed";
  /** older events of the document that this one replaces */
  superseded: number;
  /** where it failed: the target's code, or "" */
  sqlstate: string;
  /** where it failed: why */
  reason: string;
}

/** What a replay did. */
export interface ReplayReport {
  /** documents whose newest event was applied */
  applied: number;
  /** documents that no longer exist, so that there was nothing to write */
  gone: number;
  /** events that a newer one of their document replaces */
  superseded: number;
  /** documents that stay parked */
  failed: number;
}

/** Options of {@linkcode replayDeadLetters}. */
export interface ReplayOptions {
  /** does everything, reports the outcomes, and rolls it all back */
  dryRun?: boolean;
  /** called for each document, once its outcome is settled */
  onOutcome?: (outcome: ReplayOutcome) => void;
  /** ends the replay between two transactions */
  signal?: AbortSignal;
}

/**
 * Applies the newest parked event of each selected document; where a target wants every event, each in order. One that
 * fails stays parked, with the new reason. An event without payload stands for the document's present state in Redis. An
 * entry that could not be decoded is decoded again.
 * @param selection a `streamId` selects the document whose event it is
 * @throws any error that is not about a row; what was replayed before it stays replayed
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, replayDeadLetters } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const report = await replayDeadLetters(redis, target, config, "session", { all: true }, {
 *   onOutcome: ({ docId, outcome, reason }) => console.log(docId, outcome, reason),
 * });
 * console.log(report.applied, report.failed);
 * ```
 */
export async function replayDeadLetters(
  redis: RedisConnection,
  target: Target | Pool,
  config: Config,
  entity: string,
  selection: DeadLetterSelection,
  options: ReplayOptions = {},
): Promise<ReplayReport> {
  checkArguments("replayDeadLetters", { redis, target, config, entity, selection, options });
  const { dryRun = false, onOutcome, signal } = options;
  checkArguments("replayDeadLetters", { onOutcome, signal });
  const report: ReplayReport = { applied: 0, gone: 0, superseded: 0, failed: 0 };
  await checkShape(redis, config, entity);
  const to = targetOf(target, config);
  await checkBelonging(redis, to, config, entity);
  const letters = deadLettersOf(to);
  const { batch_bytes } = config.write_behind;
  const by = { target: to.describe().name, process: String(Deno.pid) };
  for (const keys of partitionsOf(config, entity, by.target)) {
    let heldMs = 0;
    for await (const chunk of letters.documents(keys, selection, batch_bytes)) {
      // The sink's batch waits for a transaction, and then reads anew what is parked: it gets as long as it had to wait.
      if (heldMs > 0) await delay(Math.max(heldMs, SINKS_TURN_MS), signal);
      signal?.throwIfAborted();
      let outcomes: ReplayOutcome[] = [];
      const began = performance.now();
      await letters.hold(keys, async (held) => {
        const { everyEvent = false } = to.batches;
        outcomes = await new Replay(redis, config, keys, held, everyEvent).run(chunk);
        return !dryRun;
      });
      heldMs = performance.now() - began;
      for (const outcome of outcomes) {
        report[outcome.outcome]++;
        report.superseded += outcome.superseded;
        if (!dryRun) redis.events.emit("replayed", { ...by, ...replayedEvent(keys, outcome) });
        onOutcome?.(outcome);
      }
    }
  }
  return report;
}

function replayedEvent({ entity, partition, stream }: PartitionKeys, replayed: ReplayOutcome) {
  const { docId: documentId, streamId, outcome, sqlstate, reason } = replayed;
  return { entity, partition, stream, documentId, streamId, outcome, sqlstate, reason };
}

/** A parked event: decoded when it was parked, or only now. */
interface Candidate {
  id: string;
  event: Event;
  raw: boolean;
}

/** Why a document is refused. */
interface Refused extends Refusal {
  /** its first event that is, where each is applied */
  first?: Removal;
}

/** The parked events of one document, the oldest first. */
type Queue = Candidate[];

/** Why a row that was written is not there. */
const SWALLOWED: Refusal = {
  sqlstate: "",
  reason: "the table did not refuse the row, and does not hold it: a trigger swallows it",
};

/** Replays one chunk of documents. What is parked is read again, under the lock. */
class Replay {
  #redis: RedisConnection;
  #config: Config;
  #keys: PartitionKeys;
  #held: HeldDeadLetters;
  #outcomes: ReplayOutcome[] = [];
  #settled: Settled = { replayed: [], superseded: [], refused: [] };

  #everyEvent: boolean;

  constructor(
    redis: RedisConnection,
    config: Config,
    keys: PartitionKeys,
    held: HeldDeadLetters,
    everyEvent: boolean,
  ) {
    this.#everyEvent = everyEvent;
    this.#redis = redis;
    this.#config = config;
    this.#keys = keys;
    this.#held = held;
  }

  async run(chunk: ParkedDocument[]): Promise<ReplayOutcome[]> {
    const raw = chunk.filter(({ docId }) => docId === null).map(({ id }) => id);
    const decoded = raw.length === 0 ? [] : await this.#decode(raw);
    const docIds = new Map<string, Buffer>();
    for (const { docId } of chunk) if (docId) docIds.set(docId.toString("latin1"), docId);
    for (const { event } of decoded) docIds.set(event.key, event.docId);

    const queues = new Map<string, Queue>();
    const parked = await this.#parkedOf([...docIds.values()]);
    for (const one of [...parked, ...decoded]) {
      const { key } = one.event;
      const queue = queues.get(key);
      if (queue) queue.push(one);
      else queues.set(key, [one]);
    }
    for (const queue of queues.values()) queue.sort((a, b) => byPlace(a.event, b.event));
    await this.#withPayloads([...queues.values()]);
    await this.#dropStale(queues);

    // A batch covers fewer events where the documents that it has to read would be too many bytes.
    let left = [...queues.values()];
    while (left.length > 0) {
      const items = left.flatMap((queue) => queue.map(({ event }) => event));
      const batch = await coalesce(items, (ids) => this.#documents(ids), this.#everyEvent);
      const refused = await this.#refused(batch);
      const accepted = rowsWith(batch, ({ key }) => !refused.has(key));
      for (const id of await this.#held.swallowed(accepted)) {
        refused.set(Buffer.from(id).toString("latin1"), SWALLOWED);
      }
      const written = new Set([...batch.upserts, ...batch.removals].map(({ key }) => key));
      let covered = batch.events;
      const done = left.filter((queue) => (covered -= queue.length) >= 0);
      for (const queue of done) {
        const { key } = queue.at(-1)!.event;
        this.#settle(queue, written.has(key) ? "applied" : "gone", refused.get(key));
      }
      left = left.slice(done.length);
    }
    await this.#held.settle(this.#settled);
    return this.#outcomes;
  }

  /** Writes what can be written. @returns why documents are refused, by the keys of their rows */
  async #refused(batch: BatchRows): Promise<Map<string, Refused>> {
    if (!this.#everyEvent) {
      const write = (rows: BatchRows) => this.#write(rows, true);
      let refused = await refusedRows<Refusal>(batch, write);
      // What was written may be what others were waiting for, as by a foreign key.
      for (let before = Infinity; refused.size > 0 && refused.size < before;) {
        before = refused.size;
        const left = refused;
        refused = await refusedRows<Refusal>(rowsWith(batch, (row) => left.has(row)), write);
      }
      return new Map([...refused].map(([{ key }, refusal]) => [key, refusal]));
    }
    // What is behind an event that is refused must not go before it.
    const tried = await refusedRows<Refusal>(batch, (rows) => this.#write(rows, false));
    const refused = new Map<string, Refused>();
    for (const [first, refusal] of [...tried].sort(([a], [b]) => byPlace(a, b))) {
      if (!refused.has(first.key)) refused.set(first.key, { ...refusal, first });
    }
    const isBefore = (row: Removal) => {
      const first = refused.get(row.key)?.first;
      return first === undefined || byPlace(row, first) < 0;
    };
    const again = await this.#write(rowsWith(batch, isBefore), true);
    if (again !== null) throw new WriteBehindError(`events were refused together: ${again.reason}`);
    return refused;
  }

  /** Whether the rows are to blame is found by trying: they are, where harmless ones go through. */
  async #write(rows: BatchRows, keep: boolean): Promise<Refusal | null> {
    const tried = await this.#held.attempt(rows, keep);
    if (tried === null || isOfRows(tried.kind)) return tried;
    const probe = (harmless: BatchRows) => this.#held.attempt(harmless, false);
    const what = rows.upserts.length > 0 ? "upserts" : "removals";
    if (await harmlessRowsGo(what, probe, () => this.#held.anyRow())) return tried;
    throw new WriteBehindError(
      `${entityConfig(this.#config, this.#keys.entity).table} takes no rows: ${tried.reason}`,
    );
  }

  /** Decodes entries that could not be decoded before; those that still cannot stay parked. */
  async #decode(ids: string[]): Promise<Candidate[]> {
    const decoded: Candidate[] = [];
    for (const { id, streamId, fields } of await this.#held.entries(ids)) {
      const item = decodeEntry([Buffer.from(streamId), fields]);
      if (isEvent(item)) decoded.push({ id, event: item, raw: true });
      else this.#refuse(id, null, streamId, item);
    }
    return decoded;
  }

  async #parkedOf(docIds: Buffer[]): Promise<Candidate[]> {
    const events = await this.#held.events(docIds);
    return events.map((parked) => ({ id: parked.id, event: eventOf(parked), raw: false }));
  }

  /** Reads the payloads of the events that are applied. */
  async #withPayloads(queues: Queue[]): Promise<void> {
    const applied = queues.flatMap((queue) => this.#everyEvent ? queue : queue.slice(-1))
      .filter(({ raw }) => !raw);
    const payloads = await this.#held.payloads(applied.map(({ id }) => id));
    for (const one of applied) one.event = eventOf(one.event, payloads.get(one.id));
  }

  /**
   * Later events of a document do not wait behind an entry that could not be decoded, so one of them may have
   * deleted the document. If neither the row nor the document exists, it is not brought back.
   */
  async #dropStale(queues: Map<string, Queue>): Promise<void> {
    for (const [key, queue] of queues) {
      const { raw, event } = queue.at(-1)!;
      if (!raw || event.type === "delete" || await this.#held.hasRow(event.docId)) continue;
      if ((await this.#documents([event.docId]))[0] !== null) continue;
      queues.delete(key);
      this.#settle(queue, "gone");
    }
  }

  #documents(docIds: Buffer[]): Promise<(Buffer | null)[]> {
    const { batch_bytes } = this.#config.write_behind;
    return readDocuments(this.#redis, this.#keys, docIds, batch_bytes);
  }

  /** Notes the outcome of a document's events; those of a chunk are stored together. */
  #settle(queue: Queue, outcome: "applied" | "gone", refusal?: Refused): void {
    const place = refusal?.first
      ? queue.findIndex(({ event }) => byPlace(event, refusal.first!) === 0)
      : queue.length - 1;
    const { id, event: { docId, streamId } } = queue[place]!;
    const before = queue.slice(0, place);
    if (this.#everyEvent) this.#settled.replayed.push(...before.map((one) => one.id));
    if (refusal) return this.#refuse(id, docId.toString(), streamId, refusal);
    const older = this.#everyEvent ? [] : before;
    this.#settled.replayed.push(id);
    this.#settled.superseded.push(...older.map((one) => one.id));
    this.#outcomes.push({
      docId: docId.toString(),
      streamId,
      outcome,
      superseded: older.length,
      sqlstate: "",
      reason: "",
    });
  }

  #refuse(id: string, docId: string | null, streamId: string, refusal: Refusal): void {
    const { sqlstate, reason } = refusal;
    this.#settled.refused.push({ id, sqlstate, reason });
    this.#outcomes.push({ docId, streamId, outcome: "failed", superseded: 0, sqlstate, reason });
  }
}
