/**
 * Batches in PostgreSQL: one statement a batch, which checks the owner and the offset, writes and removes
 * rows, and moves the offset. One statement is one transaction, so there is no open transaction that a sink could
 * leave behind.
 * @module
 */

// @ts-types="@types/pg"
import type { QueryResult } from "pg";
import { type Config, entityConfig } from "../../config/load.ts";
import { ConfigError } from "../../core/errors.ts";
import { awaitedLater } from "../../core/promises.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { harmlessRowsGo, isText, ownershipLost, shortOf } from "../common.ts";
import { type Batches, type Claim, ParkedChangedError } from "../target.ts";
import type { Batch, BatchRows, Refusal, Removal, Tried, Upsert } from "../batch.ts";
import { Arena, bytesArray } from "./arrays.ts";
import { isOfTheServer, isPostgresError, postgresErrorKind, UNIQUE_VIOLATION } from "./errors.ts";
import type { PartitionQuery, Sessions } from "./sessions.ts";
import {
  anyRowSql,
  applySql,
  type BatchValues,
  batchValues,
  lookValues,
  parkedOfSql,
  parkedValues,
  probeSql,
  rowValues,
  swallowedSql,
  valuesOf,
  variantOf,
  writeRowsSql,
} from "./statements.ts";

/** After a batch whose rows were not new, for so many batches no row is expected to be new. */
const BATCHES_WITHOUT_NEW = 32;

/** What a batch has done. */
interface Applied {
  moved: number;
  written: number;
  removed: number;
}

const NOTHING: Applied = { moved: 0, written: 0, removed: 0 };

/** What a batch's query has done: where it adds rows only, their number tells. */
const doneBy = ({ rows: [row], rowCount }: QueryResult<Applied>): Applied =>
  row ?? { moved: Math.sign(rowCount!), written: rowCount!, removed: 0 };

/** The parameters of a batch, and its outcome, where it was sent ahead. */
interface Prepared {
  values: BatchValues;
  arena: Arena;
  outcome?: Promise<Applied>;
}

/** Applies batches to the tables of a configuration's entities. */
export class PostgresBatches implements Batches {
  #sessions: Sessions;
  #config: Config;
  /** for how many more batches no row is expected to be new */
  #batchesWithoutNew = 0;
  /** parameters that were prepared while another batch was under way */
  #prepared = new WeakMap<Batch, Prepared>();
  /** by the batch before: what was sent behind it */
  #next = new WeakMap<Batch, Batch>();
  /** memory for them that is free again: partitions share it */
  #arenas: Arena[] = [];

  constructor(sessions: Sessions, config: Config) {
    this.#sessions = sessions;
    this.#config = config;
  }

  #tableOf({ entity }: PartitionKeys): string {
    return entityConfig(this.#config, entity).table;
  }

  prepare(_keys: PartitionKeys, batch: Batch): void {
    const arena = this.#arenas.pop() ?? new Arena();
    arena.clear();
    const values = batchValues(batch, this.#batchesWithoutNew > 0, arena);
    this.#prepared.set(batch, { values, arena });
  }

  sendAhead(claim: Claim, batch: Batch, before: Batch): boolean {
    const prepared = this.#prepared.get(batch);
    if (prepared === undefined) return false;
    const query = this.#query({ ...claim, offset: before.lastId }, batch, prepared.values);
    const sent = this.#sessions.queryBehind<Applied>(claim.keys, query);
    if (sent === null) return false;
    prepared.outcome = awaitedLater(sent.then(doneBy));
    this.#next.set(before, batch);
    return true;
  }

  #query(claim: Claim, batch: Batch, values: BatchValues): PartitionQuery {
    const { entity, stream } = claim.keys;
    const { parked } = batch;
    const parking = parked.length > 0;
    const rows = valuesOf(values);
    return {
      name: `${parking ? "park" : "apply"} ${entity}`,
      text: applySql(this.#tableOf(claim.keys), values, parking),
      values: [
        stream,
        claim.offset,
        claim.epoch,
        batch.lastId,
        batch.events,
        claim.parkedVersion,
        ...rows,
        ...(parking ? parkedValues(entity, parked) : []),
      ],
      variant: variantOf(values),
      bytes: rows.reduce((bytes, { length }) => bytes + length, 0),
    };
  }

  async apply(claim: Claim, batch: Batch): Promise<BatchRows> {
    const { keys } = claim;
    const run = async (values: BatchValues) =>
      doneBy(await this.#sessions.query<Applied>(keys, this.#query(claim, batch, values)));
    const noneNew = this.#batchesWithoutNew > 0;
    if (noneNew) this.#batchesWithoutNew--;
    const prepared = this.#prepared.get(batch);
    this.#prepared.delete(batch);
    const first = async () => {
      const done = await prepared?.outcome ?? NOTHING;
      // Sent ahead, it does nothing where the one before needed a second attempt.
      return done.moved > 0 ? done : await run(prepared?.values ?? batchValues(batch, noneNew));
    };
    const done = await first().catch((error) => {
      if (error.code !== UNIQUE_VIOLATION) throw error;
      // A row that should be new exists already. Nothing was done; more such batches may follow.
      this.#batchesWithoutNew = BATCHES_WITHOUT_NEW;
      return run(batchValues(batch, true));
    });
    // Of one that failed, pg may still hold a view.
    if (prepared) this.#arenas.push(prepared.arena);
    if (done.moved === 0) await this.#explainStanding(claim, batch);
    claim.offset = claim.witness = batch.lastId;
    if (batch.parked.length > 0) claim.hasParked = true;
    return shortOf(batch, done);
  }

  async swallowed(
    { keys, offset, epoch }: Claim,
    rows: BatchRows,
    ahead?: Batch,
  ): Promise<string[]> {
    // Its outcome comes first in any case: no query of the partition is sent before.
    const outcome = ahead && await this.#prepared.get(ahead)?.outcome?.catch(() => NOTHING); // apply throws it
    const isApplied = ahead !== undefined && outcome !== undefined && outcome.moved > 0;
    const later = new Set(
      isApplied ? [...ahead.upserts, ...ahead.removals].map(({ key }) => key) : [],
    );
    const isLast = ({ key }: Removal) => !later.has(key);
    const { rows: found } = await this.#sessions.query<{ id: string }>(keys, {
      name: `swallowed ${keys.entity}`,
      text: swallowedSql(this.#tableOf(keys)),
      values: [
        keys.stream,
        ahead ? [offset, ahead.lastId] : [offset],
        epoch,
        ...lookValues({
          upserts: rows.upserts.filter(isLast),
          removals: rows.removals.filter(isLast),
        }),
      ],
    });
    return found.map(({ id }) => id);
  }

  /**
   * Why nothing seems to have moved. Where a batch adds rows only, the offset may have moved, and the table has
   * swallowed all of them.
   */
  async #explainStanding(
    { keys, offset, epoch, parkedVersion }: Claim,
    batch: Batch,
  ): Promise<void> {
    const { rows: [row] } = await this.#sessions.query<
      { epoch: string; last_id: string; parked_version: string }
    >(keys, {
      name: "standing",
      text: "SELECT epoch, last_id, parked_version FROM writebehind_offset WHERE stream = $1",
      values: [keys.stream],
    });
    if (row?.epoch !== epoch) throw ownershipLost(keys);
    if ([batch, this.#next.get(batch)].some((one) => one?.lastId === row.last_id)) return;
    if (row.last_id !== offset || row.parked_version !== parkedVersion) {
      throw new ParkedChangedError(`what is parked of ${keys.stream} has changed`);
    }
    throw new ConfigError(
      `The table ${
        this.#tableOf(keys)
      } takes no rows: one of its rules does something else instead. Drop that rule`,
    );
  }

  async parkedAmong({ keys }: Claim, ids: Buffer[]): Promise<Set<string>> {
    const { rows } = await this.#sessions.query<{ doc_id: Buffer }>(keys, {
      name: "parked among",
      text: `SELECT DISTINCT d.doc_id ${parkedOfSql("d.stream = $1")}`,
      values: [keys.stream, bytesArray("bytea", ids, (id) => id)],
    });
    return new Set(rows.map(({ doc_id }) => doc_id.toString("latin1")));
  }

  /** The check itself may fail, on a text that is nested too deeply: then it finds nothing. */
  async invalidPayloads({ keys }: Claim, upserts: Upsert[]): Promise<Map<string, Refusal>> {
    const refused = new Map<string, Refusal>();
    const texts = upserts.filter(({ key, payload }) => {
      const fine = isText(payload);
      if (!fine) refused.set(key, { sqlstate: "22021", reason: "the payload is not UTF-8 text" });
      return fine;
    });
    const { rows } = await this.#sessions.query<
      { index: number; sqlstate: string; reason: string }
    >(keys, {
      name: "invalid payloads",
      text: `SELECT e.index::int AS index, i.sql_error_code AS sqlstate,
                    concat_ws(': ', i.message, i.detail) AS reason
               FROM unnest($1::text[]) WITH ORDINALITY AS e (payload, index),
                    pg_input_error_info(e.payload, 'jsonb') AS i
              WHERE NOT pg_input_is_valid(e.payload, 'jsonb')`,
      values: [bytesArray("text", texts, ({ payload }) => payload)],
    }).catch((error) => {
      if (!isPostgresError(error) || isOfTheServer(error)) throw error;
      return { rows: [] };
    });
    for (const { index, ...refusal } of rows) refused.set(texts[index - 1]!.key, refusal);
    return refused;
  }

  async probe({ keys }: Claim, rows: BatchRows, deep: boolean): Promise<Tried | null> {
    const values = rowValues(rows.upserts, rows.removals);
    const table = this.#tableOf(keys);
    try {
      if (deep) {
        await this.#sessions.rolledBack(keys, {
          name: `deep probe ${keys.entity}`,
          text: writeRowsSql(table),
          values,
        });
        return null;
      }
      await this.#sessions.query(keys, {
        name: `probe ${keys.entity}`,
        text: probeSql(table),
        values,
      });
    } catch (error) {
      if (!isPostgresError(error) || isOfTheServer(error)) throw error;
      if (error.table === "writebehind_probe") return null;
      return { kind: postgresErrorKind(error), sqlstate: error.code, reason: error.message };
    }
    throw new Error("a probe never succeeds");
  }

  works(claim: Claim, rows: keyof BatchRows): Promise<boolean | null> {
    return harmlessRowsGo(
      rows,
      (harmless) => this.probe(claim, harmless, false),
      () => this.#anyRow(claim),
    );
  }

  async #anyRow({ keys }: Claim): Promise<{ id: string; payload: string } | null> {
    try {
      const { rows: [row] } = await this.#sessions.query<{ id: string; payload: string }>(keys, {
        name: `any row of ${keys.entity}`,
        text: anyRowSql(this.#tableOf(keys)),
        values: [],
      });
      return row ?? null;
    } catch (error) {
      if (!isPostgresError(error) || isOfTheServer(error)) throw error;
      return null;
    }
  }
}
