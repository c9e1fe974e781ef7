/**
 * What is parked of one partition in MySQL, held by a transaction, so that it can be applied again.
 * @module
 */

import type { EventType } from "../../core/stream_ids.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { fieldsOf, storable } from "../common.ts";
import type { BatchRows, Tried } from "../batch.ts";
import type { HeldDeadLetters, ParkedEvent, Settled } from "../dead_letters.ts";
import { triedOf } from "./batch.ts";
import type { Flavor } from "./connect.ts";
import { changedBy, type Connection, rowsOf } from "./pool.ts";
import { anyRow, missed, NOW, prepareRows, rowStatements, run, writeMany } from "./statements.ts";

/** The dead letter of one partition, inside the transaction that holds it. */
export class Held implements HeldDeadLetters {
  #connection: Connection;
  #keys: PartitionKeys;
  #table: string;
  #flavor: Flavor;

  constructor(connection: Connection, keys: PartitionKeys, table: string, flavor: Flavor) {
    this.#connection = connection;
    this.#keys = keys;
    this.#table = table;
    this.#flavor = flavor;
  }

  async entries(ids: string[]): Promise<{ id: string; streamId: string; fields: Buffer[] }[]> {
    if (ids.length === 0) return [];
    const rows = await rowsOf<{ id: string; stream_id: string; fields: string | null }>(
      this.#connection,
      `SELECT id, stream_id, fields FROM writebehind_dead_letter
        WHERE id IN (?) AND state = 'parked'`,
      [ids],
    );
    return rows.map(({ id, stream_id: streamId, fields }) => ({
      id: String(id),
      streamId,
      fields: fieldsOf(fields) ?? [],
    }));
  }

  async events(docIds: Buffer[]): Promise<ParkedEvent[]> {
    if (docIds.length === 0) return [];
    const rows = await rowsOf<
      { id: string; stream_id: string; doc_id: Buffer; event_type: EventType; ts: string }
    >(
      this.#connection,
      `SELECT id, stream_id, doc_id, event_type, ts FROM writebehind_dead_letter
        WHERE stream = ? AND doc_id IN (?) AND state = 'parked'`,
      [this.#keys.stream, docIds],
    );
    return rows.map(({ id, stream_id: streamId, doc_id: docId, event_type: type, ts }) => ({
      id: String(id),
      streamId,
      docId,
      type,
      ts: Number(ts),
    }));
  }

  async payloads(ids: string[]): Promise<Map<string, Buffer | null>> {
    if (ids.length === 0) return new Map();
    const rows = await rowsOf<{ id: string; payload: Buffer | null }>(
      this.#connection,
      "SELECT id, payload FROM writebehind_dead_letter WHERE id IN (?)",
      [ids],
    );
    return new Map(rows.map(({ id, payload }) => [String(id), payload]));
  }

  async hasRow(docId: Buffer): Promise<boolean> {
    const rows = await rowsOf(
      this.#connection,
      `SELECT 1 FROM \`${this.#table}\` WHERE id = ?`,
      [docId.toString()],
    );
    return rows.length > 0;
  }

  async attempt(rows: BatchRows, keep: boolean): Promise<Tried | null> {
    await this.#connection.query("SAVEPOINT attempt");
    let refused: Tried | null = null;
    try {
      const prepared = prepareRows(rows, this.#flavor);
      await writeMany(this.#connection, this.#table, prepared);
      await run(
        this.#connection,
        rowStatements(this.#table, prepared, this.#flavor),
        this.#flavor,
      );
    } catch (error) {
      refused = triedOf(error);
      if (refused === null) throw error;
    }
    if (refused !== null || !keep) await this.#connection.query("ROLLBACK TO SAVEPOINT attempt");
    await this.#connection.query("RELEASE SAVEPOINT attempt");
    return refused;
  }

  swallowed(rows: BatchRows): Promise<string[]> {
    return missed(this.#connection, this.#table, rows, this.#flavor);
  }

  anyRow(): Promise<{ id: string; payload: string } | null> {
    return anyRow(this.#connection, this.#table);
  }

  async settle({ replayed, superseded, refused }: Settled): Promise<void> {
    for (
      const [ids, state, tried] of [[replayed, "replayed", 1], [
        superseded,
        "superseded",
        0,
      ]] as const
    ) {
      if (ids.length === 0) continue;
      await changedBy(
        this.#connection,
        `UPDATE writebehind_dead_letter SET state = ?, attempts = attempts + ?, last_at = ${NOW}
          WHERE id IN (?)`,
        [state, tried, ids],
      );
    }
    for (const { id, sqlstate, reason } of refused) {
      await changedBy(
        this.#connection,
        `UPDATE writebehind_dead_letter
            SET code = ?, reason = ?, attempts = attempts + 1, last_at = ${NOW}
          WHERE id = ?`,
        [sqlstate, storable(reason), id],
      );
    }
  }
}
