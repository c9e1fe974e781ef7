/**
 * One connection to the file, in the worker's thread: statements, and transactions that wait their turn.
 * @module
 */

import { dirname } from "node:path";
import {
  DatabaseSync,
  type SQLInputValue,
  type SQLOutputValue,
  type StatementSync,
} from "node:sqlite";
import { Code, explained, sqliteError } from "../errors.ts";
import { turnFile } from "../files.ts";

/** How long a transaction waits for those of others, in ms. */
const PATIENCE_MS = 5000;
const LOOK_AGAIN_MS = 2;

/**
 * A commit must be durable, since the stream is trimmed behind it. A checkpoint after every batch would cost more
 * than the batch; 32 MiB of the log are kept before one.
 */
const SETTINGS = [
  "PRAGMA synchronous = FULL",
  "PRAGMA wal_autocheckpoint = 8192",
  "PRAGMA cache_size = -16384",
];

/** SQL for the time now, as all times are kept: ISO 8601 in UTC, with milliseconds. */
export const NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

/** Such a time. */
export const dateOf = (text: string): Date => new Date(text);

/** A BLOB. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** A row as `node:sqlite` gives it. */
export type Columns = Record<string, SQLOutputValue>;

/** Connections to files that were removed or replaced: kept, since the garbage collector would close them. */
const leftOpen: DatabaseSync[] = [];

/** A connection. Errors are of SQLite's own codes, see `errors.ts`. */
export class Database {
  readonly path: string;
  /** rows of a query that are given out a page at a time */
  cursor: Iterator<Columns> | undefined;
  #readOnly: boolean;
  #db: DatabaseSync;
  #statements = new Map<string, StatementSync>();
  #turn: Deno.FsFile | undefined;
  #inode: number | null;

  /**
   * Opens the file. To write it makes it, and its folder, where they are missing.
   * @param readOnly changes nothing; tables that are missing have no rows then
   */
  constructor(path: string, readOnly: boolean) {
    this.path = path;
    this.#readOnly = readOnly;
    if (!readOnly) this.#explaining(() => Deno.mkdirSync(dirname(path), { recursive: true }));
    this.#inode = inodeOf(path);
    // A file that is not there yet is read as one without tables.
    const location = readOnly && this.#inode === null ? ":memory:" : path;
    const options = { readOnly, timeout: PATIENCE_MS };
    this.#db = this.#explaining(() => new DatabaseSync(location, options));
    try {
      const { journal_mode } = this.get<{ journal_mode: string }>("PRAGMA journal_mode")!;
      if (!readOnly && journal_mode !== "wal") {
        this.exclusively(() => this.get("PRAGMA journal_mode = WAL"));
      }
      for (const setting of SETTINGS) this.all(setting);
      if (!readOnly) this.#inode = inodeOf(path);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Whether the file was removed, or another one is in its place: what is written would be lost with it. */
  get isStale(): boolean {
    return inodeOf(this.path) !== this.#inode;
  }

  /** Whether a transaction is open. */
  get isBusy(): boolean {
    return this.#db.isTransaction;
  }

  close(): void {
    this.#turn?.close();
    // Closing removes the -wal beside the path, which is another file's by now.
    if (this.#inode !== null && this.isStale) leftOpen.push(this.#db);
    else this.#db.close();
  }

  /** Runs a statement; returns how many rows it has changed. */
  run(sql: string, ...values: SQLInputValue[]): number {
    return this.#explaining(() => Number(this.#prepare(sql)!.run(...values).changes));
  }

  /** The first row of a query. */
  get<Row extends Columns>(sql: string, ...values: SQLInputValue[]): Row | undefined {
    return this.#explaining(() => this.#prepare(sql)?.get(...values) as Row | undefined);
  }

  /** All rows of a query. */
  all<Row extends Columns>(sql: string, ...values: SQLInputValue[]): Row[] {
    return this.#explaining(() => (this.#prepare(sql)?.all(...values) ?? []) as Row[]);
  }

  /** The rows of a query, one after the other; nothing else may run the same query meanwhile. */
  iterate<Row extends Columns>(
    sql: string,
    ...values: SQLInputValue[]
  ): Iterable<Row> & Iterator<Row> {
    return this.#explaining(() =>
      (this.#prepare(sql)?.iterate(...values) ?? [].values()) as Iterable<Row> & Iterator<Row>
    );
  }

  /** Runs statements that need no parameters. */
  script(sql: string): void {
    this.#explaining(() => this.#db.exec(sql));
  }

  /** Reads in one snapshot. */
  snapshot<T>(read: () => T): T {
    this.run("BEGIN");
    try {
      return read();
    } finally {
      this.rollback();
    }
  }

  /** Writes in one transaction: it is kept if `write` returns, and gone if it throws. */
  transaction<T>(write: () => T): T {
    this.begin();
    try {
      const result = write();
      this.run("COMMIT");
      return result;
    } catch (error) {
      this.rollback();
      throw error;
    }
  }

  /** Begins to write. */
  begin(): void {
    this.exclusively(() => this.run("BEGIN IMMEDIATE"));
  }

  /** Ends a transaction, if SQLite has not done so already: it does at some errors. */
  rollback(): void {
    if (this.#db.isTransaction) this.run("ROLLBACK");
  }

  /**
   * Waits for what only one may do, and lets nobody overtake: SQLite's own waiting only looks now and then, and a
   * sink with a backlog would leave it no gap to see.
   */
  exclusively<T>(work: () => T): T {
    const turn = this.#turn ??= this.#explaining(() =>
      Deno.openSync(turnFile(this.path), { create: true, write: true })
    );
    const deadline = performance.now() + PATIENCE_MS;
    while (!turn.tryLockSync(true)) {
      if (performance.now() > deadline) {
        throw sqliteError("database is locked", Code.BUSY, this.path);
      }
      sleep(LOOK_AGAIN_MS);
    }
    try {
      return work();
    } finally {
      turn.unlockSync();
    }
  }

  /** A statement, made once; none for a reader where its table is not there yet. */
  #prepare(sql: string): StatementSync | undefined {
    const known = this.#statements.get(sql);
    if (known) return known;
    try {
      const statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
      return statement;
    } catch (error) {
      if (this.#readOnly && /^no such table/.test((error as Error).message)) return undefined;
      throw error;
    }
  }

  #explaining<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw explained(error, this.path);
    }
  }
}

function inodeOf(path: string): number | null {
  try {
    return Deno.statSync(path).ino;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

const sleeper = new Int32Array(new SharedArrayBuffer(4));

function sleep(ms: number): void {
  Atomics.wait(sleeper, 0, 0, ms);
}
