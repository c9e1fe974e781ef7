/**
 * The stage's sinks: processes of their own, so that one can be killed and another takes over.
 * @module
 */

import { fileURLToPath } from "node:url";
import { delay } from "../../core/delay.ts";
import { signalChild } from "../../notebook/sink_process.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

/** What a sink does, for people. */
export type SinkState = "starting" | "owner" | "standby" | "retrying" | "ended";

/** One sink, as the page shows it. */
export interface SinkView {
  /** A, B, … */
  name: string;
  pid: number;
  state: SinkState;
  /** how many partitions it owns */
  partitions: number;
}

/** A line of a sink's log: one typed event of it, or of its connection to Redis. */
interface LogLine {
  /** the event's name, such as `claimed`; "" for a line that is none */
  event: string;
  level: string;
  message: string;
  /** the other fields of the event */
  [field: string]: unknown;
}

/** What a sink has said. */
export interface SinkEvent extends LogLine {
  /** the sink's name */
  sink: string;
  /** what the sink did before, and does now */
  was: SinkState;
  now: SinkState;
}

/** Options of {@linkcode Sinks}. */
export interface SinksOptions {
  configPath: string | undefined;
  entity: string;
  /** REDIS_URL and DATABASE_URL of each */
  env: Record<string, string>;
  onEvent: (event: SinkEvent) => void;
  /** a state has changed */
  onChange: () => void;
  /** a sink has ended, though nobody stopped or killed it */
  onEnded: (sink: SinkView, code: number) => void;
}

/** A sink that was killed is started again after so long, in ms, and stands by. */
const BACK_MS = 3000;

/** One process. */
class Sink {
  readonly #states = new Map<string, SinkState>();
  readonly #owned = new Set<string>();
  #ended = false;
  /** it was stopped, or killed, on purpose */
  expected = false;
  readonly name: string;
  readonly child: Deno.ChildProcess;

  constructor(name: string, { configPath, entity, env }: SinksOptions) {
    this.name = name;
    const config = configPath === undefined ? [] : ["--config", configPath];
    this.child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--allow-all",
        "--v8-flags=--max-semi-space-size=4",
        MAIN,
        "sink",
        // It ends with this process, however that ends.
        "--until-eof",
        ...["--entity", entity, "--log-format", "json"],
        ...config,
      ],
      env: { ...env, NO_COLOR: "1" },
      stdin: "piped",
      stdout: "null",
      stderr: "piped",
      // Ctrl-C is for the stage, which stops it.
      detached: true,
    }).spawn();
  }

  /** Of all its partitions: one that fails says more than those that do not, and one that is owned than the others. */
  get state(): SinkState {
    if (this.#ended) return "ended";
    const states = new Set(this.#states.values());
    const telling = (["retrying", "owner", "standby"] as const).find((one) => states.has(one));
    return telling ?? "starting";
  }

  get view(): SinkView {
    const { name, child: { pid }, state } = this;
    return { name, pid, state, partitions: this.#owned.size };
  }

  /** The partitions that it owns, by their streams. */
  get owned(): ReadonlySet<string> {
    return this.#owned;
  }

  /** Notes an event of a partition. */
  note(event: string, stream: string): void {
    const next = STATES[event];
    // One that stands by and cannot ask whether it may own still stands by.
    if (next === undefined) return;
    if (event === "failed" && this.#states.get(stream) === "standby") return;
    this.#states.set(stream, next);
    if (next === "owner") this.#owned.add(stream);
    else if (next === "standby") this.#owned.delete(stream);
  }

  /** Another has claimed a partition: whoever has lost it says so later. */
  lose(stream: string): void {
    if (this.#owned.delete(stream)) this.#states.set(stream, "standby");
  }

  /** Its process is no more. */
  end(): void {
    this.#ended = true;
    this.#owned.clear();
  }

  signal(signal: Deno.Signal): void {
    this.expected = true;
    signalChild(this.child, signal);
  }
}

/** Two sinks side by side, kept alive. */
export class Sinks implements AsyncDisposable {
  readonly #options: SinksOptions;
  readonly #sinks = new Map<string, Sink>();
  readonly #stop = new AbortController();
  readonly #watching = new Set<Promise<void>>();

  constructor(options: SinksOptions) {
    this.#options = options;
  }

  /** Starts both. */
  start(): void {
    for (const name of ["A", "B"]) this.#start(name);
  }

  /** What each does now. */
  get view(): SinkView[] {
    return [...this.#sinks.values()].map(({ view }) => view);
  }

  /**
   * Kills the owner of most partitions as a power cut would; where there is none, the other. It comes back by itself.
   * @returns which one it was, the streams that it owned, and when it has ended; undefined where none runs
   */
  kill(): SinkView & { owned: ReadonlySet<string>; ended: Promise<unknown> } | undefined {
    const running = [...this.#sinks.values()].filter(({ state }) => state !== "ended");
    const [sink] = running.toSorted((a, b) => b.owned.size - a.owned.size);
    if (!sink) return undefined;
    const killed = { ...sink.view, owned: new Set(sink.owned) };
    sink.signal("SIGKILL");
    return { ...killed, ended: sink.child.status };
  }

  #start(name: string): void {
    const sink = new Sink(name, this.#options);
    this.#sinks.set(name, sink);
    this.#options.onChange();
    const watching = this.#watch(sink).finally(() => this.#watching.delete(watching));
    this.#watching.add(watching);
  }

  /** Reads its log to its end, and starts it again. */
  async #watch(sink: Sink): Promise<void> {
    const read = this.#read(sink);
    const { code } = await sink.child.status;
    await read;
    await sink.child.stdin.close().catch(() => {}); // the pipe is broken
    sink.end();
    this.#options.onChange();
    if (!sink.expected) this.#options.onEnded(sink.view, code);
    await delay(BACK_MS, this.#stop.signal);
    if (!this.#stop.signal.aborted) this.#start(sink.name);
  }

  async #read(sink: Sink): Promise<void> {
    let rest = "";
    for await (const text of sink.child.stderr.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) if (line.trim() !== "") this.#take(sink, line);
    }
  }

  #take(sink: Sink, line: string): void {
    const { state: was, owned: { size } } = sink;
    const event = parsed(line);
    const { stream } = event;
    if (typeof stream === "string") {
      sink.note(event.event, stream);
      if (event.event === "claimed") {
        for (const other of this.#sinks.values()) if (other !== sink) other.lose(stream);
      }
    }
    const { name, state: now } = sink;
    this.#options.onEvent({ ...event, sink: name, was, now });
    if (now !== was || sink.owned.size !== size) this.#options.onChange();
  }

  /** Lets each finish its batch. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    for (const sink of this.#sinks.values()) sink.signal("SIGTERM");
    await Promise.all(this.#watching);
  }
}

/** What a sink does about a partition after an event. */
const STATES: Record<string, SinkState> = {
  claimed: "owner",
  standby: "standby",
  lost: "standby",
  released: "standby",
  failed: "retrying",
  recovered: "owner",
};

function parsed(line: string): LogLine {
  try {
    const { event = "", level = "", message = "", ...rest } = JSON.parse(line);
    return { ...rest, event, level, message };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return { event: "", level: "ERROR", message: line };
  }
}
