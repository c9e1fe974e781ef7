/**
 * The statements for Oracle; experimental, see `session.ts`. They are Oracle's own, 12.2 and newer.
 *
 * - The session compares texts byte for byte: `ALTER SESSION SET NLS_COMP = BINARY NLS_SORT = BINARY`, in a database of
 *   the charset AL32UTF8.
 * - A column in a result has its name in quotes, else it would come in capitals.
 * - A payload is no part of a USING: a text past 4,000 bytes cannot stand in a query there (ORA-01461).
 * @module
 */

import { versionAt } from "../../core/stream_ids.ts";
import { hexOf, storable, utcOf } from "../common.ts";
import type { Parked, Removal, Upsert } from "../batch.ts";
import type { Statement, Values } from "./session.ts";
import tables from "./tables.sql" with { type: "text" };

/** SQL for the time now, in UTC. */
const NOW = "CAST(SYSTIMESTAMP AT TIME ZONE 'UTC' AS TIMESTAMP(3))";

/** A time as {@linkcode utcOf} writes it, as SQL. */
const timeSql = (name: string) => `TO_TIMESTAMP(:${name}, 'YYYY-MM-DD"T"HH24:MI:SS.FF3')`;

/** A table's name: in quotes it may be a reserved word, and in capitals nobody else needs them. */
const quoted = (table: string) => `"${table.toUpperCase()}"`;

/** What makes all tables. */
export function tableStatements(table: string): Statement[] {
  return tables.replaceAll(/^ *--.*\n/gm, "").replaceAll("{table}", quoted(table)).split(/;\s*\n/)
    .map((sql) => sql.trim()).filter((sql) => sql !== "").map((sql) => ({ sql, binds: {} }));
}

const stream = { stream: "text" } as const;
const claimed = { ...stream, owner: "text", epoch: "number" } as const;

/** Makes a partition's row where it is missing. */
export const BEGIN_OFFSET: Statement = {
  sql: `INSERT INTO writebehind_offset (stream) SELECT :stream FROM DUAL
 WHERE NOT EXISTS (SELECT 1 FROM writebehind_offset WHERE stream = :stream)`,
  binds: stream,
};

/** Reads a partition's row, and waits for whoever changes it. */
export const LOCK_OFFSET: Statement = {
  sql: `SELECT last_id AS "last_id", witness AS "witness", TO_CHAR(epoch + 1) AS "next_epoch",
       TO_CHAR(parked_version) AS "parked_version"
  FROM writebehind_offset WHERE stream = :stream FOR UPDATE`,
  binds: stream,
};

/** Finds another owner's lease that has not ended. */
export const FIND_LEASE: Statement = {
  sql: `SELECT owner AS "owner" FROM writebehind_lease
 WHERE stream = :stream AND owner <> :owner AND lease_until > ${NOW}`,
  binds: { ...stream, owner: "text" },
};

/** Fences off the owner before. */
export const RAISE_EPOCH: Statement = {
  sql: "UPDATE writebehind_offset SET epoch = :epoch, owner = :owner WHERE stream = :stream",
  binds: claimed,
};

/** Grants a lease. */
export const GRANT_LEASE: Statement = {
  sql:
    `MERGE INTO writebehind_lease l USING (SELECT :stream AS stream FROM DUAL) n ON (l.stream = n.stream)
 WHEN MATCHED THEN UPDATE SET owner = :owner, epoch = :epoch, lease_until = ${NOW} + :seconds * INTERVAL '1' SECOND
 WHEN NOT MATCHED THEN INSERT (stream, owner, epoch, lease_until)
      VALUES (n.stream, :owner, :epoch, ${NOW} + :seconds * INTERVAL '1' SECOND)`,
  binds: { ...claimed, seconds: "number" },
};

/** Keeps a lease. */
export const RENEW_LEASE: Statement = {
  sql: `UPDATE writebehind_lease SET lease_until = ${NOW} + :seconds * INTERVAL '1' SECOND
 WHERE stream = :stream AND owner = :owner AND epoch = :epoch`,
  binds: { ...claimed, seconds: "number" },
};

/** Gives a lease back. */
export const END_LEASE: Statement = {
  sql: "DELETE FROM writebehind_lease WHERE stream = :stream AND owner = :owner AND epoch = :epoch",
  binds: claimed,
};

/** Reads how far a partition is, and who may write it. */
export const READ_OFFSET: Statement = {
  sql:
    `SELECT last_id AS "last_id", TO_CHAR(epoch) AS "epoch" FROM writebehind_offset WHERE stream = :stream`,
  binds: stream,
};

/** Moves the offset, and waits for a successor that takes the partition; no row where it has been taken. */
export const MOVE_OFFSET: Statement = {
  sql: `UPDATE writebehind_offset
   SET last_id = :last_id, witness = :last_id, events = events + :events, updated_at = ${NOW}
 WHERE stream = :stream AND last_id = :before AND epoch = :epoch AND parked_version = :parked_version`,
  binds: {
    ...stream,
    ...{ last_id: "text", before: "text", events: "number", epoch: "number" },
    parked_version: "number",
  },
};

/**
 * Writes a row. An older version never replaces a newer one. An update event does not know when its document was
 * created, so the row keeps its value.
 */
export function writeRow(table: string): Statement {
  const [created, updated] = [timeSql("created"), timeSql("updated")];
  return {
    sql: `MERGE INTO ${quoted(table)} t
USING (SELECT :id AS id, :version AS version FROM DUAL) n ON (t.id = n.id)
 WHEN MATCHED THEN UPDATE
      SET payload = :payload, created_at = COALESCE(${created}, t.created_at), updated_at = ${updated}, version = n.version
    WHERE t.version < n.version
 WHEN NOT MATCHED THEN INSERT (id, payload, created_at, updated_at, version)
      VALUES (n.id, :payload, COALESCE(${created}, ${updated}), ${updated}, n.version)`,
    binds: { id: "text", version: "number", payload: "clob", created: "text", updated: "text" },
  };
}

/** The values of {@linkcode writeRow}. */
export function writtenRow(row: Upsert): Values {
  return {
    ...removedRow(row),
    payload: row.payload.toString(),
    created: row.created === null ? null : utcOf(row.created),
    updated: utcOf(row.updated),
  };
}

/** Removes a row that is not newer. */
export function removeRow(table: string): Statement {
  return {
    sql: `DELETE FROM ${quoted(table)} WHERE id = :id AND version < :version`,
    binds: { id: "text", version: "number" },
  };
}

/** The values of {@linkcode removeRow}. */
export function removedRow(row: Removal): Values {
  return { id: row.id.toString(), version: String(versionAt(row)) };
}

/** Parks an event. */
export const PARK: Statement = {
  sql: `MERGE INTO writebehind_dead_letter d
USING (SELECT :stream AS stream, :stream_id AS stream_id FROM DUAL) n
   ON (d.stream = n.stream AND d.stream_id = n.stream_id)
 WHEN MATCHED THEN UPDATE
      SET attempts = attempts + 1, last_at = ${NOW}, reason = :reason, state = 'parked'
 WHEN NOT MATCHED THEN INSERT (stream, stream_id, entity, doc_id, event_type, ts, payload, payload_there, fields, code,
                               reason, first_at, last_at)
      VALUES (n.stream, n.stream_id, :entity, :doc_id, :event_type, :ts, :payload, :payload_there, :fields, :code,
              :reason, ${NOW}, ${NOW})`,
  binds: {
    ...stream,
    ...{ stream_id: "text", entity: "text", doc_id: "raw", event_type: "text", ts: "number" },
    ...{ payload: "blob", payload_there: "number", fields: "clob", code: "text", reason: "clob" },
  },
};

/** The values of {@linkcode PARK}. */
export function parkedEvent(entity: string, of: string, event: Parked): Values {
  const { streamId, id, type, ts, payload, fields, sqlstate, reason } = event;
  return {
    stream: of,
    stream_id: streamId,
    entity,
    doc_id: id,
    event_type: storable(type),
    ts,
    payload,
    payload_there: payload === null ? 0 : 1,
    fields: hexOf(fields),
    code: sqlstate,
    reason: storable(reason),
  };
}

/** Whether anything of a partition is parked. */
export const ANY_PARKED: Statement = {
  sql: `SELECT stream_id AS "stream_id" FROM writebehind_dead_letter
 WHERE stream = :stream AND state = 'parked' FETCH FIRST 1 ROWS ONLY`,
  binds: stream,
};

/** Reads what is parked, in no order. */
export const READ_PARKED: Statement = {
  sql:
    `SELECT stream_id AS "stream_id", doc_id AS "doc_id", event_type AS "event_type", TO_CHAR(ts) AS "ts",
       payload AS "payload", payload_there AS "payload_there", fields AS "fields", code AS "code", reason AS "reason"
  FROM writebehind_dead_letter WHERE stream = :stream AND state = 'parked'`,
  binds: stream,
};
