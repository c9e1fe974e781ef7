/**
 * Looks at rows, each of which must end, also on a connection that has silently died.
 * @module
 */

// @ts-types="@types/pg"
import type { QueryArrayConfig, QueryArrayResult } from "pg";
import type { Pool, PoolClient } from "./pool.ts";
import { isPooled, within } from "./sessions.ts";

/**
 * How long a look may take, in ms. A sink looks at a row when it begins with a partition: where that hangs, its lease, which
 * another connection renews, keeps all others out.
 */
const LOOK_MS = 10_000;
/** How long a connection is kept after a look, in ms; so much longer one that does not answer is waited for. */
const KEPT_MS = 2000;

/** What a connection tells once it is lost. */
const LOST = ["error", "end"] as const;

/** Sends looks. */
export class Looks {
  #pool: Pool;
  #keeps: boolean;
  #kept: PoolClient | undefined;
  #isBusy = false;
  /** when the last look began, by `performance.now()` */
  #since = 0;
  #watch: ReturnType<typeof setInterval> | undefined;
  /** whether a pooler lies between, with whose connections nothing stays prepared */
  #pooled: Promise<boolean> | undefined;

  /**
   * @param keeps whether looks that follow each other go by one connection, where whoever ends the pool closes this first: to
   * take it from the pool each time, with timers for the pool and for the answer, takes an eighth of a look at one row
   */
  constructor(pool: Pool, keeps = false) {
    this.#pool = pool;
    this.#keeps = keeps;
  }

  /** Runs a query, which fails where its answer takes too long. */
  async query<Row extends unknown[]>(look: QueryArrayConfig): Promise<QueryArrayResult<Row>> {
    const query = await this.#isPooled() ? { ...look, name: undefined } : look;
    if (!this.#keeps || this.#isBusy) {
      return await this.#pool.query<Row>({ ...query, ...within(LOOK_MS / 1000) });
    }
    this.#isBusy = true;
    try {
      this.#kept ??= await this.#take();
      this.#since = performance.now(); // to wait for the pool is no part of the look
      return await this.#kept.query<Row>(query);
    } catch (error) {
      // It may be to blame itself, as where settings of its role have changed: the next look takes another.
      this.#giveBack();
      throw error;
    } finally {
      this.#isBusy = false;
      if (!this.#keeps) this.#giveBack(); // closed meanwhile
    }
  }

  #isPooled(): Promise<boolean> {
    return this.#pooled ??= isPooled(this.#pool).catch((error) => {
      this.#pooled = undefined; // asked again by the next look
      throw error;
    });
  }

  async #take(): Promise<PoolClient> {
    const client = await this.#pool.connect();
    // One that is lost tells it, to the query on it too.
    for (const event of LOST) client.on(event, this.#giveBack);
    this.#watch = setInterval(() => {
      const ms = performance.now() - this.#since;
      if (ms >= (this.#isBusy ? LOOK_MS : KEPT_MS)) this.#giveBack();
    }, KEPT_MS);
    Deno.unrefTimer(this.#watch);
    return client;
  }

  /** Gives the connection back to the pool, or ends it, where a look is under way. */
  readonly #giveBack = (): void => {
    clearInterval(this.#watch);
    const client = this.#kept;
    this.#kept = undefined;
    for (const event of LOST) client?.off(event, this.#giveBack);
    client?.release(this.#isBusy);
  };

  /** Gives the connection back, and keeps none any more. */
  close(): void {
    this.#keeps = false;
    if (!this.#isBusy) this.#giveBack();
  }
}
