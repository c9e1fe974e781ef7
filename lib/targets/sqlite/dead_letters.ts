/**
 * The dead letter in a file: the table `writebehind_dead_letter`.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { fitting } from "../common.ts";
import type { BatchRows, Tried } from "../batch.ts";
import type {
  DeadLetter,
  DeadLetterEvent,
  DeadLetters,
  DeadLetterSelection,
  DeadLetterState,
  HeldDeadLetters,
  LetterStream,
  ParkedDocument,
  ParkedEvent,
  Settled,
} from "../dead_letters.ts";
import type { Connection, Connections } from "./connection.ts";
import { memoryOf, pack, packLook, packRows } from "./packed.ts";

/** Bytes that come from the worker, in memory of their own. */
function bufferOf({ buffer, byteOffset, length }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, length);
}

/** What could not be stored of a configuration's entities. */
export class SqliteDeadLetters implements DeadLetters {
  #connections: Connections;
  #config: Config;

  constructor(connections: Connections, config: Config) {
    this.#connections = connections;
    this.#config = config;
  }

  async *list(entity: string, state: DeadLetterState | "all"): AsyncGenerator<DeadLetter> {
    await using reading = this.#connections.own(true);
    await reading.call("openList", [entity, state]);
    for (;;) {
      const letters = await reading.call("nextListed", []);
      if (letters.length === 0) return;
      yield* letters;
    }
  }

  async read(id: number): Promise<DeadLetterEvent | null> {
    const event = await this.#connections.reader.call("readLetter", [id]);
    return event && {
      ...event,
      payload: event.payload && bufferOf(event.payload),
      fields: event.fields && event.fields.map(bufferOf),
    };
  }

  async *documents(
    { stream, entity }: PartitionKeys,
    selection: DeadLetterSelection,
    maxBytes: number,
  ): AsyncGenerator<ParkedDocument[]> {
    await using reading = this.#connections.own(true);
    await reading.call("openDocuments", [stream, entity, selection]);
    for (;;) {
      const found = await reading.call("nextDocuments", []);
      if (found.length === 0) return;
      yield* fitting(
        found.map(({ docId, ...rest }) => ({ ...rest, docId: docId && bufferOf(docId) })),
        maxBytes,
      );
    }
  }

  async streams(entity: string): Promise<string[]> {
    return await this.#connections.reader.call("parkedStreams", [entity]);
  }

  async discard(
    { stream, entity }: LetterStream,
    selection: DeadLetterSelection,
    dryRun: boolean,
  ): Promise<number> {
    await using writing = this.#connections.own(false);
    await writing.call("hold", [stream]);
    const discarded = await writing.call("discard", [stream, entity, selection]);
    await writing.call("endHold", [!dryRun && discarded > 0]);
    return discarded;
  }

  async discardedAmong({ stream }: PartitionKeys, streamIds: string[]): Promise<string[]> {
    return await this.#connections.reader.call("discardedAmong", [stream, streamIds]);
  }

  async move({ stream }: PartitionKeys, to: readonly PartitionKeys[]): Promise<void> {
    await this.#connections.writer.call("moveLetters", [stream, to]);
  }

  async hold(
    keys: PartitionKeys,
    work: (held: HeldDeadLetters) => Promise<boolean>,
  ): Promise<void> {
    const { table } = entityConfig(this.#config, keys.entity);
    // Closed without an end, the transaction has changed nothing.
    await using writing = this.#connections.own(false);
    await writing.call("hold", [keys.stream]);
    await writing.call("endHold", [await work(new Held(writing, keys, table))]);
  }
}

/** The dead letter of one partition, inside the transaction that holds it. */
class Held implements HeldDeadLetters {
  #connection: Connection;
  #keys: PartitionKeys;
  #table: string;

  constructor(connection: Connection, keys: PartitionKeys, table: string) {
    this.#connection = connection;
    this.#keys = keys;
    this.#table = table;
  }

  async entries(ids: string[]): Promise<{ id: string; streamId: string; fields: Buffer[] }[]> {
    const entries = await this.#connection.call("entries", [ids]);
    return entries.map((entry) => ({ ...entry, fields: entry.fields.map(bufferOf) }));
  }

  async events(docIds: Buffer[]): Promise<ParkedEvent[]> {
    const packed = pack(docIds, (id) => id);
    const { stream } = this.#keys;
    const events = await this.#connection.call("events", [stream, packed], memoryOf(packed));
    return events.map((event) => ({ ...event, docId: bufferOf(event.docId) }));
  }

  async payloads(ids: string[]): Promise<Map<string, Buffer | null>> {
    const payloads = await this.#connection.call("payloads", [ids]);
    return new Map(payloads.map(([id, payload]) => [id, payload && bufferOf(payload)]));
  }

  hasRow(docId: Buffer): Promise<boolean> {
    return this.#connection.call("hasRow", [this.#table, docId.toString()]);
  }

  async attempt(rows: BatchRows, keep: boolean): Promise<Tried | null> {
    const packed = packRows(rows);
    return await this.#connection.call("attempt", [this.#table, packed, keep], memoryOf(packed));
  }

  async swallowed(rows: BatchRows): Promise<string[]> {
    const [written, removed] = packLook(rows);
    const memory = memoryOf(written, removed);
    return await this.#connection.call("missed", [this.#table, written, removed], memory);
  }

  anyRow(): Promise<{ id: string; payload: string } | null> {
    return this.#connection.call("anyRow", [this.#table]);
  }

  settle(settled: Settled): Promise<void> {
    return this.#connection.call("settle", [settled]);
  }
}
