/** Row 8: how long after a write call its row is visible, while the sink follows. */

import type { PoolClient } from "pg";
import { connectPostgres, insertDocument, type JsonObject, RedisWriteBehind } from "writebehind";
import { compareStreamIds } from "writebehind/core/stream_ids.ts";
import { delay } from "writebehind/core/delay.ts";
import { type Goal, median, quantile, ratios, type Row, row } from "./measure.ts";
import { waitFor } from "../support/servers.ts";
import { ENTITY, type Workbench } from "./workbench.ts";
import { type DraftEvent, uniqueInserts } from "./workload.ts";

const WRITES_PER_SECOND = 1000;
const DEADLINE_MS = 60_000;

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
    const of = goal === null
      ? "that of INSERTs at the same pace"
      : `one INSERT's ${share}, at most`;
    const name = `freshness ${share} at 1,000 writes/s / ${of}`;
    const note = `${median(ours).toFixed(2)} ms / ${median(theirs).toFixed(2)} ms`;
    return row(id, name, ratios(ours, theirs), goal, note);
  };
  return [
    compared("8a", "p50", single, { atMost: 3 }),
    compared("8b", "p99", single, { atMost: 6 }),
    compared("8c", "p50", atPace, null),
    compared("8d", "p99", atPace, null),
  ];
}

/** Begins to follow the stream, and tells the last stream id of each commit as soon as it is known. */
export type Follows = (
  onCommit: (lastId: string) => void,
) => Promise<{ stop(): Promise<void> }>;

/** The sink, in this process. */
export const sinkFollows = ({ redis, config }: Workbench): Follows => async (onCommit) => {
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
): Promise<Times> {
  const { redis, config, sizes, findings } = bench;
  await bench.clear();
  await bench.settle();
  const commits: { lastId: string; at: number }[] = [];
  const writes: { streamId: string; at: number }[] = [];
  const follower = await follows((lastId) => commits.push({ lastId, at: performance.now() }));
  try {
    const count = Math.round(sizes.freshnessSeconds * WRITES_PER_SECOND);
    const documents = [...uniqueInserts(count + WRITES_PER_SECOND / 5)].map((event) => ({
      docId: event.docId,
      document: JSON.parse(event.payload) as JsonObject,
    }));
    const write = async ({ docId, document }: typeof documents[number]) => {
      const at = performance.now();
      const { streamId } = await insertDocument(redis, config, ENTITY, document, docId);
      writes.push({ streamId: streamId!, at });
    };
    const committed = () => {
      const last = writes.map(({ streamId }) => streamId).reduce(later);
      return waitFor(() => compareStreamIds(commits.at(-1)?.lastId ?? "0-0", last) >= 0, {
        what: "the last write's commit",
        deadlineMs: DEADLINE_MS,
      });
    };
    // The first ones wait for the sink to take its partition.
    await paced(documents.splice(count), write);
    await committed();
    writes.length = 0;
    await paced(documents, write);
    await committed();
  } finally {
    await follower.stop();
  }
  const times = delaysOf(writes, commits);
  findings.addLatencies("freshness", name, times);
  return timesOf(times);
}

const later = (a: string, b: string) => compareStreamIds(b, a) > 0 ? b : a;

/** Calls `onCommit` with the new offset whenever a sink's batch has been committed on a connection. */
function watch(client: PoolClient, onCommit: (lastId: string) => void): void {
  const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
  client.query = (async (...args: unknown[]) => {
    const result = await query(...args);
    const lastId = batchEnd(args[0]);
    if (lastId !== undefined) onCommit(lastId);
    return result;
  }) as typeof client.query;
}

/** The offset to which a query moves, where it is a sink's batch. */
function batchEnd(query: unknown): string | undefined {
  const { name, values } = query as { name?: string; values?: unknown[] };
  if (!name?.startsWith("apply ")) return undefined;
  // Of the stream ids in it, the offset after the batch is the newest.
  return values?.filter((value): value is string =>
    typeof value === "string" && /^\d+-\d+$/.test(value)
  )
    .reduce(later);
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
function delaysOf(
  writes: { streamId: string; at: number }[],
  commits: { lastId: string; at: number }[],
): number[] {
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
