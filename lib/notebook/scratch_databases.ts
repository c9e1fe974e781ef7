/**
 * Empty databases on the servers that a notebook uses: what is measured in them disturbs no data.
 * @module
 */

import { parseDatabaseUrl } from "../config/addresses.ts";
import { type Config, configWith } from "../config/load.ts";
import { readRecord } from "../config/record.ts";
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
  /**
   * The same database for COPY from and to files of the server: of an embedded one as its owner, since the
   * application's role may not; elsewhere `postgres`, which may or may not.
   */
  readonly copying: Pool;
}

/**
 * Makes a PostgreSQL database and takes an empty Redis database; both are emptied again on disposal.
 * @param config names the servers, and a PostgreSQL user that may create databases
 * @param options.root the checkout that runs the embedded servers. @default {this one}
 * @throws {WriteBehindError} where the Redis database holds data of others
 */
export async function openScratchDatabases(
  config: Config,
  { root }: { root?: string } = {},
): Promise<ScratchDatabases> {
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
  const owner = await ownerOf(scratch, root);
  const copying = owner === null ? postgres : await connectPostgres(owner);
  if (owner !== null) stack.defer(() => copying.end());
  const owned = stack.move();
  const dispose = () => owned.disposeAsync();
  return { config: scratch, redis, postgres, copying, [Symbol.asyncDispose]: dispose };
}

/** The configuration with the owner of the embedded server that it names; `null` where it names another. */
async function ownerOf(config: Config, root?: string): Promise<Config | null> {
  const { servers: { postgres } } = await readRecord(root);
  if (postgres?.ownerUrl === undefined) return null;
  const { host, port, user, password } = parseDatabaseUrl("ownerUrl", postgres.ownerUrl);
  const { postgresql: at } = config;
  if (host !== at.host || port !== at.port) return null;
  return configWith(config, { postgresql: { user, password } });
}

async function administer(config: Config, statement: string): Promise<void> {
  const pool = await connectPostgres(config);
  try {
    await pool.query(statement);
  } finally {
    await pool.end();
  }
}
