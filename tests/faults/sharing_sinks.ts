/** Sink processes that share the partitions: they are killed, frozen, stopped, and one more comes and goes. */

import { setTimeout as delay } from "node:timers/promises";
import { type Random, readStatus } from "writebehind";
import { below } from "writebehind/core/random.ts";
import type { Pipeline } from "../support/pipeline.ts";
import type { RunningCommand } from "../support/processes.ts";
import { killSink, startSink } from "./sinks.ts";

/** Sinks that run all the time. */
export const SINKS = 3;
const LEASE_SECONDS = 1;
/** How long one that has ended is away, and for how long one more stays, in ms at most. */
const AWAY_MS = 1000;
const STAYS_MS = 4000;
const SAMPLE_MS = 200;
/** Lines of a sink's output that tell what it did last. */
const LINES = 25;

/** Sink processes; one that has ended, for whatever reason, is started again. */
export class SharingSinks {
  #config: Pipeline["config"];
  /** another checkout, of which some sinks are */
  #beside: string | undefined;
  /** how many were started */
  #started = 0;
  #running: (RunningCommand | undefined)[] = Array.from({ length: SINKS });
  /** one more, that has joined */
  #guest: RunningCommand | undefined;
  #stopped = new AbortController();
  #keepers: Promise<void>[];

  constructor(config: Pipeline["config"], beside?: string) {
    this.#config = config;
    this.#beside = beside;
    this.#keepers = this.#running.map((_, place) => this.#keep(place));
  }

  async #keep(place: number): Promise<void> {
    while (!this.#stopped.signal.aborted) {
      await using sink = await this.#start();
      this.#running[place] = sink;
      if (this.#stopped.signal.aborted) return;
      await sink.status;
      // Others have what it had, and are to give back its share when it comes again.
      await delay(AWAY_MS * Math.random());
    }
  }

  #start(): Promise<RunningCommand> {
    const keys = { lease_seconds: LEASE_SECONDS, batch_size: 500 };
    // In turn, so that each place has both.
    const beside = this.#started++ % 2 === 0 ? undefined : this.#beside;
    return startSink(this.#config, keys, {}, beside);
  }

  get pids(): number[] {
    return [...this.#running, this.#guest].flatMap((sink) => sink?.pid ?? []);
  }

  async killOne(random: Random): Promise<void> {
    const sink = this.#running[below(random, SINKS)];
    if (sink) await killSink(sink);
  }

  /** Stops one as an administrator does: it gives its partitions back. */
  async stopOne(random: Random): Promise<void> {
    const sink = this.#running[below(random, SINKS)];
    if (sink) await stopSink(sink);
  }

  /** Stops one for longer than its lease, and lets it go on. */
  async freezeOne(random: Random): Promise<void> {
    const sink = this.#running[below(random, SINKS)];
    sink?.kill("SIGSTOP");
    await delay(1000 * LEASE_SECONDS * (1 + random()));
    sink?.kill("SIGCONT");
  }

  /** One more joins, has its share for a while, and leaves or dies. */
  async joinOne(random: Random): Promise<void> {
    await using sink = this.#guest = await this.#start();
    await delay(STAYS_MS * random());
    if (random() < 0.5) await stopSink(sink);
    this.#guest = undefined;
  }

  /** How many partitions each sink has, the most first; waits until that is even. */
  async shares({ redis, pool, config }: Pipeline, deadlineMs: number): Promise<number[]> {
    const deadline = Date.now() + deadlineMs;
    for (;;) {
      const held = new Map<string, number>();
      for (const { owner } of await readStatus(redis, pool, config, "session")) {
        if (owner !== null) held.set(owner, (held.get(owner) ?? 0) + 1);
      }
      const shares = [...held.values()].sort((a, b) => b - a);
      const even = shares.length === SINKS &&
        shares.every((share) => share === Number(config.streams.partitions) / SINKS);
      if (even || Date.now() > deadline) return shares;
      await delay(SAMPLE_MS);
    }
  }

  /** What is to be known where something does not go on: who has which partition, and what the sinks said last. */
  async told({ redis, pool, config }: Pipeline): Promise<string> {
    const partitions = await readStatus(redis, pool, config, "session").catch((error) => [error]);
    const said = [...this.#running, this.#guest].flatMap((sink) =>
      sink ? [`--- sink ${sink.pid}`, ...sink.output().trimEnd().split("\n").slice(-LINES)] : []
    );
    return [...partitions.map((one) => Deno.inspect(one, { depth: 4 })), ...said].join("\n");
  }

  async stop(): Promise<void> {
    this.#stopped.abort();
    for (const sink of this.#running) if (sink) await killSink(sink);
    await Promise.all(this.#keepers);
  }
}

/** Stops a sink cleanly; one that does not end is a defect. */
async function stopSink(sink: RunningCommand): Promise<void> {
  sink.kill("SIGTERM");
  const ended = await Promise.race([
    sink.status.then(() => true),
    delay(60_000, false, { ref: false }),
  ]);
  if (!ended) throw new Error(`a sink does not stop; it said:\n${sink.output()}`);
}
