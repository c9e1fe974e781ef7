/**
 * Asking Kafka's brokers: any of them, the one that leads a partition, the one that coordinates a group or a
 * transaction. What is asked again is what a broker has not carried out.
 *
 * Of the client library, its connections and its messages are used. Its producer is not: it takes a request for brokers
 * into transactions (AddPartitionsToTxn 4), which a user of a cluster with rights may not send, and does not say which
 * of its transactions was fenced off.
 * @module
 */

import {
  type API,
  Base,
  type Broker,
  type Connection,
  describeConfigsV4,
  endTxnV3,
  fetchV12,
  findCoordinatorV4,
  joinGroupV9,
  kGetBootstrapConnection,
  kGetConnection,
  listOffsetsV7,
  metadataV12,
} from "@platformatic/kafka";
import type { KafkaTargetConfig } from "../../config/config.ts";
import { certificatesIn } from "../../config/pem.ts";
import { delay } from "../../core/delay.ts";
import { reasonOf, WriteBehindError } from "../../core/errors.ts";
import type { Settings } from "./settings.ts";
import { ELSEWHERE, explained, isAnswer, isOfTheNetwork, UNSETTLED } from "./errors.ts";

/** Where the brokers are. */
export type KafkaAddress = KafkaTargetConfig;

/** A topic as it is now. */
export interface Topic {
  readonly name: string;
  /** the cluster's identity of it: another one of the same name has another */
  readonly id: string;
  /** the broker that leads each partition */
  readonly leaders: number[];
}

/** How long what a broker is not ready for is asked again, in ms. */
const PATIENCE_MS = 10_000;
const FIRST_DELAY_MS = 2;
const LONGEST_DELAY_MS = 50;
const CONNECT_MS = 5000;
const REQUEST_MS = 15_000;

/** What brokers take in one message, where they do not tell, in bytes. */
const DEFAULT_MAX_BYTES = 1_048_588;
/** What only newer brokers know. */
const NEEDED = [joinGroupV9, fetchV12, endTxnV3, metadataV12].map(({ api }) => api);
const TOPIC_RESOURCE = 2 as const;
const COORDINATORS = { group: 0, transaction: 1 } as const;

/** Asks again, with growing pauses, while the answer is one of `names`. */
export async function persist<T>(names: readonly string[], ask: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + PATIENCE_MS;
  for (let pause = FIRST_DELAY_MS;; pause = Math.min(LONGEST_DELAY_MS, 2 * pause)) {
    try {
      return await ask();
    } catch (error) {
      if (!isAnswer(error, ...names) || performance.now() > deadline) throw error;
    }
    await delay(pause);
  }
}

/** Connections to the brokers: one each, whose requests are answered in their order. */
export class Client {
  #base: Base;
  #brokers = new Map<number, Broker>();
  #topics = new Map<string, Topic>();
  #coordinators = new Map<string, Broker>();
  /** what is said where it is used after it was closed for good */
  #closed: Error | undefined;

  /** @param requestMs how long an answer may take, in ms */
  constructor(address: KafkaAddress, requestMs: number = REQUEST_MS) {
    const { brokers, user, password, mechanism, ssl, sslrootcert } = address;
    const verified = ssl === "verify-full";
    this.#base = new Base({
      clientId: "writebehind",
      bootstrapBrokers: [...brokers],
      retries: 0,
      strict: false,
      connectTimeout: CONNECT_MS,
      requestTimeout: requestMs,
      ...(ssl === "disable" ? {} : {
        tls: {
          rejectUnauthorized: verified,
          ...(verified ? {} : { checkServerIdentity: () => undefined }),
          ...(sslrootcert === null ? {} : {
            ca: certificatesIn({ file: sslrootcert, named: `targets.${address.name}.sslrootcert` }),
          }),
        },
      }),
      ...(user === null ? {} : { sasl: { mechanism, username: user, password: password ?? "" } }),
    });
  }

  /** Sees that the brokers answer, also where they say that they are, and are not too old. */
  async check(): Promise<void> {
    const apis = await explained(() => this.#base.listApis());
    const tooOld = NEEDED.some(({ key, version }) =>
      !apis.some(({ apiKey, minVersion, maxVersion }) =>
        apiKey === key && minVersion <= version && version <= maxVersion
      )
    );
    if (tooOld) {
      throw new WriteBehindError(
        "the brokers do not know all that is asked of them: Kafka 3.2 is needed, or newer",
      );
    }
    // Without a login, where one is wanted, only this is refused.
    const { brokers } = await this.any(metadataV12.api, [], false, false);
    this.#learn(brokers);
    await this.#reachOne(brokers);
  }

  /** Sees that the brokers can be reached where they say that they are. */
  async #reachOne(brokers: { nodeId: number; host: string; port: number }[]): Promise<void> {
    const failures: string[] = [];
    for (const { nodeId, host, port } of brokers) {
      try {
        await this.at(nodeId, metadataV12.api, [], false, false);
        return;
      } catch (error) {
        failures.push(`${host}:${port}: ${reasonOf(error)}`);
      }
    }
    throw new WriteBehindError(
      `the brokers cannot be reached where they say that they are (advertised.listeners): ${
        failures.join("; ")
      }`,
    );
  }

  /** Asks any broker. */
  async any<Args extends unknown[], Answer>(
    api: API<Args, Answer>,
    ...args: Args
  ): Promise<Answer> {
    return await this.#by(
      (done) => this.#base[kGetBootstrapConnection](done),
      (connection) => api.async(connection, ...args),
    );
  }

  /** Asks one broker. */
  async at<Args extends unknown[], Answer>(
    node: number,
    api: API<Args, Answer>,
    ...args: Args
  ): Promise<Answer> {
    return await this.#ask(this.#brokers.get(node), api, ...args);
  }

  /** Asks the broker that makes topics. */
  async controller<Args extends unknown[], Answer>(
    api: API<Args, Answer>,
    ...args: Args
  ): Promise<Answer> {
    const { brokers, controllerId } = await this.any(metadataV12.api, [], false, false);
    this.#learn(brokers);
    return await this.at(controllerId, api, ...args);
  }

  #learn(brokers: { nodeId: number; host: string; port: number }[]): void {
    for (const { nodeId, host, port } of brokers) this.#brokers.set(nodeId, { host, port });
  }

  async #ask<Args extends unknown[], Answer>(
    broker: Broker | undefined,
    api: API<Args, Answer>,
    ...args: Args
  ): Promise<Answer> {
    if (broker === undefined) {
      throw new WriteBehindError("Connection lost: a partition has no leader now");
    }
    return await this.#by(
      (done) => this.#base[kGetConnection](broker, done),
      (connection) => api.async(connection, ...args),
    );
  }

  /** Asks by a connection that is made if there is none. */
  async #by<Answer>(
    connect: (done: (error: Error | null | undefined, found?: Connection) => void) => void,
    ask: (connection: Connection) => Promise<Answer>,
  ): Promise<Answer> {
    if (this.#closed !== undefined) throw this.#closed;
    return await explained(async () => {
      const connection = await new Promise<Connection>((resolve, reject) =>
        connect((error, found) => error ? reject(error) : resolve(found!))
      );
      return await ask(connection);
    });
  }

  /** Asks the coordinator of a group, or of a transactional id. */
  async coordinator<Args extends unknown[], Answer>(
    kind: keyof typeof COORDINATORS,
    key: string,
    api: API<Args, Answer>,
    ...args: Args
  ): Promise<Answer> {
    const name = `${kind} ${key}`;
    return await persist(ELSEWHERE, async () => {
      try {
        let broker = this.#coordinators.get(name);
        if (!broker) {
          const found = await this.any(findCoordinatorV4.api, COORDINATORS[kind], [key]);
          broker = found.coordinators[0]!;
          this.#coordinators.set(name, broker);
        }
        return await this.#ask(broker, api, ...args);
      } catch (error) {
        if (isOfTheNetwork(error) || isAnswer(error, ...ELSEWHERE)) this.#coordinators.delete(name);
        throw error;
      }
    });
  }

  /** A topic; `null` where there is none. What was known of it before is believed. */
  async topic(name: string, options: { fresh?: boolean } = {}): Promise<Topic | null> {
    const known = this.#topics.get(name);
    if (known && !options.fresh) return known;
    this.#topics.delete(name);
    try {
      const { brokers, topics } = await persist(
        ["LEADER_NOT_AVAILABLE"],
        () => this.any(metadataV12.api, [name], false, false),
      );
      this.#learn(brokers);
      const { topicId, partitions } = topics[0]!;
      const leaders: number[] = [];
      for (const { partitionIndex, leaderId } of partitions) leaders[partitionIndex] = leaderId;
      const topic = { name, id: topicId, leaders };
      this.#topics.set(name, topic);
      return topic;
    } catch (error) {
      if (isAnswer(error, "UNKNOWN_TOPIC_OR_PARTITION")) return null;
      throw error;
    }
  }

  /** A topic that must be there. */
  async knownTopic(name: string): Promise<Topic> {
    const topic = await this.topic(name);
    if (topic) return topic;
    throw new WriteBehindError(`the topic ${name} is not there`);
  }

  /** Works with a topic; again with its newest state where its leaders have changed. */
  async withTopic<T>(name: string, work: (topic: Topic) => Promise<T>): Promise<T> {
    return await persist(UNSETTLED, async () => {
      try {
        return await work(await this.knownTopic(name));
      } catch (error) {
        this.#topics.delete(name);
        throw error;
      }
    });
  }

  /**
   * The offset of each partition's end, behind all that was ever written, or of its begin.
   */
  async bounds({ name, leaders }: Topic, which: "begin" | "end"): Promise<bigint[]> {
    const bounds: bigint[] = [];
    const timestamp = which === "begin" ? -2n : -1n;
    for (const [node, partitions] of byLeader(leaders)) {
      const asked = partitions.map((partitionIndex) => ({
        partitionIndex,
        currentLeaderEpoch: -1,
        timestamp,
      }));
      const { topics } = await this.at(node, listOffsetsV7.api, -1, 0, [{
        name,
        partitions: asked,
      }]);
      for (const { partitionIndex, offset } of topics[0]!.partitions) {
        bounds[partitionIndex] = offset;
      }
    }
    return bounds;
  }

  /** Settings of topics, by the topics' names; nothing where the brokers do not tell. */
  async settings(names: string[], keys: string[]): Promise<Map<string, Settings>> {
    const asked = names.map((resourceName) => ({
      resourceType: TOPIC_RESOURCE,
      resourceName,
      configurationKeys: keys,
    }));
    try {
      const { results } = await this.any(describeConfigsV4.api, asked, false, false);
      return new Map(results.map(({ resourceName, configs }) => [
        resourceName,
        Object.fromEntries(configs.map(({ name, value }) => [name, value ?? ""])),
      ]));
    } catch (error) {
      // Who may write need not be told the settings.
      if (isAnswer(error, "TOPIC_AUTHORIZATION_FAILED")) return new Map();
      throw error;
    }
  }

  /** How large a message of a topic may be, in bytes. */
  async maxBytes(name: string): Promise<number> {
    const settings = await this.settings([name], ["max.message.bytes"]);
    return Number(settings.get(name)?.["max.message.bytes"] ?? DEFAULT_MAX_BYTES);
  }

  /**
   * Closes the connections; what is under way on them fails.
   * @param reason what is said to whoever asks afterwards
   */
  async close(reason?: Error): Promise<void> {
    this.#closed ??= reason;
    await this.#base.close();
  }
}

/** Partitions by the brokers that lead them. */
export function byLeader(
  leaders: number[],
  partitions: Iterable<number> = leaders.keys(),
): Map<number, number[]> {
  const found = new Map<number, number[]>();
  for (const partition of partitions) {
    const leader = leaders[partition]!;
    const led = found.get(leader);
    if (led) led.push(partition);
    else found.set(leader, [partition]);
  }
  return found;
}
