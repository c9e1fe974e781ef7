/**
 * Transactions of one transactional id. Whoever begins anew with it fences off all others that had it, and ends what
 * they have left open.
 * @module
 */

import { Buffer } from "node:buffer";
import { setImmediate as immediate } from "node:timers/promises";
import {
  addPartitionsToTxnV3,
  endTxnV3,
  initProducerIdV4,
  NumericMap,
  produceV9,
} from "@platformatic/kafka";
import { awaitedLater } from "../../core/promises.ts";
import { type Client, persist } from "./client.ts";
import { FENCED, FencedError, isAnswer, RefusedDocumentError } from "./errors.ts";
import { AROUND_BYTES, bytesOf, type Message, partitionFor } from "./messages.ts";

/** How long a transaction may stand open, in ms, before the broker ends it. */
const TRANSACTION_MS = 30_000;
/** Bytes of messages that go in one request, at most, if they are several. */
const REQUEST_BYTES = 900_000;
/** Requests under way at a time: brokers keep their order for so many. */
const IN_FLIGHT = 4;
const ALL = -1;
/** What Kafka 4.1 answers to the end of a transaction while another producer is about to fence it off. */
const UNKNOWN = "UNKNOWN_SERVER_ERROR";
/** Numbers of messages begin anew behind the largest of 31 bits. */
const SEQUENCES = 2 ** 31;

/** Messages of one partition, for one request. */
interface Chunk {
  topic: string;
  partition: number;
  messages: Message[];
  bytes: number;
}

/** A producer of transactions, one at a time. After any error it must begin anew. */
export class Producer {
  #client: Client;
  #name: string;
  #id = { producerId: -1n, producerEpoch: -1 };
  /** the number of the next message of each partition */
  #sequences = new Map<string, number>();
  /** partitions that are in the transaction, as `topic:partition` */
  #joined = new Set<string>();
  /** how large a message of each topic may be */
  #limits = new Map<string, number>();

  constructor(client: Client, transactionalId: string) {
    this.#client = client;
    this.#name = transactionalId;
  }

  /** Fences off whoever else has the transactional id: nothing of theirs is under way any more. */
  async begin(): Promise<void> {
    this.#joined.clear();
    this.#sequences.clear();
    this.#limits.clear();
    const { producerId, producerEpoch } = await persist(
      ["CONCURRENT_TRANSACTIONS"],
      () =>
        this.#client.coordinator(
          "transaction",
          this.#name,
          initProducerIdV4.api,
          this.#name,
          TRANSACTION_MS,
          -1n,
          -1,
        ),
    );
    this.#id = { producerId, producerEpoch };
  }

  /**
   * Writes messages in the open transaction; the first ones open it.
   * @param going whether to go on: looked at before each request
   * @throws {FencedError} another has taken the transactional id
   * @throws {RefusedDocumentError} the topic takes no message as large as one of them
   */
  async send(messages: Message[], going: () => void): Promise<void> {
    const chunks = await this.#chunksOf(messages);
    await this.#join(chunks);
    const sent: Promise<void>[] = [];
    try {
      for (const [at, chunk] of chunks.entries()) {
        going();
        await sent[at - IN_FLIGHT];
        sent.push(awaitedLater(this.#produce(chunk)));
        await immediate(); // it goes out, and the broker works on it while the next one is made
      }
      await Promise.all(sent);
    } finally {
      // What is still under way could come behind the end of the transaction.
      await Promise.allSettled(sent);
    }
  }

  /** Ends the transaction: all of it is there, or nothing. */
  async end(commit: boolean): Promise<void> {
    if (this.#joined.size === 0) return;
    const { producerId, producerEpoch } = this.#id;
    await orFenced(() =>
      persist(
        ["CONCURRENT_TRANSACTIONS"],
        () =>
          this.#client.coordinator(
            "transaction",
            this.#name,
            endTxnV3.api,
            this.#name,
            producerId,
            producerEpoch,
            commit,
          ),
      ), UNKNOWN);
    this.#joined.clear();
  }

  async #chunksOf(messages: Message[]): Promise<Chunk[]> {
    const chunks: Chunk[] = [];
    const open = new Map<string, Chunk>();
    const counts = new Map<string, number>();
    for (const message of messages) {
      const { topic, key } = message;
      let count = counts.get(topic);
      if (count === undefined) {
        count = (await this.#client.knownTopic(topic)).leaders.length;
        counts.set(topic, count);
        if (!this.#limits.has(topic)) this.#limits.set(topic, await this.#client.maxBytes(topic));
      }
      const partition = partitionFor(key, count);
      const name = nameOf({ topic, partition });
      const bytes = bytesOf(message);
      const limit = Math.min(REQUEST_BYTES, this.#limits.get(topic)! - AROUND_BYTES);
      let chunk = open.get(name);
      if (!chunk || chunk.bytes + bytes > limit) {
        chunk = { topic, partition, messages: [], bytes: 0 };
        chunks.push(chunk);
        open.set(name, chunk);
      }
      chunk.messages.push(message);
      chunk.bytes += bytes;
    }
    return chunks;
  }

  /** Takes partitions into the transaction. */
  async #join(chunks: Chunk[]): Promise<void> {
    const added = new Map<string, Set<number>>();
    for (const { topic, partition } of chunks) {
      if (this.#joined.has(nameOf({ topic, partition }))) continue;
      const partitions = added.get(topic);
      if (partitions) partitions.add(partition);
      else added.set(topic, new Set([partition]));
    }
    if (added.size === 0) return;
    const topics = [...added].map(([name, partitions]) => ({ name, partitions: [...partitions] }));
    const transaction = { transactionalId: this.#name, ...this.#id, verifyOnly: false, topics };
    // The transaction before may not have ended everywhere yet.
    await orFenced(() =>
      persist(
        ["CONCURRENT_TRANSACTIONS"],
        () =>
          this.#client.coordinator("transaction", this.#name, addPartitionsToTxnV3.api, [
            transaction,
          ]),
      )
    );
    for (const { topic, partition } of chunks) this.#joined.add(nameOf({ topic, partition }));
  }

  async #produce({ topic, partition, messages, bytes }: Chunk): Promise<void> {
    const name = nameOf({ topic, partition });
    const sequence = this.#sequences.get(name) ?? 0;
    this.#sequences.set(name, (sequence + messages.length) % SEQUENCES);
    const sequences = new NumericMap([[name, sequence]]);
    const records = messages.map(({ key, value, headers }) => ({
      key,
      value: value!, // null is written as such: the library's type does not say so
      headers: new Map(headers),
      topic,
      partition,
    }));
    const { leaders } = await this.#client.knownTopic(topic);
    try {
      await orFenced(() =>
        this.#client.at(leaders[partition]!, produceV9.api, ALL, TRANSACTION_MS, records, {
          transactionalId: this.#name,
          ...this.#id,
          sequences,
        })
      );
    } catch (error) {
      if (messages.length > 1 || !isAnswer(error, "MESSAGE_TOO_LARGE", "RECORD_LIST_TOO_LARGE")) {
        throw error;
      }
      throw new RefusedDocumentError(
        "MESSAGE_TOO_LARGE",
        `the message takes about ${bytes} bytes, and max.message.bytes of the topic ${topic} is ` +
          `${this.#limits.get(topic)}`,
      );
    }
  }
}

const nameOf = ({ topic, partition }: { topic: string; partition: number }) =>
  `${topic}:${partition}`;

/** Tells by an error of its own that another has taken the transactional id. */
async function orFenced<T>(ask: () => Promise<T>, ...also: string[]): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (!isAnswer(error, ...FENCED, ...also)) throw error;
    throw new FencedError("another producer has taken the transactional id", { cause: error });
  }
}

/** The bytes of a JSON value. */
export const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
