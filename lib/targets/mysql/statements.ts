/**
 * The statements that write rows in MySQL and MariaDB, and their parameters.
 * @module
 */

import { isUtf8 } from "node:buffer";
import { versionAt } from "../../core/stream_ids.ts";
import { hexOf, notJson, storable, utcOf } from "../common.ts";
import type { BatchRows, Parked, Removal, Upsert } from "../batch.ts";
import type { Flavor } from "./connect.ts";
import { type Connection, rowsOf } from "./pool.ts";
import { RefusedDocumentError } from "./errors.ts";

/**
 * Of many rows, so many are written by one prepared statement, which takes a message of its own and half the server's
 * time for a row (6 µs of CPU, where a JSON document takes 14 and LOAD DATA 9). What is left travels as a document.
 * The longer come first: while the server works on one, the next batch is read and prepared. One of 1,024 rows keeps
 * 2.4 MB of the server's memory, on each connection.
 */
const MANY = [1024, 256] as const;
/** Rows travel as JSON documents of about so many bytes: one statement each. */
const CHUNK_BYTES = 1 << 20;
/** What a statement has beside its document, in bytes, at most. */
const STATEMENT_BYTES = 4096;

/** A statement and its parameters. A Buffer travels in base64, for `FROM_BASE64(?)`: as text it could be twice as long. */
export type Statement = [sql: string, values: unknown[]];

/** A time of so many ms since 1970, as SQL. */
const timeSql = (ms: string) => `TIMESTAMPADD(MICROSECOND, 1000 * ${ms}, '1970-01-01')`;

/** SQL for the time now, in UTC. */
export const NOW = "UTC_TIMESTAMP(3)";

/** Seconds in the unit of `TIMESTAMPADD(MICROSECOND, …)`. */
export const micro = (seconds: number): number => Math.round(seconds * 1e6);

/** A document's rows: `i` the id, `p` the payload's text, `v` the version, `u` and `c` the times. */
const rowsSql = ({ collation }: Flavor) =>
  `(SELECT i COLLATE ${collation} AS i, p, v, u, c
      FROM JSON_TABLE(CONVERT(FROM_BASE64(?) USING utf8mb4), '$[*]' COLUMNS (
             i VARCHAR(1024) CHARACTER SET utf8mb4 PATH '$.i', p LONGTEXT CHARACTER SET utf8mb4 PATH '$.p',
             v BIGINT PATH '$.v', u BIGINT PATH '$.u', c BIGINT PATH '$.c')) AS j)`;

/**
 * Writes rows, where a condition holds. An older version never replaces a newer one. An update event does not know when
 * its document was created, so the row keeps its value. Assignments are made in their order, so the version comes last.
 */
const writeSql = (table: string, flavor: Flavor, only: string) => {
  const t = `\`${table}\``;
  const newer = (value: string, column: string) =>
    `${column} = IF(n.v > ${t}.version, ${value}, ${t}.${column})`;
  return `INSERT INTO ${t} (id, payload, created_at, updated_at, version)
SELECT n.i, n.p, ${timeSql("COALESCE(n.c, n.u)")}, ${timeSql("n.u")}, n.v
  FROM ${rowsSql(flavor)} AS n WHERE ${only}
ON DUPLICATE KEY UPDATE ${
    [
      newer("n.p", "payload"),
      newer(`IF(n.c IS NULL, ${t}.created_at, ${timeSql("n.c")})`, "created_at"),
      newer(timeSql("n.u"), "updated_at"),
      `version = GREATEST(${t}.version, n.v)`,
    ].join(", ")
  }`;
};

/** The same for many rows; `made` tells whether it is known when their documents were created. */
const writeManySql = (table: string, made: boolean, rows: number) => {
  const t = `\`${table}\``;
  const newer = (column: string) =>
    `${column} = IF(VALUES(version) > ${t}.version, VALUES(${column}), ${t}.${column})`;
  const columns = ["payload", ...(made ? ["created_at"] : []), "updated_at"].map(newer);
  return `INSERT INTO ${t} (id, payload, created_at, updated_at, version)
VALUES ${Array(rows).fill("(?, ?, ?, ?, ?)").join()}
ON DUPLICATE KEY UPDATE ${columns.join(", ")}, version = GREATEST(${t}.version, VALUES(version))`;
};

/** Removes rows, where a condition holds; each looked up by its id, whatever the planner believes of the table. */
const removeSql = (table: string, flavor: Flavor, only: string) =>
  `DELETE t FROM ${rowsSql(flavor)} AS n STRAIGHT_JOIN \`${table}\` AS t
    ON t.id = n.i AND t.version < n.v AND ${only}`;

/** The id and the version of a row, as keys of JSON. */
const idOf = (row: Removal): string =>
  `"i":${JSON.stringify(row.id.toString())},"v":${versionAt(row)}`;

/** Why a payload cannot be stored; `null` where it can. The server looks at no text. */
export function refusalOf(payload: Buffer, { maxPacket }: Flavor): RefusedDocumentError | null {
  if (!isUtf8(payload)) {
    return new RefusedDocumentError("22021", "the payload is not UTF-8 text");
  }
  const reason = notJson(payload);
  if (reason !== null) return new RefusedDocumentError("22032", reason);
  // Quoted once more, a text of nothing but quotes is twice as long, and base64 adds a third: mostly it is far from that.
  if (3 * payload.length + STATEMENT_BYTES <= maxPacket) return null;
  const bytes = bytesOf(Buffer.from(JSON.stringify(payload.toString())));
  return bytes + STATEMENT_BYTES <= maxPacket ? null : new RefusedDocumentError(
    "1153",
    `the payload takes ${bytes} bytes in a statement, and max_allowed_packet is ${maxPacket}`,
  );
}

/** Rows as they travel. Those of {@linkcode Many} are views of the batch's own. */
export interface PreparedRows {
  many: Many[];
  /** JSON documents */
  written: Buffer[];
  removed: Buffer[];
}

/** The parameters of many rows. */
interface Many {
  made: boolean;
  rows: number;
  values: unknown[];
}

/**
 * Makes the documents of a batch's rows.
 * @throws {RefusedDocumentError} where a payload cannot be stored
 */
export function prepareRows({ upserts, removals }: BatchRows, flavor: Flavor): PreparedRows {
  for (const { payload } of upserts) {
    const refusal = refusalOf(payload, flavor);
    if (refusal !== null) throw refusal;
  }
  const upsertOf = (upsert: Upsert): string => {
    const { payload, updated, created } = upsert;
    return `{${idOf(upsert)},"p":${JSON.stringify(payload.toString())},"u":${
      Math.trunc(updated)
    },"c":${created === null ? null : Math.trunc(created)}}`;
  };
  const { many, rest } = manyOf(upserts, flavor);
  return {
    many,
    written: chunks(rest, upsertOf, flavor),
    removed: chunks(removals, (removal) => `{${idOf(removal)}}`, flavor),
  };
}

/** Takes many rows at a time, as long as they fit a message. */
function manyOf(upserts: Upsert[], { maxPacket }: Flavor): { many: Many[]; rest: Upsert[] } {
  const many: Many[] = [];
  const rest: Upsert[] = [];
  for (const made of [true, false]) {
    let left = upserts.filter(({ created }) => (created !== null) === made);
    for (const size of MANY) {
      const others: Upsert[] = [];
      for (let at = 0; at < left.length; at += size) {
        const rows = left.slice(at, at + size);
        const bytes = rows.reduce(
          (sum, { id, payload }) => sum + id.length + payload.length + 64,
          0,
        );
        if (rows.length < size || bytes > maxPacket / 2) others.push(...rows);
        else many.push({ made, rows: size, values: rows.flatMap(valuesOf) });
      }
      left = others;
    }
    rest.push(...left);
  }
  return { many, rest };
}

const valuesOf = (row: Upsert): unknown[] => {
  const updated = utcOf(row.updated);
  const created = row.created === null || row.created === row.updated
    ? updated
    : utcOf(row.created);
  return [row.id, row.payload, created, updated, String(versionAt(row))];
};

/** Writes many rows, in a transaction of the caller's. */
export async function writeMany(
  connection: Connection,
  table: string,
  { many }: PreparedRows,
): Promise<void> {
  for (const { made, rows, values } of many) {
    await connection.execute(writeManySql(table, made, rows), values as string[]);
  }
}

function chunks<T>(rows: T[], textOf: (row: T) => string, { maxPacket }: Flavor): Buffer[] {
  const most = Math.min(CHUNK_BYTES, maxPacket / 4 - STATEMENT_BYTES);
  const documents: Buffer[] = [];
  let texts: string[] = [];
  let length = 0;
  const end = () => {
    if (texts.length > 0) documents.push(Buffer.from(`[${texts.join()}]`));
    [texts, length] = [[], 0];
  };
  for (const row of rows) {
    const text = textOf(row);
    if (length + text.length > most) end();
    texts.push(text);
    length += text.length;
  }
  end();
  return documents;
}

/**
 * Writes the other rows and removes rows, in a transaction of the caller's.
 * @param only a condition that must hold
 */
export function rowStatements(
  table: string,
  { written, removed }: PreparedRows,
  flavor: Flavor,
  only = "true",
): Statement[] {
  return [
    ...written.map((rows): Statement => [writeSql(table, flavor, only), [rows]]),
    ...removed.map((rows): Statement => [removeSql(table, flavor, only), [rows]]),
  ];
}

/**
 * Parks events, where a condition holds, in a transaction of the caller's. A payload that no statement can hold is left
 * out: then a replay takes the document as it is in Redis.
 */
export function parkStatements(
  entity: string,
  stream: string,
  parked: Parked[],
  { maxPacket }: Flavor,
  only: string,
): Statement[] {
  const fitting = (bytes: Buffer | null) =>
    bytes !== null && bytesOf(bytes) + STATEMENT_BYTES <= maxPacket ? bytes : null;
  return parked.map(({ streamId, id, type, ts, payload, fields, sqlstate, reason }) => [
    `INSERT INTO writebehind_dead_letter
            (entity, stream, stream_id, doc_id, event_type, ts, payload, fields, code, reason, first_at, last_at)
     SELECT ?, ?, ?, FROM_BASE64(?), ?, ?, FROM_BASE64(?), ?, ?, ?, ${NOW}, ${NOW} FROM DUAL WHERE ${only}
     ON DUPLICATE KEY UPDATE attempts = attempts + 1, last_at = ${NOW}, reason = VALUES(reason), state = 'parked'`,
    [
      entity,
      stream,
      streamId,
      id,
      storable(type),
      ts,
      fitting(payload),
      hexOf(fields),
      sqlstate,
      storable(reason),
    ],
  ]);
}

/**
 * Runs statements one after the other, in as few messages as the server takes; the first that fails is the last.
 * @returns the last one's rows
 */
export async function run<Row>(
  connection: Pick<Connection, "query">,
  statements: Statement[],
  { maxPacket }: Flavor,
): Promise<Row[]> {
  let rows: unknown = [];
  for (let at = 0; at < statements.length;) {
    const [sqls, values]: [string[], unknown[]] = [[], []];
    let bytes = 0;
    do {
      const [sql, own] = statements[at]!;
      const length = sql.length + own.reduce((sum: number, value) => sum + bytesOf(value), 0);
      if (sqls.length > 0 && bytes + length > maxPacket / 2) break;
      bytes += length;
      sqls.push(sql);
      values.push(...own.map((value) => Buffer.isBuffer(value) ? value.toString("base64") : value));
    } while (++at < statements.length);
    const [results] = await connection.query(sqls.join(";\n"), values);
    rows = sqls.length > 1 ? (results as unknown[]).at(-1) : results;
  }
  return rows as Row[];
}

/** Bytes that a parameter takes in a statement, at most. */
function bytesOf(value: unknown): number {
  return 4 + (Buffer.isBuffer(value) ? Math.ceil(value.length / 3) * 4 : 2 * String(value).length);
}

/** Which rows are missing, or older than written, or still there after a removal. */
export async function missed(
  connection: Pick<Connection, "query">,
  table: string,
  { upserts, removals }: BatchRows,
  flavor: Flavor,
): Promise<string[]> {
  const look = async (rows: Removal[], condition: string): Promise<string[]> => {
    const found: string[] = [];
    for (const document of chunks(rows, (row) => `{${idOf(row)}}`, flavor)) {
      const sql = `SELECT n.i AS id FROM ${rowsSql(flavor)} AS n
        LEFT JOIN \`${table}\` AS t ON t.id = n.i WHERE ${condition}`;
      const ids = await run<{ id: string }>(connection, [[sql, [document]]], flavor);
      found.push(...ids.map(({ id }) => id));
    }
    return found;
  };
  return [
    ...await look(upserts, "t.version IS NULL OR t.version < n.v"),
    ...await look(removals, "t.version < n.v"),
  ];
}

/** Reads a row of the table; `null` where there is none. */
export async function anyRow(
  connection: Pick<Connection, "query">,
  table: string,
): Promise<{ id: string; payload: string } | null> {
  const [row] = await rowsOf<{ id: string; payload: string }>(
    connection,
    `SELECT id, COALESCE(payload, 'null') AS payload FROM \`${table}\` LIMIT 1`,
  );
  return row ?? null;
}
