/**
 * The connections for batches: one for each partition that is owned. It holds the partition's lock, which ends with it.
 * @module
 */

import type { PartitionKeys } from "../../redis/keys.ts";
import { type Connection, type Pool, type PoolConnection, rolledBack } from "./connect.ts";
import { isMysqlError } from "./errors.ts";

interface Session {
  connection: PoolConnection;
  /** what is under way, in its order */
  turn: Promise<unknown>;
  /** lets what is under way fail */
  abandon: (reason: Error) => void;
  abandoned: Promise<never>;
  /** since when something is under way, in ms since 1970; 0 where nothing is */
  since: number;
}

/** How long a session may take to give its locks back, in ms; they end with it anyway. */
const RELEASE_MS = 1000;

/** Connections by stream and owner. */
export class Sessions {
  readonly pool: Pool;
  #open = new Map<string, Promise<Session>>();

  constructor(pool: Pool) {
    this.pool = pool;
  }

  /** Works on the connection of a partition's owner, one after the other. */
  async run<T>(
    { stream }: Pick<PartitionKeys, "stream">,
    owner: string,
    work: (connection: Connection) => Promise<T>,
  ): Promise<T> {
    const name = nameOf(stream, owner);
    const opening = this.#open.get(name) ?? this.#begin(name);
    const session = await opening;
    const result = session.turn.then(async () => {
      session.since = Date.now();
      try {
        return await Promise.race([work(session.connection), session.abandoned]);
      } catch (error) {
        const sound = isMysqlError(error) && await rolledBack(session.connection);
        if (!sound) this.#close(name, opening, session);
        throw error;
      } finally {
        session.since = 0;
      }
    });
    session.turn = result.catch(() => {}); // whoever asked for it has the error
    return await result;
  }

  #begin(name: string): Promise<Session> {
    const opening = this.#connect();
    this.#open.set(name, opening);
    opening.catch(() => { // whoever asked for it has the error
      if (this.#open.get(name) === opening) this.#open.delete(name);
    });
    return opening;
  }

  async #connect(): Promise<Session> {
    const connection = await this.pool.getConnection();
    const { promise: abandoned, reject: abandon } = Promise.withResolvers<never>();
    abandoned.catch(() => {}); // where nothing is under way, nobody waits for it
    return { connection, turn: Promise.resolve(), abandon, abandoned, since: 0 };
  }

  /** The connection is not given back: what it holds ends with it. */
  #close(name: string, opening: Promise<Session>, { connection }: Session): void {
    if (this.#open.get(name) === opening) this.#open.delete(name);
    connection.destroy();
  }

  /** How long something has been under way, in ms; 0 where nothing is. */
  async waitingMs({ stream }: PartitionKeys, owner: string): Promise<number> {
    const session = await this.#open.get(nameOf(stream, owner));
    return session === undefined || session.since === 0 ? 0 : Date.now() - session.since;
  }

  /** Lets what is under way fail with `reason`, and closes the connection. */
  async abandon({ stream }: PartitionKeys, owner: string, reason: Error): Promise<void> {
    const name = nameOf(stream, owner);
    const opening = this.#open.get(name);
    this.#open.delete(name);
    const session = await opening?.catch(() => undefined); // it has nothing under way
    session?.abandon(reason);
    session?.connection.destroy();
  }

  /** Gives the partition's lock back, and closes the connection. */
  async disconnect({ stream }: Pick<PartitionKeys, "stream">, owner: string): Promise<void> {
    const name = nameOf(stream, owner);
    const opening = this.#open.get(name);
    if (opening === undefined) return;
    this.#open.delete(name);
    const session = await opening.catch(() => undefined); // there is none then
    if (session === undefined) return;
    await session.turn;
    // The server notices the end of a connection a little later.
    await session.connection.query({ sql: "SELECT RELEASE_ALL_LOCKS()", timeout: RELEASE_MS })
      .catch(() => {}); // it has ended already, or soon will have
    session.connection.destroy();
  }

  close(): void {
    for (const opening of this.#open.values()) {
      opening.then(({ connection }) => connection.destroy(), () => {}); // there is none then
    }
    this.#open.clear();
  }
}

/** One owner of one stream. */
export function nameOf(stream: string, owner: string): string {
  return JSON.stringify([stream, owner]);
}
