/** Row 23: what a write costs on a node of a Redis Cluster, against one Redis. */

import { type Config, configWith, connectRedis, insertDocument } from "writebehind";
import { askNode, startCluster } from "writebehind/dev/servers/cluster.ts";
import type { RedisConnection } from "writebehind/redis/connection.ts";
import { documentKey } from "writebehind/redis/keys.ts";
import { slotOf, SLOTS } from "writebehind/redis/slots.ts";
import { testFolder } from "../support/servers.ts";
import { secondsOf } from "./cpu.ts";
import { median, ratios, type Row, row } from "./measure.ts";
import { ENTITY, type Workbench } from "./workbench.ts";
import { type Case, casesOf, run } from "./write.ts";

const PARTITIONS = 8;
/** In each round both take turns this often, since a busy moment is shorter than a round. */
const TURNS = 8;

/** Where documents are written. */
interface Side {
  redis: RedisConnection;
  config: Config;
  /** the server that takes the writes */
  pid: number;
  empty(): Promise<unknown>;
}

/** What one side did in one round. */
interface Did {
  /** of the server for a write, in µs */
  cpu: number;
  /** of a write, with one in flight, in ms */
  p50: number;
}

export async function clusterRows(bench: Workbench): Promise<Row[]> {
  const streams = { partitions: PARTITIONS };
  const single: Side = {
    redis: bench.redis,
    config: bench.with({ streams }),
    pid: bench.redisPid,
    empty: () => bench.clear(),
  };
  bench.step("starting a cluster");
  // Without replicas, as the other one.
  const cluster = await startCluster({ dir: testFolder("cluster"), replicas: 0 });
  try {
    const { nodes } = cluster;
    const config = configWith(bench.config, {
      streams,
      redis: { cluster: nodes.map(({ host, port }) => ({ host, port })) },
    });
    await using redis = await connectRedis(config);
    const clustered: Side = {
      redis,
      config,
      pid: nodes[0]!.pid,
      empty: () => Promise.all(nodes.map((node) => askNode(node, "FLUSHALL"))),
    };
    const sides = [clustered, single];
    // All on one node: what several do at a time says nothing of what a write costs.
    const cases = casesOf(bench.sizes.writes * 8 * nodes.length).filter(({ event }) =>
      slotOf(documentKey(config, ENTITY, event.docId)) < SLOTS / nodes.length
    );
    const did: [Did[], Did[]] = [[], []];
    for (let round = 0; round <= bench.rounds; round++) {
      bench.step(round === 0 ? "warm-up: writes" : `round ${round} of ${bench.rounds}: writes`);
      const now = await compare(sides, cases, bench.sizes.writes);
      if (round > 0) now.forEach((one, side) => did[side]!.push(one));
    }
    const [ours, base] = did;
    const compared = (
      id: string,
      name: string,
      of: (did: Did) => number,
      atMost: number,
      unit: string,
    ) => {
      const note = `${median(ours.map(of)).toFixed(2)} ${unit} / ${
        median(base.map(of)).toFixed(2)
      } ${unit}`;
      return row(id, name, ratios(ours.map(of), base.map(of)), { atMost }, note);
    };
    return [
      compared(
        "23a",
        "CPU of a write on a node of a cluster / on one Redis, at most",
        ({ cpu }) => cpu,
        1.1,
        "µs",
      ),
      compared(
        "23b",
        "a write's p50 in a cluster / on one Redis, at most",
        ({ p50 }) => p50,
        1.15,
        "ms",
      ),
    ];
  } finally {
    await cluster.stop();
  }
}

const insertAt = ({ redis, config }: Side) => ({ event, document }: Case) =>
  insertDocument(redis, config, ENTITY, document, event.docId);

/** Both sides in turns: many writes in flight for the CPU, then some one after the other for the time. */
async function compare(sides: Side[], cases: Case[], single: number): Promise<Did[]> {
  const sums = sides.map(() => ({ cpu: 0, latencies: [] as number[] }));
  for (const { empty } of sides) await empty();
  const size = Math.ceil(cases.length / TURNS);
  for (let at = 0; at < cases.length; at += size) {
    for (const [n, side] of sides.entries()) {
      const { pid } = side;
      const before = secondsOf([pid]);
      await run(cases.slice(at, at + size), 64, insertAt(side), []);
      sums[n]!.cpu += secondsOf([pid]) - before;
    }
  }
  const ones = cases.slice(0, single).map((one) => ({
    ...one,
    event: { ...one.event, docId: `${one.event.docId}-one` },
  }));
  for (const one of ones) {
    for (const [n, side] of sides.entries()) {
      await run([one], 1, insertAt(side), sums[n]!.latencies);
    }
  }
  return sums.map(({ cpu, latencies }) => ({
    cpu: 1e6 * cpu / cases.length,
    p50: median(latencies),
  }));
}
