/**
 * The session that tells whether a process lives: one a process, which runs no batches. It holds an advisory lock,
 * and PostgreSQL ends both with the connection, so whoever finds the lock free knows that the session is gone,
 * whatever the roles.
 * @module
 */

import { randomBytes } from "node:crypto";
import { announcedPid, type Pool, type PoolClient } from "./pool.ts";
import { patiently } from "./sessions.ts";

/** What pg knows of a connection, and its types do not. */
interface OwnConnection {
  connection?: { stream?: { localAddress?: string; localPort?: number } };
}

/** What the server knows of it. */
interface ServersView {
  pid: number;
  /** both `null` on a Unix socket */
  address: string | null;
  port: number | null;
}

/**
 * Whether the session lives that holds the advisory lock `key`, a column; `NULL` where there is none, or on a standby,
 * which does not see the locks of its primary. Taken as shared, so that those who look do not see each other.
 */
export const SESSION_LIVES = `
CASE WHEN key IS NOT NULL AND NOT pg_is_in_recovery()
     THEN NOT pg_try_advisory_xact_lock_shared(key) END`;

interface Open {
  connection: PoolClient;
  key: string;
}

/** The session of a process, kept while it is wanted. */
export class OwnerSession {
  #pool: Pool;
  #onLost: () => void;
  #open: Promise<Open | null> | undefined;
  /** of the session that is open and was not closed */
  #connection: PoolClient | undefined;

  /** @param onLost called when a session is lost that was open */
  constructor(pool: Pool, onLost: () => void) {
    this.#pool = pool;
    this.#onLost = onLost;
  }

  /**
   * The number of the advisory lock that the session holds, new with each session; `null` where no session tells
   * anything. Never rejects: without a lock, a lease ends with time.
   */
  async key(): Promise<string | null> {
    const opening = this.#open ??= this.#connect().catch(() => null); // asked again at the next renewal
    const open = await opening;
    if (this.#open !== opening) return null; // closed meanwhile
    this.#connection = open?.connection;
    if (open === null) this.#open = undefined;
    return open?.key ?? null;
  }

  async #connect(): Promise<Open | null> {
    const connection = await this.#pool.connect();
    const lost = () => {
      if (this.#connection !== connection) return;
      this.close();
      this.#onLost();
    };
    connection.on("error", lost);
    connection.on("end", lost);
    try {
      if (!await isOwn(connection)) {
        connection.removeListener("error", lost);
        connection.removeListener("end", lost);
        connection.release();
        return null;
      }
      // Random, so that nobody can have it, and nobody looks at it before it stands in a lease.
      const key = String(randomBytes(8).readBigInt64BE());
      await patiently(connection, "SET idle_session_timeout = 0", []);
      await patiently(connection, "SELECT pg_advisory_lock($1)", [key]);
      return { connection, key };
    } catch (error) {
      connection.release(true);
      throw error;
    }
  }

  /** The session, to renew leases by: a connection that has silently died is noticed by them. */
  get connection(): PoolClient | undefined {
    return this.#connection;
  }

  /** Ends the session, also one that is only being opened: nobody else would ever give its connection back. */
  close(): void {
    void this.#open?.then((open) => open?.connection.release(true));
    this.#connection = this.#open = undefined;
  }
}

/**
 * Whether a connection has its session for itself. Behind a pooler, sessions are shared and outlive their clients.
 * There the server sees another address and port than those of our socket, and the process id that was announced is
 * one that the pooler made up. On a Unix socket, which has no port, that id alone must do. Where a proxy or an
 * address translation lies between, it cannot be known.
 */
async function isOwn(connection: PoolClient): Promise<boolean> {
  const { connection: { stream } = {} } = connection as OwnConnection;
  const { rows: [view] } = await patiently<ServersView>(
    connection,
    `SELECT pg_backend_pid() AS pid, host(inet_client_addr()) AS address,
            inet_client_port() AS port`,
    [],
  );
  const { pid, address, port } = view!;
  if (pid !== announcedPid(connection)) return false;
  const plain = (ip: string | null | undefined) => ip?.replace(/^::ffff:/, "") ?? null;
  return plain(stream?.localAddress) === plain(address) && (stream?.localPort ?? null) === port;
}
