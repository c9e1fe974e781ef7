/**
 * Traffic, faults and three sinks that share, join and die, together, for as long as wanted, and a table of what became of it.
 *
 *     deno task soak --minutes 10 [--seed 7] [--beside ../an/older/checkout]
 *
 * With `--targets`, into PostgreSQL, MariaDB, SQLite and, where it is installed, Kafka at once: see `fan_out_soak.ts`.
 */

import { Command, InvalidArgumentError, Option } from "commander";
import { caughtUp, connectRedis, seededRandom } from "writebehind";
import { ending } from "writebehind/core/ending.ts";
import { reasonOf } from "writebehind/core/errors.ts";
import { ensureSetup } from "writebehind/dev/setup.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { documentsOf, type Pipeline, rowsOf, testPipeline } from "../support/pipeline.ts";
import { Author } from "./author.ts";
import { ADMINISTRATOR, type Breaking, breakThings, repair, SETTLE_MS } from "./breaking.ts";
import {
  CACHE_OVERRIDES,
  CachedSoak,
  type CacheReport,
  DOCUMENTS,
  faultsOf,
  HOT,
  linesOf,
  PAD,
} from "./cache_soak.ts";
import { keepLedger, noted, type Verdict, versionsOf } from "./ledger.ts";
import { chooseSeed } from "./seed.ts";
import { BreakablePostgres, OneRedis, SoakCluster } from "./soak_servers.ts";
import { Watch } from "./watch.ts";
import { SharingSinks, SINKS } from "./sharing_sinks.ts";

/** A multiple of the sinks, so that even shares are equal. */
const PARTITIONS = 2 * SINKS;
/** How long until the shares are even: one that has failed at all it had comes back after a minute. */
const EVEN_MS = 120_000;

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
  /** what readers saw, where documents are cached */
  cache?: CacheReport | undefined;
}

export interface SoakOptions {
  seconds: number;
  seed: number;
  /** over a Redis Cluster, whose nodes fail over and whose slots move */
  cluster?: boolean | undefined;
  /** with memory for a tenth of the documents, and readers; over one Redis */
  cache?: boolean | undefined;
  /** another checkout of this project, of which every other sink is */
  beside?: string | undefined;
  /** how long until the shares of the sinks are even, in ms; it ends without that where they are not */
  evenMs?: number;
  /** ends it early; what was written is judged all the same */
  signal?: AbortSignal;
  /** called about once a second, with seconds since the begin */
  onProgress?: (
    report: { seconds: number; events: number; applied: number; faults: number },
  ) => void;
}

/** Runs it, on servers of its own. */
export async function soak(
  {
    seconds,
    seed,
    cluster = false,
    cache = false,
    beside,
    evenMs = EVEN_MS,
    signal,
    onProgress,
  }: SoakOptions,
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
    ...cache ? CACHE_OVERRIDES : {},
  };
  const nodes = cluster ? await SoakCluster.start() : null;
  if (nodes) stopping.push(nodes);
  const pipeline = stack.use(
    await (nodes?.pipeline(overrides) ??
      testPipeline({ ...overrides, zero_data_loss: {} }, OneRedis.options)),
  );
  const postgres = new BreakablePostgres(pipeline.servers.postgres);
  const oneRedis = nodes ? null : new OneRedis(pipeline);
  const redisServers = oneRedis ?? nodes!;
  stopping.push(postgres, ...oneRedis ? [oneRedis] : []);
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
    ...cache ? { documents: DOCUMENTS, hot: HOT, pad: PAD } : { documents: 400 },
    lanes: 16,
    paceMs: 10,
    patienceMs: SETTLE_MS,
    durability: cluster ? "replicas" : "memory",
  });
  const cached = cache && oneRedis
    ? await CachedSoak.begin(pipeline, oneRedis, author, seed + 2)
    : null;
  await keepLedger(pipeline);

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
    administrator: cached?.administrator ?? ADMINISTRATOR,
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
    const reading = cached?.read(end.signal, [distant, pipeline.config]);
    // Whichever fails, the others end as well.
    for (const part of [writing, faulting, reading]) part?.catch(finish);
    // A fault that fails may make the writers fail after it.
    const settled = await Promise.allSettled([faulting, writing, reading]);
    for (const part of settled) {
      if (part.status === "fulfilled") continue;
      throw new Error(`${reasonOf(part.reason)}\n${await sinks.told(pipeline)}`, {
        cause: part.reason,
      });
    }
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
    repaired: breaking.repaired + await (cached?.repair() ?? repair(pipeline)),
    ...await verdict(pipeline, author, cached),
    cache: cached?.report,
    longestStall: watch.longestStallMs / 1000,
    shares: await sinks.shares(pipeline, evenMs),
    peakMemory: watch.peakMemory,
  };
}

/** Documents that were resent have newer versions than their receipts say. */
async function verdict(
  pipeline: Pipeline,
  author: Author,
  cached: CachedSoak | null,
): Promise<Verdict> {
  const result = { lost: await cached?.end() ?? 0, ...await noted(pipeline) };
  const [documents, rows, versions] = [
    await documentsOf(pipeline),
    await rowsOf(pipeline),
    await versionsOf(pipeline),
  ];
  const wanted = author.documents();
  for (const [id, { version }] of author.written) {
    const document = wanted.get(id);
    const right = (cached || documents.get(id) === document) && rows.get(id) === document &&
      (document === undefined || versions.get(id)! >= version);
    if (!right) result.lost++;
  }
  return result;
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
    ...report.cache ? linesOf(report.cache) : [],
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
  const { minutes, seed = chooseSeed(), cluster, cache, beside, targets } = new Command(
    "deno task soak",
  )
    .description(
      "traffic, faults and three sinks that share; status 1 if anything is lost, twice or out of order",
    )
    .requiredOption("--minutes <n>", "how long", positive)
    .option("--seed <n>", "of the random generator", Number)
    .option("--cluster", "over a Redis Cluster, whose nodes fail over and whose slots move")
    .addOption(
      new Option(
        "--cache",
        "memory for a tenth of the documents, and readers that check each answer",
      )
        .conflicts(["cluster", "beside", "targets"]),
    )
    .option("--beside <folder>", "another checkout of this project: every other sink is of it")
    .option("--targets", "into PostgreSQL, MariaDB, SQLite and Kafka at once, each broken alone")
    .parse(Deno.args, { from: "user" })
    .opts<
      {
        minutes: number;
        seed?: number;
        cluster?: true;
        cache?: true;
        beside?: string | undefined;
        targets?: true;
      }
    >();
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
    cache,
    beside,
    onProgress: ({ seconds, events, applied, faults }) =>
      tell(
        seconds,
        `${Math.floor(seconds)} s of ${Math.round(60 * minutes)}: ${events} events written, ` +
          `${applied} applied, ${faults} faults`,
      ),
  });
  console.log(`${live ? "\n" : ""}${tableOf(report)}`);
  for (const example of report.cache?.examples ?? []) console.log(example);
  const misread = report.cache ? faultsOf(report.cache) : 0;
  return report.lost + report.twice + report.outOfOrder + misread > 0 ? 1 : 0;
}
