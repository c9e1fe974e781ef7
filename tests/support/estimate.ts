/** How long work takes that is done in parts of different lengths. */

import { duration } from "writebehind/dev/progress_bar.ts";

/** What is done and what is left of work, in the unit of its parts' lengths. */
export class Estimate {
  readonly total: number;
  readonly #lengths: readonly number[];
  readonly #inSeconds: boolean;
  readonly #clock: () => number;
  readonly #begun: number;
  #finished = 0;
  #running = 0;
  #since: number;

  /**
   * @param lengths of the parts
   * @param inSeconds whether that is what they took once; otherwise nothing is said before the first has ended
   * @param clock in ms
   */
  constructor(
    lengths: readonly number[],
    inSeconds: boolean,
    clock: () => number = () => performance.now(),
  ) {
    this.#lengths = lengths;
    this.#inSeconds = inSeconds;
    this.#clock = clock;
    this.total = sum(lengths);
    this.#since = this.#begun = clock();
  }

  /** A part begins, and the one before it is done; all are, where none is given. */
  begin(part?: number): void {
    this.#finished = part === undefined ? this.total : this.#finished + this.#running;
    this.#running = this.#lengths[part ?? -1] ?? 0;
    this.#since = this.#clock();
  }

  /** Of {@linkcode total}: what has ended, and what the running part has had of its length. */
  get done(): number {
    const pace = this.#pace ?? Infinity;
    return this.#finished + Math.min(this.#running, (this.#clock() - this.#since) / 1000 / pace);
  }

  /** Such as `2 min 5 s left`; what has ended tells how much faster or slower it goes than the lengths say. */
  get left(): string {
    const pace = this.#pace;
    return pace === null
      ? "… left"
      : `${duration(Math.ceil((this.total - this.done) * pace))} left`;
  }

  /** Seconds that one unit of length takes; null where nothing is known. */
  get #pace(): number | null {
    if (this.#finished > 0) return (this.#since - this.#begun) / 1000 / this.#finished;
    return this.#inSeconds ? 1 : null;
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((all, value) => all + value, 0);
}
