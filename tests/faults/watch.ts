/** Watches a soak: how far the target is, how long it stood still, and what memory sinks take. */

import { setTimeout as delay } from "node:timers/promises";
import { allPartitions } from "writebehind/redis/keys.ts";
import { lastGeneratedId } from "writebehind/redis/streams.ts";
import type { Pipeline } from "../support/pipeline.ts";

/** How often it looks, in ms. */
const SAMPLE_MS = 100;

/** Whose memory is watched. */
interface Watched {
  readonly pids: number[];
}

/** Looks on: how far the target is, how long it stood still, how much memory sinks have. */
export class Watch {
  applied = 0;
  longestStallMs = 0;
  peakMemory = 0;
  #stopped = false;
  #watching: Promise<void>;

  constructor({ redis, pool, config }: Pipeline, sinks: Watched) {
    const streams = allPartitions(config, "session").map(({ stream }) => stream);
    this.#watching = this.#watch(async () => {
      const { rows } = await pool.query<{ stream: string; last_id: string; events: string }>(
        "SELECT stream, last_id, events FROM writebehind_offset",
      );
      this.applied = rows.reduce((sum, { events }) => sum + Number(events), 0);
      const offsets = new Map(rows.map(({ stream, last_id }) => [stream, last_id]));
      return await Promise.all(streams.map(async (stream) => ({
        stream,
        offset: offsets.get(stream) ?? "0-0",
        last: await lastGeneratedId(redis, stream),
      })));
    }, sinks);
  }

  async #watch(
    look: () => Promise<{ stream: string; offset: string; last: string }[]>,
    sinks: Watched,
  ): Promise<void> {
    const began = Date.now();
    const before = new Map<string, { offset: string; movedAt: number }>();
    while (!this.#stopped) {
      // While a server is away nothing moves, and that counts.
      const seen = await look().catch(() => []);
      const now = Date.now();
      for (const { movedAt } of before.values()) {
        this.longestStallMs = Math.max(this.longestStallMs, now - movedAt);
      }
      for (const { stream, offset, last } of seen) {
        const known = before.get(stream) ?? { offset: "0-0", movedAt: began };
        const moves = offset !== known.offset || offset === last;
        before.set(stream, moves ? { offset, movedAt: now } : known);
      }
      this.peakMemory = Math.max(this.peakMemory, ...await Promise.all(sinks.pids.map(memoryOf)));
      await delay(SAMPLE_MS);
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#watching;
  }
}

/** The most that a process, or one that it has started, has had in memory, in MB. */
async function memoryOf(pid: number): Promise<number> {
  if (Deno.build.os !== "linux") return 0;
  try {
    const children = await Deno.readTextFile(`/proc/${pid}/task/${pid}/children`);
    const status = await Deno.readTextFile(`/proc/${pid}/status`);
    const own = Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0) / 1024;
    const below = children.trim().split(" ").filter(Boolean).map((child) =>
      memoryOf(Number(child))
    );
    return Math.round(Math.max(own, ...await Promise.all(below)));
  } catch {
    return 0; // It has ended.
  }
}
