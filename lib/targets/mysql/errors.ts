/**
 * Errors of MySQL and MariaDB, and what they mean for the sink. Numbers: the MySQL manual, "Server Error Message
 * Reference", and MariaDB's list of error codes; mysql2's names are wrong for some.
 * @module
 */

import { connectionErrorKind, type ErrorKind } from "../../core/error_kinds.ts";
import { ConnectionError, WriteBehindError } from "../../core/errors.ts";

/** An error that the server itself reported, as mysql2 throws it. */
export interface MysqlError extends Error {
  errno: number;
  sqlState: string;
}

/** Whether the server itself reported an error; else the driver or the network did. */
export function isMysqlError(error: unknown): error is MysqlError {
  return error instanceof Error && "sqlState" in error && typeof error.sqlState === "string" &&
    "errno" in error && typeof error.errno === "number" && error.errno > 0;
}

/** A document that we refuse before it is sent: what it holds is no JSON text, or too much for one packet. */
export class RefusedDocumentError extends WriteBehindError {
  constructor(readonly sqlstate: string, reason: string) {
    super(reason);
  }
}

export const UNKNOWN_THREAD = 1094;
export const NO_SUCH_TABLE = 1146;
export const LOCK_WAIT = 1205;
/** A CHECK refuses a row: in MySQL, in MariaDB. */
export const CHECK_FAILED: readonly number[] = [3819, 4025];
/** No right to a command on a table, in a database, on a column, or at all. */
export const DENIED: readonly number[] = [1142, 1044, 1143, 1227];
/** What somebody has to do about it, where the server does not say so. */
const REMEDIES: Record<number, string> = {
  1040: "raise max_connections, or start fewer sinks",
  1044: "grant it to the user: GRANT ALL ON that database",
  1049: "create it: CREATE DATABASE … CHARACTER SET utf8mb4",
  1142: "grant it to the user; a sink needs SELECT, INSERT, UPDATE and DELETE in that database",
  1143: "grant it to the user; a sink needs SELECT, INSERT, UPDATE and DELETE in that database",
  1153: "raise it (SET GLOBAL max_allowed_packet), or write smaller documents",
  1203: "raise max_user_connections, or start fewer sinks",
  1226: "raise it for the user (GRANT … WITH), or start fewer sinks",
  1290: "name a server that takes writes in targets, or end what keeps this one from it",
  1449: "make that user, or the trigger anew",
  1461: "raise it (SET GLOBAL max_prepared_stmt_count)",
  1665: "set the server's binlog_format to ROW or MIXED",
};

/** What to do about an error of the server; `undefined` where its text says all. */
export const remedyOf = ({ errno }: MysqlError): string | undefined => REMEDIES[errno];

/** Says in an error of the server what to do about it. It stays what it is, since its number is looked at. */
export function withRemedy(error: unknown): void {
  const remedy = isMysqlError(error) ? remedyOf(error) : undefined;
  if (remedy !== undefined && !(error as Error).message.endsWith(remedy)) {
    (error as Error).message += `; ${remedy}`;
  }
}

/** Whether the user's rights are to blame; a session keeps those that it had when it began. */
export const isDenied = (error: unknown): boolean =>
  isMysqlError(error) && DENIED.includes(error.errno);

const KINDS: Record<ErrorKind, readonly number[]> = {
  // Shutting down, too many connections, a lost or killed session, a network that failed.
  transient: [1040, 1041, 1053, 1077, 1080, 1158, 1159, 1160, 1161, 1184, 1203, 1226, 1927, 4031],
  // A lock waited for too long, a deadlock, an interrupted query.
  chance: [1205, 1213, 1317, 1614, 3058, 3572],
  // A statement that took too long, or was too large, or that none may be prepared: a small batch needs none.
  too_large: [1153, 1461, 1969, 3024],
  // A foreign key, a unique one.
  related: [1062, 1169, 1451, 1452, 1557, 1586],
  document: [
    1048,
    1105,
    1118,
    1136,
    1138,
    1172,
    1264,
    1265,
    1292,
    1366,
    1367,
    1369,
    1406,
    1411,
    1416,
    1441,
    1526,
    1644,
    1690,
    1748,
    3140,
    3141,
    3157,
    3819,
    3854,
    3903,
    4025,
    4036,
    4037,
    4038,
  ],
  configuration: [],
};

const KIND_OF = new Map(
  Object.entries(KINDS).flatMap(([kind, numbers]) =>
    numbers.map((number) => [number, kind as ErrorKind] as const)
  ),
);

/** A full disk, a server that only reads, a login, a session that was told to end. */
const OF_THE_SERVER: readonly number[] = [1021, 1030, 1036, 1045, 1114, 1290, 1792, 1836, 1878];

/** Whether an error says nothing of the rows that met it. */
export function isOfTheServer(error: MysqlError): boolean {
  return OF_THE_SERVER.includes(error.errno) || mysqlErrorKind(error) === "transient";
}

/** What mysql2 says, without a code, of a connection that has ended. */
const LOST = /connection is in closed state|socket has been ended/;

/** What an error of the server, or of the way to it, means for the sink. */
export function mysqlErrorKind(error: unknown): ErrorKind {
  if (error instanceof RefusedDocumentError) return "document";
  // This is our explanation of an error: its cause has the number.
  if (error instanceof ConnectionError && error.cause) return mysqlErrorKind(error.cause);
  if (!isMysqlError(error)) {
    return LOST.test(String((error as Error)?.message)) ? "transient" : connectionErrorKind(error);
  }
  const known = KIND_OF.get(error.errno);
  if (known !== undefined) return known;
  // A trigger that refuses a row by SIGNAL keeps its own number 1644, or names a state of its own.
  return error.sqlState === "45000" ? "document" : "configuration";
}
