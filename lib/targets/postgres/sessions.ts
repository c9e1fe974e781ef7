/**
 * The connections of the PostgreSQL target: one a partition for its batches, and the pool's others for what must
 * not wait behind a batch.
 * @module
 */

import type { Pool, PoolClient, QueryConfig, QueryResult, QueryResultRow } from "pg";
import { failpoint } from "../../core/failpoints.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { isPostgresError, postgresErrorKind } from "./errors.ts";

/**
 * A query with a time limit in ms, past which pg gives it up (its types do not know of it): on a connection
 * that has silently died it would wait until the system gives up.
 */
export type TimedQuery = QueryConfig & { query_timeout?: number };

/** How long a query may take that neither writes rows nor waits for anybody, in ms. */
export const PATIENCE_MS = 5000;

/**
 * What a session of the sink relies on, whatever the role's own settings say. A commit must be durable, since the
 * stream is trimmed behind it; a plan made while the table was empty would scan the whole table for ever after; rows
 * that a policy would hide are an error.
 */
const SETTINGS = `
SELECT set_config('synchronous_commit', 'on', false)
 WHERE current_setting('synchronous_commit') IN ('off', 'local');
SET enable_seqscan = off;
SET row_security = off;
SET idle_session_timeout = 0;
SET default_transaction_isolation = 'read committed';
SET default_transaction_read_only = off;
SET default_transaction_deferrable = off;
SET standard_conforming_strings = on`;

/** How a partition's own query is sent. */
export interface PartitionQuery {
  /** shows in logs and in pg_stat_statements; PostgreSQL keeps the statement prepared under it; "" for neither */
  name: string;
  text: string;
  values: unknown[];
  /** how long it may take; a batch may take as long as its lease is kept */
  seconds?: number;
  /** tells texts of one name apart */
  variant?: string;
}

/** Gives each partition a connection of its own, and notices when one is lost. */
export class Sessions {
  readonly pool: Pool;
  #connections = new Map<string, PoolClient>();
  /** queries that wait for the server: since when (ms), and how to stop waiting */
  #underWay = new Map<string, { since: number; fail: (reason: Error) => void }>();

  constructor(pool: Pool) {
    this.pool = pool;
  }

  /** A query on any connection, given up after `seconds`: nobody may hang on a dead connection. */
  patiently<Row extends QueryResultRow>(
    seconds: number,
    text: string,
    values: unknown[],
  ): Promise<QueryResult<Row>> {
    const query: TimedQuery = { text, values, query_timeout: seconds * 1000 };
    return this.pool.query<Row>(query);
  }

  /** A query on the partition's own connection. */
  async query<Row extends QueryResultRow>(
    { stream }: PartitionKeys,
    { name, text, values, seconds, variant }: PartitionQuery,
  ): Promise<QueryResult<Row>> {
    const connection = await this.#connect(stream);
    const abandoned = Promise.withResolvers<never>();
    this.#underWay.set(stream, { since: Date.now(), fail: abandoned.reject });
    try {
      const prepared = variant === undefined ? name : `${name} ${variant}`;
      const query: TimedQuery = { ...(name === "" ? {} : { name: prepared }), text, values };
      if (seconds !== undefined) query.query_timeout = seconds * 1000;
      const reply = connection.query<Row>(query);
      await failpoint?.(`sent ${name}`);
      return await Promise.race([reply, abandoned.promise]);
    } catch (error) {
      // A connection that failed otherwise than by an answer is not used again. Nor is one whose session may be
      // to blame: a primary that was demoted, or a role whose settings have changed, is only left by a new one.
      if (!isPostgresError(error) || postgresErrorKind(error) === "configuration") {
        this.disconnect(stream);
      }
      throw error;
    } finally {
      this.#underWay.delete(stream);
    }
  }

  /** Runs a query with all constraints checked at once, and takes back what it did. */
  async rolledBack(keys: PartitionKeys, query: PartitionQuery): Promise<void> {
    const plain = (text: string) => this.query(keys, { name: "", text, values: [] });
    await plain("BEGIN");
    try {
      await plain("SET CONSTRAINTS ALL IMMEDIATE");
      await this.query(keys, query);
    } finally {
      // A connection that was lost meanwhile is another one now, in no transaction.
      await plain("ROLLBACK");
    }
  }

  /** For how long the partition's query has been under way, in ms; 0 where there is none. */
  waitingMs({ stream }: PartitionKeys): number {
    const query = this.#underWay.get(stream);
    return query === undefined ? 0 : Date.now() - query.since;
  }

  /** Makes the partition's query fail with `reason`, whatever becomes of it in the server. */
  abandon({ stream }: PartitionKeys, reason: Error): void {
    this.#underWay.get(stream)?.fail(reason);
  }

  async #connect(stream: string): Promise<PoolClient> {
    const known = this.#connections.get(stream);
    if (known) return known;
    const connection = await this.pool.connect();
    // At once: it may come with the first answer.
    connection.on("error", () => {
      if (this.#connections.get(stream) === connection) this.disconnect(stream);
    });
    try {
      const query: TimedQuery = { text: SETTINGS, query_timeout: PATIENCE_MS };
      await connection.query(query);
    } catch (error) {
      connection.release(true);
      throw error;
    }
    this.#connections.set(stream, connection);
    return connection;
  }

  /** Closes the partition's connection. */
  disconnect(stream: string): void {
    const connection = this.#connections.get(stream);
    this.#connections.delete(stream);
    connection?.release(true);
  }

  /** Closes all connections of partitions; the pool stays. */
  close(): void {
    for (const stream of [...this.#connections.keys()]) this.disconnect(stream);
  }
}
