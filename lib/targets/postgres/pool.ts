/**
 * node-postgres's pool under a name of our own, since it is in public signatures and has its own
 * documentation: https://node-postgres.com/apis/pool
 * @module
 */

// A program that links to this folder has its own node_modules, in which nothing else leads to the types.
// @ts-types="@types/pg"
import type pg from "pg";

/**
 * node-postgres's pool.
 * @internal
 */
export type Pool = pg.Pool;

/**
 * One of its connections.
 * @internal
 */
export type PoolClient = pg.PoolClient;

/** The process id that the server announced when the connection was made, which pg's types lack; poolers make one up. */
export const announcedPid = (connection: object): number | null | undefined =>
  (connection as { processID?: number | null }).processID;

/** A pool of connections to PostgreSQL that can be disposed of. */
export type PostgresPool = Pool & AsyncDisposable;
