/**
 * SQLite's errors, and what they mean for the sink.
 * Codes: sqlite.org/rescode.html; the lower eight bits are the primary code.
 * @module
 */

import { connectionErrorKind, type ErrorKind } from "../../core/error_kinds.ts";
import { ConnectionError, reasonOf } from "../../core/errors.ts";

const [
  ERROR,
  BUSY,
  LOCKED,
  NOMEM,
  READONLY,
  INTERRUPT,
  IOERR,
  CORRUPT,
  FULL,
  CANTOPEN,
  PROTOCOL,
  TOOBIG,
  CONSTRAINT,
  MISMATCH,
  NOTADB,
] = [1, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 18, 19, 20, 26] as const;

/** The codes that we give ourselves. */
export const Code = { BUSY, INTERRUPT, CANTOPEN, CONSTRAINT, MISMATCH, NOTADB } as const;

const NAMES: Record<number, string> = {
  [ERROR]: "SQLITE_ERROR",
  [BUSY]: "SQLITE_BUSY",
  [LOCKED]: "SQLITE_LOCKED",
  [NOMEM]: "SQLITE_NOMEM",
  [READONLY]: "SQLITE_READONLY",
  [INTERRUPT]: "SQLITE_INTERRUPT",
  [IOERR]: "SQLITE_IOERR",
  [CORRUPT]: "SQLITE_CORRUPT",
  [FULL]: "SQLITE_FULL",
  [CANTOPEN]: "SQLITE_CANTOPEN",
  [PROTOCOL]: "SQLITE_PROTOCOL",
  [TOOBIG]: "SQLITE_TOOBIG",
  [CONSTRAINT]: "SQLITE_CONSTRAINT",
  [MISMATCH]: "SQLITE_MISMATCH",
  [NOTADB]: "SQLITE_NOTADB",
};
/** Subtypes of `SQLITE_CONSTRAINT`, by the upper bits of the code. */
const CONSTRAINTS = [
  "",
  "CHECK",
  "COMMITHOOK",
  "FOREIGNKEY",
  "FUNCTION",
  "NOTNULL",
  "PRIMARYKEY",
  "TRIGGER",
  "UNIQUE",
  "VTAB",
  "ROWID",
  "PINNED",
  "DATATYPE",
];

const KINDS: Record<number, ErrorKind> = {
  [BUSY]: "transient",
  [LOCKED]: "transient",
  [PROTOCOL]: "transient",
  [INTERRUPT]: "transient",
  [NOMEM]: "chance",
  [CONSTRAINT]: "document",
  [MISMATCH]: "document",
  [TOOBIG]: "document",
};

/** SQLite's texts for its codes: `node:sqlite` gives no code where it opens a file or runs a script. */
const TEXTS: [text: RegExp, code: number][] = [
  [/unable to open database file/, CANTOPEN],
  [/database is locked/, BUSY],
  [/readonly database/, READONLY],
  [/disk I\/O error/, IOERR],
  [/disk image is malformed/, CORRUPT],
  [/disk is full/, FULL],
  [/not a database/, NOTADB],
];

/** What says nothing of the rows that met it: the file, its disk, or who else uses it. */
const OF_THE_FILE: readonly number[] = [
  BUSY,
  LOCKED,
  PROTOCOL,
  INTERRUPT,
  READONLY,
  IOERR,
  CORRUPT,
  FULL,
  CANTOPEN,
  NOTADB,
];

/** An error that SQLite reported, or that stands for one. */
export class SqliteError extends ConnectionError {
  /** @param errcode the extended result code; 0 where there is none */
  constructor(message: string, readonly errcode: number) {
    super(message);
  }

  /** The code for people and programs, such as `SQLITE_CONSTRAINT_CHECK`. */
  get sqlstate(): string {
    const name = NAMES[this.errcode & 0xff] ?? "";
    const constraint = name === NAMES[CONSTRAINT] ? CONSTRAINTS[this.errcode >> 8] : "";
    return constraint ? `${name}_${constraint}` : name;
  }
}

/** What an error of SQLite, or any other that a sink meets, means for it. */
export function sqliteErrorKind(error: unknown): ErrorKind {
  if (!(error instanceof SqliteError)) return connectionErrorKind(error);
  if (/_(FOREIGNKEY|UNIQUE)$/.test(error.sqlstate)) return "related";
  return KINDS[error.errcode & 0xff] ?? "configuration";
}

/** Whether an error says nothing of the rows that met it. */
export function isOfTheFile(error: SqliteError): boolean {
  return OF_THE_FILE.includes(error.errcode & 0xff);
}

/** An error of `node:sqlite` with its code, and with what to do about it. Any other stays as it is. */
export function explained(error: unknown, path: string): unknown {
  if (error instanceof SqliteError) return error;
  if (error instanceof Deno.errors.NotCapable || error instanceof Deno.errors.PermissionDenied) {
    return new SqliteError(`Cannot use ${path}: ${reasonOf(error)}${mayNot(error)}`, CANTOPEN);
  }
  const { code, errcode } = error as { code?: string; errcode?: number };
  if (code !== "ERR_SQLITE_ERROR") return error;
  const message = reasonOf(error);
  return sqliteError(
    message,
    errcode ?? TEXTS.find(([text]) => text.test(message))?.[1] ?? 0,
    path,
  );
}

/** An error with a code, and with what to do about it where it is of the file. */
export function sqliteError(message: string, errcode: number, path: string): SqliteError {
  const remedy = remedyFor(errcode & 0xff, path);
  return new SqliteError(remedy ? `Cannot use ${path}: ${message}; ${remedy}` : message, errcode);
}

function mayNot(error: Error): string {
  return error instanceof Deno.errors.NotCapable
    ? "; the tasks may write in the folder data/ of the checkout: put the file there, or name its folder in " +
      "the environment variable WRITEBEHIND_DATA"
    : "; the user that runs this must be able to write the file and its folder";
}

function remedyFor(code: number, path: string): string | undefined {
  switch (code) {
    case BUSY:
      return "another program has been writing to it for seconds, such as a replay or a shell with an open " +
        "transaction; end it";
    case READONLY:
      return "the user that runs this must be able to write the file and its folder";
    case IOERR:
      return "its disk fails, or is gone, or the path is that of a folder: check them";
    case FULL:
      return "its disk is full: make room, it goes on by itself";
    case CANTOPEN:
      return "its folder must be there, and the user that runs this must be able to write it, since other files " +
        `(${path}-wal, -shm and .lock) stand beside it`;
    case CORRUPT:
      return "it is damaged: stop all sinks, put a backup in its place, or remove it together with its -wal and " +
        "-shm and run `deno task adopt --yes`; then start a sink and run `deno task verify --repair target --yes`";
    case NOTADB:
      return "it is another kind of file: check `path` under targets";
    default:
      return undefined;
  }
}
