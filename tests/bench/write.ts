/** Rows 6, 7 and 14: what a write costs, with all its checks. */

import { dirname, join } from "node:path";
import {
  deleteDocument,
  type EventType,
  insertDocument,
  type JsonObject,
  updateDocument,
} from "writebehind";
import { findRedis } from "writebehind/dev/servers/binaries.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { insertScript } from "writebehind/redis/scripts/mod.ts";
import { median, perSecond, quantile, ratios, type Row, row } from "./measure.ts";
import { ENTITY, fieldsOf, type Workbench } from "./workbench.ts";
import { type DraftEvent, uniqueInserts } from "./workload.ts";

const IN_FLIGHT = [
  { inFlight: 1, id: "6a", goal: 0.55 },
  { inFlight: 16, id: "6b", goal: 0.55 },
  { inFlight: 64, id: "6c", goal: 0.4 },
  { inFlight: 256, id: "6d", goal: 0.4 },
] as const;
const VERBS: readonly EventType[] = ["insert", "update", "delete"];

/** In each round ours and what it is compared with take turns this often, since a busy moment is shorter than a round. */
const TURNS = 4;
/** The stream of the bare commands. */
const BARE = "bench:bare";

/** One document and the calls that are compared on it. */
export interface Case {
  event: Required<DraftEvent>;
  document: JsonObject;
}

/** What ours and the bare command did in one round: calls a second, and each call's time in ms. */
interface Side {
  rate: number;
  latencies: number[];
}

export async function writeRows(bench: Workbench, wanted: Set<number>): Promise<Row[]> {
  const rows: Row[] = [];
  if (wanted.has(6)) rows.push(...await levels(bench));
  if (wanted.has(7)) rows.push(...await againstBenchmark(bench));
  if (wanted.has(14)) rows.push(await textsAgainstObjects(bench));
  return rows;
}

async function levels(bench: Workbench): Promise<Row[]> {
  const { sizes, rounds, step } = bench;
  const rows: Row[] = [];
  const measured = IN_FLIGHT.map((level) => ({
    ...level,
    cases: casesOf(sizes.writes * Math.min(level.inFlight, 8)),
    verbs: new Map(VERBS.map((verb) => [verb, [] as { ours: Side; bare: Side }[]])),
  }));
  step("warm-up: writes");
  await bench.clear();
  for (const verb of VERBS) await compare(bench, verb, measured[1]!.cases, 16);
  for (let round = 1; round <= rounds; round++) {
    for (const { inFlight, cases, verbs } of measured) {
      step(`round ${round} of ${rounds}: writes, ${inFlight} in flight`);
      await bench.clear();
      for (const verb of VERBS) {
        verbs.get(verb)!.push(await compare(bench, verb, cases, inFlight));
      }
    }
  }
  for (const [verb, sides] of measured[0]!.verbs) {
    for (const { ours, bare } of sides) {
      bench.findings.addLatencies("write", verb, ours.latencies);
      if (verb === "insert") bench.findings.addLatencies("write", "bare XADD", bare.latencies);
    }
  }
  for (const { inFlight, id, goal, verbs } of measured) {
    const compared = VERBS.map((verb) => {
      const sides = verbs.get(verb)!;
      const values = ratios(sides.map(({ ours }) => ours.rate), sides.map(({ bare }) => bare.rate));
      return { verb, values, rate: perSecond(sides.map(({ ours }) => ours.rate)) };
    });
    const worst = compared.reduce((a, b) => median(b.values) < median(a.values) ? b : a);
    const note = compared.map(({ verb, values, rate }) =>
      `${verb} ${median(values).toFixed(2)} ${rate}`
    ).join(", ");
    const name = `writes at ${inFlight} in flight / bare XADD (worst: ${worst.verb})`;
    rows.push(row(id, name, worst.values, { atLeast: goal }, note));
  }
  return [...rows, ...latencyRows(measured[0]!.verbs)];
}

function latencyRows(verbs: Map<EventType, { ours: Side; bare: Side }[]>): Row[] {
  const of = (figure: (sides: { ours: Side; bare: Side }) => number) => {
    const all = [...verbs].map(([verb, sides]) => ({ verb, values: sides.map(figure) }));
    return all.reduce((a, b) => median(b.values) > median(a.values) ? b : a);
  };
  const p50 = of(({ ours }) => median(ours.latencies));
  const p99 = of(({ ours }) => quantile(ours.latencies, 0.99));
  const ratio = of(({ ours, bare }) => median(ours.latencies) / median(bare.latencies));
  const name = (what: string, verb: string) =>
    `a write's ${what} at 1 in flight, at most (worst: ${verb})`;
  return [
    row("6e", name("p50 in ms", p50.verb), p50.values, { atMost: 1 }),
    row("6f", name("p99 in ms", p99.verb), p99.values, { atMost: 1 }),
    row("6g", name("p50 / bare XADD's p50", ratio.verb), ratio.values, { atMost: 1.6 }),
  ];
}

export function casesOf(count: number): Case[] {
  return [...uniqueInserts(count)].map((event) => ({
    event,
    document: JSON.parse(event.payload) as JsonObject,
  }));
}

/** As long as what it takes the place of. */
export const PATCH = { device_type: "ios", last_activity: 1_767_355_200_000 };

/** Ours and a bare XADD of the event that it appends, in turns. */
async function compare(
  { redis, config }: Workbench,
  verb: EventType,
  cases: Case[],
  inFlight: number,
): Promise<{ ours: Side; bare: Side }> {
  const calls = {
    insert: ({ event, document }: Case) =>
      insertDocument(redis, config, ENTITY, document, event.docId),
    update: ({ event }: Case) => updateDocument(redis, config, ENTITY, event.docId, PATCH),
    delete: ({ event }: Case) => deleteDocument(redis, config, ENTITY, event.docId),
  };
  const bareCall = ({ event: { docId, payload } }: Case) =>
    redis.xadd(
      BARE,
      "*",
      ...fieldsOf(verb === "delete" ? { docId, type: verb } : { docId, type: verb, payload }),
    );
  const ours = { seconds: 0, latencies: [] as number[] };
  const bare = { seconds: 0, latencies: [] as number[] };
  // One at a time they take turns call by call, so that both meet the same machine.
  const size = inFlight === 1 ? 1 : Math.ceil(cases.length / TURNS);
  for (let at = 0; at < cases.length; at += size) {
    const part = cases.slice(at, at + size);
    ours.seconds += await run(part, inFlight, calls[verb], ours.latencies);
    bare.seconds += await run(part, inFlight, bareCall, bare.latencies);
  }
  const side = ({ seconds, latencies }: typeof ours) => ({
    rate: cases.length / seconds,
    latencies,
  });
  return { ours: side(ours), bare: side(bare) };
}

/** Makes all calls with `inFlight` of them under way at a time, and returns the seconds that it took. */
export async function run(
  cases: Case[],
  inFlight: number,
  call: (one: Case) => Promise<unknown>,
  latencies: number[],
): Promise<number> {
  let next = 0;
  const worker = async () => {
    for (;;) {
      const one = cases[next++];
      if (one === undefined) return;
      const since = performance.now();
      await call(one);
      latencies.push(performance.now() - since);
    }
  };
  const since = performance.now();
  await Promise.all(Array.from({ length: inFlight }, worker));
  return (performance.now() - since) / 1000;
}

/** Documents given as JSON text, as a server passes bodies on, and as objects, in turns. */
async function textsAgainstObjects(bench: Workbench): Promise<Row> {
  const { redis, config, sizes, rounds, step } = bench;
  const cases = casesOf(sizes.writes * 8);
  const [texts, objects]: [number[], number[]] = [[], []];
  const insertText = ({ event: { docId, payload } }: Case) =>
    insertDocument(redis, config, ENTITY, payload, `${docId}-text`);
  const size = Math.ceil(cases.length / TURNS);
  for (let round = 0; round <= rounds; round++) {
    step(round === 0 ? "warm-up: texts" : `round ${round} of ${rounds}: texts, 64 in flight`);
    await bench.clear();
    const took = { texts: 0, objects: 0 };
    for (let at = 0; at < cases.length; at += size) {
      const part = cases.slice(at, at + size);
      took.objects += await run(part, 64, insertOf(bench), []);
      took.texts += await run(part, 64, insertText, []);
    }
    if (round === 0) continue;
    texts.push(cases.length / took.texts);
    objects.push(cases.length / took.objects);
  }
  const note = `${perSecond(texts)} / ${perSecond(objects)}`;
  const name = "inserts of JSON text, 64 in flight / of objects";
  return row("14", name, ratios(texts, objects), { atLeast: 0.95 }, note);
}

/**
 * redis-benchmark's connections, each with 16 calls in flight: 4 have as many as ours; 50, its default, keep
 * 800 in flight, so that Redis finds more to do each time that it looks.
 */
const CONNECTIONS = [
  { connections: 4, id: "7", goal: { atLeast: 0.85 } },
  { connections: 50, id: "7a", goal: null },
] as const;

async function againstBenchmark(bench: Workbench): Promise<Row[]> {
  const { sizes, rounds, step } = bench;
  const events = [...uniqueInserts(sizes.benchmarkWrites)];
  // redis-benchmark has one payload for all its requests, and RedisJSON keeps equal strings once.
  const { payload } = events[0]!;
  const cases: Case[] = events.map((event) => ({
    event: { ...event, payload },
    document: JSON.parse(payload),
  }));
  const warmUp = Math.floor(cases.length / 10);
  const ours: number[] = [];
  const theirs = CONNECTIONS.map((): number[] => []);
  // A rewrite of the append-only file would fall on one of them, and not on the other.
  await bench.redis.config("SET", "auto-aof-rewrite-percentage", "0");
  for (let round = 1; round <= rounds; round++) {
    step(`round ${round} of ${rounds}: inserts, 64 in flight, and redis-benchmark`);
    await bench.clear();
    await bench.settle();
    await run(cases.slice(0, warmUp), 64, insertOf(bench), []);
    const measured = cases.slice(warmUp);
    const size = Math.ceil(measured.length / TURNS);
    const requests = Math.ceil(sizes.benchmarkWrites / TURNS);
    let ourSeconds = 0;
    const theirSeconds = CONNECTIONS.map(() => 0);
    for (let turn = 0; turn < TURNS; turn++) {
      const part = measured.slice(turn * size, (turn + 1) * size);
      ourSeconds += await run(part, 64, insertOf(bench), []);
      for (const [index, { connections }] of CONNECTIONS.entries()) {
        const rate = await redisBenchmark(bench, payload, requests, connections);
        theirSeconds[index]! += requests / rate;
      }
    }
    ours.push(measured.length / ourSeconds);
    theirs.forEach((rates, index) => rates.push(TURNS * requests / theirSeconds[index]!));
  }
  await bench.redis.config("SET", "auto-aof-rewrite-percentage", "100");
  return CONNECTIONS.map(({ connections, id, goal }, index) => {
    const rates = theirs[index]!;
    const name = `inserts, 64 in flight / redis-benchmark -P 16 of the same, ${
      16 * connections
    } in flight`;
    const note = `${perSecond(ours)} / ${perSecond(rates)}`;
    return row(id, name, ratios(ours, rates), goal, note);
  });
}

export const insertOf = ({ redis, config }: Workbench) => ({ event, document }: Case) =>
  insertDocument(redis, config, ENTITY, document, event.docId);

/** Ids that redis-benchmark draws from, as many as its option takes: it hardly ever draws one twice. */
const RANDOM_IDS = 2_000_000_000;

/** Runs redis-benchmark with the insert script, and returns the requests a second that it reports. */
async function redisBenchmark(
  { redis, config }: Workbench,
  payload: string,
  requests: number,
  connections: number,
): Promise<number> {
  const { documentPrefix, stream, settings } = partitionKeys(config, ENTITY, 0);
  const { server, libraries } = await findRedis();
  const before = await redis.xlen(stream);
  // Every `__rand_int__` becomes another number of 12 digits in every request: ids are as long as ours.
  const docId = `app-m1-${Date.now()}-__rand_int__`;
  const keys = [`${documentPrefix}${docId}`, stream, settings];
  // The arguments of insert.lua: id, ts, partitions, document, no overwriting, payload as the document, no additions.
  const args = [docId, Date.now(), config.streams.partitions, payload, "0", "", ""].map(String);
  const { success, stdout, stderr } = await new Deno.Command(
    join(dirname(server), "redis-benchmark"),
    {
      args: [
        ...["-h", config.redis.host, "-p", String(config.redis.port)],
        ...["-n", String(requests), "-c", String(connections), "-P", "16"],
        ...["-r", String(RANDOM_IDS), "--csv"],
        ...["EVALSHA", insertScript.sha, String(keys.length), ...keys, ...args],
      ],
      env: libraries ? { LD_LIBRARY_PATH: libraries } : {},
    },
  ).output();
  const text = new TextDecoder().decode(stdout);
  // The first column is the command itself, with all the quotes of the payload: count from the end.
  const rate = Number(/"([\d.]+)"(?:,"[\d.]+"){6}\s*$/.exec(text)?.[1]);
  const written = await redis.xlen(stream) - before;
  if (!success || Number.isNaN(rate) || written < requests * 0.999) {
    throw new Error(
      `redis-benchmark wrote ${written} events of ${requests}: ` +
        new TextDecoder().decode(stderr).slice(0, 200),
    );
  }
  const [last] = await redis.xrevrange(stream, "+", "-", "COUNT", 1);
  const fields = last![1];
  if (fields[fields.indexOf("payload") + 1] !== payload) {
    throw new Error(
      `redis-benchmark wrote another event than ours, its arguments are out of date: ${
        fields.join(" ").slice(0, 200)
      }`,
    );
  }
  return rate;
}
