/** Freshness of recent events: from the write call to the row being visible. */
export class Freshness {
  #recent: { time: number; at: number }[] = [];
  #next = 0;
  #now: () => number;

  /** @param now the clock, in ms */
  constructor(now: () => number = Date.now) {
    this.#now = now;
  }

  /** @param times from the write calls to the rows being visible, in ms */
  add(times: number[]): void {
    const at = this.#now();
    for (const time of times) {
      this.#recent[this.#next] = { time, at };
      this.#next = (this.#next + 1) % RECENT;
    }
  }

  /**
   * The times within which half, and 99 %, of the recent events became visible, in ms. Recent is what became visible
   * within five seconds before the newest: an outage is not told for long after it is over.
   */
  quantiles(): { freshness_p50_ms: number; freshness_p99_ms: number } {
    const newest = this.#recent.at(this.#next - 1)?.at ?? 0;
    const sorted = this.#recent.filter(({ at }) => newest - at <= RECENT_MS)
      .map(({ time }) => time)
      .sort((a, b) => a - b);
    const at = (share: number) => sorted[Math.floor(share * (sorted.length - 1))] ?? 0;
    return { freshness_p50_ms: at(0.5), freshness_p99_ms: at(0.99) };
  }
}

/** Events that are remembered. */
const RECENT = 2048;
/** How long, in ms. */
export const RECENT_MS = 5000;
