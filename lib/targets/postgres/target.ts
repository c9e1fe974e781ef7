/**
 * PostgreSQL as a target: one statement a batch, which checks the owner and the offset, writes and
 * removes rows, and moves the offset. One statement is one transaction, so there is no open transaction
 * that a sink could leave behind.
 * @module
 */

import { isUtf8 } from "node:buffer";
import pg, { type Pool, type PoolClient, type QueryResultRow } from "pg";
import { type Config, entityConfig } from "../../config/load.ts";
import { kindOf } from "../../core/error_kinds.ts";
import { failpoint } from "../../core/failpoints.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import {
  type Batch,
  type Claim,
  OwnershipLostError,
  ParkedChangedError,
  type Refusal,
  type Removal,
  type Target,
  type Upsert,
} from "../target.ts";
import { Arena, bytesArray } from "./arrays.ts";
import {
  applySql,
  type BatchValues,
  batchValues,
  parkedValues,
  probeSql,
  rowValues,
  valuesOf,
  variantOf,
} from "./batch.ts";
import { createTable, offsetOf, PATIENCE_MS, type TimedQuery } from "./migrate.ts";

const { DatabaseError } = pg;
type DatabaseError = pg.DatabaseError;

const UNIQUE_VIOLATION = "23505";
/** Batches that are applied carefully after one whose rows were not new. */
const CAREFUL_BATCHES = 32;

/** An error that PostgreSQL itself reported, with its five-character code. */
function isPostgresError(error: unknown): error is DatabaseError {
  return error instanceof DatabaseError && /^[0-9A-Z]{5}$/.test(error.code ?? "");
}

/** The PostgreSQL target of one entity. */
export class PostgresTarget implements Target {
  #pool: Pool;
  #config: Config;
  #entity: string;
  #table: string;
  /** one connection a partition for batches; leases go by the pool's other connections */
  #connections = new Map<string, PoolClient>();
  /** batches to come in which no row is expected to be new */
  #carefulBatches = 0;
  /** parameters that were made while another batch was under way */
  #prepared = new WeakMap<Batch, BatchValues>();
  /** where they are: of each partition one batch is under way while the next one is made */
  #arenas = new Map<string, [Arena, Arena]>();
  /** batches that wait for the server: since when (ms), and how to stop waiting */
  #underWay = new Map<string, { since: number; fail: (reason: Error) => void }>();

  constructor(pool: Pool, config: Config, entity: string) {
    this.#pool = pool;
    this.#config = config;
    this.#entity = entity;
    this.#table = entityConfig(config, entity).table;
  }

  async claim(keys: PartitionKeys, owner: string, leaseSeconds: number): Promise<Claim | null> {
    const { stream } = keys;
    await createTable(this.#pool, this.#config, this.#entity);
    const { rows: [self] } = await this.#query<{ pid: number; started: string }>(
      stream,
      "self",
      "SELECT pid, backend_start::text AS started FROM pg_stat_activity WHERE pid = pg_backend_pid()",
      [],
      { seconds: leaseSeconds },
    );
    const { rows: [lease] } = await this.#patiently<
      { epoch: string; old_pid: number | null; old_started: string | null }
    >(
      leaseSeconds,
      `WITH old AS (
         SELECT backend_pid, backend_started FROM writebehind_lease WHERE stream = $1
       )
       INSERT INTO writebehind_lease AS l
              (stream, owner, epoch, lease_until, backend_pid, backend_started)
       VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3), $4, $5)
       ON CONFLICT (stream) DO UPDATE
          SET owner = $2, epoch = l.epoch + 1, lease_until = excluded.lease_until,
              backend_pid = $4, backend_started = $5
        WHERE l.lease_until < clock_timestamp() OR l.owner = $2
       RETURNING epoch, (SELECT backend_pid FROM old) AS old_pid,
                 (SELECT backend_started::text FROM old) AS old_started`,
      [stream, owner, leaseSeconds, self!.pid, self!.started],
    );
    if (lease === undefined) return null;
    await failpoint?.("claiming");
    // What the owner before had under way must not hold us up, nor land after us.
    await this.#patiently(
      leaseSeconds,
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid = $1 AND backend_start = $2 AND pid <> $3`,
      [lease.old_pid, lease.old_started, self!.pid],
    );
    await this.#query(
      stream,
      "first offset",
      "INSERT INTO writebehind_offset (stream) VALUES ($1) ON CONFLICT DO NOTHING",
      [stream],
      { seconds: leaseSeconds },
    );
    const { rows: [row] } = await this.#query<
      { last_id: string; witness: string; parked_version: string }
    >(
      stream,
      "raise epoch",
      `UPDATE writebehind_offset SET epoch = $2, owner = $3 WHERE stream = $1 AND epoch < $2
       RETURNING last_id, witness, parked_version`,
      [stream, lease.epoch, owner],
      { seconds: leaseSeconds },
    );
    if (row === undefined) return null;
    // Asked behind the update: by its snapshot, what the owner before has just parked would be missing.
    const { rows: [has] } = await this.#query<{ parked: boolean }>(
      stream,
      "has parked",
      `SELECT EXISTS (SELECT FROM writebehind_dead_letter
                       WHERE stream = $1 AND state = 'parked') AS parked`,
      [stream],
      { seconds: leaseSeconds },
    );
    return {
      keys,
      owner,
      epoch: lease.epoch,
      offset: row.last_id,
      witness: row.witness,
      hasParked: has!.parked,
      parkedVersion: row.parked_version,
    };
  }

  offset({ stream }: PartitionKeys): Promise<string> {
    return offsetOf(this.#pool, stream);
  }

  async renew(claim: Claim, leaseSeconds: number): Promise<void> {
    const { keys, owner, epoch } = claim;
    const { rows: [row] } = await this.#patiently<{ working: boolean }>(
      leaseSeconds,
      `UPDATE writebehind_lease SET lease_until = clock_timestamp() + make_interval(secs => $4)
        WHERE stream = $1 AND owner = $2 AND epoch = $3
       RETURNING EXISTS (
         SELECT FROM pg_stat_activity
          WHERE pid = backend_pid AND backend_start = backend_started
            AND (state <> 'idle' OR clock_timestamp() - state_change < make_interval(secs => $4))
       ) AS working`,
      [keys.stream, owner, epoch, leaseSeconds],
    );
    if (row === undefined) throw this.#lost(keys);
    const since = this.#underWay.get(keys.stream)?.since ?? Date.now();
    if (!row.working && Date.now() - since > leaseSeconds * 1000) {
      this.abandon(claim, new Error("Connection lost: the server does not work on the batch"));
    }
  }

  abandon({ keys }: Claim, reason: Error): void {
    this.#underWay.get(keys.stream)?.fail(reason);
  }

  /** A query on any connection, given up after the time of a lease: nobody may hang on a dead connection. */
  #patiently<Row extends QueryResultRow>(seconds: number, text: string, values: unknown[]) {
    const query: TimedQuery = { text, values, query_timeout: seconds * 1000 };
    return this.#pool.query<Row>(query);
  }

  async release({ keys, owner, epoch }: Claim): Promise<void> {
    this.#disconnect(keys.stream);
    await this.#patiently(
      PATIENCE_MS / 1000,
      `UPDATE writebehind_lease SET lease_until = '-infinity'
        WHERE stream = $1 AND owner = $2 AND epoch = $3`,
      [keys.stream, owner, epoch],
    );
  }

  prepare({ stream }: PartitionKeys, batch: Batch): void {
    const [arena, other] = this.#arenas.get(stream) ?? [new Arena(), new Arena()];
    this.#arenas.set(stream, [other, arena]);
    arena.clear();
    this.#prepared.set(batch, batchValues(batch, this.#carefulBatches > 0, arena));
  }

  async apply(claim: Claim, batch: Batch): Promise<void> {
    const { stream } = claim.keys;
    const { parked } = batch;
    const parking = parked.length > 0;
    const run = (values: BatchValues) =>
      this.#query<{ moved: number }>(
        stream,
        `${parking ? "park" : "apply"} ${this.#entity}`,
        applySql(this.#table, values, parking),
        [
          stream,
          claim.offset,
          claim.epoch,
          batch.lastId,
          batch.events,
          claim.parkedVersion,
          ...valuesOf(values),
          ...(parking ? parkedValues(this.#entity, parked) : []),
        ],
        { variant: variantOf(values) },
      );
    const careful = this.#carefulBatches > 0;
    if (careful) this.#carefulBatches--;
    const { rows: [row] } = await run(this.#prepared.get(batch) ?? batchValues(batch, careful))
      .catch((error) => {
        if (error.code !== UNIQUE_VIOLATION) throw error;
        // A row that should be new is there already. Nothing was done; it may be so for a while.
        this.#carefulBatches = CAREFUL_BATCHES;
        return run(batchValues(batch, true));
      });
    if (row!.moved === 0) await this.#explainStanding(claim);
    claim.offset = claim.witness = batch.lastId;
    if (parking) claim.hasParked = true;
  }

  /** Why the offset did not move: nothing was applied. */
  async #explainStanding({ keys, epoch }: Claim): Promise<never> {
    const { stream } = keys;
    const { rows: [row] } = await this.#query<{ epoch: string }>(
      stream,
      "epoch",
      "SELECT epoch FROM writebehind_offset WHERE stream = $1",
      [stream],
    );
    if (row?.epoch !== epoch) throw this.#lost(keys);
    throw new ParkedChangedError(`what is parked of ${stream} has changed`);
  }

  async parkedAmong({ keys: { stream } }: Claim, ids: Buffer[]): Promise<Set<string>> {
    const { rows } = await this.#query<{ doc_id: Buffer }>(
      stream,
      "parked among",
      `SELECT DISTINCT d.doc_id
         FROM unnest($2::bytea[]) AS e (id)
         JOIN writebehind_dead_letter d
           ON d.stream = $1 AND d.fingerprint = sha256(e.id) AND d.doc_id = e.id
        WHERE d.state = 'parked'`,
      [stream, bytesArray("bytea", ids, (id) => id)],
    );
    return new Set(rows.map(({ doc_id }) => doc_id.toString("latin1")));
  }

  async invalidPayloads(claim: Claim, upserts: Upsert[]): Promise<Map<string, Refusal>> {
    const refused = new Map<string, Refusal>();
    const texts = upserts.filter(({ key, payload }) => {
      const fine = isUtf8(payload) && !payload.includes(0);
      if (!fine) refused.set(key, { sqlstate: "22021", reason: "the payload is not UTF-8 text" });
      return fine;
    });
    const { rows } = await this.#query<{ index: number; sqlstate: string; reason: string }>(
      claim.keys.stream,
      "invalid payloads",
      `SELECT e.index::int AS index, i.sql_error_code AS sqlstate,
              concat_ws(': ', i.message, i.detail) AS reason
         FROM unnest($1::text[]) WITH ORDINALITY AS e (payload, index),
              pg_input_error_info(e.payload, 'jsonb') AS i
        WHERE NOT pg_input_is_valid(e.payload, 'jsonb')`,
      [bytesArray("text", texts, ({ payload }) => payload)],
    );
    for (const { index, ...refusal } of rows) refused.set(texts[index - 1]!.key, refusal);
    return refused;
  }

  async probe(claim: Claim, upserts: Upsert[], removals: Removal[]): Promise<Refusal | null> {
    try {
      await this.#query(
        claim.keys.stream,
        `probe ${this.#entity}`,
        probeSql(this.#table),
        rowValues(upserts, removals),
      );
    } catch (error) {
      if (!isPostgresError(error)) throw error;
      if (error.table === "writebehind_probe") return null;
      if (kindOf(error) !== "poison") throw error;
      return { sqlstate: error.code!, reason: error.message };
    }
    throw new Error("a probe never succeeds");
  }

  async wentBack({ keys, owner, epoch }: Claim): Promise<void> {
    await this.#patiently(
      PATIENCE_MS / 1000,
      `UPDATE writebehind_offset
          SET witness = '0-0', went_back = went_back + 1, went_back_at = clock_timestamp()
        WHERE stream = $1 AND owner = $2 AND epoch = $3`,
      [keys.stream, owner, epoch],
    );
  }

  /**
   * A query on the partition's own connection.
   * @param seconds how long it may take; a batch may take as long as its lease is kept
   * @param variant tells texts of one name apart, which PostgreSQL keeps prepared
   */
  async #query<Row extends QueryResultRow>(
    stream: string,
    name: string,
    text: string,
    values: unknown[],
    { seconds, variant }: { seconds?: number; variant?: string } = {},
  ) {
    const connection = await this.#connect(stream);
    const abandoned = Promise.withResolvers<never>();
    this.#underWay.set(stream, { since: Date.now(), fail: abandoned.reject });
    try {
      const prepared = variant === undefined ? name : `${name} ${variant}`;
      const query: TimedQuery = { name: prepared, text, values };
      if (seconds !== undefined) query.query_timeout = seconds * 1000;
      const reply = connection.query<Row>(query);
      await failpoint?.(`sent ${name}`);
      return await Promise.race([reply, abandoned.promise]);
    } catch (error) {
      // A connection that failed otherwise than by an answer is not used again. Nor is one whose session may be
      // to blame: a primary that was demoted, or a role whose settings have changed, is only left by a new one.
      if (!isPostgresError(error) || kindOf(error) === "systemic") this.#disconnect(stream);
      throw error;
    } finally {
      this.#underWay.delete(stream);
    }
  }

  #lost({ stream }: PartitionKeys): OwnershipLostError {
    return new OwnershipLostError(`another sink owns ${stream} now`);
  }

  async #connect(stream: string): Promise<PoolClient> {
    const known = this.#connections.get(stream);
    if (known) return known;
    const connection = await this.#pool.connect();
    // At once: it may come with the first answer.
    connection.on("error", () => {
      if (this.#connections.get(stream) === connection) this.#disconnect(stream);
    });
    try {
      // A plan made while the table was empty would scan the whole table for ever after.
      const query: TimedQuery = {
        text: "SET enable_seqscan = off",
        query_timeout: PATIENCE_MS,
      };
      await connection.query(query);
    } catch (error) {
      connection.release(true);
      throw error;
    }
    this.#connections.set(stream, connection);
    return connection;
  }

  #disconnect(stream: string): void {
    const connection = this.#connections.get(stream);
    this.#connections.delete(stream);
    connection?.release(true);
  }

  close(): Promise<void> {
    for (const stream of [...this.#connections.keys()]) this.#disconnect(stream);
    return Promise.resolve();
  }
}
