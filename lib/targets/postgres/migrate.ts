/**
 * The tables in PostgreSQL: an entity's own, in the shape of the original project plus `updated_at` and
 * `version`, and ours.
 * @module
 */

import type { Pool } from "pg";
import { type Config, entityConfig } from "../../config/load.ts";
import { PATIENCE_MS, type TimedQuery } from "./sessions.ts";

/** Our own tables. The lease has a row of its own, so that renewing it never waits for a batch. */
const OUR_TABLES = `
CREATE TABLE IF NOT EXISTS writebehind_offset (
  stream     TEXT PRIMARY KEY,
  last_id    TEXT NOT NULL DEFAULT '0-0',
  events     BIGINT NOT NULL DEFAULT 0,
  epoch      BIGINT NOT NULL DEFAULT 0,
  owner      TEXT,
  updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  -- The entry that the stream must still hold, and how often it did not.
  witness        TEXT NOT NULL DEFAULT '0-0',
  went_back      INTEGER NOT NULL DEFAULT 0,
  went_back_at   TIMESTAMPTZ,
  parked_version BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS writebehind_lease (
  stream          TEXT PRIMARY KEY,
  owner           TEXT NOT NULL,
  epoch           BIGINT NOT NULL,
  lease_until     TIMESTAMPTZ NOT NULL,
  backend_pid     INTEGER NOT NULL,
  backend_started TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS writebehind_dead_letter (
  id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  entity      TEXT NOT NULL,
  stream      TEXT NOT NULL,
  stream_id   TEXT NOT NULL,
  -- Bytes, since text could refuse the very thing that is to be kept.
  doc_id      BYTEA,
  fingerprint BYTEA GENERATED ALWAYS AS (sha256(doc_id)) STORED,
  event_type  TEXT NOT NULL,
  ts          BIGINT,
  payload     BYTEA,
  fields      BYTEA[],
  sqlstate    TEXT NOT NULL,
  reason      TEXT NOT NULL,
  attempts    INTEGER NOT NULL DEFAULT 1,
  first_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
  last_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
  -- parked, replayed, superseded (a newer event of the document was replayed) or discarded
  state       TEXT NOT NULL DEFAULT 'parked',
  UNIQUE (stream, stream_id)
);
-- Stays empty: a row whose parent is missing makes a statement fail on purpose, after all else it does.
CREATE TABLE IF NOT EXISTS writebehind_probe (
  id     INTEGER PRIMARY KEY,
  parent INTEGER NOT NULL REFERENCES writebehind_probe (id)
);
CREATE INDEX IF NOT EXISTS writebehind_dead_letter_parked
    ON writebehind_dead_letter (stream, fingerprint) WHERE state = 'parked';
`;

/** Any number will do, as long as all of our processes take the same one. */
const DDL_LOCK = 7_305_115_611;

/**
 * Creates an entity's table and ours where they are missing, and adds the columns that a table made by
 * the original project lacks. Safe to run at any time, by several processes, and by a user that may not
 * create tables where they are all there.
 */
export async function createTable(pool: Pool, config: Config, entity: string): Promise<void> {
  const { table } = entityConfig(config, entity);
  const query: TimedQuery = {
    text: `SELECT to_regclass('writebehind_offset') IS NOT NULL
        AND to_regclass('writebehind_lease') IS NOT NULL
        AND to_regclass('writebehind_dead_letter') IS NOT NULL
        AND to_regclass('writebehind_probe') IS NOT NULL
        AND count(*) = 2 AS complete
       FROM pg_attribute
      WHERE attrelid = to_regclass($1) AND attname IN ('updated_at', 'version')`,
    values: [`"${table}"`],
    query_timeout: PATIENCE_MS,
  };
  const { rows } = await pool.query<{ complete: boolean }>(query);
  if (rows[0]?.complete) return;
  // Names come from the configuration, which allows only letters, digits and underscores.
  // Several statements in one simple query are one transaction.
  await pool.query(`
    SELECT pg_advisory_xact_lock(${DDL_LOCK});
    CREATE TABLE IF NOT EXISTS "${table}" (
      id         TEXT PRIMARY KEY,
      payload    JSONB,
      created_at TIMESTAMPTZ DEFAULT now(),
      updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
      version    BIGINT NOT NULL DEFAULT 0
    );
    ALTER TABLE "${table}"
      ADD COLUMN IF NOT EXISTS updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
      ADD COLUMN IF NOT EXISTS version BIGINT NOT NULL DEFAULT 0;
    ${OUR_TABLES}
  `);
}
