/**
 * What is parked of one partition in PostgreSQL, held by a transaction, so that it can be applied again.
 * @module
 */

import { reasonOf } from "../../core/errors.ts";
import type { EventType } from "../../core/stream_ids.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { storable } from "../common.ts";
import type { BatchRows, Tried } from "../batch.ts";
import type { HeldDeadLetters, ParkedEvent, Settled } from "../dead_letters.ts";
import { bytesArray } from "./arrays.ts";
import { isOfTheServer, isPostgresError, postgresErrorKind } from "./errors.ts";
import type { PoolClient } from "./pool.ts";
import { anyRowSql, lookValues, missedSql, parkedOfSql, writeRows } from "./statements.ts";

/** The dead letter of one partition, inside the transaction that holds it. */
export class Held implements HeldDeadLetters {
  #connection: PoolClient;
  #keys: PartitionKeys;
  #table: string;

  constructor(connection: PoolClient, keys: PartitionKeys, table: string) {
    this.#connection = connection;
    this.#keys = keys;
    this.#table = table;
  }

  async entries(ids: string[]): Promise<{ id: string; streamId: string; fields: Buffer[] }[]> {
    const { rows } = await this.#connection.query<
      { id: string; stream_id: string; fields: Buffer[] | null }
    >(
      `SELECT id, stream_id, fields FROM writebehind_dead_letter
        WHERE id = ANY($1::int8[]) AND state = 'parked'`,
      [ids],
    );
    return rows.map(({ id, stream_id: streamId, fields }) => ({
      id,
      streamId,
      fields: fields ?? [],
    }));
  }

  async events(docIds: Buffer[]): Promise<ParkedEvent[]> {
    const { rows } = await this.#connection.query<
      { id: string; stream_id: string; doc_id: Buffer; event_type: EventType; ts: string }
    >(
      `SELECT d.id, d.stream_id, d.doc_id, d.event_type, d.ts ${parkedOfSql("d.stream = $1")}`,
      [this.#keys.stream, bytesArray("bytea", docIds, (id) => id)],
    );
    return rows.map(({ id, stream_id: streamId, doc_id: docId, event_type: type, ts }) => ({
      id,
      streamId,
      docId,
      type,
      ts: Number(ts),
    }));
  }

  async payloads(ids: string[]): Promise<Map<string, Buffer | null>> {
    const { rows } = await this.#connection.query<{ id: string; payload: Buffer | null }>(
      "SELECT id, payload FROM writebehind_dead_letter WHERE id = ANY($1::int8[])",
      [ids],
    );
    return new Map(rows.map(({ id, payload }) => [id, payload]));
  }

  async hasRow(docId: Buffer): Promise<boolean> {
    const { rowCount } = await this.#connection.query(
      `SELECT FROM "${this.#table}" WHERE id = $1`,
      [docId.toString()],
    );
    return rowCount !== 0;
  }

  async attempt({ upserts, removals }: BatchRows, keep: boolean): Promise<Tried | null> {
    const takeBack = "ROLLBACK TO attempt; RELEASE attempt";
    await this.#connection.query("SAVEPOINT attempt");
    try {
      await writeRows(this.#connection, this.#table, upserts, removals);
      await this.#connection.query(keep ? "RELEASE attempt" : takeBack);
      return null;
    } catch (error) {
      if (!isPostgresError(error) || isOfTheServer(error)) throw error;
      await this.#connection.query(takeBack);
      return { kind: postgresErrorKind(error), sqlstate: error.code, reason: reasonOf(error) };
    }
  }

  async swallowed(rows: BatchRows): Promise<string[]> {
    const { rows: missed } = await this.#connection.query<{ id: string }>(
      missedSql(this.#table, 1),
      lookValues(rows),
    );
    return missed.map(({ id }) => id);
  }

  async anyRow(): Promise<{ id: string; payload: string } | null> {
    const { rows: [row] } = await this.#connection.query<{ id: string; payload: string }>(
      anyRowSql(this.#table),
    );
    return row ?? null;
  }

  async settle({ replayed, superseded, refused }: Settled): Promise<void> {
    await this.#connection.query(
      `UPDATE writebehind_dead_letter AS d
          SET state = CASE WHEN e.tried THEN 'replayed' ELSE 'superseded' END,
              attempts = attempts + e.tried::int, last_at = clock_timestamp()
         FROM (SELECT unnest($1::int8[]), true UNION ALL SELECT unnest($2::int8[]), false)
              AS e (id, tried)
        WHERE d.id = e.id`,
      [replayed, superseded],
    );
    if (refused.length === 0) return;
    await this.#connection.query(
      `UPDATE writebehind_dead_letter AS d
          SET sqlstate = e.sqlstate, reason = e.reason, attempts = attempts + 1,
              last_at = clock_timestamp()
         FROM unnest($1::int8[], $2::text[], $3::text[]) AS e (id, sqlstate, reason)
        WHERE d.id = e.id`,
      [
        refused.map(({ id }) => id),
        refused.map(({ sqlstate }) => sqlstate),
        refused.map(({ reason }) => storable(reason)),
      ],
    );
  }
}
