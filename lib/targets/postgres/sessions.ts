/**
 * The connections of the PostgreSQL target: a few for batches, which all partitions share, and others from the pool for
 * what must not wait behind a batch.
 * @module
 */

import { randomBytes } from "node:crypto";
import { Mutex, Semaphore } from "async-mutex";
// @ts-types="@types/pg"
import type { QueryResult, QueryResultRow } from "pg";
import { counted } from "../../core/counted.ts";
import { ConfigError, ConnectionError } from "../../core/errors.ts";
import { failpoint } from "../../core/failpoints.ts";
import { awaitedLater } from "../../core/promises.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { endsSession, isPostgresError, postgresErrorKind } from "./errors.ts";
import { announcedPid, type Pool, type PoolClient } from "./pool.ts";
import {
  BATCH_SETTINGS,
  POOLED_SETTINGS,
  SETTINGS,
  WRONG_DEFAULTS,
  type WrongDefault,
} from "./settings.ts";

/**
 * A query's time limit, after which pg gives up on it (pg's types lack the option). Without it, a query on a connection that
 * has silently died would wait until the system gives up.
 */
export const within = (seconds: number): { query_timeout: number } => ({
  query_timeout: 1000 * seconds,
});

/** Connections that a sink needs besides those for batches: for its leases, and for queries. */
const OTHERS = 2;

/** How long a query may take that writes no rows and waits for nobody, in seconds. */
const PATIENCE_SECONDS = 5;

/**
 * A query on a connection, or on any of a pool, abandoned after a while: nobody may hang on a dead connection.
 * @param seconds how long it may take
 */
export function patiently<Row extends QueryResultRow>(
  pool: Pick<Pool, "query">,
  text: string,
  values: unknown[],
  seconds: number = PATIENCE_SECONDS,
): Promise<QueryResult<Row>> {
  return pool.query<Row>({ text, values, ...within(seconds) });
}

/** Asks who a connection leads to; spelled alike whatever is set on it. */
const WHO = `
SELECT pid, to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS started
  FROM pg_stat_activity WHERE pid = pg_backend_pid()`;

/** Looks who that is, and whether a pooler lies between, where each transaction goes by any of the server's connections. */
async function lookWho(
  connection: Pick<PoolClient, "query">,
): Promise<ServersView & { isPooled: boolean }> {
  const { rows: [who] } = await patiently<ServersView>(connection, WHO, []);
  return { ...who!, isPooled: who!.pid !== announcedPid(connection) };
}

/**
 * Sets what our queries rely on; behind a pooler, sees that its connections begin with it.
 * @param use what goes by the connection: batches rely on more
 * @throws {ConfigError} where they begin with something else
 */
export async function settle(
  connection: Pick<PoolClient, "query">,
  use: "queries" | "batches",
): Promise<ServersView & { isPooled: boolean }> {
  const who = await lookWho(connection);
  const isOfBatches = use === "batches";
  const settings = isOfBatches ? BATCH_SETTINGS : SETTINGS;
  await patiently(connection, who.isPooled ? POOLED_SETTINGS : settings, []);
  if (!who.isPooled) return who;
  const { rows: wrong } = await patiently<WrongDefault>(connection, WRONG_DEFAULTS, [isOfBatches]);
  if (wrong.length === 0) return who;
  const found = wrong.map(({ name, value }) => `${name} = ${value}`).join(", ");
  const mends = wrong.map(({ mend }) => mend).join("; ");
  throw new ConfigError(
    `behind a pooler nothing can be set for a session, and the role's begin with ${found}: ${
      afterwards(mends)
    }`,
  );
}

/** What helps behind a pooler, whose connections have begun already. */
export const afterwards = (mends: string): string =>
  `${mends}; then let the pooler connect anew (PgBouncer: RECONNECT)`;

/** Whether a pooler lies between a pool and the server. */
export async function isPooled(pool: Pool): Promise<boolean> {
  const connection = await pool.connect();
  // A query on it reports its loss; that nobody listens would end the process.
  const lost = () => {};
  connection.on("error", lost);
  let isLost = true;
  try {
    const { isPooled } = await lookWho(connection);
    isLost = false;
    return isPooled;
  } finally {
    connection.off("error", lost);
    connection.release(isLost);
  }
}

/** How a partition's query is sent. */
export interface PartitionQuery {
  /** shows in logs and in pg_stat_statements; PostgreSQL keeps the statement prepared under it; "" for neither */
  name: string;
  text: string;
  values: unknown[];
  /** how long it may take; a batch may take as long as its lease is kept */
  seconds?: number;
  /** distinguishes the texts of one name */
  variant?: string;
  /** the bytes of rows in `values`; above {@linkcode LARGE_BYTES} it leaves a session to others */
  bytes?: number;
}

/**
 * How many large batches may be under way of `most` sessions. Of more than three, one is left to small batches, which
 * would wait for them. Where the server is on this machine, more of them than processors only get in each other's way;
 * elsewhere two are most of what one thread feeds.
 */
export const largeAtOnce = (most: number, processors = navigator.hardwareConcurrency): number =>
  Math.min(most > 3 ? most - 1 : most, Math.max(2, processors));

/** From so many bytes on, a batch takes the server longer than it takes to commit. */
const LARGE_BYTES = 64 << 10;

/** A session's process at the server. */
export interface Backend {
  /** 0 behind a pooler, where each query may go by another */
  pid: number;
  /** when it began, which tells it from a later process of that number */
  started: string;
  /** behind a pooler, how each query of the session begins, by which the process is found; `null` elsewhere */
  mark: string | null;
}

/** What the server says of a session. */
type ServersView = Pick<Backend, "pid" | "started">;

interface Session extends Backend {
  connection: PoolClient;
  /** whether the wait for a synchronous standby was ended, by which a commit looks as if it were done */
  unconfirmed: boolean;
  /** queries that are under way */
  queries: number;
  /** called once there are none */
  onIdle: (() => void) | undefined;
  /** whether it is to end once there are none: what was sent behind is answered first, so that nothing is done after it */
  isLast: boolean;
  ended: boolean;
  /** Closes its connection; safe to call again. */
  end(): void;
}

/** A query that waits for the server. */
interface UnderWay {
  session: Session;
  /** by `performance.now()` */
  since: number;
  /** stops the waiting */
  fail: (reason: Error) => void;
}

/** A commit that the standby may lack: after a failover it may be gone, so nothing may be trimmed by it. */
class UnconfirmedError extends ConnectionError {
  /** PostgreSQL's own for a transaction of which nobody knows whether it holds */
  readonly code = "08007";

  constructor() {
    super("the wait for the synchronous standby was cancelled: committed, but not confirmed by it");
  }
}

/** Places for so many, and how many wait for one. */
class Places extends Semaphore {
  waiting = 0;

  override async acquire(): ReturnType<Semaphore["acquire"]> {
    this.waiting++;
    try {
      return await super.acquire();
    } finally {
      this.waiting--;
    }
  }
}

/** Sessions for batches: a batch goes by whichever is free, so that many partitions need few of them. */
export class Sessions {
  readonly pool: Pool;
  #most: number;
  /** those that may be open of each entity, so that one whose table is locked holds up no other */
  #places: Map<string, Places>;
  /** those that large batches may have: {@linkcode largeAtOnce} */
  #placesForLarge: Map<string, Semaphore>;
  #open = new Set<Promise<Session>>();
  /** the one that was used last is taken first, so that no more are open than are needed */
  #free: Session[] = [];
  /** how often all were closed */
  #closed = 0;
  /** by partition: its queries go one after the other */
  #turns = new Map<string, Mutex>();
  /** by partition: mostly one, and one that was sent behind it */
  #underWay = new Map<string, UnderWay[]>();
  /** by partition: what was sent behind another last, until whose end no further query of the partition is sent */
  #behind = new Map<string, Promise<unknown>>();

  /** @param most how many may be open for each entity */
  constructor(pool: Pool, most: number, entities: readonly string[]) {
    this.pool = pool;
    this.#most = most * entities.length;
    const places = (count: number) =>
      new Map(entities.map((entity) => [entity, new Places(count)]));
    this.#places = places(most);
    this.#placesForLarge = places(largeAtOnce(most));
  }

  /** The server's process of one of the sessions. */
  async backend({ entity }: PartitionKeys): Promise<ServersView> {
    return await this.#onAny(entity, ({ pid, started }) => Promise.resolve({ pid, started }));
  }

  /** A partition's query, on any of the sessions. */
  query<Row extends QueryResultRow>(
    keys: PartitionKeys,
    query: PartitionQuery,
  ): Promise<QueryResult<Row>> {
    return this.#inTurn(
      keys,
      (session) => this.#query<Row>(session, keys.stream, query),
      (query.bytes ?? 0) > LARGE_BYTES,
    );
  }

  /**
   * Sends a small query behind the partition's one that is under way, by the same session: the server goes on with it at
   * once.
   * @returns `null` where it was not sent: none is under way, others wait for a session, or, behind a pooler, it could go by
   * another of the server's connections
   */
  queryBehind<Row extends QueryResultRow>(
    { stream, entity }: PartitionKeys,
    query: PartitionQuery,
  ): Promise<QueryResult<Row>> | null {
    const session = this.#underWay.get(stream)?.at(-1)?.session;
    if (session === undefined || session.ended || session.mark !== null) return null;
    const isInTransaction = session.connection.getTransactionStatus() !== "I";
    const isLarge = (query.bytes ?? 0) > LARGE_BYTES;
    if (isInTransaction || isLarge || this.#places.get(entity)!.waiting > 0) return null;
    const outcome = awaitedLater(this.#query<Row>(session, stream, query));
    this.#behind.set(stream, outcome.catch(() => {})); // whoever waits for the outcome has its error
    return outcome;
  }

  /** Runs a query with all constraints checked at once, and rolls it back. */
  rolledBack(keys: PartitionKeys, query: PartitionQuery): Promise<void> {
    const { stream } = keys;
    return this.#inTurn(keys, async (session) => {
      const plain = (text: string) => this.#query(session, stream, { name: "", text, values: [] });
      await plain("BEGIN");
      try {
        await plain("SET CONSTRAINTS ALL IMMEDIATE");
        await this.#query(session, stream, query);
      } finally {
        // What failed without an answer has ended the session, and its transaction with it.
        if (!session.ended) await plain("ROLLBACK");
      }
    });
  }

  async #query<Row extends QueryResultRow>(
    session: Session,
    stream: string,
    { name, text, values, seconds, variant }: PartitionQuery,
  ): Promise<QueryResult<Row>> {
    const { promise: abandoned, reject: fail } = Promise.withResolvers<never>();
    const own = { session, since: performance.now(), fail };
    const queries = this.#underWay.getOrInsertComputed(stream, () => []);
    queries.push(own);
    session.queries++;
    try {
      const prepared = variant === undefined ? name : `${name} ${variant}`;
      const { connection, mark } = session;
      const reply = connection.query<Row>({
        // A statement is prepared on the server's connection, which a pooler gives to others, and changes.
        ...(name === "" || mark !== null ? {} : { name: prepared }),
        ...{ text: mark === null ? text : mark + text, values },
        ...(seconds === undefined ? {} : within(seconds)),
      });
      await failpoint?.(`sent ${name}`);
      const done = await Promise.race([reply, abandoned]);
      if (session.unconfirmed) throw new UnconfirmedError();
      return done;
    } catch (error) {
      // A session is not used again if it failed without an answer, or with one that was its last, or if it may be to
      // blame itself: after a primary was demoted, or a role's settings changed, only a new one helps.
      const answers = isPostgresError(error) && !endsSession(error);
      if (!answers) session.end();
      else if (postgresErrorKind(error) === "configuration") session.isLast = true;
      throw error;
    } finally {
      queries.splice(queries.indexOf(own), 1);
      if (--session.queries === 0) session.onIdle?.();
    }
  }

  /** The server's process that a partition's query is under way at, and for how long, in ms; `null` where none is. */
  underWay({ stream }: PartitionKeys): { backend: Backend; ms: number } | null {
    const query = this.#underWay.get(stream)?.[0];
    return query === undefined
      ? null
      : { backend: query.session, ms: performance.now() - query.since };
  }

  /** Makes the partition's queries fail with `reason`; the server may still finish them. */
  abandon({ stream }: PartitionKeys, reason: Error): void {
    this.#underWay.get(stream)?.forEach(({ fail }) => fail(reason));
  }

  #inTurn<T>(
    { stream, entity }: PartitionKeys,
    work: (session: Session) => Promise<T>,
    isLarge = false,
  ): Promise<T> {
    const turn = this.#turns.getOrInsertComputed(stream, () => new Mutex());
    const closed = this.#closed;
    const run = () => this.#onAny(entity, work, closed);
    return turn.runExclusive(async () => {
      await this.#behind.get(stream);
      return await (isLarge ? this.#placesForLarge.get(entity)!.runExclusive(run) : run());
    });
  }

  /** @param closed how often all were closed when it began to wait */
  async #onAny<T>(
    entity: string,
    work: (session: Session) => Promise<T>,
    closed: number = this.#closed,
  ): Promise<T> {
    const [, leave] = await this.#places.get(entity)!.acquire();
    let session: Session | undefined;
    try {
      if (closed !== this.#closed) throw new Error("Connection terminated: all were closed");
      session = this.#free.pop() ?? await this.#connect();
      return await work(session);
    } finally {
      const give = () => {
        if (session) session.onIdle = undefined;
        if (session?.isLast) session.end();
        if (session && !session.ended) this.#free.push(session);
        leave();
      };
      // What was sent behind keeps the session, and its place.
      if (session && session.queries > 0) session.onIdle = give;
      else give();
    }
  }

  #connect(): Promise<Session> {
    const gone = () => {
      this.#open.delete(opening);
      this.#free = this.#free.filter(({ ended }) => !ended);
    };
    const opening = this.#begin(gone);
    this.#open.add(opening);
    opening.catch(gone); // whoever asked for it has the error
    return opening;
  }

  async #begin(gone: () => void): Promise<Session> {
    const { max } = this.pool.options;
    const needed = this.#most + OTHERS;
    if (max < needed) {
      throw new ConfigError(
        `the pool may have ${max} connections, and a sink needs ${needed}: ${this.#most} for batches of ` +
          `${
            counted(this.#places.size, "entity")
          }, one for its leases, one for queries; give the pool a larger max, ` +
          "or lower write_behind.connections",
      );
    }
    const connection = await this.pool.connect();
    const session: Session = {
      connection,
      unconfirmed: false,
      queries: 0,
      onIdle: undefined,
      isLast: false,
      pid: 0,
      started: "",
      mark: null,
      ended: false,
      end: () => {
        if (session.ended) return;
        session.ended = true;
        // Else pg would wait for what is under way, which may be for ever.
        if (session.queries > 0) connection.connection.stream.destroy();
        connection.release(true);
        gone();
      },
    };
    // Registered at once, since the error may come with the first answer.
    connection.on("error", () => session.end());
    connection.on("notice", ({ routine }) => {
      if (routine === "SyncRepWaitForLSN") session.unconfirmed = true;
    });
    try {
      const { pid, started, isPooled } = await settle(connection, "batches");
      // Each query is sent at once, and not when the one before is done. Source: node-postgres.com/features/pipelining.
      if (!isPooled) Object.assign(connection, { pipeline: true });
      const mark = `/* ${randomBytes(8).toString("hex")} */ `;
      return Object.assign(session, { started }, isPooled ? { mark } : { pid });
    } catch (error) {
      session.end();
      throw error;
    }
  }

  /** Closes all, also those that are only being opened: nobody else would give their connections back. */
  close(): void {
    this.#closed++;
    for (const opening of this.#open) {
      opening.then((session) => session.end(), () => {}); // one that was not opened: the asker has the error
    }
    this.#open.clear();
    this.#free = [];
  }
}
