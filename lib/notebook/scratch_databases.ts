/**
 * Empty databases on the servers that a notebook uses: what is measured in them disturbs no data.
 * @module
 */

import { type Config, configWith } from "../config/load.ts";
import { WriteBehindError } from "../core/errors.ts";
import { connectRedis, type RedisConnection } from "../redis/connection.ts";
import { connectPostgres, createTable, type Pool } from "../targets/open.ts";

/** Redis's database, and PostgreSQL's. */
const REDIS_DB = 1;
const DATABASE = "writebehind_speed";

/** Tells our leftovers in the Redis database from anybody's data. */
const MARK = "writebehind:speed";

/** Connections to empty databases, with an empty table of the entity `session`. */
export interface ScratchDatabases extends AsyncDisposable {
  /** the configuration that names them */
  readonly config: Config;
  /** an empty database of Redis */
  readonly redis: RedisConnection;
  /** a PostgreSQL database with an empty table */
  readonly postgres: Pool;
}

/**
 * Makes a PostgreSQL database and takes an empty Redis database; both are emptied again on disposal.
 * @param config names the servers, and a PostgreSQL user that may create databases
 * @throws {WriteBehindError} where the Redis database holds data of others
 */
export async function openScratchDatabases(config: Config): Promise<ScratchDatabases> {
  const scratch = configWith(config, {
    redis: { db: REDIS_DB },
    postgresql: { database: DATABASE },
    search_index: { create_index: false },
  });
  await using stack = new AsyncDisposableStack();
  const redis = stack.use(await connectRedis(scratch));
  if (await redis.dbsize() > 0 && !await redis.exists(MARK)) {
    throw new WriteBehindError(
      `Redis database ${REDIS_DB} is not empty: measuring needs one that is, so nothing was touched`,
    );
  }
  stack.defer(async () => {
    // Or closing the connection would send them afterwards.
    await redis.counters.flush();
    await redis.flushdb();
  });
  await redis.flushdb();
  await redis.set(MARK, "may be emptied at any time");
  await administer(config, `DROP DATABASE IF EXISTS ${DATABASE} WITH (FORCE)`);
  await administer(config, `CREATE DATABASE ${DATABASE}`);
  stack.defer(() => administer(config, `DROP DATABASE IF EXISTS ${DATABASE} WITH (FORCE)`));
  const postgres = await connectPostgres(scratch);
  stack.defer(() => postgres.end());
  await createTable(postgres, scratch, "session");
  const owned = stack.move();
  return { config: scratch, redis, postgres, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function administer(config: Config, statement: string): Promise<void> {
  const pool = await connectPostgres(config);
  try {
    await pool.query(statement);
  } finally {
    await pool.end();
  }
}
