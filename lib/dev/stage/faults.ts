/**
 * What breaks the pipeline's processes and its network, and mends them.
 * @module
 */

import { delay } from "../../core/delay.ts";
import { WriteBehindError } from "../../core/errors.ts";
import { CUT_MS } from "./actions.ts";
import { ownServers, type Scene } from "./scene.ts";
import type { StageRedis } from "./redis.ts";
import type { Sinks } from "./sinks.ts";

/** The faults. What is broken is told before what follows from it. */
export class Faults {
  readonly #scene: Scene;
  #cutUntil: number | null = null;
  #handsOver = false;

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  /** Until when nothing passes between the sinks and Redis, in ms since 1970; null where all does. */
  get cutUntil(): number | null {
    return this.#cutUntil;
  }

  async stopPostgres(): Promise<void> {
    const { own } = ownServers(this.#scene);
    if (!own.postgresRuns) return;
    this.#scene.happened.add("break", "PostgreSQL was stopped, like a crash", "PostgreSQL down");
    await own.stopPostgres();
  }

  async startPostgres(): Promise<void> {
    const { own } = ownServers(this.#scene);
    if (own.postgresRuns) return;
    await own.startPostgres();
    this.#scene.happened.add("mend", "PostgreSQL runs again", "PostgreSQL up");
    this.#scene.notices.faultIsOver();
  }

  /** Kills the sink that owns the stream, as a power cut would. */
  async kill(sinks: Sinks | undefined): Promise<void> {
    const { happened, notices } = this.#scene;
    const at = performance.now();
    const killed = sinks?.kill();
    if (!killed) {
      throw new WriteBehindError("no sink runs at the moment; one comes back in seconds");
    }
    const { name, pid, owned, ended } = killed;
    notices.killed(name, at, owned);
    happened.add("break", `kill -9 of sink ${name}, process ${pid}`, `sink ${name} killed`);
    await ended;
  }

  /** Nothing passes between the sinks and Redis, for a while. */
  async cut(): Promise<void> {
    const { happened, signal, notices } = this.#scene;
    const { redis } = ownServers(this.#scene);
    redis.cut();
    // The page is told a time of the day.
    this.#cutUntil = Date.now() + CUT_MS;
    const text = `the network between the sinks and Redis is cut for ${CUT_MS / 1000} s`;
    happened.add("break", text, "network cut");
    this.#scene.changed();
    await delay(CUT_MS, signal);
    this.#cutUntil = null;
    await redis.mend();
    happened.add("mend", "the network is there again", "network back");
    notices.faultIsOver();
  }

  /** Redis hands over to its replica, with every write. */
  async promote(): Promise<void> {
    await this.#handOver((redis) => redis.promote(this.#scene));
  }

  /** Kills Redis, as a power cut would: its replica takes its place. */
  async killRedis(): Promise<void> {
    await this.#handOver((redis) => redis.kill(this.#scene));
  }

  /** One at a time. */
  async #handOver(how: (redis: StageRedis) => Promise<void>): Promise<void> {
    if (this.#handsOver) throw new WriteBehindError("Redis hands over already; wait for its end");
    this.#handsOver = true;
    try {
      await how(ownServers(this.#scene).redis);
    } finally {
      this.#handsOver = false;
    }
  }
}
