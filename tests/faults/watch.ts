/** Watches a soak: how far the target is, how long it stood still, and what memory sinks take. */

import { setTimeout as delay } from "node:timers/promises";
import { lastGeneratedId } from "writebehind/redis/streams.ts";
import { offsetOf, type Pipeline } from "../support/pipeline.ts";

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

  constructor({ redis, pool }: Pipeline, sinks: Watched, stream: string) {
    this.#watching = this.#watch(async () => {
      const offset = await offsetOf(pool, stream);
      const { rows: [row] } = await pool.query<{ events: string }>(
        "SELECT events FROM writebehind_offset WHERE stream = $1",
        [stream],
      );
      this.applied = Number(row?.events ?? 0);
      return { offset, last: await lastGeneratedId(redis, stream) };
    }, sinks);
  }

  async #watch(
    look: () => Promise<{ offset: string; last: string }>,
    sinks: Watched,
  ): Promise<void> {
    let [before, movedAt] = ["0-0", Date.now()];
    while (!this.#stopped) {
      // While a server is away nothing moves, and that counts.
      const seen = await look().catch(() => null);
      const now = Date.now();
      this.longestStallMs = Math.max(this.longestStallMs, now - movedAt);
      if (seen !== null && (seen.offset !== before || seen.offset === seen.last)) {
        [before, movedAt] = [seen.offset, now];
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
