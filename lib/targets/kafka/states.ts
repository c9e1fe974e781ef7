/**
 * The state of partitions: the newest message of each stream in a compacted topic of ours.
 * @module
 */

import { Buffer } from "node:buffer";
import type { MarkedOffset } from "../common.ts";
import type { RanMigration } from "../migrations.ts";
import type { Client } from "./client.ts";
import type { Message, ReadMessage } from "./messages.ts";
import { json } from "./producer.ts";
import { TopicView } from "./view.ts";

/** What is kept of a partition, as JSON. */
export interface State extends MarkedOffset {
  stream: string;
  /** the last stream id that the topics hold */
  last_id: string;
  /** the entry that must still be in the stream; `0-0` for none */
  witness: string;
  events: number;
  /** raised by each claim */
  epoch: string;
  owner: string | null;
  /** changes when a replay or a discard has changed what is parked */
  parked_version: string;
  went_back: number;
  /** ISO 8601, as is `doubt_at` */
  went_back_at: string | null;
  /**
   * the highest version that was ever written: what is not below it replaces nothing newer; `null` where it is not known,
   * since this record is new
   */
  top: string | null;
}

/** The key of what says which migrations have run; no stream is called so. */
const MIGRATIONS_KEY = "writebehind_migration";

/** Where nothing has run yet. */
export const initialState = (stream: string): State => ({
  stream,
  last_id: "0-0",
  witness: "0-0",
  events: 0,
  epoch: "0",
  owner: null,
  parked_version: "0",
  went_back: 0,
  went_back_at: null,
  source: null,
  mark: null,
  doubt: null,
  doubt_at: null,
  refused: 0,
  top: null,
});

/** The state once its offset, or what is parked, was changed by others than its claim: the running claim reads it again. */
export const changedIn = (state: State): State => ({
  ...state,
  parked_version: String(BigInt(state.parked_version) + 1n),
});

/** All partitions' states, and which migrations have run. */
export class States {
  #topic: string;
  #view: TopicView<unknown>;

  constructor(client: Client, topic: string) {
    this.#topic = topic;
    this.#view = new TopicView(
      client,
      topic,
      ({ value }: ReadMessage) => value && JSON.parse(value.toString()),
    );
  }

  /** Reads on; see {@linkcode TopicView.refresh}. */
  refresh(options?: { strict: boolean }): Promise<boolean> {
    return this.#view.refresh(options);
  }

  /** A partition's, as it was read last. */
  of(stream: string): State | undefined {
    return this.#view.values.get(latin(stream)) as State | undefined;
  }

  /** Those of all partitions. */
  all(): State[] {
    return [...this.#view.values].flatMap(([key, value]) =>
      key === MIGRATIONS_KEY ? [] : [value as State]
    );
  }

  /** The migrations that have run. */
  ran(): RanMigration[] {
    return (this.#view.values.get(MIGRATIONS_KEY) ?? []) as RanMigration[];
  }

  /** The message that says which migrations have run. */
  recordOf(ran: RanMigration[]): Message {
    return { topic: this.#topic, key: Buffer.from(MIGRATIONS_KEY), value: json(ran), headers: [] };
  }

  /** The message that a partition's state is kept by. */
  messageOf(state: State): Message {
    const { stream } = state;
    return { topic: this.#topic, key: Buffer.from(stream), value: json(state), headers: [] };
  }
}

const latin = (text: string): string => Buffer.from(text).toString("latin1");
