/**
 * Batches in MySQL: rows, removals, what is parked and the offset, in one transaction on the owner's connection.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import { failpoint } from "../../core/failpoints.ts";
import { awaitedLater } from "../../core/promises.ts";
import { reasonOf } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { harmlessRowsGo, ownershipLost } from "../common.ts";
import { type Batches, type Claim, ParkedChangedError } from "../target.ts";
import type { Batch, BatchRows, Refusal, Tried, Upsert } from "../batch.ts";
import { type Flavor, refreshLimit } from "./connect.ts";
import { isMysqlError, isOfTheServer, mysqlErrorKind, RefusedDocumentError } from "./errors.ts";
import { type Connection, patiently, rowsOf } from "./pool.ts";
import { KEYS_AS_NEEDED, keysChanged } from "./schema.ts";
import type { Sessions } from "./sessions.ts";
import {
  anyRow,
  missed,
  NOW,
  parkStatements,
  type PreparedRows,
  prepareRows,
  refusalOf,
  rowStatements,
  run,
  type Statement,
  writeMany,
} from "./statements.ts";

/** Ids that are looked for by one query. */
const IDS_AT_ONCE = 1000;

/** Why rows were refused; `null` where an error says nothing of them. */
export function triedOf(error: unknown): Tried | null {
  if (error instanceof RefusedDocumentError) {
    return { kind: "document", sqlstate: error.sqlstate, reason: reasonOf(error) };
  }
  if (!isMysqlError(error) || isOfTheServer(error)) return null;
  return { kind: mysqlErrorKind(error), sqlstate: String(error.errno), reason: error.message };
}

/** Which of these documents are parked in the streams, as bytes. */
export async function parkedAmong(
  connection: Pick<Connection, "query">,
  streams: string[],
  ids: Buffer[],
): Promise<Buffer[]> {
  const found: Buffer[] = [];
  for (let at = 0; at < ids.length; at += IDS_AT_ONCE) {
    const rows = await rowsOf<{ doc_id: Buffer }>(
      connection,
      `SELECT DISTINCT doc_id FROM writebehind_dead_letter
        WHERE stream IN (?) AND doc_id IN (?) AND state = 'parked'`,
      [streams, ids.slice(at, at + IDS_AT_ONCE)],
    );
    found.push(...rows.map(({ doc_id }) => doc_id));
  }
  return found;
}

/** What a batch has done. */
interface Done {
  moved: unknown;
  keyed: unknown;
  epoch: unknown;
}

/** Applies batches to the tables of a configuration's entities. */
export class MysqlBatches implements Batches {
  #sessions: Sessions;
  #config: Config;
  #flavor: Flavor;
  /** rows that were prepared while another batch was under way, or why they are refused */
  #prepared = new WeakMap<Batch, PreparedRows | RefusedDocumentError>();

  constructor(sessions: Sessions, config: Config, flavor: Flavor) {
    this.#sessions = sessions;
    this.#config = config;
    this.#flavor = flavor;
  }

  #tableOf({ entity }: PartitionKeys): string {
    return entityConfig(this.#config, entity).table;
  }

  prepare(_keys: PartitionKeys, batch: Batch): void {
    this.#prepared.set(batch, this.#rowsOf(batch));
  }

  #rowsOf(rows: BatchRows): PreparedRows | RefusedDocumentError {
    try {
      return prepareRows(rows, this.#flavor);
    } catch (error) {
      if (error instanceof RefusedDocumentError) return error;
      throw error;
    }
  }

  async apply(claim: Claim, batch: Batch): Promise<BatchRows> {
    const { keys, owner, offset, epoch, parkedVersion } = claim;
    const { lastId, events, parked } = batch;
    const { stream, entity } = keys;
    const rows = this.#prepared.get(batch) ?? this.#rowsOf(batch);
    this.#prepared.delete(batch);
    if (rows instanceof RefusedDocumentError) throw rows;
    const parking = parked.length > 0;
    const only = "@moved = 1";
    const table = this.#tableOf(keys);
    const begin: Statement[] = [
      ["START TRANSACTION", []],
      // From here on nobody changes the table. By another key, a row would take the place of another document's; without
      // one, it would stand beside its older one.
      [`SELECT 1 FROM \`${table}\` LIMIT 0`, []],
      [`SET @keyed = ${KEYS_AS_NEEDED}`, [table]],
      [
        `UPDATE writebehind_offset
            SET last_id = ?, witness = ?, events = events + ?, updated_at = ${NOW}
          WHERE stream = ? AND last_id = ? AND epoch = ? AND parked_version = ? AND @keyed = 1`,
        [lastId, lastId, events, stream, offset, epoch, parkedVersion],
      ],
      // Not by ROW_COUNT(): where the sink has died meanwhile, the server cannot answer, sets that to -1, and goes on to the
      // COMMIT.
      [
        `SET @moved = (SELECT COUNT(*) FROM writebehind_offset
                        WHERE stream = ? AND last_id = ? AND epoch = ?)`,
        [stream, lastId, epoch],
      ],
    ];
    const end: Statement[] = [
      ...rowStatements(table, rows, this.#flavor, only),
      ...parkStatements(entity, stream, parked, this.#flavor, only),
      ["COMMIT", []],
      [
        "SELECT @moved AS moved, @keyed AS keyed, (SELECT epoch FROM writebehind_offset WHERE stream = ?) AS epoch",
        [stream],
      ],
    ];
    const [done] = await this.#sessions.run(keys, owner, async (connection) => {
      const sent = awaitedLater(this.#send(connection, table, begin, rows, end));
      await failpoint?.(`sent ${parking ? "park" : "apply"} ${entity}`);
      return await sent;
    });
    if (Number(done!.moved) === 0) {
      if (String(done!.epoch) !== epoch) throw ownershipLost(keys);
      if (Number(done!.keyed) !== 1) throw keysChanged(table);
      throw new ParkedChangedError(`what is parked of ${stream} has changed`);
    }
    claim.offset = claim.witness = lastId;
    if (parking) claim.hasParked = true;
    // A trigger can change a row or refuse it, and cannot leave it out.
    return { upserts: [], removals: [] };
  }

  /** One message; only where there are many rows, others in between. */
  async #send(
    connection: Connection,
    table: string,
    begin: Statement[],
    rows: PreparedRows,
    end: Statement[],
  ): Promise<Done[]> {
    if (rows.many.length === 0) {
      return await run<Done>(connection, [...begin, ...end], this.#flavor);
    }
    const asked: Statement = ["SELECT @moved AS moved", []];
    const [{ moved }] = await run<Done>(connection, [...begin, asked], this.#flavor) as [Done];
    if (Number(moved) === 1) await writeMany(connection, table, rows);
    return await run<Done>(connection, end, this.#flavor);
  }

  async swallowed({ keys, offset, epoch }: Claim, rows: BatchRows): Promise<string[]> {
    return await patiently(this.#sessions.pool, async (connection) => {
      const there = await rowsOf(
        connection,
        "SELECT 1 FROM writebehind_offset WHERE stream = ? AND last_id = ? AND epoch = ?",
        [keys.stream, offset, epoch],
      );
      if (there.length === 0) return [];
      return await missed(connection, this.#tableOf(keys), rows, this.#flavor);
    });
  }

  async parkedAmong({ keys }: Claim, ids: Buffer[]): Promise<Set<string>> {
    const found = await patiently(
      this.#sessions.pool,
      (connection) => parkedAmong(connection, [keys.stream], ids),
    );
    return new Set(found.map((id) => id.toString("latin1")));
  }

  async invalidPayloads(_claim: Claim, upserts: Upsert[]): Promise<Map<string, Refusal>> {
    // What is too large may be so no longer.
    await patiently(this.#sessions.pool, (connection) => refreshLimit(connection, this.#flavor));
    const refused = new Map<string, Refusal>();
    for (const { key, payload } of upserts) {
      const refusal = refusalOf(payload, this.#flavor);
      if (refusal !== null) {
        refused.set(key, { sqlstate: refusal.sqlstate, reason: reasonOf(refusal) });
      }
    }
    return refused;
  }

  /** Nothing is checked at the commit only, so that each try is as deep as it can be. */
  async probe({ keys, owner }: Claim, rows: BatchRows): Promise<Tried | null> {
    try {
      const prepared = prepareRows(rows, this.#flavor);
      const table = this.#tableOf(keys);
      await this.#sessions.run(keys, owner, async (connection) => {
        await connection.query("START TRANSACTION");
        await writeMany(connection, table, prepared);
        const others = rowStatements(table, prepared, this.#flavor);
        await run(connection, [...others, ["ROLLBACK", []]], this.#flavor);
      });
      return null;
    } catch (error) {
      const tried = triedOf(error);
      if (tried === null) throw error;
      return tried;
    }
  }

  works(claim: Claim, rows: keyof BatchRows): Promise<boolean | null> {
    const table = this.#tableOf(claim.keys);
    return harmlessRowsGo(
      rows,
      (harmless) => this.probe(claim, harmless),
      () =>
        patiently(this.#sessions.pool, (connection) => anyRow(connection, table)).catch((error) => {
          if (triedOf(error) === null) throw error;
          return null;
        }),
    );
  }
}
