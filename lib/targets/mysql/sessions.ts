/**
 * The connections for batches: one for each partition that is owned. It holds the partition's lock, which ends with it.
 * @module
 */

import { createHash } from "node:crypto";
import { asError } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { ownerName } from "../common.ts";
import { isDenied, isMysqlError, withRemedy } from "./errors.ts";
import { type Connection, type Pool, rolledBack } from "./pool.ts";

interface Session {
  connection: Connection;
  /** what is under way, in its order */
  turn: Promise<unknown>;
  /** since when something is under way, by `performance.now()`; `null` where nothing is */
  since: number | null;
  /** whether it lacked a right: it has those of when it began */
  denied: boolean;
}

/** How long a session may take to give its locks back, in ms; they end with it anyway. */
const RELEASE_MS = 1000;

/** The name of a partition's lock: of the whole server, and at most 64 characters. */
export function lockOf(database: string, stream: string): string {
  const digest = createHash("sha256").update(JSON.stringify([database, stream])).digest("hex");
  return `writebehind:${digest.slice(0, 40)}`;
}

/** Connections by stream and owner. */
export class Sessions {
  readonly pool: Pool;
  #open = new Map<string, Promise<Session>>();

  constructor(pool: Pool) {
    this.pool = pool;
  }

  /**
   * Works on the connection of a partition's owner, one after the other.
   * @param patienceMs how long each query may take, in ms; without it, whoever renews the lease sees that the server
   * works on it, and abandons it
   */
  async run<T>(
    { stream }: Pick<PartitionKeys, "stream">,
    owner: string,
    work: (connection: Connection) => Promise<T>,
    patienceMs: number | null = null,
  ): Promise<T> {
    const name = ownerName(stream, owner);
    const opening = this.#open.get(name) ?? this.#begin(name);
    const session = await opening;
    const result = session.turn.then(async () => {
      const { connection } = session;
      session.since = performance.now();
      connection.patienceMs = patienceMs;
      try {
        return await work(connection);
      } catch (error) {
        const sound = isMysqlError(error) && await rolledBack(connection);
        // It is not given back: what it holds ends with it.
        if (!sound) this.#end(name, opening, connection, asError(error));
        session.denied ||= isDenied(error);
        withRemedy(error);
        throw error;
      } finally {
        session.since = null;
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
    const connection = await this.pool.take();
    return { connection, turn: Promise.resolve(), since: null, denied: false };
  }

  #end(name: string, opening: Promise<Session>, connection: Connection, reason: Error): void {
    if (this.#open.get(name) === opening) this.#open.delete(name);
    connection.end(reason);
  }

  /** How long something has been under way, in ms; 0 where nothing is. */
  async waitingMs({ stream }: PartitionKeys, owner: string): Promise<number> {
    const session = await this.#open.get(ownerName(stream, owner));
    return session === undefined || session.since === null ? 0 : performance.now() - session.since;
  }

  /** Lets what is under way fail with `reason`, and closes the connection. */
  async abandon({ stream }: PartitionKeys, owner: string, reason: Error): Promise<void> {
    const name = ownerName(stream, owner);
    const opening = this.#open.get(name);
    this.#open.delete(name);
    const session = await opening?.catch(() => undefined); // it has nothing under way
    session?.connection.end(reason, { others: true });
  }

  /** Closes the connection if it lacked a right, which the next one may have. */
  async renewRights(keys: Pick<PartitionKeys, "stream">, owner: string): Promise<void> {
    const session = await this.#open.get(ownerName(keys.stream, owner))?.catch(() => undefined);
    if (!session?.denied) return;
    this.pool.renew();
    await this.disconnect(keys, owner);
  }

  /** Gives the partition's lock back, and closes the connection. */
  async disconnect({ stream }: Pick<PartitionKeys, "stream">, owner: string): Promise<void> {
    const name = ownerName(stream, owner);
    const opening = this.#open.get(name);
    if (opening === undefined) return;
    this.#open.delete(name);
    const session = await opening.catch(() => undefined); // there is none then
    if (session === undefined) return;
    const { connection, turn } = session;
    await turn;
    // The server notices the end of a connection a little later.
    connection.patienceMs = RELEASE_MS;
    await connection.query("SELECT RELEASE_ALL_LOCKS()").catch(() => {}); // it has ended, or soon will have
    connection.end();
  }

  close(): void {
    for (const opening of this.#open.values()) {
      opening.then(({ connection }) => connection.end(), () => {}); // there is none then
    }
    this.#open.clear();
  }
}
