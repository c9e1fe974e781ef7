/**
 * What breaks the pipeline's processes and its network, and mends them.
 * @module
 */

import { delay } from "../../core/delay.ts";
import { WriteBehindError } from "../../core/errors.ts";
import { CUT_MS } from "./actions.ts";
import { ownServers, type Scene } from "./scene.ts";
import type { StageServers } from "./servers.ts";
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
    const at = Date.now();
    const killed = sinks?.kill();
    if (!killed) {
      throw new WriteBehindError("no sink runs at the moment; one comes back in seconds");
    }
    const { name, pid, state, ended } = killed;
    if (state === "owner" || state === "retrying") notices.killed(name, at);
    happened.add("break", `kill -9 of sink ${name}, process ${pid}`, `sink ${name} killed`);
    await ended;
  }

  /** Nothing passes between the sinks and Redis, for a while. */
  async cut(): Promise<void> {
    const { happened, signal, notices } = this.#scene;
    const servers = ownServers(this.#scene);
    servers.cutNetwork();
    this.#cutUntil = Date.now() + CUT_MS;
    const text = `the network between the sinks and Redis is cut for ${CUT_MS / 1000} s`;
    happened.add("break", text, "network cut");
    this.#scene.changed();
    await delay(CUT_MS, signal);
    this.#cutUntil = null;
    await servers.mendNetwork();
    happened.add("mend", "the network is there again", "network back");
    notices.faultIsOver();
  }

  /** Redis hands over to its replica, with every write. */
  async promote(): Promise<void> {
    const { happened, notices } = this.#scene;
    const { own } = ownServers(this.#scene);
    await this.#handOver(async (servers) => {
      const before = own.primary.port;
      happened.add("note", `Redis on port ${before} hands over to its replica`);
      await servers.promote();
      happened.add(
        "break",
        `the replica on port ${own.primary.port} is the primary now, ` +
          `and the one on port ${before} its replica`,
        "replica promoted",
      );
      notices.faultIsOver();
    });
  }

  /** Kills Redis, as a power cut would: its replica takes its place. */
  async killRedis(): Promise<void> {
    const { happened, notices } = this.#scene;
    const { own } = ownServers(this.#scene);
    await this.#handOver(async (servers) => {
      const { port, pid } = own.primary;
      happened.add("break", `kill -9 of Redis on port ${port}, process ${pid}`, "Redis killed");
      await servers.killPrimary(() => {
        happened.add(
          "mend",
          `the replica on port ${own.primary.port} takes its place, with what it has received`,
          "replica took over",
        );
        notices.faultIsOver();
      });
      happened.add("note", `Redis on port ${port} is back, as the replica`);
    });
  }

  /** One at a time. */
  async #handOver(how: (servers: StageServers) => Promise<void>): Promise<void> {
    if (this.#handsOver) throw new WriteBehindError("Redis hands over already; wait for its end");
    this.#handsOver = true;
    try {
      await how(ownServers(this.#scene));
    } finally {
      this.#handsOver = false;
    }
  }
}
