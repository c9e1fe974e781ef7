/** Row 19: a drain into Kafka, where Java is installed, against Kafka's own measure of its producer. */

import { join } from "node:path";
import { openTarget, RedisWriteBehind } from "writebehind";
import { KAFKA_VERSION, kafkaIsInstalled, testKafka } from "../support/kafka.ts";
import { jarsWithTheirs } from "../support/maven.ts";
import { testFolder } from "../support/servers.ts";
import { interleave, perSecond, ratios, type Row, row } from "./measure.ts";
import { ENTITY, type Workbench } from "./workbench.ts";
import { uniqueInserts } from "./workload.ts";

const DRAIN = "drain into Kafka";
const PERF = "kafka-producer-perf-test";
const TOOLS = [`org.apache.kafka:kafka-tools:${KAFKA_VERSION}`, "org.slf4j:slf4j-nop:1.7.36"];
/** Java as it comes, but with less memory: other tests let it begin quickly instead. */
const FLAGS = ["-Xmx512m", "-XX:+UseSerialGC"];
/** How long a transaction of the measured producer stands open, in ms. */
const TRANSACTION_MS = 100;

export async function kafkaRows(bench: Workbench): Promise<Row[]> {
  if (!kafkaIsInstalled()) {
    bench.step("Java or Maven is not installed: row 19 is left out");
    return [];
  }
  await bench.clear();
  const count = bench.sizes.events;
  const rows = [...uniqueInserts(count)];
  const backlog = await bench.fill(DRAIN, bench.config, rows, 0);
  const classes = join(await jarsWithTheirs(`kafka-tools-${KAFKA_VERSION}`, TOOLS), "*");
  const dir = testFolder("kafka");
  await Deno.mkdir(dir, { recursive: true });
  const payloads = join(dir, "payloads");
  await Deno.writeTextFile(payloads, rows.map(({ payload }) => `${payload}\n`).join(""));
  await using kafka = await testKafka({ "auto.create.topics.enable": "true" }, { flags: FLAGS });
  let topics = 0;
  /** A target without topics yet. */
  const anew = async () => {
    const config = bench.with({
      targets: [{
        name: "kafka",
        kind: "kafka",
        brokers: [kafka.broker],
        prefix: `bench-${++topics}-`,
      }],
    });
    const target = await openTarget(config);
    await target.migrate(ENTITY);
    return { config, target };
  };
  try {
    const rates = await interleave(
      [
        [DRAIN, async () => {
          await bench.restore(backlog);
          const { config, target } = await anew();
          await using _ = target;
          await using sink = new RedisWriteBehind(bench.redis, target, config, ENTITY);
          const since = performance.now();
          const { rows } = await sink.drain();
          if (rows !== count) throw new Error(`${rows} rows of ${count}`);
          return 1000 * count / (performance.now() - since);
        }],
        [PERF, async () => {
          const topic = `perf-${++topics}`;
          const perf = (records: number) =>
            measured(classes, [
              ...["--topic", topic, "--num-records", String(records), "--payload-file", payloads],
              ...["--throughput", "-1", "--transaction-duration-ms", String(TRANSACTION_MS)],
              ...["--transactional-id", topic],
              ...["--producer-props", `bootstrap.servers=${kafka.broker}`, "acks=all"],
            ]);
          // The first one makes the topic. It is not compacted, since the tool's messages have no keys.
          await perf(1);
          return await perf(count);
        }],
      ],
      bench.rounds,
      bench.step,
    );
    const [ours, perf] = [rates(DRAIN), rates(PERF)];
    return [
      row(
        "19",
        `drain into Kafka / ${PERF} of the same bytes, a transaction a ${TRANSACTION_MS} ms`,
        ratios(ours, perf),
        { atLeast: 0.7 },
        `${perSecond(ours)} / ${perSecond(perf)}`,
      ),
    ];
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** The records a second that Kafka's own tool tells at its end: without the start of its Java. */
async function measured(classes: string, args: string[]): Promise<number> {
  const tool = ["-cp", classes, "org.apache.kafka.tools.ProducerPerformance"];
  const { stdout, stderr } = await new Deno.Command("java", { args: [...tool, ...args] }).output();
  const said = new TextDecoder().decode(stdout);
  const [rate] = [...said.matchAll(/([\d.]+) records\/sec/g)].slice(-1);
  if (rate === undefined) throw new Error(`${PERF}: ${said}${new TextDecoder().decode(stderr)}`);
  return Number(rate[1]);
}
