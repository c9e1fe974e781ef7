/** Row 8: how long after a write call its row is visible, while the sink follows. */

import type { PoolClient } from "pg";
import {
  type Config,
  connectPostgres,
  insertDocument,
  type JsonObject,
  RedisWriteBehind,
} from "writebehind";
import { compareStreamIds } from "writebehind/core/stream_ids.ts";
import { delay } from "writebehind/core/delay.ts";
import { allPartitions, partitionOf } from "writebehind/redis/keys.ts";
import { type Goal, median, quantile, ratios, type Row, row } from "./measure.ts";
import { waitFor } from "../support/servers.ts";
import { ENTITY, type Workbench } from "./workbench.ts";
import { type DraftEvent, uniqueInserts } from "./workload.ts";

const WRITES_PER_SECOND = 1000;
const DEADLINE_MS = 60_000;

/** A commit that was seen, and a write; each with its time by `performance.now()`. */
interface Commit {
  lastId: string;
  at: number;
}
interface Write {
  streamId: string;
  at: number;
}

/** Times of one round, in ms. */
export interface Times {
  p50: number;
  p99: number;
}

export async function freshnessRows(bench: Workbench): Promise<Row[]> {
  const { rounds, step } = bench;
  const fresh: Times[] = [];
  const single: Times[] = [];
  const atPace: Times[] = [];
  for (let round = 1; round <= rounds; round++) {
    step(`round ${round} of ${rounds}: freshness at 1,000 writes a second`);
    fresh.push(
      await freshness(bench, "from the write call to the visible row", sinkFollows(bench)),
    );
    step(`round ${round} of ${rounds}: single INSERTs`);
    await bench.settle();
    single.push(await singleInserts(bench));
    step(`round ${round} of ${rounds}: INSERTs at 1,000 a second`);
    await bench.settle();
    atPace.push(await singleInserts(bench, { paced: true }));
  }
  const compared = (id: string, share: "p50" | "p99", base: Times[], goal: Goal) => {
    const ours = fresh.map((times) => times[share]);
    const theirs = base.map((times) => times[share]);
    const of = base === single
      ? `one INSERT's ${share}`
      : "that of INSERTs at the same pace, at most";
    const name = `freshness ${share} at 1,000 writes/s / ${of}`;
    const note = `${median(ours).toFixed(2)} ms / ${median(theirs).toFixed(2)} ms`;
    return row(id, name, ratios(ours, theirs), goal, note);
  };
  return [
    // How long a core takes to wake is the machine's: judged is what has to wake them as often.
    compared("8a", "p50", single, null),
    compared("8b", "p99", single, null),
    compared("8c", "p50", atPace, { atMost: 2 }),
    compared("8d", "p99", atPace, { atMost: 2 }),
  ];
}

/** Is told of each commit, as soon as it is known: a stream, and the last id of it that was committed. */
type OnCommit = (stream: string, lastId: string) => void;

/** Begins to follow the streams. */
export type Follows = (onCommit: OnCommit) => Promise<{ stop(): Promise<void> }>;

/** The sink, in this process. */
export const sinkFollows =
  ({ redis, config }: Pick<Workbench, "redis" | "config">): Follows => async (onCommit) => {
    const pool = await connectPostgres(config);
    const watched = new WeakSet<PoolClient>();
    pool.on("acquire", (client) => {
      if (watched.has(client)) return;
      watched.add(client);
      watch(client, onCommit);
    });
    const sink = new RedisWriteBehind(redis, pool, config, ENTITY);
    sink.start();
    return {
      stop: async () => {
        await sink.stop();
        await pool.end();
      },
    };
  };

/**
 * Writes at an even pace while a sink, or another, follows. A row counts as visible when PostgreSQL's answer to the
 * commit that moved past its event has arrived: nothing is polled, so that measuring costs nothing.
 * @param name of the times in the chart
 */
export async function freshness(
  bench: Workbench,
  name: string,
  follows: Follows,
  config: Config = bench.config,
): Promise<Times> {
  const { redis, sizes, findings } = bench;
  await bench.clear();
  await bench.settle();
  const partitions = allPartitions(config, ENTITY);
  const commits = new Map<string, Commit[]>(partitions.map(({ stream }) => [stream, []]));
  const writes = new Map<string, Write[]>(partitions.map(({ stream }) => [stream, []]));
  const follower = await follows((stream, lastId) =>
    commits.get(stream)!.push({ lastId, at: performance.now() })
  );
  try {
    const count = Math.round(sizes.freshnessSeconds * WRITES_PER_SECOND);
    const documents = [...uniqueInserts(count + WRITES_PER_SECOND / 5)].map((event) => ({
      docId: event.docId,
      document: JSON.parse(event.payload) as JsonObject,
    }));
    const write = async ({ docId, document }: typeof documents[number]) => {
      const at = performance.now();
      const { streamId } = await insertDocument(redis, config, ENTITY, document, docId);
      const { stream } = partitions[partitionOf(docId, partitions.length)]!;
      writes.get(stream)!.push({ streamId: streamId!, at });
    };
    const committed = async () => {
      for (const [stream, own] of writes) {
        const last = own.map(({ streamId }) => streamId).reduce(later, "0-0");
        const lastId = () => commits.get(stream)!.at(-1)?.lastId ?? "0-0";
        await waitFor(() => compareStreamIds(lastId(), last) >= 0, {
          what: "the last write's commit",
          deadlineMs: DEADLINE_MS,
        });
      }
    };
    // The first ones wait for the sink to take its partition.
    await paced(documents.splice(count), write);
    await committed();
    for (const own of writes.values()) own.length = 0;
    await paced(documents, write);
    await committed();
  } finally {
    await follower.stop();
  }
  const times = [...writes].flatMap(([stream, own]) => delaysOf(own, commits.get(stream)!));
  findings.addLatencies("freshness", name, times);
  return timesOf(times);
}

const later = (a: string, b: string) => compareStreamIds(b, a) > 0 ? b : a;

/** Calls `onCommit` with the new offset whenever a sink's batch has been committed on a connection. */
function watch(client: PoolClient, onCommit: OnCommit): void {
  const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
  client.query = (async (...args: unknown[]) => {
    const result = await query(...args);
    const end = batchEnd(args[0]);
    if (end !== undefined) onCommit(...end);
    return result;
  }) as typeof client.query;
}

/** The stream of a sink's batch, and the offset to which it moves; nothing where a query is none. */
function batchEnd(query: unknown): [stream: string, lastId: string] | undefined {
  const { name, values } = query as { name?: string; values?: unknown[] };
  if (!name?.startsWith("apply ")) return undefined;
  const texts = values!.filter((value) => typeof value === "string");
  // Of the stream ids in it, the offset after the batch is the newest.
  const lastId = texts.filter((text) => /^\d+-\d+$/.test(text)).reduce(later);
  return [texts.find((text) => text.startsWith("stream:"))!, lastId];
}

/** Calls `write` for one item a millisecond, without waiting for it; returns when all are done. */
async function paced<T>(items: T[], write: (item: T) => Promise<void>): Promise<void> {
  const begin = performance.now();
  const writes: Promise<void>[] = [];
  while (writes.length < items.length) {
    const due = (performance.now() - begin) * WRITES_PER_SECOND / 1000;
    while (writes.length < Math.min(due, items.length)) writes.push(write(items[writes.length]!));
    await delay(1);
  }
  await Promise.all(writes);
}

function timesOf(times: number[]): Times {
  return { p50: median(times), p99: quantile(times, 0.99) };
}

/** How long after each write its row was visible, in ms. */
function delaysOf(writes: Write[], commits: Commit[]): number[] {
  writes.sort((a, b) => compareStreamIds(a.streamId, b.streamId));
  let commit = 0;
  return writes.map(({ streamId, at }) => {
    while (commit < commits.length && compareStreamIds(commits[commit]!.lastId, streamId) < 0) {
      commit++;
    }
    const visible = commits[commit];
    if (visible === undefined) throw new Error(`no commit was seen for the event ${streamId}`);
    return visible.at - at;
  });
}

/**
 * Autocommitted INSERTs of the same documents on one connection.
 * @param options `paced`: one a millisecond, as the writes come, instead of one after the other. Between them
 * the machine's cores go to sleep, and waking them takes its time.
 */
async function singleInserts(
  { pool, sizes, findings }: Workbench,
  { paced: atPace = false } = {},
): Promise<Times> {
  const connection = await pool.connect();
  try {
    const times: number[] = [];
    const insert = async ({ docId, payload }: DraftEvent) => {
      const since = performance.now();
      await connection.query({
        name: "single insert",
        text: "INSERT INTO sessions (id, payload) VALUES ($1, $2)",
        values: [docId, payload],
      });
      times.push(performance.now() - since);
    };
    const count = Math.round(sizes.freshnessSeconds * WRITES_PER_SECOND / 2);
    const events = [...uniqueInserts(count)];
    if (atPace) await paced(events, insert);
    else for (const event of events) await insert(event);
    const name = atPace ? "autocommitted INSERTs at the same pace" : "one autocommitted INSERT";
    findings.addLatencies("freshness", name, times);
    return timesOf(times);
  } finally {
    connection.release();
  }
}
