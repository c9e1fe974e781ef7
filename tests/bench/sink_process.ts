/** The sink as its users run it: a process of its own, started as `deno task sink` does. */

import { join } from "node:path";
import type { Config } from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { delay } from "writebehind/core/delay.ts";
import { compareStreamIds } from "writebehind/core/stream_ids.ts";
import { testFolder } from "../support/servers.ts";
import type { Workbench } from "./workbench.ts";

const MIB = 1024;

/** How long a sink may take for a bench's backlog, in ms. */
const DEADLINE_MS = 300_000;

/** A running sink. */
export class SinkProcess implements AsyncDisposable {
  /** when it was started, by `performance.now()` */
  readonly since: number;
  #child: Deno.ChildProcess;
  #pool: Workbench["pool"];
  #output: Promise<string>;

  private constructor({ environment, pool, signal }: Workbench, [program, ...args]: string[]) {
    this.since = performance.now();
    this.#pool = pool;
    this.#child = new Deno.Command(program!, {
      args,
      cwd: CHECKOUT,
      env: environment,
      signal,
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#output = new Response(this.#child.stderr).text();
  }

  /** The worker that the sink is compared with, in such a process. */
  static worker(bench: Workbench): SinkProcess {
    const script = join(CHECKOUT, "tests/bench/worker_process.ts");
    return new SinkProcess(bench, [Deno.execPath(), "run", "-A", "--no-check", script]);
  }

  /**
   * @param config the partitions that the process is to have
   * @param options.targets its targets, with their passwords; by default PostgreSQL
   * @param options.writes a folder in which it may write
   */
  static async start(
    bench: Workbench,
    config = bench.config,
    { targets, writes }: { targets?: unknown[]; writes?: string } = {},
  ): Promise<SinkProcess> {
    const file = await configFile(config, targets);
    return new SinkProcess(bench, [...await sinkCommand(writes), "--config", file]);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Ends it as a power cut would. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
  }

  /**
   * Waits until the target's offsets have reached an id of each stream, by one question, however many streams.
   * @param onLook is called after each look that has found less
   */
  async reaches(
    goals: ReadonlyMap<string, string>,
    { everyMs, onLook = () => {} }: { everyMs: number; onLook?: () => void },
  ): Promise<void> {
    await this.#until(async () => {
      const { rows } = await this.#pool.query<{ stream: string; last_id: string }>(
        "SELECT stream, last_id FROM writebehind_offset WHERE stream = ANY ($1)",
        [[...goals.keys()]],
      );
      const there = rows.filter(({ stream, last_id }) =>
        compareStreamIds(last_id, goals.get(stream)!) >= 0
      );
      if (there.length === goals.size) return true;
      onLook();
      return false;
    }, everyMs);
  }

  /** Waits until a document has a row. */
  async hasRow(docId: string, everyMs: number): Promise<void> {
    await this.#until(async () => {
      const { rowCount } = await this.#pool.query("SELECT FROM sessions WHERE id = $1", [docId]);
      return rowCount === 1;
    }, everyMs);
  }

  async #until(condition: () => Promise<boolean>, everyMs: number): Promise<void> {
    const deadline = Date.now() + DEADLINE_MS;
    while (!await condition()) {
      if (!this.#runs() || Date.now() > deadline) {
        throw new Error(`the process did not do its work: ${await this.stop()}`);
      }
      await delay(everyMs);
    }
  }

  /** Resident memory in MB, now and at its peak; only Linux tells it. */
  memory(): { now: number; peak: number } {
    const status = Deno.readTextFileSync(`/proc/${this.#child.pid}/status`);
    const of = (field: string) =>
      Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1]) / MIB;
    return { now: of("VmRSS"), peak: of("VmHWM") };
  }

  #runs(): boolean {
    try {
      return !/^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${this.#child.pid}/status`));
    } catch {
      return false;
    }
  }

  /** Stops it and returns what it wrote to its standard error. */
  async stop(): Promise<string> {
    try {
      this.#child.kill("SIGTERM");
    } catch {
      // It has ended already.
    }
    await this.#child.status;
    return (await this.#output).trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** Writes a file with what a sink must know besides the addresses. JSON is YAML. */
async function configFile({ streams }: Config, targets?: unknown[]): Promise<string> {
  const path = testFolder("config.yaml");
  const { partitions } = streams;
  await Deno.writeTextFile(path, JSON.stringify({ streams: { partitions }, targets }));
  return path;
}

/**
 * The command of `deno task sink` without the task runner, with its permissions; the quoted one, for a SQLite file,
 * needs a shell.
 * @param writes the folder that stands in its place; it is left out without one
 */
async function sinkCommand(writes?: string): Promise<string[]> {
  const { tasks } = JSON.parse(await Deno.readTextFile(join(CHECKOUT, "deno.json"))) as {
    tasks: { sink: { command: string } };
  };
  const write = writes === undefined ? "" : ` --allow-write=${writes}`;
  const [deno, ...args] = tasks.sink.command.replace(/ "[^"]*"/g, write).split(" ");
  if (deno !== "deno") throw new Error("the task sink in deno.json does not begin with deno");
  return [Deno.execPath(), ...args];
}
