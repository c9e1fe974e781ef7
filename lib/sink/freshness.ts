/** Freshness of recent events: from the write call to the row being visible. */
export class Freshness {
  #recent: number[] = [];
  #next = 0;

  /** @param times from the write calls to the rows being visible, in ms */
  add(times: number[]): void {
    for (const time of times) {
      this.#recent[this.#next] = time;
      this.#next = (this.#next + 1) % RECENT;
    }
  }

  /** The times within which half, and 99 %, of the recent events became visible, in ms. */
  quantiles(): { freshness_p50_ms: number; freshness_p99_ms: number } {
    const sorted = [...this.#recent].sort((a, b) => a - b);
    const at = (share: number) => sorted[Math.floor(share * (sorted.length - 1))] ?? 0;
    return { freshness_p50_ms: at(0.5), freshness_p99_ms: at(0.99) };
  }
}

/** Events that are remembered. */
const RECENT = 2048;
