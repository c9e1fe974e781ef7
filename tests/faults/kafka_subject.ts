/** A Kafka for the soak of several targets: what breaks it, and what stands in its topic at the end. */

import { setTimeout as delay } from "node:timers/promises";
import type { Random } from "writebehind";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { Client } from "writebehind/targets/kafka/client.ts";
import { testKafka } from "../support/kafka.ts";
import { addressOf, messagesIn } from "../targets/kafka/place.ts";

/** Its name among the targets. */
export const KAFKA = "changes";
const PREFIX = "soak.";

/** A broker with two listeners: the sinks' goes by the proxy. */
export interface KafkaSubject extends AsyncDisposable {
  /** the target's configuration, by the proxy or past it */
  target(by: "proxy" | "broker"): ReturnType<typeof targetAt>;
  readonly proxy: TcpProxy;
  /** of the broker itself */
  readonly faults: Record<string, (random: Random) => Promise<void>>;
  /** reads the topic once, as far as it was committed */
  read(): Promise<{
    /** events, each counted once */
    events: number;
    /** records of an event that stood there before, or behind a later one of their document */
    twice: number;
  }>;
}

const targetAt = (broker: string) => ({
  ...{ name: KAFKA, kind: "kafka" as const, brokers: [broker] },
  ...{ prefix: PREFIX, every_event: true },
});

export async function kafkaSubject(): Promise<KafkaSubject> {
  const port = freePort();
  await using stack = new AsyncDisposableStack();
  const proxy = stack.use(await TcpProxy.start({ host: "127.0.0.1", port }));
  const broker = stack.use(await testKafka({}, { second: { port, advertised: proxy.port } }));
  const owned = stack.move();
  return {
    target: (by) => targetAt(by === "broker" ? broker.broker : `127.0.0.1:${proxy.port}`),
    proxy,
    faults: {
      "killed (-9), started": async () => {
        await broker.kill();
        await broker.again();
      },
      "paused (SIGSTOP)": async (random) => {
        await broker.kill("SIGSTOP");
        await delay(2000 * random());
        await broker.kill("SIGCONT");
      },
    },
    read: async () => {
      const client = new Client(addressOf(targetAt(broker.broker)));
      try {
        const records = (await messagesIn(client, `${PREFIX}sessions`)).map(({ key, headers }) => ({
          id: String(key),
          version: BigInt(String(headers.get("version"))),
        }));
        // An event has one document; what a filling writes has the place where that began, and may stand there again.
        const documents = new Map<bigint, Set<string>>();
        for (const { id, version } of records) {
          const known = documents.get(version) ?? new Set();
          documents.set(version, known.add(id));
        }
        const newest = new Map<string, bigint>();
        const seen = new Set<bigint>();
        let twice = 0;
        for (const { id, version } of records) {
          const isFilling = documents.get(version)!.size > 1;
          if (version < (newest.get(id) ?? 0n) || !isFilling && seen.has(version)) twice++;
          if (!isFilling) seen.add(version);
          newest.set(id, version);
        }
        return { events: seen.size, twice };
      } finally {
        await client.close();
      }
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
