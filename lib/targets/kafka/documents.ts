/**
 * Documents as messages: the key is the id, the value the payload's bytes, unchanged; none removes it.
 * @module
 */

import type { Buffer } from "node:buffer";
import { versionAt } from "../../core/stream_ids.ts";
import { type BatchRows, byPlace, type Removal, type Upsert } from "../batch.ts";
import { isText, notJson } from "../common.ts";
import type { Row } from "../target.ts";
import type { Client } from "./client.ts";
import { RefusedDocumentError } from "./errors.ts";
import { type Message, partitionFor, type ReadMessage, utf8 } from "./messages.ts";
import { newestOf, read } from "./reader.ts";

/** What the headers of a document's message are called. */
const EVENT_TYPE = utf8("event_type");
const TS = utf8("ts");
const STREAM_ID = utf8("stream_id");
const VERSION = utf8("version");
const TYPES = { insert: utf8("insert"), update: utf8("update"), delete: utf8("delete") };

/** Why a payload cannot be stored; `null` where it can. Kafka looks at nothing. */
export function refusalOf(payload: Buffer): RefusedDocumentError | null {
  if (!isText(payload)) {
    return new RefusedDocumentError("INVALID_TEXT", "the payload is not UTF-8 text");
  }
  const reason = notJson(payload);
  return reason === null ? null : new RefusedDocumentError("INVALID_JSON", reason);
}

/** The message of a document that was written last. */
export function writing(topic: string, upsert: Upsert): Message {
  const { id, payload, updated, fresh } = upsert;
  return {
    topic,
    key: id,
    value: payload,
    headers: [
      [EVENT_TYPE, fresh ? TYPES.insert : TYPES.update],
      [TS, utf8(String(updated))],
      ...placeOf(upsert),
    ],
  };
}

/** The message that removes a document. */
export function removing(topic: string, removal: Removal): Message {
  const headers: Message["headers"] = [[EVENT_TYPE, TYPES.delete], ...placeOf(removal)];
  return { topic, key: removal.id, value: null, headers };
}

function placeOf(row: Removal): Message["headers"] {
  const { ms, seq } = row;
  return [[STREAM_ID, utf8(`${ms}-${seq}`)], [VERSION, utf8(String(versionAt(row)))]];
}

/** The version that a message was written with; 0 for one of other writers. */
export function versionIn({ headers }: ReadMessage): bigint {
  return BigInt(headers.get("version")?.toString() ?? 0);
}

/** The row that a message stands for; `null` where it removes it. */
export function rowIn(message: ReadMessage): Row | null {
  const { value } = message;
  return value && { text: value.toString(), version: String(versionIn(message)) };
}

/** The newest messages of documents, by the ids' bytes as text of one character a byte. */
export async function newestDocuments(
  client: Client,
  topicName: string,
  ids: Buffer[],
): Promise<Map<string, ReadMessage>> {
  return await client.withTopic(topicName, async (topic) => {
    const keys = new Map<number, Set<string>>();
    for (const id of ids) {
      const partition = partitionFor(id, topic.leaders.length);
      keys.getOrInsertComputed(partition, () => new Set()).add(id.toString("latin1"));
    }
    return await newestOf(client, topic, keys);
  });
}

/** The highest version of all that is in a topic: it is read whole. */
export async function newestVersion(client: Client, topicName: string): Promise<bigint> {
  return await client.withTopic(topicName, async (topic) => {
    let newest = 0n;
    const from = await client.bounds(topic, "begin");
    for await (const messages of read(client, topic, from, await client.bounds(topic, "end"))) {
      for (const message of messages) {
        const version = versionIn(message);
        if (version > newest) newest = version;
      }
    }
    return newest;
  });
}

/** An entity's topic, and what goes there. */
export interface DocumentsTopic {
  readonly name: string;
  /** whether each event is a message of its own, in stream order */
  readonly everyEvent: boolean;
}

/**
 * The rows that are newer than what is there: an older version never replaces a newer one.
 * @param top the highest version that was ever written
 */
export async function onlyNewer(
  client: Client,
  { name, everyEvent }: DocumentsTopic,
  { upserts, removals }: BatchRows,
  top: bigint,
): Promise<BatchRows> {
  // Mostly all are: no version that was ever written is above them. A filling writes many of one version.
  const isOld = (row: Removal) => versionAt(row) < top;
  const doubtful = [...upserts, ...removals].filter(isOld);
  if (doubtful.length === 0) return { upserts, removals };
  const there = await newestDocuments(client, name, doubtful.map(({ id }) => id));
  if (everyEvent) {
    // Then a removal is an event as others are, and has its version.
    const isNew = (row: Removal) => {
      const message = there.get(row.key);
      return !isOld(row) || message === undefined || versionIn(message) < versionAt(row);
    };
    return { upserts: upserts.filter(isNew), removals: removals.filter(isNew) };
  }
  const isNewer = (row: Removal) => {
    const message = there.get(row.key);
    // As in a table, a document that was removed has no version any more.
    return !message?.value || versionIn(message) < versionAt(row);
  };
  const isThere = ({ key }: Removal) => Boolean(there.get(key)?.value);
  return {
    upserts: upserts.filter((row) => !isOld(row) || isNewer(row)),
    removals: removals.filter((row) => !isOld(row) || isThere(row) && isNewer(row)),
  };
}

/** The highest version among rows, or `top`. */
export function highest({ upserts, removals }: BatchRows, top: bigint): bigint {
  for (const rows of [upserts, removals]) {
    for (const row of rows) {
      const version = versionAt(row);
      if (version > top) top = version;
    }
  }
  return top;
}

/**
 * The messages of rows.
 * @throws {RefusedDocumentError} where a payload cannot be stored
 */
export function messagesOf(
  { name, everyEvent }: DocumentsTopic,
  { upserts, removals }: BatchRows,
): Message[] {
  for (const { payload } of upserts) {
    const refusal = refusalOf(payload);
    if (refusal !== null) throw refusal;
  }
  const written = upserts.map((upsert) => writing(name, upsert));
  const removed = removals.map((removal) => removing(name, removal));
  const messages = [...written, ...removed];
  if (!everyEvent) return messages;
  return [...upserts, ...removals]
    .map((row, index): [Removal, Message] => [row, messages[index]!])
    .sort(([a], [b]) => byPlace(a, b))
    .map(([, message]) => message);
}
