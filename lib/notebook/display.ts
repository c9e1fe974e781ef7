/**
 * The notebook's kernel: what is shown, what moves, and what happens to errors and interrupts that no cell
 * sees. Outside a kernel all of this does nothing.
 * @module
 */

import { requireDeno } from "../core/deno_version.ts";
import { reasonOf } from "../core/errors.ts";
import { kernelMarks } from "./charts/marks.ts";
import { escapeHtml, STYLE } from "./charts/theme.ts";
import type { DataFrame } from "./columns.ts";

/** The part of `Deno.jupyter` that is used here. */
interface Kernel {
  display(
    bundle: Record<string, string>,
    options: { raw: true; display_id: string; update: boolean },
  ): Promise<void>;
}

/** Asked for each time: outside a kernel the property itself throws. */
function kernel(): Kernel | undefined {
  try {
    return (Deno as unknown as { jupyter: Kernel }).jupyter;
  } catch {
    return undefined; // no kernel
  }
}

/** One output of a cell, which may be changed later from anywhere. */
class Display {
  readonly #id = crypto.randomUUID();
  #shown = false;

  /** Shows HTML, in place of what this display showed before. */
  async set(html: string): Promise<void> {
    const update = this.#shown;
    this.#shown = true;
    // Only HTML: an SVG of its own type would be put in an image, where it cannot follow the theme.
    const bundle = { "text/html": html };
    await kernel()?.display(bundle, { raw: true, display_id: this.#id, update });
  }
}

/** What can be shown: a chart or other HTML, or a DataFrame. */
export type Showable = string | { readonly html: string } | DataFrame;

/** Shows a chart, HTML or a DataFrame in the cell that runs. Await it: an output may come too late otherwise. */
export async function show(value: Showable): Promise<void> {
  await new Display().set(await htmlOf(value));
}

async function htmlOf(value: Showable): Promise<string> {
  if (typeof value === "string") return value;
  // A frame has a member for each of its columns, maybe one called html: only the symbol is certain.
  if (!isFrame(value)) return value.html;
  // Where there is a frame, its module has been loaded; charts do without it.
  return (await import("./frame_html.ts")).frameHtml(value);
}

function isFrame(value: { readonly html: string } | DataFrame): value is DataFrame {
  return Symbol.for("Jupyter.display") in value;
}

function errorHtml(error: unknown, times = 1): string {
  const count = times > 1 ? ` (${times} times)` : "";
  const text = error instanceof Error ? `${error.name}: ${reasonOf(error)}` : reasonOf(error);
  return `${STYLE}<div class="writebehind writebehind-error" role="alert">${
    escapeHtml(text + count)
  }</div>`;
}

/** A display that is drawn again and again, in place. */
export interface LiveDisplay {
  /** Why the newest drawing failed; undefined where it did not. It is shown in the display as well. */
  readonly lastError: unknown;
  /** Marks this moment in all charts over time. */
  mark(text: string): void;
  /** Draws a last time and ends; calling it again does nothing. */
  stop(): Promise<void>;
}

/** Options of {@linkcode live}. */
export interface LiveOptions {
  /** ms between two drawings. @default {1000} */
  intervalMs?: number;
  /** A live display ends the one before of the same name: a cell may be run again. @default {"live"} */
  name?: string;
}

const running = new Map<string, LiveDisplay>();

/**
 * Draws `render()` now and every `intervalMs` into one display, until it is stopped.
 *
 * @param render returns HTML. What it throws is shown in the display, and drawing goes on.
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig } from "writebehind";
 * import { live } from "writebehind/notebook";
 *
 * await using redis = await connectRedis(await loadConfig());
 * const display = await live(async () => `<b>${await redis.xlen("stream:session")}</b> events`);
 * await display.stop();
 * ```
 */
export async function live(
  render: () => string | Promise<string>,
  { intervalMs = 1000, name = "live" }: LiveOptions = {},
): Promise<LiveDisplay> {
  const previous = running.get(name);
  const next = new Live(render, intervalMs);
  running.set(name, next);
  await previous?.stop();
  await next.start();
  return next;
}

class Live implements LiveDisplay {
  lastError: unknown;
  readonly #display = new Display();
  readonly #render: () => string | Promise<string>;
  readonly #intervalMs: number;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #drawing: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(render: () => string | Promise<string>, intervalMs: number) {
    this.#render = render;
    this.#intervalMs = intervalMs;
  }

  mark(text: string): void {
    kernelMarks.mark(text);
  }

  async start(): Promise<void> {
    await this.#draw();
    if (kernel()) this.#schedule();
  }

  #schedule(): void {
    // A stop during a drawing must not be followed by another one.
    if (this.#stopped) return;
    this.#timer = setTimeout(async () => {
      await this.#draw();
      this.#schedule();
    }, this.#intervalMs);
  }

  #draw(): Promise<void> {
    return this.#drawing = this.#drawing.then(() => this.#drawOnce());
  }

  /** Never rejects and never logs: an error in a timer halts the kernel, and a line of output lands in any cell. */
  async #drawOnce(): Promise<void> {
    try {
      const html = await this.#render();
      await this.#display.set(html);
      this.lastError = undefined;
    } catch (error) {
      this.lastError = error;
      await this.#display.set(errorHtml(error)).catch(() => {}); // nothing can be shown: lastError has it
    }
  }

  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#draw();
  }
}

/** Different errors that get a display each; more of them share the last one. */
const MAX_ERRORS = 20;
const errors = new Map<string, { display: Display; times: number }>();

/** Shows an error that no cell waits for; the same one again only counts. */
function showError(error: unknown): void {
  const message = reasonOf(error);
  const key = errors.has(message) || errors.size < MAX_ERRORS ? message : "";
  const shown = errors.get(key) ?? { display: new Display(), times: 0 };
  errors.set(key, shown);
  shown.times++;
  shown.display.set(errorHtml(error, shown.times)).catch(() => {}); // nothing can be shown
}

let guarded = false;
let interrupt = new AbortController();

/**
 * Keeps the kernel alive: an error that nothing catches is shown instead of halting all timers, and the stop
 * button aborts the returned signal instead of ending the kernel.
 *
 * @returns a signal for the work of this cell; each call returns a fresh one, and only the newest is aborted
 * @throws {WriteBehindError} where Deno is too old: its kernel would hide errors
 */
export function guardKernel(): AbortSignal {
  requireDeno();
  interrupt = new AbortController();
  if (!guarded && kernel()) {
    guarded = true;
    addEventListener("error", (event) => {
      event.preventDefault();
      showError(event.error ?? event.message);
    });
    addEventListener("unhandledrejection", (event) => {
      event.preventDefault();
      showError(event.reason);
    });
    Deno.addSignalListener("SIGINT", () => {
      interrupt.abort(new DOMException("Interrupted: this cell was stopped.", "AbortError"));
    });
  }
  return interrupt.signal;
}
