/**
 * A topic as a table: the newest value of each key, read once, and from then on only what came since.
 * @module
 */

import type { Client, Topic } from "./client.ts";
import { OpenTransactionError } from "./errors.ts";
import type { ReadMessage } from "./messages.ts";
import { read } from "./reader.ts";

/** How long somebody who only looks waits for an open transaction, in ms. */
const LOOK_MS = 2000;

/** The newest values of a topic's keys. */
export class TopicView<Value> {
  /** by their keys, as text of one character a byte */
  values: Map<string, Value> = new Map<string, Value>();
  #client: Client;
  #topic: string;
  #valueOf: (message: ReadMessage) => Value | null;
  #id: string | undefined;
  #from: bigint[] = [];
  #reading: Promise<void> = Promise.resolve();

  /** @param valueOf the value of a message; `null` where its key has none any more */
  constructor(
    client: Client,
    topic: string,
    valueOf: (message: ReadMessage) => Value | null,
  ) {
    this.#client = client;
    this.#topic = topic;
    this.#valueOf = valueOf;
  }

  /**
   * Reads on, as far as the topic goes now.
   * @param options.strict whether all of it must be there; else an open transaction is waited for only a while
   * @returns whether the topic is there
   * @throws {OpenTransactionError} where it must be, and a transaction stays open
   */
  async refresh({ strict = true }: { strict?: boolean } = {}): Promise<boolean> {
    const before = this.#reading;
    const turn = Promise.withResolvers<void>();
    this.#reading = turn.promise;
    await before;
    try {
      return await this.#refresh(strict);
    } finally {
      turn.resolve();
    }
  }

  async #refresh(strict: boolean): Promise<boolean> {
    // Asked each time where it is not there yet, or may have been made anew.
    const topic = await this.#client.topic(this.#topic, { fresh: true });
    if (topic === null) {
      this.#reset(undefined);
      return false;
    }
    if (topic.id !== this.#id) this.#reset(topic.id);
    try {
      await this.#client.withTopic(this.#topic, (topic) => this.#readOn(topic, strict));
    } catch (error) {
      if (strict || !(error instanceof OpenTransactionError)) throw error;
    }
    return true;
  }

  async #readOn(topic: Topic, strict: boolean): Promise<void> {
    const until = await this.#client.bounds(topic, "end");
    const begins = await this.#client.bounds(topic, "begin");
    for (const [partition, begin] of begins.entries()) {
      const from = this.#from[partition];
      if (from === undefined || from < begin) this.#from[partition] = begin;
    }
    const patience = strict ? undefined : LOOK_MS;
    const pages = read(this.#client, topic, this.#from, until, undefined, patience);
    for await (const page of pages) {
      for (const message of page) {
        const key = message.key.toString("latin1");
        const value = this.#valueOf(message);
        if (value === null) this.values.delete(key);
        else this.values.set(key, value);
      }
    }
  }

  #reset(id: string | undefined): void {
    this.#id = id;
    this.#from = [];
    this.values = new Map();
  }
}
