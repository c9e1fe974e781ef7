/**
 * PostgreSQL's errors, and what they mean for the sink.
 * Codes: the PostgreSQL manual, appendix "PostgreSQL Error Codes".
 * @module
 */

import { connectionErrorKind, type ErrorKind } from "../../core/error_kinds.ts";
import { ConnectionError } from "../../core/errors.ts";

/** An error that PostgreSQL itself reported, as pg throws it. */
export interface PostgresError extends Error {
  /** five characters */
  code: string;
  table?: string;
}

/** Whether PostgreSQL itself reported an error; else the driver or the network did. */
export function isPostgresError(error: unknown): error is PostgresError {
  return error instanceof Error && "severity" in error && "code" in error &&
    /^[0-9A-Z]{5}$/.test(String(error.code));
}

export const UNDEFINED_TABLE = "42P01";
export const UNDEFINED_COLUMN = "42703";
export const UNIQUE_VIOLATION = "23505";
export const CHECK_VIOLATION = "23514";
export const INSUFFICIENT_PRIVILEGE = "42501";
export const INVALID_SCHEMA = "3F000";
export const LOCK_NOT_AVAILABLE = "55P03";

// Exact codes win over classes; a code that is not listed is a matter of configuration.
const KINDS: [pattern: RegExp, kind: ErrorKind][] = [
  [/^(57014|25P03|25P04)$/, "too_large"],
  [/^(53100|58030)$/, "configuration"],
  [/^(08...|57P0.|53300|25P02)$/, "transient"],
  [/^(40...|53...|55...|57...)$/, "chance"],
  // A foreign key, a unique one, an exclusion.
  [/^(23503|23505|23P01)$/, "related"],
  [/^(22...|23...|44000|54...|P0001)$/, "document"],
];

/** A full or broken disk, which may hit some rows before others; a standby; a login. */
const SERVER = /^(53100|58030|25006|28...)$/;

/** Whether an error says nothing of the rows that met it. */
export function isOfTheServer({ code }: Pick<PostgresError, "code">): boolean {
  return SERVER.test(code) || postgresErrorKind({ code }) === "transient";
}

/** Whether an error is the last that its session says. */
export function endsSession({ code }: Pick<PostgresError, "code">): boolean {
  return /^(08...|57P0.|25P0[34])$/.test(code);
}

/** What an error of PostgreSQL, or of the way to it, means for the sink. */
export function postgresErrorKind(error: unknown): ErrorKind {
  // This is our explanation of an error: its cause has the code.
  if (error instanceof ConnectionError && error.cause) return postgresErrorKind(error.cause);
  const { code } = error as { code?: string };
  if (code === undefined || !/^[0-9A-Z]{5}$/.test(code)) return connectionErrorKind(error);
  return KINDS.find(([pattern]) => pattern.test(code))?.[1] ?? "configuration";
}
