/**
 * Kafka as a target: its parts, and what they share.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import type { ErrorKind } from "../../core/error_kinds.ts";
import { ConfigError, ConnectionError, reasonOf } from "../../core/errors.ts";
import { closedError } from "../common.ts";
import type { Target, TargetDescription } from "../target.ts";
import { KafkaBatches } from "./batch.ts";
import { Client, type KafkaAddress } from "./client.ts";
import { KafkaDeadLetters } from "./dead_letters.ts";
import { isOfTheLogin, isOfTheNetwork, isOfTls, kafkaErrorKind } from "./errors.ts";
import { KafkaIdentities } from "./identities.ts";
import { KafkaOwnership } from "./lease.ts";
import { Letters } from "./letters.ts";
import { KafkaOffsets } from "./offsets.ts";
import { KafkaRows } from "./rows.ts";
import type { Shared } from "./session.ts";
import { States } from "./states.ts";
import { topicNames, Topics } from "./topics.ts";

/**
 * Connects to Kafka's brokers.
 * @throws {ConnectionError} where none can be reached or used, with the addresses and what to do
 */
export async function openKafka(config: Config, address: KafkaAddress): Promise<KafkaTarget> {
  const client = new Client(address);
  try {
    await client.check();
    return new KafkaTarget(client, config, address);
  } catch (error) {
    await client.close();
    if (error instanceof ConfigError) throw error;
    throw new ConnectionError(
      `Cannot connect to ${addressOf(address)}: ${reasonOf(error)}${remedyOf(error, address)}`,
      { cause: error },
    );
  }
}

/** What to do where brokers cannot be reached or used. */
function remedyOf(error: unknown, { user, ssl }: KafkaAddress): string {
  if (isOfTheLogin(error)) return "; check user, password, mechanism and ssl of this target";
  const reason = reasonOf(error);
  if (reason.includes("requires TLS")) return "; set ssl of this target to require or verify-full";
  if (ssl !== "disable" && isOfTls(error)) {
    return "; check that the brokers take TLS at that port, and sslrootcert of this target";
  }
  if (user === null && reason.includes("Connection closed")) {
    return "; if the brokers want a login, set user and password of this target";
  }
  return isOfTheNetwork(error) ? "; check brokers of this target, and that they listen there" : "";
}

/** The address for people, without secrets. */
function addressOf({ brokers, prefix }: KafkaAddress): string {
  return `Kafka at ${brokers.join(", ")}${prefix === "" ? "" : ` (topics ${prefix}*)`}`;
}

/** The Kafka target of a configuration's entities. */
export class KafkaTarget implements Target {
  readonly ownership: KafkaOwnership;
  readonly batches: KafkaBatches;
  readonly offsets: KafkaOffsets;
  readonly identities: KafkaIdentities;
  readonly rows: KafkaRows;
  readonly deadLetters: KafkaDeadLetters;
  #config: Config;
  #shared: Shared;

  constructor(client: Client, config: Config, address: KafkaAddress) {
    this.#config = config;
    const names = topicNames(address.prefix);
    const topicOf = (entity: string) => names.of(entityConfig(config, entity).table);
    const { every_event: everyEvent } = address;
    const states = new States(client, names.offset);
    this.#shared = {
      address,
      client,
      states,
      letters: new Letters(client, names.deadLetter),
      topics: new Topics(client, names, states, config.documents.max_bytes, everyEvent),
      topicOf,
      documentsOf: (entity) => ({ name: topicOf(entity), everyEvent }),
      sessionMs: 1000 * config.write_behind.lease_seconds,
    };
    const shared = this.#shared;
    this.rows = new KafkaRows(shared);
    const anyRow = (entity: string) => this.rows.anyRow(entity);
    this.ownership = new KafkaOwnership(
      shared,
      (keys) => shared.topics.migrate(this.#tableOf(keys.entity), this.#whatOf(keys.entity), keys),
    );
    this.batches = new KafkaBatches(shared, this.ownership, anyRow);
    this.offsets = new KafkaOffsets(shared);
    this.identities = new KafkaIdentities(shared, this.ownership);
    this.deadLetters = new KafkaDeadLetters(shared, anyRow);
  }

  describe(): TargetDescription {
    const { address } = this.#shared;
    return { name: address.name, kind: "kafka", address: addressOf(address) };
  }

  kindOf(error: unknown): ErrorKind {
    return kafkaErrorKind(error);
  }

  async migrate(entity: string): Promise<void> {
    await this.#shared.topics.migrate(this.#tableOf(entity), this.#whatOf(entity), null);
  }

  check(entity: string): Promise<void> {
    return this.#shared.topics.check(this.#tableOf(entity), this.#whatOf(entity));
  }

  #tableOf(entity: string): string {
    return entityConfig(this.#config, entity).table;
  }

  /** Whose topics they are, for people. */
  #whatOf(entity: string): string {
    return `${entity} in ${addressOf(this.#shared.address)}`;
  }

  async close(): Promise<void> {
    await this.ownership.close();
    await this.#shared.client.close(closedError(this.describe().address));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
