/**
 * node-postgres's pool under a name of our own, since it is in public signatures and has its own
 * documentation: https://node-postgres.com/apis/pool
 * @module
 */

import type pg from "pg";

/**
 * node-postgres's pool.
 * @internal
 */
export type Pool = pg.Pool;

/** A pool of connections to PostgreSQL that can be disposed of. */
export type PostgresPool = Pool & AsyncDisposable;
