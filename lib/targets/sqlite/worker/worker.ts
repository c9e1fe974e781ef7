/**
 * The worker's thread, where `node:sqlite` may block: opens the file when it is asked for something, and does one
 * thing after the other.
 * @module
 */

import { ConnectionError } from "../../../core/errors.ts";
import { Code, SqliteError } from "../errors.ts";
import { Database } from "./database.ts";
import { type Answer, type Opening, operations, type Request } from "./operations.ts";

/** A connection, and what must not be left open on it. */
class Session {
  #opening: Opening;
  #database: Database | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #rolledBack = false;

  constructor(opening: Opening) {
    this.#opening = opening;
  }

  do(request: Request): unknown {
    clearTimeout(this.#timer);
    if (request.name === "close") return this.#close();
    const { name, given } = request;
    if (this.#rolledBack) {
      this.#rolledBack = false;
      throw new ConnectionError(
        "the transaction was left alone for too long and was rolled back; try again",
      );
    }
    const database = this.#open();
    try {
      const operation = operations[name] as (db: Database, ...given: unknown[]) => unknown;
      return operation(database, ...given);
    } finally {
      // Stopped in the middle, whoever holds a transaction must not hold up the sinks for ever.
      if (database.isBusy) {
        this.#timer = setTimeout(() => this.#abandon(), this.#opening.patienceMs);
      }
    }
  }

  #open(): Database {
    const known = this.#database;
    if (known && !known.isBusy && known.cursor === undefined && known.isStale) {
      this.#close();
      if (!this.#opening.readOnly) throw gone(this.#opening.path);
    }
    return this.#database ??= new Database(this.#opening.path, this.#opening.readOnly);
  }

  #abandon(): void {
    this.#database?.rollback();
    this.#rolledBack = true;
  }

  #close(): void {
    this.#database?.close();
    this.#database = undefined;
  }
}

/** Whoever writes has to claim anew, by the file that is there now. */
function gone(path: string): SqliteError {
  return new SqliteError(
    `${path} was removed, or another file put in its place, while a sink wrote to it: it begins anew by what is there`,
    Code.INTERRUPT,
  );
}

function answerOf(session: Session, request: Request): Answer {
  const { id } = request;
  try {
    return { id, result: session.do(request) };
  } catch (thrown) {
    const { message, name, stack } = thrown as Error;
    const errcode = thrown instanceof SqliteError ? thrown.errcode : undefined;
    return { id, error: { message, errcode, name, stack } };
  }
}

/** One connection after the other: once it is closed, the thread takes the next. */
function awaitOpening(): void {
  self.onmessage = ({ data: opening }: MessageEvent<Opening>) => {
    const session = new Session(opening);
    self.onmessage = ({ data }: MessageEvent<Request>) => {
      if (data.name === "close") awaitOpening();
      self.postMessage(answerOf(session, data));
    };
  };
}

awaitOpening();
