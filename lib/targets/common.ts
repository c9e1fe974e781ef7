/**
 * What the kinds of targets do alike.
 * @module
 */

import { Buffer, isUtf8 } from "node:buffer";
import { ConnectionError } from "../core/errors.ts";
import { equalJson } from "../core/json/equality.ts";
import { isSurelyJson } from "../core/json/valid.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import { type PartitionKeys, partitionOf } from "../redis/keys.ts";
import { type Belonging, OwnershipLostError, ParkedChangedError } from "./target.ts";
import type { BatchRows, Tried } from "./batch.ts";
import type { DeadLetter, DeadLetterState, ParkedDocument } from "./dead_letters.ts";

/** How far a clock may have gone back while a lease holds, in seconds: one that is put right goes by small steps. */
export const CLOCK_SECONDS = 1;

/** One owner of one stream. */
export const ownerName = (stream: string, owner: string): string => JSON.stringify([stream, owner]);

/**
 * The error of a target that was closed and is used again. It speaks of no connection, so that no sink takes it for one
 * that comes back.
 * @param address for people
 */
export function closedError(address: string): ConnectionError {
  return new ConnectionError(`The target, ${address}, was closed before: nothing was sent`);
}

/** The error that another sink owns the partition now. */
export function ownershipLost({ stream }: PartitionKeys): OwnershipLostError {
  return new OwnershipLostError(`another sink owns ${stream} now`);
}

/**
 * An offset only moves on under its claim, so one that is lower is that of another server, such as a standby that was behind.
 * @param now as it was read later than `known`
 * @param known what the claim has committed
 * @throws {ParkedChangedError} where it is lower
 */
export function checkOffset(now: string, { stream }: PartitionKeys, known: string): void {
  if (compareStreamIds(now, known) >= 0) return;
  throw new ParkedChangedError(`the offset of ${stream} went back from ${known} to ${now}`);
}

/** How a refused partition goes on, for people. */
export function adoptIt(entity: string): string {
  return `deno task adopt --entity ${entity} shows how it would go on by what is there now, and --yes does it`;
}

/** A condition on a row of `writebehind_offset`: its events have made rows, though it is "0-0" again where Redis was emptied. */
export const HAD_ROWS = "(last_id <> '0-0' OR events > 0)";

/** Why a partition cannot go on with its table, for people. */
export const tableProblems = {
  gone: (table: string, { stream, entity }: PartitionKeys): string =>
    `The table ${table} is gone, and the offset of ${stream} says that it had rows. Restore or rename it back; or, ` +
    `to fill it anew from Redis: ${adoptIt(entity)}`,
  another: (table: string, { stream, entity }: PartitionKeys): string =>
    `The table ${table} is not the one that the offset of ${stream} belongs to: it was made anew, or another one is ` +
    `configured. Restore or name that one; or ${adoptIt(entity)}`,
  renamed: (table: string, { stream, entity }: PartitionKeys, others: string[]): string =>
    `The table ${table} holds the rows of ${
      others.join(", ")
    }, and ${stream} is not among them: streams.prefix, the ` +
    "entity's name or its partitions are others now, and nobody carries on what waits there. Set them back; or " +
    adoptIt(entity),
  emptied: (table: string, { stream, entity }: PartitionKeys): string =>
    `The table ${table} was emptied, and the offset of ${stream} says that it had rows. Restore them; or, to fill it ` +
    `anew from Redis: ${adoptIt(entity)}`,
};

/**
 * Why a partition and its table do not belong together, for people; `null` where they do.
 * @param found.another whether the table that is there is not the one that was noted
 * @param found.others other partitions whose rows are in it
 */
export function problemOf(
  table: string,
  keys: PartitionKeys,
  { there, offset, another, others }: Pick<Belonging, "offset" | "others"> & {
    there: boolean;
    another: boolean;
  },
): string | null {
  if (!there) return offset === "0-0" ? null : tableProblems.gone(table, keys);
  if (another) return tableProblems.another(table, keys);
  if (others.length === 0) return null;
  return tableProblems.renamed(table, keys, others.map(({ stream }) => stream));
}

/** A row of `writebehind_offset` where a mark tells a table from another of its name; older ones lack what is optional. */
export interface MarkedOffset {
  stream: string;
  last_id: string;
  source?: string | null;
  mark?: string | null;
  doubt?: string | null;
  doubt_at?: string | null;
  refused?: number;
}

/**
 * What a partition's offset belongs to, by what is noted and what is there.
 * @param offsets all of them
 * @param found.mark of the table that is there; `null` where it has none
 */
export function belongingByMark(
  table: string,
  keys: PartitionKeys,
  streams: string[],
  offsets: MarkedOffset[],
  { mark, there }: { mark: string | null; there: boolean },
  dateOf: (time: string) => Date,
): Omit<Belonging, "rows" | "gone" | "parkedLast"> {
  const row = offsets.find(({ stream }) => stream === keys.stream);
  const offset = row?.last_id ?? "0-0";
  const others = offsets.filter((other) =>
    mark !== null && other.mark === mark && !streams.includes(other.stream)
  ).map(({ stream, last_id }) => ({ stream, offset: last_id }));
  const another = row?.mark != null && row.mark !== mark;
  return {
    offset,
    source: row?.source ?? null,
    noted: mark !== null && row?.mark === mark,
    begun: offsets.some(({ stream, last_id }) => streams.includes(stream) && last_id !== "0-0"),
    problem: problemOf(table, keys, { there, offset, another, others }),
    others,
    doubt: row?.doubt == null ? null : {
      reason: row.doubt,
      at: dateOf(row.doubt_at!),
      refused: row.refused === 1,
    },
  };
}

/** Whether bytes are UTF-8 without U+0000, which no target's texts can hold. */
export function isText(bytes: Uint8Array): boolean {
  return isUtf8(bytes) && !bytes.includes(0);
}

/** Why a payload of UTF-8 is no JSON text, for people; `null` where it is. */
export function notJson(payload: Buffer): string | null {
  if (isSurelyJson(payload)) return null;
  try {
    JSON.parse(payload.toString());
    return null;
  } catch (error) {
    return `the payload is no JSON: ${(error as Error).message}`;
  }
}

/** A text as a target gives it back: without U+0000, at which it could be cut, and without lone surrogates. */
export function storable(text: string): string {
  return text.replaceAll("\0", "").toWellFormed();
}

let second = NaN;
let upToSecond = "";

/**
 * A time in UTC as text, such as `2025-11-24T16:00:00.123`. Many rows are of the same second, and formatting it takes
 * longer than binding it.
 * @param ms since 1970
 */
export function utcOf(ms: number): string {
  const now = Math.floor(ms / 1000);
  if (now !== second) {
    second = now;
    upToSecond = new Date(1000 * now).toISOString().slice(0, -4);
  }
  return `${upToSecond}${String(Math.trunc(ms) - 1000 * now).padStart(3, "0")}`;
}

/** A row of `writebehind_dead_letter`, without what only one event has; `Time` is how the driver gives a time. */
export interface LetterRow<Time> {
  id: string | number;
  entity: string;
  stream: string;
  stream_id: string;
  doc_id: Uint8Array | null;
  event_type: string;
  state: DeadLetterState;
  sqlstate: string;
  reason: string;
  attempts: string | number;
  first_at: Time;
  last_at: Time;
}

/** What is told of such a row. */
export function letterOf<Time>(
  row: LetterRow<Time>,
  dateOf: (time: Time) => Date,
): Omit<DeadLetter, "waiting"> {
  const { id, entity, stream, state, sqlstate, reason, attempts } = row;
  return {
    id: Number(id),
    entity,
    stream,
    streamId: row.stream_id,
    docId: row.doc_id && Buffer.from(row.doc_id).toString(),
    eventType: row.event_type,
    state,
    sqlstate,
    reason,
    attempts: Number(attempts),
    firstAt: dateOf(row.first_at),
    lastAt: dateOf(row.last_at),
  };
}

/** Names and values of an entry as they are kept where there are no arrays: a JSON array of hexadecimal digits. */
export function fieldsOf(json: string | null): Buffer[] | null {
  if (json === null) return null;
  return (JSON.parse(json) as string[]).map((hex) => Buffer.from(hex, "hex"));
}

/** The same the other way round. */
export function hexOf(fields: Uint8Array[] | null): string | null {
  return fields && JSON.stringify(fields.map((field) => field.toHex()));
}

/** Whether a document is certainly equal to a row's text, as JSON values. */
export function isSurelyEqual(document: Uint8Array | null, row: string | null): boolean {
  if (document === null || row === null) return false;
  const { buffer, byteOffset, length } = document;
  try {
    return equalJson(Buffer.from(buffer, byteOffset, length).toString(), row);
  } catch (error) {
    // One of them is no JSON: another client wrote it.
    if (error instanceof SyntaxError) return false;
    throw error;
  }
}

/** So many documents are replayed in one transaction, which holds up the sink: some tenths of a second, if all fail. */
const MOST_AT_ONCE = 200;

/** The stream in which a parked event's document is; an entry that could not be decoded is in the first. */
export function streamOf(docId: Uint8Array | null, to: readonly PartitionKeys[]): string {
  const id = docId && Buffer.from(docId).toString();
  return to[id === null ? 0 : partitionOf(id, to.length)]!.stream;
}

/** How many documents a page has of what is parked, each without its payload: every page goes through all of it. */
export const DOCUMENTS_PAGE = 50_000;

/**
 * The rows of a query of what is parked, a page at a time, each by a query of its own: a reader holds no connection, and no
 * snapshot, while it works on a page. What is parked meanwhile is not among them.
 * @param ask a query of the target, that may take long
 * @param text its parameters are `values`, the last number that there was at the beginning, and where the page begins
 * @param begin where the first page begins
 * @param placeOf where the page behind a row begins
 */
export async function* pages<Row>(
  ask: <Asked extends object>(text: string, values: unknown[]) => Promise<Asked[]>,
  text: string,
  values: unknown[],
  begin: string[],
  placeOf: (row: Row) => string[],
): AsyncGenerator<Row[]> {
  const [newest] = await ask<{ id: unknown }>(
    "SELECT coalesce(max(id), 0) AS id FROM writebehind_dead_letter",
    [],
  );
  for (let place = begin;;) {
    const given = [...values, String(newest!.id), ...place];
    const rows = await ask<Row & object>(`${text} LIMIT ${DOCUMENTS_PAGE}`, given);
    if (rows.length > 0) yield rows;
    if (rows.length < DOCUMENTS_PAGE) return;
    place = placeOf(rows.at(-1)!);
  }
}

/** Documents, so many at a time that their payloads fit `maxBytes`, at least one and at most 200. */
export function* fitting(
  found: Iterable<ParkedDocument & { bytes: number }>,
  maxBytes: number,
): Generator<ParkedDocument[]> {
  let chunk: ParkedDocument[] = [];
  let held = 0;
  for (const { bytes, ...document } of found) {
    if (chunk.length === MOST_AT_ONCE || chunk.length > 0 && held + bytes > maxBytes) {
      yield chunk;
      [chunk, held] = [[], 0];
    }
    chunk.push(document);
    held += bytes;
  }
  yield chunk;
}

/** The rows of a batch, where fewer were written or removed than given. */
export const shortOf = (
  { upserts, removals }: BatchRows,
  { written, removed }: { written: number; removed: number },
): BatchRows => ({
  upserts: written < upserts.length ? upserts : [],
  removals: removed < removals.length ? removals : [],
});

/**
 * Whether harmless rows go through: see `works` in the port.
 * @param rows whether they are to be written or removed
 * @param probe tries rows
 * @param anyRow reads an existing row; `null` where there is none, or none can be read
 */
export async function harmlessRowsGo(
  rows: keyof BatchRows,
  probe: (rows: BatchRows) => Promise<Tried | null>,
  anyRow: () => Promise<{ id: string; payload: string } | null>,
): Promise<boolean | null> {
  const nobody = `writebehind-probe-${crypto.randomUUID()}`;
  if (rows === "removals") {
    const absent = { id: Buffer.from(nobody), key: nobody, ms: Date.now(), seq: 0 };
    return await probe({ upserts: [], removals: [absent] }) === null;
  }
  const untouched = { ms: Date.now(), seq: 0, updated: Date.now(), created: null, fresh: false };
  const goes = async (id: string, payload: string) => {
    const upsert = { ...untouched, id: Buffer.from(id), key: id, payload: Buffer.from(payload) };
    return await probe({ upserts: [upsert], removals: [] }) === null;
  };
  if (await goes(nobody, "{}")) return true;
  const row = await anyRow();
  return row && await goes(row.id, row.payload);
}
