/**
 * The connections of the PostgreSQL target: one for each partition's batches, and others from the pool for what
 * must not wait behind a batch.
 * @module
 */

import type { Pool, PoolClient, QueryConfig, QueryResult, QueryResultRow } from "pg";
import { failpoint } from "../../core/failpoints.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { isPostgresError, postgresErrorKind } from "./errors.ts";

/**
 * A query with a time limit in ms, after which pg gives up on it (pg's types lack the option). Without it, a
 * query on a connection that has silently died would wait until the system gives up.
 */
type TimedQuery = QueryConfig & { query_timeout?: number };

/** How long a query may take that writes no rows and waits for nobody, in ms. */
const PATIENCE_MS = 5000;

/**
 * A query on a connection, or on any of a pool, abandoned after a while: nobody may hang on a dead connection.
 * @param seconds how long it may take
 */
export function patiently<Row extends QueryResultRow>(
  pool: Pick<Pool, "query">,
  text: string,
  values: unknown[],
  seconds: number = PATIENCE_MS / 1000,
): Promise<QueryResult<Row>> {
  const query: TimedQuery = { text, values, query_timeout: seconds * 1000 };
  return pool.query<Row>(query);
}

/**
 * What all our queries rely on, whatever the role's settings say: how dates, bytes, numbers and names are spelled, that
 * rows are written and are there for everybody once they are, and that the table's own triggers fire.
 */
export const SETTINGS = `
SET datestyle = 'ISO';
SET bytea_output = 'hex';
SET timezone = 'UTC';
SET extra_float_digits = 1;
SET quote_all_identifiers = off;
SET default_transaction_read_only = off;
SET default_transaction_isolation = 'read committed';
SET default_transaction_deferrable = off;
SELECT set_config('session_replication_role', 'origin', false)
 WHERE current_setting('session_replication_role') <> 'origin'
   AND has_parameter_privilege('session_replication_role', 'SET')`;

/**
 * What a session for batches relies on besides. A commit must be durable, since the stream is trimmed after it. A plan
 * that was made while the table was empty would scan the whole table for ever. Rows that a policy would hide must be
 * an error. The pool may be of another's making, so all is set.
 */
const BATCH_SETTINGS = `${SETTINGS};
SELECT set_config('synchronous_commit', 'on', false)
 WHERE current_setting('synchronous_commit') IN ('off', 'local');
SET enable_seqscan = off;
SET row_security = off;
SET idle_session_timeout = 0;
SET standard_conforming_strings = on`;

/** How a partition's own query is sent. */
export interface PartitionQuery {
  /** shows in logs and in pg_stat_statements; PostgreSQL keeps the statement prepared under it; "" for neither */
  name: string;
  text: string;
  values: unknown[];
  /** how long it may take; a batch may take as long as its lease is kept */
  seconds?: number;
  /** distinguishes the texts of one name */
  variant?: string;
}

/** Gives each partition a connection of its own, and notices when one is lost. */
export class Sessions {
  readonly pool: Pool;
  #connections = new Map<string, Promise<PoolClient>>();
  /** queries that wait for the server: since when (ms), and how to stop waiting */
  #underWay = new Map<string, { since: number; fail: (reason: Error) => void }>();

  constructor(pool: Pool) {
    this.pool = pool;
  }

  /** A query on the partition's own connection. */
  async query<Row extends QueryResultRow>(
    { stream }: PartitionKeys,
    { name, text, values, seconds, variant }: PartitionQuery,
  ): Promise<QueryResult<Row>> {
    const connection = await this.#connection(stream);
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
      // A connection is not used again if it failed without an answer, or if its session may be to blame: after a
      // primary was demoted, or a role's settings changed, only a new connection helps.
      if (!isPostgresError(error) || postgresErrorKind(error) === "configuration") {
        this.disconnect(stream);
      }
      throw error;
    } finally {
      this.#underWay.delete(stream);
    }
  }

  /** Runs a query with all constraints checked at once, and rolls it back. */
  async rolledBack(keys: PartitionKeys, query: PartitionQuery): Promise<void> {
    const plain = (text: string) => this.query(keys, { name: "", text, values: [] });
    await plain("BEGIN");
    try {
      await plain("SET CONSTRAINTS ALL IMMEDIATE");
      await this.query(keys, query);
    } finally {
      // If the connection was lost meanwhile, this is a new one, in no transaction.
      await plain("ROLLBACK");
    }
  }

  /** For how long the partition's query has been under way, in ms; 0 where there is none. */
  waitingMs({ stream }: PartitionKeys): number {
    const query = this.#underWay.get(stream);
    return query === undefined ? 0 : Date.now() - query.since;
  }

  /** Makes the partition's query fail with `reason`; the server may still finish it. */
  abandon({ stream }: PartitionKeys, reason: Error): void {
    this.#underWay.get(stream)?.fail(reason);
  }

  #connection(stream: string): Promise<PoolClient> {
    const known = this.#connections.get(stream);
    if (known) return known;
    const opening = this.#connect(() => {
      if (this.#connections.get(stream) === opening) this.disconnect(stream);
    });
    this.#connections.set(stream, opening);
    opening.catch(() => { // whoever asked for it has the error
      if (this.#connections.get(stream) === opening) this.#connections.delete(stream);
    });
    return opening;
  }

  async #connect(lost: () => void): Promise<PoolClient> {
    const connection = await this.pool.connect();
    // Registered at once, since the error may come with the first answer.
    connection.on("error", lost);
    try {
      const query: TimedQuery = { text: BATCH_SETTINGS, query_timeout: PATIENCE_MS };
      await connection.query(query);
      return connection;
    } catch (error) {
      connection.release(true);
      throw error;
    }
  }

  /** Closes the partition's connection, also one that is only being opened: nobody else would give it back. */
  disconnect(stream: string): void {
    const opening = this.#connections.get(stream);
    this.#connections.delete(stream);
    opening?.then((connection) => connection.release(true), () => {}); // one that was not opened: the asker has the error
  }

  /** Closes all connections of partitions; the pool stays. */
  close(): void {
    for (const stream of [...this.#connections.keys()]) this.disconnect(stream);
  }
}
