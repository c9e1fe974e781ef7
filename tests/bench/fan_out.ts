/** Row 18: several targets at once, by one sink process, against PostgreSQL alone. */

import mysql from "mysql2/promise";
import { dirname } from "node:path";
import { openTarget, type Target } from "writebehind";
import { delay } from "writebehind/core/delay.ts";
import { startMariadb } from "writebehind/dev/servers/mariadb.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { lastGeneratedId } from "writebehind/redis/streams.ts";
import { kafkaIsInstalled, testKafka } from "../support/kafka.ts";
import { isInstalled } from "../support/programs.ts";
import { testFolder } from "../support/servers.ts";
import { cpuBetween, cpuTimes } from "./cpu.ts";
import { interleave, median, perSecond, ratios, type Row, row } from "./measure.ts";
import { SinkProcess } from "./sink_process.ts";
import { ENTITY, type Workbench } from "./workbench.ts";
import { uniqueInserts } from "./workload.ts";

const ALONE = "PostgreSQL alone";
const LOOK_MS = 10;
const DEADLINE_MS = 300_000;

export async function fanOutRows(bench: Workbench): Promise<Row[]> {
  await bench.clear();
  const count = bench.sizes.events;
  const backlog = await bench.fill("fan-out", bench.config, uniqueInserts(count), 0);
  const server = isInstalled("mariadbd")
    ? await startMariadb({ dir: testFolder("mariadb"), password: "secret" })
    : null;
  await using broker = kafkaIsInstalled() ? await testKafka() : null;
  const names = [
    "PostgreSQL",
    "SQLite",
    ...server ? ["MariaDB"] : [],
    ...broker ? ["Kafka"] : [],
  ];
  const together = `${names.join(", ")} at once`;
  const login = server &&
    { host: server.host, port: server.port, user: server.user, password: "secret" };
  let files = 0;
  const memory: number[] = [];
  const cores: Record<string, number[]> = { [ALONE]: [], [together]: [] };
  const all: number[] = [];

  /** The events a second of PostgreSQL, and of all targets together. */
  const drained = async (name: string, others: boolean): Promise<number> => {
    await bench.restore(backlog);
    const path = `${testFolder("fan_out")}/${++files}.db`;
    const database = `fan_out_${files}`;
    if (login && others) {
      const connection = await mysql.createConnection(login);
      await connection.query(`CREATE DATABASE ${database}`);
      await connection.end();
    }
    const targets = [
      { name: "postgresql", kind: "postgresql" as const },
      ...others
        ? [
          { name: "local", kind: "sqlite" as const, path },
          ...login ? [{ name: "maria", kind: "mysql" as const, ...login, database }] : [],
          ...broker
            ? [{
              name: "kafka",
              kind: "kafka" as const,
              brokers: [broker.broker],
              prefix: `${database}-`,
            }]
            : [],
        ]
        : [],
    ];
    const config = bench.with({ targets });
    await using opened = new AsyncDisposableStack();
    const watched: Target[] = [];
    for (const target of targets) {
      const one = opened.use(await openTarget(config, target.name));
      await one.migrate(ENTITY);
      watched.push(one);
    }
    await bench.settle();
    const [keys] = allPartitions(config, ENTITY);
    const last = await lastGeneratedId(bench.redis, keys!.stream);
    await using sink = await SinkProcess.start(bench, config, {
      targets,
      writes: dirname(path),
    });
    const before = cpuTimes(bench, [sink.pid]);
    const began = performance.now();
    const ends = await Promise.all(watched.map(async ({ offsets }) => {
      let first: number | undefined;
      for (const deadline = Date.now() + DEADLINE_MS; Date.now() < deadline;) {
        const offset = await offsets.offset(keys!);
        const now = performance.now();
        if (offset === last) return { first: first ?? began, end: now }; // one batch, of a quick run
        if (offset !== "0-0") first ??= now;
        await delay(LOOK_MS);
      }
      throw new Error(`the process did not do its work: ${await sink.stop()}`);
    }));
    const took = performance.now() - began;
    if (before) {
      const used = cpuBetween(before, cpuTimes(bench, [sink.pid])!, took / 1000);
      cores[name]!.push(used.deno + used.postgres + used.redis);
    }
    if (others) {
      memory.push(sink.memory().peak);
      const start = Math.min(...ends.map(({ first }) => first));
      const end = Math.max(...ends.map(({ end }) => end));
      all.push(1000 * count * ends.length / (end - start));
    }
    const [{ first, end }] = ends as [typeof ends[number]];
    return 1000 * count / (end - first);
  };
  try {
    const rates = await interleave(
      [[ALONE, () => drained(ALONE, false)], [together, () => drained(together, true)]],
      bench.rounds,
      bench.step,
    );
    const [alone, beside] = [rates(ALONE), rates(together)];
    const used = (name: string) =>
      cores[name]!.length === 0 ? "?" : median(cores[name]!).toFixed(1);
    return [
      row(
        "18a",
        `PostgreSQL's drain beside ${names.slice(1).join(", ")} / alone`,
        ratios(beside, alone),
        null,
        `${perSecond(beside)} / ${perSecond(alone)}; cores of sink, PostgreSQL and Redis: ${
          used(together)
        } / ${used(ALONE)}`,
      ),
      row("18b", `${together}, all together / PostgreSQL alone`, ratios(all, alone), null),
      row("18c", `memory of a sink with ${names.length} targets (MB)`, memory, { atMost: 300 }),
    ];
  } finally {
    await server?.stop();
  }
}
