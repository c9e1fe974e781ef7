/**
 * What our queries rely on of a connection's settings, whatever the role's say. It is set, but behind a pooler that gives
 * the server's connections to others after each transaction: what is set there is lost, or is left to somebody else. Such
 * connections must begin with it.
 * @module
 */

/**
 * How dates, bytes, numbers and names are spelled, that rows are written and are there for everybody once they are, and
 * that the table's own triggers fire.
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
export const BATCH_SETTINGS = `${SETTINGS};
SELECT set_config('synchronous_commit', 'on', false)
 WHERE current_setting('synchronous_commit') IN ('off', 'local');
SET enable_seqscan = off;
SET row_security = off;
SET idle_session_timeout = 0;
SET standard_conforming_strings = on`;

/** What poolers keep for each client, since the server tells of every change of it. */
export const POOLED_SETTINGS = `
SET datestyle = 'ISO';
SET timezone = 'UTC';
SET standard_conforming_strings = on`;

/** A setting with which a connection must not begin. */
export interface WrongDefault {
  name: string;
  /** what it is now */
  value: string;
  /** a statement that mends it for the connections that the pooler makes from then on */
  mend: string;
}

/**
 * Finds these; $1 is whether batches are to go by the connection. What fails by itself where it is wrong is not among them.
 * Nothing is prepared behind a pooler, so no plan is kept either.
 * Source: https://www.pgbouncer.org/features.html, what each mode of pooling breaks
 */
export const WRONG_DEFAULTS = `
SELECT name, reset_val AS value,
       format('ALTER ROLE %I IN DATABASE %I SET %s = %s', current_user, current_database(), name, wanted) AS mend
  FROM (VALUES ('bytea_output', '^hex$', 'hex', false),
               ('extra_float_digits', '^[123]$', '1', false),
               ('quote_all_identifiers', '^off$', 'off', false),
               ('default_transaction_isolation', '^read committed$', '''read committed''', true),
               ('session_replication_role', '^origin$', 'origin', true),
               ('synchronous_commit', '^(on|remote_write|remote_apply)$', 'on', true),
               -- A batch that is under way is found by its words.
               ('track_activities', '^on$', 'on', true)) AS ours (name, pattern, wanted, of_batches)
  JOIN pg_settings USING (name)
 WHERE reset_val !~ pattern AND ($1 OR NOT of_batches)
 ORDER BY name`;
