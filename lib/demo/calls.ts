/**
 * The calls that dummy traffic makes, chosen by a seed.
 * @module
 */

import type { Config } from "../config/load.ts";
import { below, type Random, seededRandom } from "../core/random.ts";
import type { EventType } from "../core/stream_ids.ts";
import { generateDocId } from "../documents/ids.ts";
import type { WriteOptions } from "../documents/options.ts";
import { deleteDocument, insertDocument, updateDocument } from "../documents/write.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { generateDummyPatch, generateDummySession } from "./dummy_session.ts";

/** One call to make. */
export interface Call {
  verb: EventType;
  docId: string;
  write: (options: WriteOptions) => Promise<unknown>;
}

/** Among so many documents, updates and deletes choose: memory stays bounded. */
const MAX_CHOICES = 100_000;

/** Chooses calls in the shares that `dummy_data` says. */
export class Calls {
  readonly #redis: RedisConnection;
  readonly #config: Config;
  readonly #entity: string;
  /** Two generators, so that the n-th document does not depend on which calls were made meanwhile. */
  readonly #documents: Random;
  readonly #choices: Random;
  /** Documents that updates and deletes may take; one that a call has taken is not in it. */
  readonly #free: string[] = [];

  constructor(redis: RedisConnection, config: Config, entity: string) {
    this.#redis = redis;
    this.#config = config;
    this.#entity = entity;
    const { seed } = config.dummy_data;
    this.#documents = seededRandom(seed);
    this.#choices = seededRandom(seed + 1);
  }

  /** Chooses the next call; its document is chosen by no other until it is given back. */
  next(): Call {
    const { create_pct, update_pct } = this.#config.dummy_data;
    const choice = this.#choices();
    const place = below(this.#choices, this.#free.length);
    if (choice < create_pct || this.#free.length === 0) {
      const document = generateDummySession(this.#documents);
      const docId = generateDocId(this.#entity);
      return {
        verb: "insert",
        docId,
        write: (options) =>
          insertDocument(this.#redis, this.#config, this.#entity, document, docId, options),
      };
    }
    const docId = this.#take(place);
    if (choice < create_pct + update_pct) {
      const patch = generateDummyPatch(this.#choices);
      return {
        verb: "update",
        docId,
        write: (options) =>
          updateDocument(this.#redis, this.#config, this.#entity, docId, patch, options),
      };
    }
    return {
      verb: "delete",
      docId,
      write: (options) => deleteDocument(this.#redis, this.#config, this.#entity, docId, options),
    };
  }

  #take(place: number): string {
    const docId = this.#free[place]!;
    this.#free[place] = this.#free.at(-1)!;
    this.#free.pop();
    return docId;
  }

  /** Lets a document be chosen again. */
  giveBack(docId: string): void {
    if (this.#free.length < MAX_CHOICES) this.#free.push(docId);
    else this.#free[below(this.#choices, MAX_CHOICES)] = docId;
  }
}
