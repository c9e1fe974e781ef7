/**
 * Where coverage is collected, Deno holds up each worker for a second before it runs, in case a debugger comes. SQLite's
 * tests start hundreds: a worker whose connection was closed is kept here for the next one. `tests/run.ts` loads this
 * before each test file.
 */

const KEPT = new URL("../../lib/targets/sqlite/worker/worker.ts", import.meta.url).href;

const idle: Worker[] = [];

class KeptWorker extends Worker {
  readonly #isKept: boolean;

  constructor(url: string | URL, options?: WorkerOptions) {
    super(url, options);
    this.#isKept = String(url) === KEPT;
  }

  /** Whoever ends such a worker has closed its connection before. */
  override terminate(): void {
    if (!this.#isKept) return super.terminate();
    this.onmessage = this.onerror = null;
    idle.push(this);
  }

  /** Ends it: only then is its coverage written. */
  end(): void {
    super.terminate();
  }
}

globalThis.Worker = new Proxy(KeptWorker, {
  construct: (Class, [url, options]: ConstructorParameters<typeof Worker>) =>
    (String(url) === KEPT ? idle.pop() : undefined) ?? new Class(url, options),
});

addEventListener("unload", () => idle.forEach((worker) => (worker as KeptWorker).end()));
