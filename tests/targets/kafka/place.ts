/** Topics of a real Kafka for tests. */

import { incrementalAlterConfigsV1 } from "@platformatic/kafka";
import { type Config, openTarget, parseConfig } from "writebehind";
import { Client, type KafkaAddress } from "writebehind/targets/kafka/client.ts";
import { newestDocuments, versionIn } from "writebehind/targets/kafka/documents.ts";
import type { Message, ReadMessage } from "writebehind/targets/kafka/messages.ts";
import { Producer } from "writebehind/targets/kafka/producer.ts";
import { read } from "writebehind/targets/kafka/reader.ts";
import { States } from "writebehind/targets/kafka/states.ts";
import type { Place } from "../conformance/place.ts";
import { type KafkaBroker, kafkaIsInstalled, testKafka } from "../../support/kafka.ts";
import { configFile } from "../../support/processes.ts";

/** A Kafka for a test file; `null` where none can be started (Debian: default-jre-headless, maven). */
export async function sharedKafka(): Promise<KafkaBroker | null> {
  return kafkaIsInstalled() ? await testKafka() : null;
}

let places = 0;

/** What a test's target has besides. */
type More = Partial<Pick<KafkaAddress, "every_event">>;

/** Topics of one test's own. */
export function topicsOn({ broker }: Pick<KafkaBroker, "broker">, more: More = {}) {
  const prefix = `test_${++places}.`;
  const target = { name: "second", kind: "kafka" as const, brokers: [broker], prefix, ...more };
  return { target, prefix };
}

/** What the client needs besides. */
export const addressOf = (
  target: { name: string; kind: "kafka"; brokers: string[]; prefix: string },
): KafkaAddress => ({
  on_full: "stop",
  every_event: false,
  user: null,
  password: null,
  mechanism: "PLAIN",
  ssl: "disable",
  sslrootcert: null,
  ...target,
});

/** Sets settings of a topic, as an operator would. */
export async function alter(
  client: Client,
  topic: string,
  settings: Record<string, string>,
): Promise<void> {
  const configs = Object.entries(settings).map(([name, value]) => ({
    ...{ name, value },
    configOperation: 0 as const,
  }));
  const resource = { resourceType: 2 as const, resourceName: topic, configs };
  await client.any(incrementalAlterConfigsV1.api, [resource], false);
}

/** Sets a topic's largest message, in bytes. */
export async function limit(client: Client, topic: string, bytes: number): Promise<void> {
  await alter(client, topic, { "max.message.bytes": String(bytes) });
}

/** Writes messages as some other producer. */
export async function produce(
  client: Client,
  messages: Message[],
  transactionalId: string = crypto.randomUUID(),
): Promise<void> {
  const producer = new Producer(client, transactionalId);
  await producer.begin();
  await producer.send(messages, () => {});
  await producer.end(true);
}

/** All committed messages of a topic, a partition after the other. */
export async function messagesIn(client: Client, name: string): Promise<ReadMessage[]> {
  const topic = await client.knownTopic(name);
  const [from, until] = [await client.bounds(topic, "begin"), await client.bounds(topic, "end")];
  const all: ReadMessage[] = [];
  for await (const messages of read(client, topic, from, until)) all.push(...messages);
  return all.sort((a, b) => a.partition - b.partition || Number(a.offset - b.offset));
}

/** An empty place for the conformance suite. */
export function makePlace(
  server: KafkaBroker,
  more: More = {},
): Promise<Place & { client: Client; prefix: string }> {
  const { target, prefix } = topicsOn(server, more);
  const keys = {
    targets: [target],
    streams: { partitions: 2 },
    write_behind: { lease_seconds: 2 },
  };
  const config: Config = parseConfig(JSON.stringify(keys), "test.yaml");
  const client = new Client(addressOf(target));
  const sessions = `${prefix}sessions`;
  const none = () => Promise.reject(new Error("a topic has no such thing"));
  return Promise.resolve({
    config,
    client,
    prefix,
    open: () => openTarget(config),
    file: () => configFile(keys),
    row: async (id) => {
      const message = (await newestDocuments(client, sessions, [Buffer.from(id)])).values().next();
      if (message.done || !message.value.value) return null;
      const { value, headers } = message.value;
      const at = new Date(Number(headers.get("ts")));
      const version = String(versionIn(message.value));
      return { payload: value.toString(), created: at, updated: at, version };
    },
    query: none,
    bad: JSON.stringify({ bad: "x".repeat(2000) }),
    refuseBad: () => limit(client, sessions, 1000),
    refuseLate: none,
    refuseAll: () => limit(client, sessions, 100),
    outdate: async () => {
      const offsets = `${prefix}writebehind_offset`;
      const record = new States(client, offsets).recordOf([{ number: 99, oldest: 99 }]);
      await produce(client, [record]);
    },
    [Symbol.asyncDispose]: () => client.close(),
  });
}
