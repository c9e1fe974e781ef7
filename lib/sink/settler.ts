/**
 * Settling: lets Redis evict what a cache's target holds. It also sees whether each event was noted by its writer: one of
 * another program that knows of no cache would lose what is evicted before it is read.
 * @module
 */

import { type Config, entityConfig, sourceConfig } from "../config/load.ts";
import { failpoint } from "../core/failpoints.ts";
import { compareStreamIds, versionOf } from "../core/stream_ids.ts";
import { documentIds } from "../redis/documents.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, type PartitionKeys } from "../redis/keys.ts";
import { dropScript, lowerScript, runScript, settleScript } from "../redis/scripts/mod.ts";
import { type Batch, byPlace } from "../targets/batch.ts";
import { deadLettersOf, rowsOf } from "../targets/open.ts";
import type { Claim, Target } from "../targets/target.ts";
import type { StreamReader } from "./reader.ts";
import type { PartitionReport } from "./report.ts";
import { resend } from "./rewind.ts";

/** Documents that one script settles, so that Redis answers others in between. */
const CHUNK = 500;

/** A document, and its event that the target has applied. */
type Settled = [id: string, streamId: string];

/** A note of a document's last event. */
interface Note {
  id: string;
  streamId: string;
  isDelete: boolean;
}

/** Whether an entity is cached in front of a target. */
export function isSource(config: Config, entity: string, target: string): boolean {
  return entityConfig(config, entity).cache.enabled && sourceConfig(config, entity).name === target;
}

/** Settles what is applied under one claim. */
export class Settler {
  #config: Config;
  #reader: StreamReader;
  #target: Target;
  #claim: Claim;
  #report: PartitionReport;
  /** whether notes may stand that nothing settles any more: those of before a crash, or of a batch that was not settled */
  #sweeps = true;
  /** up to where more was settled than the target had when the partition was claimed: it has lost commits */
  #beyond: string | null = null;

  constructor(
    config: Config,
    reader: StreamReader,
    target: Target,
    claim: Claim,
    report: PartitionReport,
  ) {
    this.#config = config;
    this.#reader = reader;
    this.#target = target;
    this.#claim = claim;
    this.#report = report;
  }

  /**
   * Settles a batch that was applied. Never rejects: what is not settled stays in Redis, and is settled later.
   * @param swallowed ids of documents whose rows are not as they should be, though the target refused none
   */
  async applied(
    { upserts, removals, lastId }: Batch,
    swallowed: readonly string[],
  ): Promise<void> {
    const lost = new Set(swallowed);
    // In the order of their events: what is settled first is behind what follows. At once: the ids lie in memory that is
    // used again.
    const settled = [...upserts, ...removals].sort(byPlace)
      .map(({ id, ms, seq }): Settled => [id.toString(), `${ms}-${seq}`])
      .filter(([id]) => !lost.has(id));
    await failpoint?.("settling");
    try {
      await this.#settle(settled, lastId, { keeps: true, witness: lastId });
      this.#report.over("settleFailed");
    } catch (error) {
      this.#sweeps = true;
      this.#report.trouble("settleFailed", error);
    }
    await failpoint?.("settled");
  }

  /**
   * Settles what the offset has passed, where that may be needed. Only what the rows show: an event that is parked keeps its
   * note. Where it was discarded, the row counts from then on, and the document goes. Where no row shows it, it was gone from
   * the stream before it was read, and its document is sent again; so is one whose row was swallowed.
   * @param isCaughtUp whether all that is in the stream was applied under this claim
   */
  async sweep({ isCaughtUp }: { isCaughtUp: boolean }): Promise<void> {
    try {
      if (this.#sweeps) {
        this.#sweeps = false;
        await this.#sweep();
        this.#report.over("settleFailed");
      }
      if (!isCaughtUp) await this.#lookBeyond();
      else if (this.#beyond !== null) await this.#lower(this.#beyond);
    } catch (error) {
      this.#sweeps = true;
      this.#report.trouble("settleFailed", error);
    }
  }

  /**
   * What is to be done before anything is resent into a stream that has gone back: its documents that could be evicted may
   * be older than their rows, so they go, and rows that were read before are not put back any more.
   * @param redis that has the keys of all partitions
   */
  async wentBack(redis: RedisConnection): Promise<void> {
    await this.#runSettle([], this.#claim.offset, { keeps: false, witness: "" });
    await dropEvictable(redis, this.#config, this.#claim.keys);
  }

  /**
   * Resends the documents whose noted events the target does not have, and which are gone from the stream; also where what
   * came after them has moved the offset past them. Parked ones are in the dead letters.
   * @returns how many there were
   */
  async resendGone(): Promise<number> {
    const { keys, offset } = this.#claim;
    const redis = await this.#reader.connection();
    let sent = 0;
    for await (const notes of this.#notes()) {
      const [later, passed]: [Note[], Note[]] = [[], []];
      for (const note of notes) {
        (compareStreamIds(note.streamId, offset) > 0 ? later : passed).push(note);
      }
      const entries = await Promise.all(
        later.map(({ streamId }) => redis.xrange(keys.stream, streamId, streamId)),
      );
      const gone = later.filter((_, index) => entries[index]!.length === 0).map(({ id }) => id);
      const { lacking } = await this.#held(passed);
      for (const id of [...gone, ...lacking.map(([id]) => id)]) {
        if (await resend(redis, keys, id) !== null) sent++;
      }
    }
    return sent;
  }

  async *#notes(): AsyncGenerator<Note[]> {
    const { keys: { notes } } = this.#claim;
    const redis = await this.#reader.connection();
    let cursor = "0";
    do {
      const [next, pairs] = await redis.hscan(notes, cursor, "COUNT", CHUNK);
      cursor = next;
      const some: Note[] = [];
      for (let index = 0; index < pairs.length; index += 2) {
        const [id, note] = [pairs[index]!, pairs[index + 1]!];
        const streamId = note.replace(/^-/, "");
        some.push({ id, streamId, isDelete: note !== streamId });
      }
      yield some;
    } while (cursor !== "0");
  }

  async #sweep(): Promise<void> {
    const { offset, keys } = this.#claim;
    const redis = await this.#reader.connection();
    let sent = 0;
    for await (const notes of this.#notes()) {
      const passed = notes.filter(({ streamId }) => compareStreamIds(streamId, offset) <= 0);
      if (passed.length === 0) continue;
      const { held, newer, discarded, lacking } = await this.#held(passed);
      await this.#settle(held, offset, { keeps: true });
      await this.#settle([...newer, ...discarded], offset, { keeps: false });
      for (const [id] of lacking) if (await resend(redis, keys, id) !== null) sent++;
    }
    if (sent > 0) this.#report.resent(sent);
  }

  async #lookBeyond(): Promise<void> {
    const { keys: { settings }, offset } = this.#claim;
    const redis = await this.#reader.connection();
    const settled = await redis.hget(settings, "settled");
    this.#beyond = settled !== null && compareStreamIds(settled, offset) > 0 ? settled : null;
  }

  /** What the target has lost and the stream does not have does not come any more: rows count from here on. */
  async #lower(from: string): Promise<void> {
    const { keys: { settings }, offset } = this.#claim;
    const redis = await this.#reader.connection();
    await runScript(redis, lowerScript, [settings], [from, offset]);
    this.#beyond = null;
  }

  /**
   * Those whose rows are as their events have left them; whose are newer, as where Redis has gone back; and whose are older,
   * though no event is parked: since it was discarded, or is gone.
   */
  async #held(
    notes: Note[],
  ): Promise<{ held: Settled[]; newer: Settled[]; discarded: Settled[]; lacking: Settled[] }> {
    const [held, newer, older]: [Settled[], Settled[], Settled[]] = [[], [], []];
    for (let left = notes; left.length > 0;) {
      const at = await rowsOf(this.#target).at(this.#claim.keys, left.map(({ id }) => id));
      const { rows, parked } = at;
      rows.forEach((row, index) => {
        const { id, streamId, isDelete } = left[index]!;
        const since = row && BigInt(row.version) - versionOf(streamId)!;
        if (since === null ? isDelete : since === 0n) held.push([id, streamId]);
        else if (since !== null && since > 0n) newer.push([id, streamId]);
        else if (!parked[index]) older.push([id, streamId]);
      });
      left = left.slice(rows.length);
    }
    if (older.length === 0) return { held, newer, discarded: [], lacking: [] };
    const letters = deadLettersOf(this.#target);
    const ids = older.map(([, streamId]) => streamId);
    const given = new Set(await letters.discardedAmong(this.#claim.keys, ids));
    const [discarded, lacking] = [true, false]
      .map((is) => older.filter(([, streamId]) => given.has(streamId) === is));
    return { held, newer, discarded: discarded!, lacking: lacking! };
  }

  /**
   * @param newest at or behind all of their events
   * @param options.keeps whether the documents stay for a while; else they go
   * @param options.witness where each event has been noted, if its writer knows of the cache: an entry behind them all
   */
  async #settle(
    documents: Settled[],
    newest: string,
    { keeps, witness = "" }: { keeps: boolean; witness?: string },
  ): Promise<void> {
    for (let at = 0; at < documents.length; at += CHUNK) {
      const some = documents.slice(at, at + CHUNK);
      // What is behind it is looked at with those that come next.
      const isInOrder = witness !== "" && at + CHUNK < documents.length;
      await this.#runSettle(some, isInOrder ? some.at(-1)![1] : newest, { keeps, witness });
    }
  }

  async #runSettle(
    documents: Settled[],
    newest: string,
    { keeps, witness }: { keeps: boolean; witness: string },
  ): Promise<void> {
    const { stream, settings, notes, documentPrefix, entity } = this.#claim.keys;
    const { keep_seconds } = entityConfig(this.#config, entity).cache;
    const foreign = await runScript(
      await this.#reader.connection(),
      settleScript,
      [stream, settings, notes, ...documents.map(([id]) => documentPrefix + id)],
      [newest, String(keeps ? 1000 * keep_seconds : 0), witness, ...documents.flat()],
    );
    if (foreign !== "") this.#report.notNoted(String(foreign));
  }
}

/**
 * Removes the documents of a partition that could be evicted: where Redis has gone back, they may be older than their rows.
 * @param redis that has the keys of all partitions
 */
async function dropEvictable(
  redis: RedisConnection,
  config: Config,
  keys: PartitionKeys,
): Promise<void> {
  const partitions = allPartitions(config, keys.entity, keys.shape);
  for await (const { ids } of documentIds(redis, partitions, [keys])) {
    if (ids.length === 0) continue;
    const names = ids.map((id) => keys.documentPrefix + id.toString());
    await runScript(redis, dropScript, names, []);
  }
}
