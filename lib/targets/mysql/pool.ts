/**
 * Connections to MySQL and MariaDB, on which nobody waits for ever: a query has a time to be answered in, or is
 * watched by the renewal of a lease; when a connection is ended, whoever waits for it is told.
 *
 * mysql2 sees to neither. It leaves the queries of a connection that is destroyed unanswered, its `timeout` leaves the
 * connection in use, and it keeps a socket whose server says nothing.
 * @module
 */

import type { Pool as DriverPool, PoolConnection, ResultSetHeader } from "mysql2/promise";
import type { Socket } from "node:net";
import { asError } from "../../core/errors.ts";
import { within } from "../../core/promises.ts";
import { isDenied, isMysqlError, UNKNOWN_THREAD, withRemedy } from "./errors.ts";

/** How long a query may take that writes no rows and waits for nobody, in ms. */
export const PATIENCE_MS = 5000;
/** How long connections may take to close, in ms; then their sockets are destroyed. */
const CLOSE_MS = 2000;

/** What mysql2 gives beneath its interface of promises. */
interface DriverConnection {
  stream: Socket;
}

const driverOf = (connection: PoolConnection): DriverConnection =>
  connection.connection as unknown as DriverConnection;

/** An error of a connection that is lost, with the driver's own code. */
const lost = (message: string): Error =>
  Object.assign(new Error(message), { code: "PROTOCOL_CONNECTION_LOST" });

/** A connection in use. */
export class Connection {
  /** how long a query may take, in ms; `null` where somebody else sees that the server works on it */
  patienceMs: number | null = PATIENCE_MS;
  #pool: Pool;
  #given: PoolConnection;
  #ended: Error | undefined;
  /** lets those who wait for an answer fail */
  #waiting = new Set<(reason: Error) => void>();

  constructor(pool: Pool, given: PoolConnection) {
    this.#pool = pool;
    this.#given = given;
  }

  /** Runs a query, or some in one message. */
  query(sql: string, values: unknown[] = []): Promise<[unknown, unknown]> {
    return this.#answer(() => this.#given.query(sql, values));
  }

  /** Runs one query that the server has prepared. */
  execute(sql: string, values: string[]): Promise<unknown> {
    return this.#answer(() => this.#given.execute(sql, values));
  }

  async #answer<T>(ask: () => Promise<T>): Promise<T> {
    if (this.#ended !== undefined) throw this.#ended;
    // One for each: a promise that lives as long as the connection would keep every answer that it raced with.
    const { promise: ended, reject } = Promise.withResolvers<never>();
    const ms = this.patienceMs;
    this.#waiting.add(reject);
    const late = ms === null ? undefined : setTimeout(() => {
      this.end(lost(`Connection lost: the server has not answered for ${ms} ms`), { others: true });
    }, ms);
    try {
      return await Promise.race([ask(), ended]);
    } finally {
      this.#waiting.delete(reject);
      clearTimeout(late);
    }
  }

  /**
   * Ends the connection; whoever waits for an answer, or asks again, gets `reason`.
   * @param others whether those that are idle may be no better: it answers nothing, or has rights of before
   */
  end(reason: Error = lost("Connection lost: it was given up"), { others = false } = {}): void {
    if (this.#ended !== undefined) return;
    this.#ended = reason;
    if (others) this.#pool.renew();
    this.#given.destroy();
    driverOf(this.#given).stream.destroy();
    for (const fail of this.#waiting) fail(this.#ended);
  }

  /** Gives it back, to be used by others. */
  release(): void {
    if (this.#ended === undefined) this.#pool.giveBack(this.#given);
  }
}

/** Connections by the driver's pool, each with our settings. */
export class Pool {
  #driver: DriverPool;
  #settings: string | undefined;
  /** how it is told that a connection could not be made */
  refused: (error: Error) => Error = (error) => error;
  /** when each was given back, by `performance.now()`: it had answered then */
  #answeredAt = new WeakMap<DriverConnection, number>();
  /** when one was found silent, or without a right, by `performance.now()` */
  #renewedAt = 0;
  #sockets = new Set<Socket>();
  #closed: Promise<void> | undefined;
  /** what is said from then on */
  #reason: Error | undefined;

  constructor(driver: DriverPool) {
    this.#driver = driver;
    driver.on("connection", (connection) => {
      const { stream } = connection as unknown as DriverConnection;
      this.#sockets.add(stream);
      stream.once("close", () => this.#sockets.delete(stream));
    });
  }

  /** @param sql what each new connection is set to, in one message */
  set settings(sql: string) {
    this.#settings = sql;
  }

  /**
   * A connection; an idle one that may be silent, or have rights of before, is none.
   * @param ms how long it may take, in ms
   */
  async take(ms: number = PATIENCE_MS): Promise<Connection> {
    for (;;) {
      if (this.#reason !== undefined) throw this.#reason;
      const given = await this.#taken(ms);
      const answeredAt = this.#answeredAt.get(driverOf(given));
      const connection = new Connection(this, given);
      if (answeredAt === undefined) {
        if (this.#settings === undefined) return connection;
        try {
          await connection.query(this.#settings);
          return connection;
        } catch (error) {
          connection.end(asError(error));
          throw error;
        }
      }
      if (answeredAt > this.#renewedAt) return connection;
      connection.end();
    }
  }

  async #taken(ms: number): Promise<PoolConnection> {
    const taking = this.#driver.getConnection();
    let isLate = false;
    const late = () => {
      isLate = true;
      return lost(`Connection lost: none was to be had for ${ms} ms`);
    };
    try {
      return await within(ms, taking, late);
    } catch (error) {
      // One that comes late has no settings yet, and is there for the next who asks.
      if (isLate) taking.then((given) => given.release(), () => {});
      throw isLate ? error : this.refused(asError(error));
    }
  }

  giveBack(given: PoolConnection): void {
    this.#answeredAt.set(driverOf(given), performance.now());
    given.release();
  }

  /**
   * None that is idle now is used again: one does not answer, and each would be waited for; or one lacks a right, which
   * may be there for those that begin now.
   */
  renew(): void {
    this.#renewedAt = performance.now();
  }

  /**
   * Closes all connections, also those that answer nothing.
   * @param reason what is said to whoever takes one afterwards
   */
  end(reason?: Error): Promise<void> {
    this.#reason ??= reason;
    return this.#closed ??= this.#end();
  }

  async #end(): Promise<void> {
    const closing = async () => {
      await this.#driver.end();
      const gone = [...this.#sockets].map((socket) =>
        new Promise((resolve) => socket.once("close", resolve))
      );
      await Promise.all(gone);
    };
    await within(CLOSE_MS, closing(), () => lost("Connection lost: it does not close")).catch(
      () => { // the server rolls back what a connection that was cut off has left
        for (const socket of this.#sockets) socket.destroy();
      },
    );
  }
}

/** The rows of a query on a connection. */
export async function rowsOf<Row>(
  connection: Pick<Connection, "query">,
  sql: string,
  values: unknown[] = [],
): Promise<Row[]> {
  const [rows] = await connection.query(sql, values);
  return rows as Row[];
}

/** How many rows a statement has found to change. */
export async function changedBy(
  connection: Pick<Connection, "query">,
  sql: string,
  values: unknown[] = [],
): Promise<number> {
  const [result] = await connection.query(sql, values);
  return (result as ResultSetHeader).affectedRows;
}

/**
 * Works on any connection of the pool.
 * @param patienceMs how long it may take to get one, and then each query, in ms
 */
export async function patiently<T>(
  pool: Pool,
  work: (connection: Connection) => Promise<T>,
  patienceMs: number = PATIENCE_MS,
): Promise<T> {
  const connection = await pool.take(patienceMs);
  connection.patienceMs = patienceMs;
  try {
    const result = await work(connection);
    connection.release();
    return result;
  } catch (error) {
    const denied = isDenied(error);
    if (isMysqlError(error) && !denied && await rolledBack(connection)) connection.release();
    else connection.end(asError(error), { others: denied });
    withRemedy(error);
    throw error;
  }
}

/** Ends a transaction that may be open. */
export async function rolledBack(connection: Connection): Promise<boolean> {
  try {
    await connection.query("ROLLBACK");
    return true;
  } catch {
    // The server rolls back what a lost connection has left.
    return false;
  }
}

/** Ends another session of the same user; one that has ended already is no error. */
export async function kill(connection: Connection, id: string): Promise<void> {
  try {
    await connection.query(`KILL CONNECTION ${BigInt(id)}`);
  } catch (error) {
    if (!isMysqlError(error) || error.errno !== UNKNOWN_THREAD) throw error;
  }
}
