/**
 * Connections to the file. Each is a worker with a thread of its own, since `node:sqlite` blocks the thread that it
 * runs in.
 * @module
 */

import { ConfigError, ConnectionError } from "../../core/errors.ts";
import { closedError } from "../common.ts";
import { Code, SqliteError } from "./errors.ts";
import type { Answer, Given, Opening, Operation, Request, Result } from "./worker/operations.ts";

interface Waiting {
  resolve: (result: unknown) => void;
  reject: (reason: Error) => void;
}

/** One connection. It opens the file when it is first asked for something. */
export class Connection implements AsyncDisposable {
  #worker: Worker | undefined;
  #waiting = new Map<number, Waiting>();
  #asked = 0;
  #lost: Error | undefined;

  /** @param closed why it is of no use from the beginning, if it is */
  constructor(opening: Opening, closed?: Error) {
    this.#lost = closed;
    if (closed !== undefined) return;
    const url = new URL("./worker/worker.ts", import.meta.url);
    const worker = new Worker(url.href, { type: "module", name: `sqlite ${opening.path}` });
    worker.onmessage = ({ data }: MessageEvent<Answer>) => this.#answered(data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new SqliteError(`the worker has ended: ${event.message}`, Code.INTERRUPT));
    };
    worker.postMessage(opening);
    this.#worker = worker;
  }

  /** Whether it is of no use any more. */
  get isLost(): boolean {
    return this.#lost !== undefined;
  }

  /**
   * Has something done.
   * @param transfer memory that goes over to the worker, and is gone here
   * @throws {SqliteError} what SQLite refuses
   * @throws {ConnectionError | ConfigError} where the tables cannot be used
   */
  call<Name extends Operation>(
    name: Name,
    given: Given<Name>,
    transfer: ArrayBuffer[] = [],
  ): Promise<Result<Name>> {
    return this.#send({ id: ++this.#asked, name, given }, transfer) as Promise<Result<Name>>;
  }

  /**
   * Waits for what is under way, and closes. A worker that is cut off in the middle would leave its transaction open
   * for as long as this process lives.
   */
  async close(): Promise<void> {
    if (this.#lost) return;
    const closed = this.#send({ id: ++this.#asked, name: "close" }, []);
    this.#lost = new SqliteError("the connection was closed", Code.INTERRUPT);
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #fail(reason: Error): void {
    this.#lost = reason;
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
  }

  #send(request: Request, transfer: ArrayBuffer[]): Promise<unknown> {
    if (this.#lost) return Promise.reject(this.#lost);
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#waiting.set(request.id, { resolve, reject });
    this.#worker?.postMessage(request, transfer);
    return promise;
  }

  #answered(answer: Answer): void {
    if (this.#lost && answer.id === this.#asked) this.#worker?.terminate();
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if ("result" in answer) waiting?.resolve(answer.result);
    else waiting?.reject(errorOf(answer.error));
  }
}

/** Errors that a worker throws on purpose. */
const KNOWN = { ConfigError, ConnectionError };

function errorOf(
  { message, errcode, name, stack }: Extract<Answer, { error: unknown }>["error"],
): Error {
  if (errcode !== undefined) return new SqliteError(message, errcode);
  if (name in KNOWN) return new KNOWN[name as keyof typeof KNOWN](message);
  const error = new Error(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}

/** The address for people. */
export const addressOf = ({ path }: { path: string }): string => `SQLite file ${path}`;

/** The connections of a target: one for batches, one for reading, and some for a while. */
export class Connections {
  readonly path: string;
  #patienceMs: number;
  #writer: Connection | undefined;
  #reader: Connection | undefined;
  /** what is said where they are used after they were closed: a new worker would keep the process from ending */
  #closed: Error | undefined;

  /** @param patienceMs how long a transaction may be left alone, in ms */
  constructor(path: string, patienceMs: number) {
    this.path = path;
    this.#patienceMs = patienceMs;
  }

  /** The one for batches: what is asked of it waits for the batch under way. */
  get writer(): Connection {
    if (!this.#writer || this.#writer.isLost) this.#writer = this.#open(false);
    return this.#writer;
  }

  /** The one for reading. */
  get reader(): Connection {
    if (!this.#reader || this.#reader.isLost) this.#reader = this.#open(true);
    return this.#reader;
  }

  /** A connection of one's own, for what takes several calls. */
  own(readOnly: boolean): Connection {
    return this.#open(readOnly);
  }

  async close(): Promise<void> {
    this.#closed = closedError(addressOf(this));
    const open = [this.#writer, this.#reader];
    this.#writer = this.#reader = undefined;
    await Promise.all(open.map((connection) => connection?.close()));
  }

  #open(readOnly: boolean): Connection {
    return new Connection(
      { path: this.path, readOnly, patienceMs: this.#patienceMs },
      this.#closed,
    );
  }
}
