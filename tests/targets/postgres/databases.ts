/** Databases for the tests of migrations: empty ones, and such as other versions leave behind. */

import assert from "node:assert/strict";
import { join } from "node:path";
import type { Pool } from "pg";
import { ConnectionError, deleteDocument, insertDocument, updateDocument } from "writebehind";
import type { Migration } from "writebehind/targets/migrations.ts";
import { MIGRATIONS } from "writebehind/targets/postgres/migrations/mod.ts";
import { type Pipeline, pipelineOn } from "../../support/pipeline.ts";
import type { TestServers } from "../../support/servers.ts";

/** An empty Redis, and a database in which nothing was made yet. */
export async function emptyPipeline(servers: TestServers): Promise<Pipeline> {
  const pipeline = await pipelineOn(servers);
  await pipeline.redis.flushall();
  return pipeline;
}

/** The SQL of a version that was released before migrations had numbers. */
export const released = (name: string): Promise<string> =>
  Deno.readTextFile(join(import.meta.dirname!, "released", `${name}.sql`));

/** What has run, as `number table`. */
export async function recordOf(pool: Pool): Promise<string[]> {
  const { rows } = await pool.query<{ number: number; table_name: string }>(
    "SELECT number, table_name FROM writebehind_migration ORDER BY number, table_name",
  );
  return rows.map(({ number, table_name }) => `${number} ${table_name}`);
}
export const ALL: string[] = ["1 ", "2 sessions", "3 ", "4 "];

export async function tablesIn(pool: Pool): Promise<string[]> {
  const { rows } = await pool.query<{ name: string }>(
    `SELECT oid::regclass::text AS name FROM pg_class
      WHERE relkind = 'r' AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)' ORDER BY 1`,
  );
  return rows.map(({ name }) => name);
}

/** The number of the version after this one. */
export const NEXT: number = MIGRATIONS.at(-1)!.number + 1;

/** A version after this one. */
export const next = (more: Partial<Migration> & Pick<Migration, "sql">): Migration[] => [
  ...MIGRATIONS,
  { number: NEXT, name: `000${NEXT}_next`, of: "entity", oldest: NEXT - 1, ...more },
];
export const COLOR = "ALTER TABLE {table} ADD COLUMN color TEXT;";

/** What something is refused with. */
export async function refusalOf(failing: Promise<unknown>): Promise<ConnectionError> {
  const error = await failing.then(() => assert.fail("it was not refused"), (error) => error);
  assert(error instanceof ConnectionError, String(error));
  return error;
}

/** Some documents, and what is done with them. */
export async function write({ redis, config }: Pipeline): Promise<void> {
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await insertDocument(redis, config, "session", { n: 1 }, "b");
  await updateDocument(redis, config, "session", "a", { n: 2 });
  await deleteDocument(redis, config, "session", "b");
  await insertDocument(redis, config, "session", { n: 1 }, "c");
}
