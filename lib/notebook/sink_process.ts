/**
 * The sink as a process of its own, so that a notebook can kill it.
 * @module
 */

import type { Config } from "../config/load.ts";
import { addressesOf } from "../config/servers.ts";
import { kernelMarks } from "./charts/marks.ts";

const MAIN = new URL("../cli/main.ts", import.meta.url).href;

/** A running `deno task sink`. */
export class SinkProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;

  /**
   * Starts it.
   * @param config names the servers; the process reads everything else from `config/config.yaml`
   */
  constructor(config: Config) {
    const { redisUrl, databaseUrl } = addressesOf(config);
    this.#child = new Deno.Command(Deno.execPath(), {
      // It ends with the kernel, however that ends.
      args: ["run", "--allow-all", MAIN, "sink", "--until-eof"],
      env: { REDIS_URL: redisUrl, DATABASE_URL: databaseUrl },
      stdin: "piped",
      stdout: "null",
      stderr: "null",
      // The stop button signals the kernel's whole group, and is not meant for the sink.
      detached: true,
    }).spawn();
    this.#child.unref();
  }

  /** Its process id. */
  get pid(): number {
    return this.#child.pid;
  }

  /** Ends the process as a power cut would, in the middle of whatever it does. */
  async kill(): Promise<void> {
    signalChild(this.#child, "SIGKILL");
    kernelMarks.mark(`sink ${this.pid} killed`);
    await this.#child.status;
  }

  /** Stops it after the running batch. */
  async [Symbol.asyncDispose](): Promise<void> {
    signalChild(this.#child, "SIGTERM");
    await this.#child.status;
  }
}

/** Signals a process of ours, unless it has ended already. */
export function signalChild(child: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    child.kill(signal);
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof Deno.errors.NotFound)) throw error;
  }
}
