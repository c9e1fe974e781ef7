/** A real Kafka for tests: one broker, which is its own controller, from Maven's jars on an installed Java. */

import { join } from "node:path";
import { answers } from "writebehind/config/probe.ts";
import { endProcess, freePort } from "writebehind/dev/servers/processes.ts";
import { HOST, killServer, type Server, startServer } from "writebehind/dev/servers/server.ts";
import { jarsWithTheirs } from "./maven.ts";
import { isInstalled } from "./programs.ts";
import { testFolder } from "./servers.ts";

export const KAFKA_VERSION = "4.1.0";
/** Too old for us: the last one before 3.2. */
export const OLD_KAFKA_VERSION = "3.1.2";
/** The broker, and what writes its log. */
const jarsOf = (version: string) => [
  `org.apache.kafka:kafka_2.13:${version}`,
  "org.slf4j:slf4j-simple:1.7.36",
];
const STOP_MS = 10_000;

/** A broker that a test started. */
export interface KafkaBroker extends Server, AsyncDisposable {
  /** `host:port` */
  readonly broker: string;
  /** starts it again on its data and its port, once it was killed or stopped */
  again(): Promise<void>;
}

/** Settings that make it small, and quick to be ready. */
const SETTINGS: Record<string, string> = {
  "process.roles": "broker,controller",
  "node.id": "1",
  "controller.listener.names": "CONTROLLER",
  "auto.create.topics.enable": "false",
  "num.partitions": "3",
  "offsets.topic.replication.factor": "1",
  "offsets.topic.num.partitions": "4",
  "transaction.state.log.replication.factor": "1",
  "transaction.state.log.min.isr": "1",
  "transaction.state.log.num.partitions": "4",
  // A first member waits for others: by default, 3 s.
  "group.initial.rebalance.delay.ms": "0",
  "group.min.session.timeout.ms": "100",
  // What a killed test has left open ends sooner.
  "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
  "log.cleaner.dedupe.buffer.size": String(2 ** 22),
  // One that is killed may come back only when its session is over: by default, 9 s.
  "broker.session.timeout.ms": "1000",
  "broker.heartbeat.interval.ms": "200",
  "controller.quorum.election.timeout.ms": "200",
  "controlled.shutdown.enable": "false",
};

/** Whether a broker can be started. A test that needs one that cannot is skipped, and named at the end of a run. */
export function kafkaIsInstalled(): boolean {
  return isInstalled("java") && isInstalled("mvn");
}

/** What makes a Java that lives for some seconds quick to be ready. */
const FLAGS = ["-Xmx320m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/** How a broker is started. */
export interface KafkaOptions {
  /** of Java */
  flags?: string[];
  /** what its command begins with at its first start only, such as a program that limits it */
  first?: string[];
  version?: typeof KAFKA_VERSION | typeof OLD_KAFKA_VERSION;
  /** a second listener, which tells another port than it has: that of a proxy before it */
  second?: { port: number; advertised: number };
}

/** Starts a broker for this test file; stopped and removed at the end of the scope. */
export async function testKafka(
  settings: Record<string, string> = {},
  options: KafkaOptions = {},
): Promise<KafkaBroker> {
  const { flags = FLAGS, first = [], version = KAFKA_VERSION } = options;
  const classes = join(await jarsWithTheirs(`kafka-${version}`, jarsOf(version)), "*");
  const dir = testFolder("kafka");
  await Deno.mkdir(dir, { recursive: true });
  const properties = join(dir, "server.properties");
  const controller = freePort();
  const java = [
    "java",
    ...flags,
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-cp",
    classes,
  ];
  let limits = first;
  const start = (preferred?: number) =>
    startServer({
      title: "Kafka",
      log: join(dir, "log"),
      cwd: dir,
      command: (port) => {
        Deno.writeTextFileSync(properties, propertiesOf(dir, port, controller, options, settings));
        if (!isFormatted(dir)) format(java, properties, version);
        return [...limits, ...java, "kafka.Kafka", properties];
      },
      lacks: async (_, port) => await answers(HOST, port) ? undefined : "takes no connections",
      portTaken: "Address already in use",
      giveUp: "SIGKILL",
    }, preferred);
  let server = await start();
  const { port } = server;
  const stop = () => endProcess(server, "SIGTERM", STOP_MS);
  return {
    ...server,
    host: HOST,
    url: `${HOST}:${port}`,
    broker: `${HOST}:${port}`,
    dir,
    stop,
    kill: (signal) => killServer(server, signal),
    again: async () => {
      limits = [];
      server = await start(port);
      if (server.port !== port) throw new Error("its port was taken meanwhile");
    },
    [Symbol.asyncDispose]: async () => {
      await killServer(server);
      await Deno.remove(dir, { recursive: true });
    },
  };
}

function propertiesOf(
  dir: string,
  port: number,
  controller: number,
  { version, second }: KafkaOptions,
  settings: Record<string, string>,
): string {
  const quorum: Record<string, string> = version === OLD_KAFKA_VERSION
    ? { "controller.quorum.voters": `1@${HOST}:${controller}` }
    : { "controller.quorum.bootstrap.servers": `${HOST}:${controller}` };
  const all = {
    ...SETTINGS,
    "listeners": `PLAINTEXT://${HOST}:${port},CONTROLLER://${HOST}:${controller}`,
    "advertised.listeners": `PLAINTEXT://${HOST}:${port}`,
    ...quorum,
    ...(second
      ? {
        "listeners":
          `PLAINTEXT://${HOST}:${port},SECOND://${HOST}:${second.port},CONTROLLER://${HOST}:${controller}`,
        "advertised.listeners": `PLAINTEXT://${HOST}:${port},SECOND://${HOST}:${second.advertised}`,
        "listener.security.protocol.map":
          "PLAINTEXT:PLAINTEXT,SECOND:PLAINTEXT,CONTROLLER:PLAINTEXT",
      }
      : {}),
    "log.dirs": join(dir, "data"),
    ...settings,
  };
  return Object.entries(all).map(([key, value]) =>
    `${key}=${value.replaceAll("PORT", String(port))}\n`
  ).join("");
}

function isFormatted(dir: string): boolean {
  try {
    return Deno.statSync(join(dir, "data", "meta.properties")).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

function format([java, ...args]: string[], properties: string, version: string): void {
  // With "-" in front it would be taken for an option.
  const id = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(16))))
    .replaceAll(/[+/]/g, "_").replaceAll("=", "");
  const alone = version === OLD_KAFKA_VERSION ? [] : ["--standalone"];
  const tool = ["kafka.tools.StorageTool", "format", ...alone, "-t", id, "-c", properties];
  const { success, stderr } = new Deno.Command(java!, { args: [...args, ...tool] }).outputSync();
  if (!success) throw new Error(`the storage of Kafka: ${new TextDecoder().decode(stderr)}`);
}
