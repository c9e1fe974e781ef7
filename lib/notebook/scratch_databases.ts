/**
 * Empty databases on the servers that a notebook uses: what is measured in them disturbs no data.
 * @module
 */

import { parseDatabaseUrl } from "../config/database_address.ts";
import { type Config, configWith } from "../config/load.ts";
import { WriteBehindError } from "../core/errors.ts";
import { connectRedis } from "../redis/connect.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { connectPostgres, createTable, type Pool } from "../targets/open.ts";

/** Redis's databases that may be taken: 0 is for everybody's documents, and a server has 16 by default. */
const REDIS_DBS = Array.from({ length: 15 }, (_, index) => index + 1);

/** Tells our leftovers in a Redis database from anybody's data. */
const MARK = "writebehind:speed";
/** There as long as its user lives: a database of ours without it may be taken. */
const TAKEN = "writebehind:speed:taken";
const TAKEN_SECONDS = 60;
const RENEW_MS = 20_000;

/** Connections to empty databases, with an empty table of the entity `session`. */
export interface ScratchDatabases extends AsyncDisposable {
  /** the configuration that names them */
  readonly config: Config;
  /** an empty database of Redis */
  readonly redis: RedisConnection;
  /** a PostgreSQL database with an empty table */
  readonly postgres: Pool;
  /**
   * The same database for COPY from and to files of the server: as its owner where the address is given, since the
   * application's role may not; otherwise `postgres`, which may or may not.
   */
  readonly copying: Pool;
}

/**
 * Takes a Redis database that is empty, and makes a PostgreSQL database that goes with it; both are gone again on
 * disposal. Notebooks that run at the same time have others.
 * @param config names the servers, and a PostgreSQL user that may create databases
 * @param options.ownerUrl the address of PostgreSQL's owner
 * @throws {WriteBehindError} where no Redis database is free
 */
export async function openScratchDatabases(
  config: Config,
  { ownerUrl }: { ownerUrl?: string | undefined } = {},
): Promise<ScratchDatabases> {
  await using stack = new AsyncDisposableStack();
  const { redis, db } = await takeRedis(config);
  stack.use(redis);
  stack.defer(async () => {
    // Or closing the connection would send them afterwards.
    await redis.counters.flush();
    await redis.flushdb();
  });
  const renewing = setInterval(() => {
    redis.expire(TAKEN, TAKEN_SECONDS).catch(() => {}); // Redis is away: what is measured says so
  }, RENEW_MS);
  Deno.unrefTimer(renewing);
  stack.defer(() => clearInterval(renewing));
  const database = `writebehind_speed_${db}`;
  const scratch = configWith(config, { ...scratchRedis(db), postgresql: { database } });
  await administer(config, `DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
  await administer(config, `CREATE DATABASE ${database}`);
  stack.defer(() => administer(config, `DROP DATABASE IF EXISTS ${database} WITH (FORCE)`));
  const postgres = await connectPostgres(scratch);
  stack.defer(() => postgres.end());
  await createTable(postgres, scratch, "session");
  const copying = ownerUrl === undefined
    ? postgres
    : await connectPostgres(configWith(scratch, { postgresql: ownerOf(ownerUrl) }));
  if (copying !== postgres) stack.defer(() => copying.end());
  const owned = stack.move();
  const dispose = () => owned.disposeAsync();
  return { config: scratch, redis, postgres, copying, [Symbol.asyncDispose]: dispose };
}

const scratchRedis = (db: number) => ({ redis: { db }, search_index: { create_index: false } });

/** Takes the first database that is empty, or that was ours and that nobody uses any more. */
async function takeRedis(config: Config): Promise<{ redis: RedisConnection; db: number }> {
  for (const db of REDIS_DBS) {
    const redis = await connectRedis(configWith(config, scratchRedis(db)));
    const ours = await redis.dbsize() === 0 || await redis.exists(MARK) === 1;
    if (ours && await redis.set(TAKEN, "in use", "EX", TAKEN_SECONDS, "NX") === "OK") {
      const emptied = redis.multi().flushdb().set(TAKEN, "in use", "EX", TAKEN_SECONDS);
      await emptied.set(MARK, "may be emptied at any time").exec();
      return { redis, db };
    }
    await redis[Symbol.asyncDispose]();
  }
  throw new WriteBehindError(
    `none of the Redis databases 1 to ${REDIS_DBS.length} is empty: measuring needs one that is, so ` +
      "nothing was touched",
  );
}

/** Who it is, and its password. */
function ownerOf(url: string): { user: string; password: string | null } {
  const { user, password } = parseDatabaseUrl("ownerUrl", url);
  return { user, password };
}

async function administer(config: Config, statement: string): Promise<void> {
  await using pool = await connectPostgres(config);
  await pool.query(statement);
}
