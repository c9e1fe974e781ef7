/**
 * Traffic, faults and three sinks that share, join and die, together, for as long as wanted, and a table of what became of it.
 *
 *     deno task soak --minutes 10 [--seed 7] [--beside ../an/older/checkout]
 *
 * With `--targets`, into PostgreSQL, MariaDB, SQLite and, where it is installed, Kafka at once: see `fan_out_soak.ts`.
 */

import { Command, InvalidArgumentError } from "commander";
import { setTimeout as delay } from "node:timers/promises";
import {
  caughtUp,
  connectRedis,
  type Random,
  rebuild,
  RebuildRefusedError,
  repairTarget,
  seededRandom,
  verify,
} from "writebehind";
import { ending } from "writebehind/core/ending.ts";
import { below } from "writebehind/core/random.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { ensureSetup } from "writebehind/dev/setup.ts";
import { offsetOf } from "../support/pipeline.ts";
import { documentsOf, type Pipeline, rowsOf, testPipeline } from "../support/pipeline.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { resetRole, ROLE_SETTINGS, setRole } from "./administrator.ts";
import { Author } from "./author.ts";
import { keepLedger, noted, type Verdict, versionsOf } from "./ledger.ts";
import { NETWORK_FAULTS } from "./network_faults.ts";
import { chooseSeed } from "./seed.ts";
import { BreakablePostgres, OneRedis, type RedisFaults, SoakCluster } from "./soak_servers.ts";
import { Watch } from "./watch.ts";
import { SharingSinks, SINKS } from "./sharing_sinks.ts";

/** A multiple of the sinks, so that even shares are equal. */
const PARTITIONS = 2 * SINKS;
/** How long everything may take to be applied once nothing breaks any more, in ms. */
const SETTLE_MS = 60_000;
/** How long until the shares are even: one that has failed at all it had comes back after a minute. */
const EVEN_MS = 120_000;
const SAMPLE_MS = 100;

/** What a soak has seen. */
export interface SoakReport extends Verdict {
  seed: number;
  seconds: number;
  /** calls that made an event */
  events: number;
  /** faults by kind */
  faults: Record<string, number>;
  /** documents whose events an administrator had removed from the stream, found by `verify` and sent again */
  repaired: number;
  /** longest time in which events of a partition were waiting and none was applied, in seconds */
  longestStall: number;
  /** partitions that each sink has at the end */
  shares: number[];
  /** most that a sink's process has had in memory, in MB; 0 where the system does not say */
  peakMemory: number;
}

export interface SoakOptions {
  seconds: number;
  seed: number;
  /** over a Redis Cluster, whose nodes fail over and whose slots move */
  cluster?: boolean;
  /** another checkout of this project, of which every other sink is */
  beside?: string;
  /** ends it early; what was written is judged all the same */
  signal?: AbortSignal;
  /** called about once a second, with seconds since the begin */
  onProgress?: (
    report: { seconds: number; events: number; applied: number; faults: number },
  ) => void;
}

/** Runs it, on servers of its own. */
export async function soak(
  { seconds, seed, cluster = false, beside, signal, onProgress }: SoakOptions,
): Promise<SoakReport> {
  const random = seededRandom(seed);
  await using stack = new AsyncDisposableStack();
  // Last of all, since the pipeline needs them to clean up.
  const stopping: { stop(): Promise<void> }[] = [];
  stack.defer(async () => {
    for (const server of stopping) await server.stop();
  });
  const overrides = {
    redis: { command_timeout_ms: 1000 },
    streams: { partitions: PARTITIONS },
    // What is confirmed is on the replica that takes over.
    zero_data_loss: { replicas: 1, wait_timeout_ms: 500 },
  };
  const nodes = cluster ? await SoakCluster.start() : null;
  if (nodes) stopping.push(nodes);
  const pipeline = stack.use(
    await (nodes?.pipeline(overrides) ??
      testPipeline({ ...overrides, zero_data_loss: {} }, OneRedis.options)),
  );
  await keepLedger(pipeline);
  const postgres = new BreakablePostgres(pipeline.servers.postgres);
  const redisServers = nodes ?? new OneRedis(pipeline);
  stopping.push(postgres, ...nodes ? [] : [redisServers]);
  const toPostgres = stack.use(await TcpProxy.start(pipeline.servers.postgres));
  const proxies: Breaking["proxies"] = [{ name: "PostgreSQL", proxy: toPostgres }];
  let forWriters = {};
  let forSinks = {};
  if (!nodes) { // the nodes of a cluster tell their own addresses
    const ways = await Promise.all(
      ["writers", "sinks"].map(async (name) => (
        { name, proxy: stack.use(await TcpProxy.start(pipeline.servers.redis)) }
      )),
    );
    proxies.unshift(...ways);
    [forWriters, forSinks] = ways.map(({ proxy: { port } }) => ({ port })) as [object, object];
  }
  const sinks = new SharingSinks(
    pipeline.with({ redis: forSinks, postgresql: { port: toPostgres.port } }),
    beside,
  );
  stack.defer(() => sinks.stop());
  const distant = pipeline.with({ redis: forWriters });
  const redis = stack.use(await connectRedis(distant));
  const author = new Author(redis, distant, {
    random: seededRandom(seed + 1),
    documents: 400,
    lanes: 16,
    paceMs: 10,
    patienceMs: SETTLE_MS,
    durability: cluster ? "replicas" : "memory",
    insists: cluster,
  });

  const began = Date.now();
  const end = new AbortController();
  const finish = () => end.abort();
  signal?.addEventListener("abort", finish, { once: true });
  if (signal?.aborted) finish();
  const timer = setTimeout(finish, 1000 * seconds);
  const watch = new Watch(pipeline, sinks);
  const faults: Record<string, number> = {};
  const breaking: Breaking = {
    ...{ random, postgres, sinks, faults, pipeline, author, proxies },
    redisFaults: redisServers.faults,
    repaired: 0,
    signal: end.signal,
  };
  const report = setInterval(() =>
    onProgress?.({
      seconds: (Date.now() - began) / 1000,
      events: author.events,
      applied: watch.applied,
      faults: Object.values(faults).reduce((sum, count) => sum + count, 0),
    }), 1000);
  try {
    const writing = author.write({ signal: end.signal });
    const faulting = breakThings(breaking);
    // Whichever fails, the other ends as well.
    for (const part of [writing, faulting]) part.catch(finish);
    // A fault that fails may make the writers fail after it.
    const settled = await Promise.allSettled([faulting, writing]);
    for (const part of settled) if (part.status === "rejected") throw part.reason;
    const { pool, config } = pipeline;
    await caughtUp(pipeline.redis, pool, config, "session", { deadlineMs: SETTLE_MS }).catch(() => {
      // What is missing is counted below.
    });
  } finally {
    clearTimeout(timer);
    clearInterval(report);
    signal?.removeEventListener("abort", finish);
    await watch.stop();
  }
  return {
    seed,
    seconds: (Date.now() - began) / 1000,
    events: author.events,
    faults,
    repaired: breaking.repaired + await repair(pipeline),
    ...await verdict(pipeline, author),
    longestStall: watch.longestStallMs / 1000,
    shares: await sinks.shares(pipeline, EVEN_MS),
    peakMemory: watch.peakMemory,
  };
}

/** What the pages advise after events were removed: compares, and sends again what differs, until nothing does. */
async function repair({ redis, pool, config }: Pipeline): Promise<number> {
  const deadline = Date.now() + SETTLE_MS;
  for (let repaired = 0;;) {
    await caughtUp(redis, pool, config, "session", { deadlineMs: SETTLE_MS });
    const { mismatches, counts } = await verify(redis, pool, config, "session");
    if (counts.mismatches + counts.behind === 0) return repaired;
    repaired += (await repairTarget(redis, config, "session", mismatches)).mended;
    if (Date.now() > deadline) {
      throw new Error(`${counts.mismatches} documents differ, and no repair helps`);
    }
  }
}

/** Documents that were resent have newer versions than their receipts say. */
async function verdict(pipeline: Pipeline, author: Author): Promise<Verdict> {
  const result = { lost: 0, ...await noted(pipeline) };
  const [documents, rows, versions] = [
    await documentsOf(pipeline),
    await rowsOf(pipeline),
    await versionsOf(pipeline),
  ];
  const wanted = author.documents();
  for (const [id, { version }] of author.written) {
    const document = wanted.get(id);
    const right = documents.get(id) === document && rows.get(id) === document &&
      (document === undefined || versions.get(id)! >= version);
    if (!right) result.lost++;
  }
  return result;
}

interface Breaking {
  random: Random;
  proxies: { name: string; proxy: TcpProxy }[];
  postgres: BreakablePostgres;
  redisFaults: RedisFaults;
  sinks: SharingSinks;
  faults: Record<string, number>;
  pipeline: Pipeline;
  author: Author;
  /** documents that were sent again */
  repaired: number;
  signal: AbortSignal;
}

const streamsOf = ({ config }: Pipeline) =>
  allPartitions(config, "session").map(({ stream }) => stream);

/** One of them, by chance. */
const anyStream = (pipeline: Pipeline, random: Random) =>
  streamsOf(pipeline)[below(random, PARTITIONS)]!;

/** What an administrator does, by its name. */
const ADMINISTRATOR: Record<string, (breaking: Breaking) => Promise<unknown>> = {
  "DEL of a stream": ({ pipeline, random }) => pipeline.redis.del(anyStream(pipeline, random)),
  "XTRIM MAXLEN 0": ({ pipeline, random }) =>
    pipeline.redis.xtrim(anyStream(pipeline, random), "MAXLEN", 0),
  // Where nothing waits and nothing differs, FLUSHALL loses nothing: the target has it all.
  "FLUSHALL and rebuild": async (breaking) => {
    const { pipeline, author } = breaking;
    const goOn = await author.pause();
    try {
      breaking.repaired += await repair(pipeline);
      for (const server of pipeline.redis.servers) await server.flushall();
      await rebuilt(pipeline);
    } finally {
      goOn();
    }
  },
  "table renamed, and back": async ({ pipeline, random }) => {
    await pipeline.pool.query("ALTER TABLE sessions RENAME TO sessions_away");
    await delay(500 * random());
    await pipeline.pool.query("ALTER TABLE sessions_away RENAME TO sessions");
  },
  "role settings changed, and back": async ({ pipeline, random }) => {
    const settings = Object.values(ROLE_SETTINGS);
    await setRole(pipeline, settings[below(random, settings.length)]!);
    await delay(500 * random());
    await resetRole(pipeline);
    await untilWorking(pipeline);
  },
};

/** A rebuild, once a sink has seen that the stream is gone. */
async function rebuilt({ redis, pool, config }: Pipeline): Promise<void> {
  const deadline = Date.now() + SETTLE_MS;
  for (;;) {
    try {
      await rebuild(redis, pool, config, "session");
      return;
    } catch (error) {
      if (!(error instanceof RebuildRefusedError) || Date.now() > deadline) throw error;
      await delay(SAMPLE_MS);
    }
  }
}

/** The pool has noticed that its connections were ended. */
async function untilWorking({ pool }: Pipeline): Promise<void> {
  const deadline = Date.now() + SETTLE_MS;
  while (!await pool.query("SELECT").then(() => true, () => false)) {
    if (Date.now() > deadline) throw new Error("PostgreSQL does not come back");
    await delay(20);
  }
}

/** Faults one after the other, until the signal; at the end everything works again. */
async function breakThings(breaking: Breaking): Promise<void> {
  const { random, proxies, postgres, redisFaults, sinks, faults, pipeline, signal } = breaking;
  const anyOf = <T>(things: T[]) => things[below(random, things.length)]!;
  // A table that has no rows yet is made anew where it is missing.
  for (const stream of streamsOf(pipeline)) {
    while (await offsetOf(pipeline.pool, stream) === "0-0" && !signal.aborted) await delay(20);
  }
  while (!signal.aborted) {
    await delay(100 * random());
    const choice = random();
    let kind: string;
    if (choice < 0.18) {
      kind = "sink killed";
      await sinks.killOne(random);
    } else if (choice < 0.23) {
      kind = "sink stopped cleanly, started";
      await sinks.stopOne(random);
    } else if (choice < 0.27) {
      kind = "one more sink joins, and leaves or dies";
      await sinks.joinOne(random);
    } else if (choice < 0.32) {
      kind = "sink stopped (SIGSTOP) past its lease, goes on";
      await sinks.freezeOne(random);
    } else if (choice < 0.4) {
      kind = "PostgreSQL stopped (immediate), started";
      await postgres.restart();
      await untilWorking(pipeline);
    } else if (choice < (proxies.length > 1 ? 0.48 : 0.7)) {
      kind = anyOf(Object.keys(redisFaults));
      await redisFaults[kind]!(random);
    } else if (choice < (proxies.length > 1 ? 0.6 : 0.82)) {
      const name = anyOf(Object.keys(ADMINISTRATOR));
      kind = `administrator: ${name}`;
      await ADMINISTRATOR[name]!(breaking);
    } else {
      const name = anyOf(Object.keys(NETWORK_FAULTS));
      const place = anyOf(proxies);
      kind = `connections ${name}: ${place.name}`;
      await NETWORK_FAULTS[name]!(place.proxy, random);
    }
    faults[kind] = (faults[kind] ?? 0) + 1;
  }
}

/** The report as a table. */
export function tableOf(report: SoakReport): string {
  const { seed, seconds, events, faults, lost, twice, outOfOrder } = report;
  const lines: [string, string | number][] = [
    ["seed", seed],
    ["minutes", (seconds / 60).toFixed(1)],
    ["events", events],
    ["faults", Object.values(faults).reduce((sum, count) => sum + count, 0)],
    ...Object.entries(faults).sort().map(([kind, count]): [string, number] => [`- ${kind}`, count]),
    ["repaired after DEL and XTRIM", report.repaired],
    ["lost", lost],
    ["twice", twice],
    ["out of order", outOfOrder],
    ["longest stall of a partition (s)", report.longestStall.toFixed(1)],
    ["partitions of each sink at the end", report.shares.join(" ")],
    ["peak memory of a sink (MB)", report.peakMemory],
  ];
  const width = Math.max(...lines.map(([name]) => name.length));
  const figures = Math.max(...lines.map(([, value]) => String(value).length), 2);
  return [
    `| ${"".padEnd(width)} | ${"".padEnd(figures)} |`,
    `| ${"-".repeat(width)} | ${"-".repeat(figures - 1)}: |`,
    ...lines.map(([name, value]) =>
      `| ${name.padEnd(width)} | ${String(value).padStart(figures)} |`
    ),
  ].join("\n");
}

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError("Expected a number above 0.");
  return value;
}

if (import.meta.main) Deno.exit(await ending(run, console.error));

async function run(): Promise<number> {
  const { minutes, seed = chooseSeed(), cluster, beside, targets } = new Command("deno task soak")
    .description(
      "traffic, faults and three sinks that share; status 1 if anything is lost, twice or out of order",
    )
    .requiredOption("--minutes <n>", "how long", positive)
    .option("--seed <n>", "of the random generator", Number)
    .option("--cluster", "over a Redis Cluster, whose nodes fail over and whose slots move")
    .option("--beside <folder>", "another checkout of this project: every other sink is of it")
    .option("--targets", "into PostgreSQL, MariaDB, SQLite and Kafka at once, each broken alone")
    .parse(Deno.args, { from: "user" })
    .opts<{ minutes: number; seed?: number; cluster?: true; beside?: string; targets?: true }>();
  await ensureSetup({ onProgress: console.log });
  const stop = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    Deno.addSignalListener(name, () => {
      if (!stop.signal.aborted) {
        console.log("\nstopping: what was written is still to be applied and judged");
      }
      stop.abort();
    });
  }
  const live = Deno.stdout.isTerminal();
  let told = 0;
  const tell = (seconds: number, line: string) => {
    if (!live && seconds - told < 10) return;
    told = seconds;
    Deno.stdout.writeSync(new TextEncoder().encode(live ? `\r\x1b[K${line}` : `${line}\n`));
  };
  const options = { seconds: 60 * minutes, seed, signal: stop.signal };
  console.error(`seed ${seed}`); // also where it ends before its table
  if (targets) {
    const { fanOutSoak, fanOutTable } = await import("./fan_out_soak.ts");
    const { kafkaIsInstalled } = await import("../support/kafka.ts");
    const withKafka = kafkaIsInstalled();
    if (!withKafka) console.log("without Kafka: java and mvn are not installed");
    const report = await fanOutSoak({ ...options, withKafka, onProgress: tell });
    console.log(`${live ? "\n" : ""}${fanOutTable(report)}`);
    return Object.values(report.targets).some(({ lost, twice }) => lost + twice > 0) ? 1 : 0;
  }
  const report = await soak({
    ...options,
    cluster,
    beside,
    onProgress: ({ seconds, events, applied, faults }) =>
      tell(
        seconds,
        `${Math.floor(seconds)} s of ${Math.round(60 * minutes)}: ${events} events written, ` +
          `${applied} applied, ${faults} faults`,
      ),
  });
  console.log(`${live ? "\n" : ""}${tableOf(report)}`);
  return report.lost + report.twice + report.outOfOrder > 0 ? 1 : 0;
}
