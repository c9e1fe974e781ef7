/**
 * PostgreSQL as a target: one statement a batch, which checks the owner and the offset, writes and
 * removes rows, and moves the offset. One statement is one transaction, so there is no open transaction
 * that a sink could leave behind.
 * @module
 */

import type { Pool, PoolClient } from "pg";
import { type Config, entityConfig } from "../config.ts";
import type { PartitionKeys } from "../events.ts";
import { bytesArray, timeArray, versionArray } from "./binary.ts";
import { createTable, offsetOf } from "./schema.ts";
import { type Batch, type Claim, OwnershipLostError, type Target } from "./target.ts";

/**
 * The batch statement of a table. The offset moves only where it stands as expected and the epoch is
 * ours; rows are written only where it moved. An older version never replaces a newer one.
 */
function applySql(table: string): string {
  return `
WITH moved AS (
  UPDATE writebehind_offset
     SET last_id = $4, events = events + $5, updated_at = clock_timestamp()
   WHERE stream = $1 AND last_id = $2 AND epoch = $3
  RETURNING 1
), written AS (
  INSERT INTO "${table}" AS t (id, payload, created_at, updated_at, version)
  SELECT e.id, e.payload,
         -- An update does not know when its document was created: the row does.
         coalesce(e.created, (SELECT created_at FROM "${table}" WHERE id = e.id), e.updated),
         e.updated, e.version
    FROM unnest($6::text[], $7::jsonb[], $8::int8[], $9::timestamptz[], $10::timestamptz[])
         AS e (id, payload, version, created, updated)
   WHERE EXISTS (SELECT FROM moved)
  ON CONFLICT (id) DO UPDATE
     SET payload = excluded.payload, created_at = excluded.created_at,
         updated_at = excluded.updated_at, version = excluded.version
   WHERE t.version < excluded.version
), removed AS (
  DELETE FROM "${table}" AS t
   USING unnest($11::text[], $12::int8[]) AS e (id, version)
   WHERE t.id = e.id AND t.version < e.version AND EXISTS (SELECT FROM moved)
)
SELECT count(*)::int AS moved FROM moved`;
}

/** The PostgreSQL target of one entity. */
export class PostgresTarget implements Target {
  #pool: Pool;
  #config: Config;
  #entity: string;
  #sql: string;
  /** one connection a partition for batches; leases go by the pool's other connections */
  #connections = new Map<string, PoolClient>();

  constructor(pool: Pool, config: Config, entity: string) {
    this.#pool = pool;
    this.#config = config;
    this.#entity = entity;
    this.#sql = applySql(entityConfig(config, entity).table);
  }

  async claim(keys: PartitionKeys, owner: string, leaseSeconds: number): Promise<Claim | null> {
    const { stream } = keys;
    await createTable(this.#pool, this.#config, this.#entity);
    const connection = await this.#connect(stream);
    const { rows: [self] } = await connection.query<{ pid: number; started: string }>(
      "SELECT pid, backend_start::text AS started FROM pg_stat_activity WHERE pid = pg_backend_pid()",
    );
    const { rows: [lease] } = await this.#pool.query<
      { epoch: string; old_pid: number; old_started: string }
    >(
      `WITH old AS (
         SELECT backend_pid, backend_started FROM writebehind_lease WHERE stream = $1
       )
       INSERT INTO writebehind_lease AS l
              (stream, owner, epoch, lease_until, backend_pid, backend_started)
       VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3), $4, $5)
       ON CONFLICT (stream) DO UPDATE
          SET owner = $2, epoch = l.epoch + 1, lease_until = excluded.lease_until,
              backend_pid = $4, backend_started = $5
        WHERE l.lease_until < clock_timestamp() OR l.owner = $2
       RETURNING epoch, (SELECT backend_pid FROM old) AS old_pid,
                 (SELECT backend_started::text FROM old) AS old_started`,
      [stream, owner, leaseSeconds, self!.pid, self!.started],
    );
    if (lease === undefined) return null;
    // What the owner before had under way must not hold us up, nor land after us.
    await this.#pool.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid = $1 AND backend_start = $2 AND pid <> $3`,
      [lease.old_pid, lease.old_started, self!.pid],
    );
    await connection.query(
      "INSERT INTO writebehind_offset (stream) VALUES ($1) ON CONFLICT DO NOTHING",
      [stream],
    );
    const { rows: [row] } = await connection.query<{ last_id: string }>(
      `UPDATE writebehind_offset SET epoch = $2, owner = $3 WHERE stream = $1 AND epoch < $2
       RETURNING last_id`,
      [stream, lease.epoch, owner],
    );
    if (row === undefined) return null;
    return { keys, owner, epoch: lease.epoch, offset: row.last_id };
  }

  offset({ stream }: PartitionKeys): Promise<string> {
    return offsetOf(this.#pool, stream);
  }

  async renew({ keys, owner, epoch }: Claim, leaseSeconds: number): Promise<void> {
    const { rowCount } = await this.#pool.query(
      `UPDATE writebehind_lease SET lease_until = clock_timestamp() + make_interval(secs => $4)
        WHERE stream = $1 AND owner = $2 AND epoch = $3`,
      [keys.stream, owner, epoch, leaseSeconds],
    );
    if (rowCount === 0) throw this.#lost(keys);
  }

  async release({ keys, owner, epoch }: Claim): Promise<void> {
    this.#disconnect(keys.stream);
    await this.#pool.query(
      `UPDATE writebehind_lease SET lease_until = '-infinity'
        WHERE stream = $1 AND owner = $2 AND epoch = $3`,
      [keys.stream, owner, epoch],
    );
  }

  async apply(claim: Claim, batch: Batch): Promise<void> {
    const { stream } = claim.keys;
    const { upserts, removals } = batch;
    const connection = await this.#connect(stream);
    try {
      const { rows } = await connection.query<{ moved: number }>({
        name: `apply ${this.#entity}`,
        text: this.#sql,
        values: [
          stream,
          claim.offset,
          claim.epoch,
          batch.lastId,
          batch.events,
          bytesArray("text", upserts.map(({ id }) => id)),
          bytesArray("jsonb", upserts.map(({ payload }) => payload)),
          versionArray(upserts),
          timeArray(upserts.map(({ created }) => created)),
          timeArray(upserts.map(({ updated }) => updated)),
          bytesArray("text", removals.map(({ id }) => id)),
          versionArray(removals),
        ],
      });
      if (rows[0]!.moved === 0) throw this.#lost(claim.keys);
      claim.offset = batch.lastId;
    } catch (error) {
      // Whatever it was, the next batch starts on a connection that is known to be good.
      if (!(error as { code?: string }).code?.match(/^[0-9A-Z]{5}$/)) this.#disconnect(stream);
      throw error;
    }
  }

  #lost({ stream }: PartitionKeys): OwnershipLostError {
    return new OwnershipLostError(`another sink owns ${stream} now`);
  }

  async #connect(stream: string): Promise<PoolClient> {
    const known = this.#connections.get(stream);
    if (known) return known;
    const connection = await this.#pool.connect();
    try {
      // A plan made while the table was empty would scan the whole table for ever after.
      await connection.query("SET enable_seqscan = off");
    } catch (error) {
      connection.release(true);
      throw error;
    }
    connection.on("error", () => this.#disconnect(stream));
    this.#connections.set(stream, connection);
    return connection;
  }

  #disconnect(stream: string): void {
    const connection = this.#connections.get(stream);
    this.#connections.delete(stream);
    connection?.release(true);
  }

  close(): Promise<void> {
    for (const stream of [...this.#connections.keys()]) this.#disconnect(stream);
    return Promise.resolve();
  }
}
