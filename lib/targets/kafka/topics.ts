/**
 * The topics: their names, making them, and whether they can be used as they are.
 * @module
 */

import { createTopicsV7, produceV9 } from "@platformatic/kafka";
import { delay } from "../../core/delay.ts";
import { ConfigError, ConnectionError } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { tableProblems } from "../common.ts";
import { type Migration, refusalOf, type Schema, schemaOf } from "../migrations.ts";
import { type Client, persist } from "./client.ts";
import { answersOf, UNSETTLED } from "./errors.ts";
import { partitionFor } from "./messages.ts";
import {
  DEAD_LETTER_SETTINGS,
  entitySettings,
  LOOKED_AT,
  losing,
  losingEvents,
  OFFSET_SETTINGS,
  type Settings,
  tooSmall,
} from "./settings.ts";
import type { States } from "./states.ts";

/** The names of our topics; an entity's is its table's, behind the prefix. */
export interface TopicNames {
  readonly offset: string;
  readonly deadLetter: string;
  of(table: string): string;
}

/** @param prefix what all names begin with */
export const topicNames = (prefix: string): TopicNames => ({
  offset: `${prefix}writebehind_offset`,
  deadLetter: `${prefix}writebehind_dead_letter`,
  of: (table) => `${prefix}${table}`,
});

/** What our topics are: numbered, as tables are, so that an older version can be kept out. */
const MIGRATIONS: readonly Migration[] = [
  { number: 1, name: "0001_topics", of: "ours", oldest: 1, sql: "" },
];

/** As many partitions as the brokers make by themselves, and as many copies. */
const BY_DEFAULT = -1;
/** A stream waits for what others write only in its own partition of our topic. */
const OFFSET_PARTITIONS = 4;
const CREATE_MS = 15_000;
const LOOK_MS = 5;
const ALL = -1;
/** A topic that must be there. */
interface Wanted {
  name: string;
  partitions: number;
  settings: Settings;
}

/** The topics of an entity, and ours. */
export class Topics {
  readonly names: TopicNames;
  #client: Client;
  #states: States;
  #maxBytes: number;
  #everyEvent: boolean;

  /**
   * @param maxBytes of a document, as the application may write it
   * @param everyEvent whether each event is a message of its own
   */
  constructor(
    client: Client,
    names: TopicNames,
    states: States,
    maxBytes: number,
    everyEvent: boolean,
  ) {
    this.#maxBytes = maxBytes;
    this.#everyEvent = everyEvent;
    this.#client = client;
    this.names = names;
    this.#states = states;
  }

  /**
   * Sees that the topics can be used as they are.
   * @param what whose topics these are, for people
   * @throws {ConnectionError} where they cannot, with what to do
   */
  async check(table: string, what: string): Promise<void> {
    const refusal = refusalOf(await this.#schema(table), what);
    if (refusal !== null) throw new ConnectionError(refusal);
  }

  /**
   * Makes what is missing. One that is there is taken as it is.
   * @param keys of the partition that is about to be claimed, if any
   * @returns topics of ours that somebody had removed: they are made anew
   * @throws {ConnectionError} where a newer version has changed them so that this one cannot work with them
   * @throws {ConfigError} where the entity's topic is gone, or one would not keep what it must
   */
  async migrate(table: string, what: string, keys: PartitionKeys | null): Promise<string[]> {
    const schema = await this.#schema(table);
    if (schema.state === "newer, refused") throw new ConnectionError(refusalOf(schema, what)!);
    const { offset, deadLetter, of } = this.names;
    const known = keys && this.#states.of(keys.stream);
    if (known && known.last_id !== "0-0" && !await this.#isThere(of(table))) {
      throw new ConfigError(tableProblems.gone(of(table), keys));
    }
    if (schema.state === "current" || schema.state === "newer, workable") {
      await this.#checkSettings(of(table));
      return [];
    }
    const gone = await this.gone();
    const settings = entitySettings(this.#maxBytes, this.#everyEvent);
    await this.#make([
      { name: offset, partitions: OFFSET_PARTITIONS, settings: OFFSET_SETTINGS },
      { name: deadLetter, partitions: 1, settings: DEAD_LETTER_SETTINGS },
      { name: of(table), partitions: BY_DEFAULT, settings },
    ]);
    await this.#checkSettings(of(table));
    if (schema.pending.length > 0) await this.#record();
    return gone;
  }

  async #checkSettings(documents: string): Promise<void> {
    const problem = await this.problem(documents);
    if (problem !== null) throw new ConfigError(problem);
  }

  /**
   * Why a topic that somebody else has made, or changed, would not keep what it must, for people; `null` where all do.
   * @param documents the entity's topic
   */
  async problem(documents: string): Promise<string | null> {
    const { offset, deadLetter } = this.names;
    const found = await this.#client.settings([offset, deadLetter, documents], LOOKED_AT);
    for (const [topic, settings] of found) {
      const problem = losing(topic, settings) ??
        (topic === deadLetter ? tooSmall(topic, settings, this.#maxBytes) : null) ??
        (topic === documents && this.#everyEvent ? losingEvents(topic, settings) : null);
      if (problem !== null) return `${problem} (kafka-configs --alter)`;
    }
    return null;
  }

  /** Ours that are missing, though another is there. */
  async gone(): Promise<string[]> {
    const { offset, deadLetter } = this.names;
    const missing: string[] = [];
    for (const [topic, name] of [[offset, OURS.offset], [deadLetter, OURS.deadLetter]] as const) {
      if (!await this.#isThere(topic)) missing.push(name);
    }
    return missing.length === 1 ? missing : [];
  }

  async #schema(table: string): Promise<Schema> {
    const { deadLetter, of } = this.names;
    const there = await this.#states.refresh({ strict: false }) &&
      await this.#isThere(deadLetter) && await this.#isThere(of(table));
    return schemaOf(MIGRATIONS, this.#states.ran(), there);
  }

  async #isThere(name: string): Promise<boolean> {
    return await this.#client.topic(name, { fresh: true }) !== null;
  }

  async #make(wanted: Wanted[]): Promise<void> {
    const topics: Parameters<typeof createTopicsV7.api.async>[1] = [];
    for (const { name, partitions, settings } of wanted) {
      if (await this.#isThere(name)) continue;
      const configs = Object.entries(settings).map(([name, value]) => ({ name, value }));
      const layout = { numPartitions: partitions, replicationFactor: BY_DEFAULT, assignments: [] };
      topics.push({ name, ...layout, configs });
    }
    if (topics.length === 0) return;
    try {
      await this.#client.controller(createTopicsV7.api, topics, CREATE_MS, false);
    } catch (error) {
      // Another process was faster.
      const answers = answersOf(error);
      if (answers.length === 0) throw error;
      if (answers.some((answer) => answer !== "TOPIC_ALREADY_EXISTS")) throw error;
    }
    // The brokers are told a little later.
    const deadline = performance.now() + CREATE_MS;
    for (const { name } of topics) {
      while (!await this.#isThere(name) && performance.now() < deadline) await delay(LOOK_MS);
      await this.#client.withTopic(name, (topic) => this.#client.bounds(topic, "end"));
    }
  }

  async #record(): Promise<void> {
    const ran = MIGRATIONS.map(({ number, oldest }) => ({ number, oldest }));
    const { topic, key, value } = this.#states.recordOf(ran);
    await persist(UNSETTLED, () =>
      this.#client.withTopic(topic, ({ leaders }) => {
        const partition = partitionFor(key, leaders.length);
        const record = { topic, partition, key, value: value!, headers: new Map() };
        return this.#client.at(leaders[partition]!, produceV9.api, ALL, CREATE_MS, [record], {
          producerId: -1n,
          producerEpoch: -1,
        });
      }));
  }
}

/** What the tables are called elsewhere. */
const OURS = { offset: "writebehind_offset", deadLetter: "writebehind_dead_letter" } as const;
