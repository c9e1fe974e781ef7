/**
 * Real servers for tests. Each test file starts its own and shares them with nobody:
 *
 *     await using servers = await testServers();            // or testRedis(), testPostgres()
 *     await using database = await testDatabase(servers.postgres);
 */

import pg from "pg";
import { NoEmbeddedServerError } from "writebehind/dev/servers/binaries.ts";
import { ServersFolder } from "writebehind/dev/servers/folder.ts";
import {
  type PostgresOptions,
  type PostgresServer,
  startPostgres,
} from "writebehind/dev/servers/postgres.ts";
import { type MariadbServer, startMariadb } from "writebehind/dev/servers/mariadb.ts";
import { type RedisOptions, type RedisServer, startRedis } from "writebehind/dev/servers/redis.ts";
import { ensureSetup } from "writebehind/dev/setup.ts";

/** Made when the file is loaded, so that no test's sanitizer takes the watching shell for a leak. */
const folder = new ServersFolder("writebehind-test-");

/** Returns a path in this test file's temporary folder, used by nothing else; nothing is there yet. */
export function testFolder(kind: string): string {
  return folder.next(kind);
}

/** A server, its end in a test's scope. */
type Owned<Server> = Server & AsyncDisposable;

/** Starts a Redis for this test file; stopped and removed at the end of the scope. */
export async function testRedis(
  options: Omit<RedisOptions, "dir"> & { dir?: string } = {},
): Promise<Owned<RedisServer>> {
  const dir = options.dir ?? folder.next("redis");
  return owned(await withSetup(() => startRedis({ ...options, dir })));
}

/** Starts a PostgreSQL for this test file; stopped and removed at the end of the scope. */
export async function testPostgres(
  options: Omit<PostgresOptions, "dir"> & { dir?: string } = {},
): Promise<Owned<PostgresServer>> {
  const dir = options.dir ?? folder.next("postgres");
  return owned(await withSetup(() => startPostgres({ ...options, dir })));
}

/** Starts a MariaDB for this test file; stopped and removed at the end of the scope. */
export async function testMariadb(
  extraArgs: readonly string[] = [],
): Promise<Owned<MariadbServer>> {
  const options = { dir: folder.next("mariadb"), password: "secret", extraArgs };
  return owned(await startMariadb(options));
}

/** What most test files need: a Redis, a replica of it where asked for, and a PostgreSQL. */
export interface TestServers extends AsyncDisposable {
  readonly redis: RedisServer;
  readonly replica?: RedisServer | undefined;
  readonly postgres: PostgresServer;
}

/** Starts a Redis, with `replica: true` a replica of it as well, and a PostgreSQL, all at once. */
export async function testServers(
  { replica = false, redis = {}, postgres = {} }: {
    replica?: boolean;
    redis?: Omit<RedisOptions, "dir">;
    postgres?: Omit<PostgresOptions, "dir">;
  } = {},
): Promise<TestServers> {
  await using started = new AsyncDisposableStack();
  const starting = {
    postgres: testPostgres(postgres),
    redis: testRedis(redis),
  };
  const settled = await Promise.allSettled(Object.values(starting));
  for (const result of settled) if (result.status === "fulfilled") started.use(result.value);
  const primary = await starting.redis;
  const target = await starting.postgres;
  const copy = replica ? started.use(await testRedis({ ...redis, replicaOf: primary })) : undefined;
  const all = started.move();
  return {
    redis: primary,
    replica: copy,
    postgres: target,
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** A database of one test's own, on a server that several tests share. */
export interface TestDatabase extends AsyncDisposable {
  readonly name: string;
}

/** Makes an empty database on `server`; dropped at the end of the scope, whoever is still connected. */
export async function testDatabase(server: PostgresServer): Promise<TestDatabase> {
  const name = `test_${crypto.randomUUID().replaceAll("-", "")}`;
  await queryAt(server.url, `CREATE DATABASE ${name}`);
  return {
    name,
    [Symbol.asyncDispose]: async () => {
      await queryAt(server.url, `DROP DATABASE ${name} WITH (FORCE)`);
    },
  };
}

/** Runs a statement as the owner of an embedded PostgreSQL, a superuser: for what the application's role may not. */
export async function asOwner({ ownerUrl }: PostgresServer, statement: string): Promise<void> {
  await queryAt(ownerUrl, statement);
}

/** Runs statements on a connection of their own; gives the rows of the last. */
export async function queryAt<Row extends pg.QueryResultRow>(
  url: string,
  ...statements: string[]
): Promise<Row[]> {
  const client = new pg.Client(url);
  await client.connect();
  try {
    let rows: Row[] = [];
    for (const statement of statements) ({ rows } = await client.query<Row>(statement));
    return rows;
  } finally {
    await client.end();
  }
}

function owned<Server extends RedisServer | PostgresServer | MariadbServer>(
  server: Server,
): Owned<Server> {
  return {
    ...server,
    [Symbol.asyncDispose]: async () => {
      await server.stop();
      await Deno.remove(server.dir, { recursive: true }).catch(missing);
    },
  };
}

/** A server that was started again on the same folder has removed it already. */
function missing(error: unknown): void {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}

/** Starts a server; where its program is missing, the set-up comes first. */
async function withSetup<T>(start: () => Promise<T>): Promise<T> {
  try {
    return await start();
  } catch (error) {
    if (!(error instanceof NoEmbeddedServerError)) throw error;
  }
  await ensureSetup({ onProgress: console.log });
  try {
    return await start();
  } catch (error) {
    if (!(error instanceof NoEmbeddedServerError)) throw error;
    throw new Error(`tests need servers of their own: ${error.message}`, { cause: error });
  }
}

/**
 * Polls `condition` until it holds, and returns what it returned.
 *
 * @param deadlineMs how long to wait, in milliseconds. @default {10000}
 * @param what what is awaited, for the error's sentence
 * @throws {Error} after the deadline, with the condition's last error if it threw
 */
export async function waitFor<T>(
  condition: () => T | Promise<T>,
  { what, deadlineMs = 10_000 }: { what: string; deadlineMs?: number },
): Promise<NonNullable<T>> {
  const deadline = Date.now() + deadlineMs;
  let cause: unknown;
  do {
    try {
      const result = await condition();
      if (result) return result;
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  } while (Date.now() < deadline);
  const reason = cause instanceof Error ? `: ${cause.message}` : "";
  throw new Error(`waited ${deadlineMs} ms in vain for ${what}${reason}`, { cause });
}
