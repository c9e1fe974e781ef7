/**
 * Traffic into several targets at once, each broken alone: what became of each, and how long the others stood still for it.
 *
 *     deno task soak --targets --minutes 10 [--seed 7]
 */

import { DatabaseSync } from "node:sqlite";
import { setTimeout as delay } from "node:timers/promises";
import {
  addTarget,
  caughtUp,
  type Config,
  connectRedis,
  openTarget,
  pauseTarget,
  type Random,
  removeTarget,
  resumeTarget,
  seededRandom,
  type Target,
  verify,
} from "writebehind";
import { below } from "writebehind/core/random.ts";
import { startMariadb } from "writebehind/dev/servers/mariadb.ts";
import { startPostgres } from "writebehind/dev/servers/postgres.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { documentsOf, type Pipeline, testPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, type RunningCommand, startTask } from "../support/processes.ts";
import { testFolder, testMariadb } from "../support/servers.ts";
import { databaseOn } from "../targets/mysql/place.ts";
import { Author } from "./author.ts";
import { KAFKA, type KafkaSubject, kafkaSubject } from "./kafka_subject.ts";
import { NETWORK_FAULTS } from "./network_faults.ts";
import { killSink } from "./sinks.ts";

const SINKS = 2;
const LEASE_SECONDS = 1;
const SETTLE_MS = 60_000;
const SAMPLE_MS = 100;
/** How long after a fault a target may still stand because of it, in ms: leases end, servers start, pauses grow. */
const AFTER_MS = 4000;

/** What became of one target. */
export interface TargetReport {
  /** events that it was never given, or documents that differ from what was written last */
  lost: number;
  /** events that it has counted more than once */
  twice: number;
  /** longest time in which events waited and none was applied, though nothing of its own was broken, in seconds */
  longestStall: number;
  /** faults of its own, by kind */
  faults: Record<string, number>;
}

/** What the soak has seen. */
export interface FanOutReport {
  seed: number;
  seconds: number;
  events: number;
  /** sinks killed */
  killed: number;
  /** by the target's name */
  targets: Record<string, TargetReport>;
}

/** One target under test, and what breaks it. */
interface Subject {
  name: string;
  target: Target;
  /** each breaks it alone for about a second, and ends with it working */
  faults: Record<string, (random: Random) => Promise<void>>;
  report: TargetReport;
  /** when its last fault ended, in ms; `Infinity` while one lasts */
  faultedAt: number;
  /** whether it was removed and added anew, so that it has not counted all events */
  addedAnew: boolean;
  /** where each event stands by itself: how many do, and how many more than once, or out of their order */
  read?: KafkaSubject["read"];
}

/** Servers that were started again. */
interface Servers {
  postgres?: { stop(mode?: "immediate"): Promise<void> };
  maria?: { kill(): Promise<void> };
}

/**
 * Runs it on servers of its own: PostgreSQL, MariaDB and a SQLite file.
 * @param withKafka whether a Kafka is the fourth, which takes some seconds to start, also where it was killed
 */
export async function fanOutSoak(
  { seconds, seed, withKafka = false, signal, onProgress }: {
    seconds: number;
    seed: number;
    withKafka?: boolean;
    signal?: AbortSignal;
    onProgress?: (seconds: number, line: string) => void;
  },
): Promise<FanOutReport> {
  const random = seededRandom(seed);
  await using stack = new AsyncDisposableStack();
  // Last of all, since what is cleaned up before needs them; they are others after a fault.
  const servers: Servers = {};
  stack.defer(async () => {
    await servers.postgres?.stop("immediate");
    await servers.maria?.kill();
  });
  const pipeline = stack.use(await testPipeline());
  const maria = stack.use(await testMariadb());
  const database = stack.use(await databaseOn(maria));
  const toPostgres = stack.use(await TcpProxy.start(pipeline.servers.postgres));
  const toMaria = stack.use(await TcpProxy.start(maria));
  const path = `${testFolder("soak")}/rows.db`;
  const kafka = withKafka ? stack.use(await kafkaSubject()) : undefined;
  const targets = (by: "proxy" | "broker") => [
    { name: "postgresql", kind: "postgresql" as const },
    { ...database.target, name: "maria", port: (by === "proxy" ? toMaria : maria).port },
    { name: "local", kind: "sqlite" as const, path },
    ...(kafka ? [kafka.target(by)] : []),
  ];
  const config = pipeline.with({ targets: targets("broker") });
  const subjects = await subjectsOf(stack, config, pipeline, {
    ...{ toPostgres, toMaria, path, maria, servers, kafka },
  });
  const file = await configFile({
    targets: targets("proxy"),
    write_behind: {
      lease_seconds: LEASE_SECONDS,
      batch_size: 500,
      retry_base_ms: 5,
      retry_max_ms: 200,
    },
  });
  const served = pipeline.with({ postgresql: { port: toPostgres.port } });
  const sinks = new Sinks(file, {
    ...environmentOf(served),
    WRITEBEHIND_DATA: path.slice(0, path.lastIndexOf("/")),
  });
  stack.defer(() => sinks.stop());
  const redis = stack.use(await connectRedis(config));
  const author = new Author(redis, config, {
    ...{ random: seededRandom(seed + 1), documents: 400, lanes: 8, paceMs: 10 },
    patienceMs: SETTLE_MS,
  });

  const began = Date.now();
  const end = new AbortController();
  const finish = () => end.abort();
  signal?.addEventListener("abort", finish, { once: true });
  const timer = setTimeout(finish, 1000 * seconds);
  const watching = subjects.map((subject) => watch(pipeline, subject, end.signal));
  const telling = setInterval(() => {
    const faults = subjects.map(({ name, report }) =>
      `${name} ${Object.values(report.faults).reduce((sum, count) => sum + count, 0)}`
    );
    const passed = (Date.now() - began) / 1000;
    onProgress?.(
      passed,
      `${Math.floor(passed)} s of ${
        Math.round(seconds)
      }: ${author.events} events written; faults: ${
        faults.join(", ")
      }; sinks killed: ${sinks.killed}`,
    );
  }, 1000);
  try {
    const writing = author.write({ signal: end.signal });
    const breaking = breakThings({ random, pipeline, config, subjects, sinks, signal: end.signal });
    for (const part of [writing, breaking]) part.catch(finish);
    const settled = await Promise.allSettled([breaking, writing]);
    for (const part of settled) if (part.status === "rejected") throw part.reason;
  } catch (error) {
    throw new Error(`${(error as Error).message}; the sinks said:\n${sinks.said}`);
  } finally {
    clearTimeout(timer);
    clearInterval(telling);
    signal?.removeEventListener("abort", finish);
    finish();
    await Promise.all(watching);
  }
  for (const subject of subjects) {
    await judge(pipeline, config, subject, author).catch((error) => {
      throw new Error(`${subject.name}: ${error.message}; the sinks said:\n${sinks.said}`);
    });
  }
  return {
    seed,
    seconds: (Date.now() - began) / 1000,
    events: author.events,
    killed: sinks.killed,
    targets: Object.fromEntries(subjects.map(({ name, report }) => [name, report])),
  };
}

/** What breaks each target alone. */
async function subjectsOf(
  stack: AsyncDisposableStack,
  config: Config,
  pipeline: Pipeline,
  { toPostgres, toMaria, path, maria, servers, kafka }: {
    servers: Servers;
    kafka: KafkaSubject | undefined;
    toPostgres: TcpProxy;
    toMaria: TcpProxy;
    path: string;
    maria: { dir: string; port: number; password: string; kill(): Promise<void> };
  },
): Promise<Subject[]> {
  const network = (proxy: TcpProxy) =>
    Object.fromEntries(
      Object.entries(NETWORK_FAULTS).map((
        [name, fault],
      ) => [`connections ${name}`, (random: Random) => fault(proxy, random)]),
    );
  const faults: Record<string, Subject["faults"]> = {
    postgresql: {
      ...network(toPostgres),
      "stopped (immediate), started": async () => {
        const { dir, port } = pipeline.servers.postgres;
        await (servers.postgres ?? pipeline.servers.postgres).stop("immediate");
        servers.postgres = await startPostgres({ dir, port });
      },
    },
    maria: {
      ...network(toMaria),
      "killed (-9), started": async () => {
        const { dir, port, password } = maria;
        await (servers.maria ?? maria).kill();
        servers.maria = await startMariadb({ dir, port, password });
      },
    },
    local: {
      "locked by another program": async (random) => {
        using db = new DatabaseSync(path, { timeout: 5000 });
        db.exec("BEGIN EXCLUSIVE");
        await delay(1500 * random());
        db.exec("ROLLBACK");
      },
    },
    ...(kafka ? { [KAFKA]: { ...network(kafka.proxy), ...kafka.faults } } : {}),
  };
  const subjects: Subject[] = [];
  for (const { name } of config.targets) {
    const target = stack.use(await openTarget(config, name));
    await target.migrate("session");
    subjects.push({
      ...{ name, target, faults: faults[name]!, faultedAt: 0, addedAnew: false },
      ...(kafka && name === KAFKA ? { read: kafka.read } : {}),
      report: { lost: 0, twice: 0, longestStall: 0, faults: {} },
    });
  }
  return subjects;
}

/** Notes how long events wait for a target though nothing of its own is broken. */
async function watch({ config }: Pipeline, subject: Subject, signal: AbortSignal): Promise<void> {
  const keys = partitionKeys(config, "session", 0);
  let before = "";
  let movedAt = Date.now();
  while (!signal.aborted) {
    const offset = await subject.target.offsets.offset(keys).catch(() => before);
    const now = Date.now();
    // The writers go on all the time, so that an offset that stands has events behind it.
    if (offset !== before || now - subject.faultedAt < AFTER_MS) movedAt = now;
    before = offset;
    const stall = (now - movedAt) / 1000;
    subject.report.longestStall = Math.max(subject.report.longestStall, stall);
    await delay(SAMPLE_MS);
  }
}

interface Breaking {
  random: Random;
  pipeline: Pipeline;
  config: Config;
  subjects: Subject[];
  sinks: Sinks;
  signal: AbortSignal;
}

/** Faults one after the other, each of one target or of a sink, until the signal. */
async function breakThings(breaking: Breaking): Promise<void> {
  const { random, subjects, sinks, signal } = breaking;
  while (!signal.aborted) {
    await delay(200 * random());
    const choice = random();
    if (choice < 0.15) {
      await sinks.killOne(random);
      for (const subject of subjects) subject.faultedAt = Date.now();
      continue;
    }
    const subject = subjects[below(random, subjects.length)]!;
    const operator = choice < 0.3;
    const kinds = Object.keys(operator ? OPERATOR : subject.faults);
    const kind = kinds[below(random, kinds.length)]!;
    subject.faultedAt = Infinity;
    try {
      await (operator ? OPERATOR[kind]!(breaking, subject) : subject.faults[kind]!(random));
    } finally {
      subject.faultedAt = Date.now();
    }
    subject.report.faults[kind] = (subject.report.faults[kind] ?? 0) + 1;
  }
}

/** What an operator does with one of several targets. */
const OPERATOR: Record<string, (breaking: Breaking, subject: Subject) => Promise<void>> = {
  "paused, resumed": async ({ pipeline: { redis }, config, random }, { name }) => {
    await registered(redis, config, name);
    await pauseTarget(redis, config, "session", name);
    await delay(1500 * random());
    await resumeTarget(redis, config, "session", name);
  },
  "removed, added": async ({ pipeline: { redis }, config, random }, subject) => {
    const { name, target } = subject;
    await registered(redis, config, name);
    subject.addedAnew = true;
    await removeTarget(redis, config, "session", name);
    await delay(500 * random());
    await again(target, () => addTarget(redis, target, config, "session"));
  },
};

/** As an operator would: runs it again where a connection was lost, which a server that was started again has closed. */
async function again<Result>(target: Target, work: () => Promise<Result>): Promise<Result> {
  const deadline = Date.now() + SETTLE_MS;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (target.kindOf(error) !== "transient" || Date.now() > deadline) throw error;
      await delay(SAMPLE_MS);
    }
  }
}

/** A sink has told of the target: the first seconds it may not have begun. */
async function registered(
  redis: Pipeline["redis"],
  config: Config,
  name: string,
): Promise<void> {
  const field = `target:${name}`;
  const { settings } = partitionKeys(config, "session", 0);
  const deadline = Date.now() + SETTLE_MS;
  while (!await redis.hexists(settings, field)) {
    if (Date.now() > deadline) throw new Error(`no sink has registered ${name}`);
    await delay(SAMPLE_MS);
  }
}

async function judge(
  pipeline: Pipeline,
  config: Config,
  { target, report, addedAnew, read }: Subject,
  author: Author,
): Promise<void> {
  const { redis } = pipeline;
  await again(target, () => caughtUp(redis, target, config, "session", { deadlineMs: SETTLE_MS }));
  const { counts } = await again(target, () => verify(redis, target, config, "session"));
  const documents = await documentsOf(pipeline);
  const wanted = author.documents();
  report.lost = counts.mismatches + counts.behind + counts.parked;
  for (const [id, document] of wanted) if (documents.get(id) !== document) report.lost++;
  const found = await read?.();
  report.twice = found?.twice ?? 0;
  if (addedAnew) return;
  if (found) report.lost += Math.abs(author.events - found.events);
  const { events } = await target.offsets.standing(partitionKeys(config, "session", 0));
  report.lost += Math.max(0, author.events - events);
  report.twice += Math.max(0, events - author.events);
}

/** Sink processes for all targets; one that has ended is started again. */
class Sinks {
  killed = 0;
  #running: (RunningCommand | undefined)[] = Array.from({ length: SINKS });
  #stopped = new AbortController();
  #keepers: Promise<void>[];

  constructor(file: string, environment: Record<string, string>) {
    this.#keepers = this.#running.map((_, place) => this.#keep(place, file, environment));
  }

  async #keep(place: number, file: string, environment: Record<string, string>): Promise<void> {
    while (!this.#stopped.signal.aborted) {
      await using sink = startTask(["sink", "--config", file], environment);
      this.#running[place] = sink;
      if (this.#stopped.signal.aborted) return;
      await sink.status;
      await delay(200);
    }
  }

  /** What they have said last. */
  get said(): string {
    return this.#running.map((sink) => sink?.output().split("\n").slice(-40).join("\n"))
      .join("\n--\n");
  }

  async killOne(random: Random): Promise<void> {
    const sink = this.#running[below(random, SINKS)];
    if (!sink) return;
    await killSink(sink);
    this.killed++;
  }

  async stop(): Promise<void> {
    this.#stopped.abort();
    for (const sink of this.#running) if (sink) await killSink(sink);
    await Promise.all(this.#keepers);
  }
}

/** The report, a line a target. */
export function fanOutTable({ seed, seconds, events, killed, targets }: FanOutReport): string {
  const lines = Object.entries(targets).map(([name, report]) => {
    const faults = Object.values(report.faults).reduce((sum, count) => sum + count, 0);
    return `| ${name} | ${faults} | ${report.lost} | ${report.twice} | ${
      report.longestStall.toFixed(1)
    } |`;
  });
  return [
    `seed ${seed}, ${(seconds / 60).toFixed(1)} minutes, ${events} events, sinks killed ${killed}`,
    "",
    "| target | faults of its own | lost | twice | longest stall without one (s) |",
    "| --- | ---: | ---: | ---: | ---: |",
    ...lines,
  ].join("\n");
}
