/** An administrator of PostgreSQL, who changes what a role's sessions are like, and ends them. */

import type { Pipeline } from "../support/pipeline.ts";
import { queryAt } from "../support/servers.ts";

/** Runs statements from another database: the settings of a role in the pipeline's do not hold there. */
async function administer({ servers }: Pipeline, ...statements: string[]): Promise<void> {
  await queryAt(servers.postgres.url, ...statements);
}

const roleOf = ({ config }: Pipeline) => {
  const { user, database } = config.postgresql;
  return `ALTER ROLE "${user}" IN DATABASE "${database}"`;
};

const ending = ({ config }: Pipeline) =>
  `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = '${config.postgresql.database}' AND pid <> pg_backend_pid()`;

/** Ends all sessions in the pipeline's database. */
export const endSessions = (pipeline: Pipeline): Promise<void> =>
  administer(pipeline, ending(pipeline));

/** Gives the role settings, and ends its sessions, so that the next ones have them. */
export const setRole = (pipeline: Pipeline, settings: readonly string[]): Promise<void> =>
  administer(
    pipeline,
    ...settings.map((setting) => `${roleOf(pipeline)} SET ${setting}`),
    ending(pipeline),
  );

/** Takes all settings of the role back, and ends its sessions. */
export const resetRole = (pipeline: Pipeline): Promise<void> =>
  administer(pipeline, `${roleOf(pipeline)} RESET ALL`, ending(pipeline));

/** Settings under which a sink must work as ever, by what they make of a role. */
export const ROLE_SETTINGS: Record<string, readonly string[]> = {
  "reads only": ["default_transaction_read_only = on"],
  "waits for nobody": ["lock_timeout = '50ms'", "statement_timeout = '400ms'"],
  "lives elsewhere": [
    "search_path = pg_catalog",
    "datestyle = 'German, DMY'",
    "intervalstyle = 'sql_standard'",
    "timezone = 'Asia/Kathmandu'",
    "bytea_output = 'escape'",
    "extra_float_digits = -15",
    "quote_all_identifiers = on",
  ],
  "does not care": [
    "synchronous_commit = off",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "standard_conforming_strings = off",
    "row_security = off",
  ],
};
