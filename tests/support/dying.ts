/** A command that is killed at one of its awaits: what it does there is done, and nothing comes after it. */

import assert from "node:assert/strict";

/** What a command meets after its death; a test never sees anything else of it. */
class Killed extends Error {}

/** The life of one run, in calls that are awaited. */
export class Life {
  #left: number;

  /** @param calls so many are made */
  constructor(calls: number) {
    this.#left = calls;
  }

  /** Whether it has ended. */
  get isOver(): boolean {
    return this.#left <= 0;
  }

  /** A connection or target as the one that is killed uses it. */
  of<Thing extends object>(thing: Thing): Thing {
    return new Proxy(thing, {
      get: (of, key) => {
        const value: unknown = Reflect.get(of, key);
        if (typeof value === "object" && value !== null) return this.of(value);
        if (typeof value !== "function") return value;
        return (...args: unknown[]) => this.#call(() => Reflect.apply(value, of, args));
      },
    });
  }

  #call(run: () => unknown): unknown {
    if (this.isOver) throw new Killed("it was killed");
    const result = run();
    if (result instanceof Promise) {
      return result.then((answer) => {
        if (this.isOver || --this.#left <= 0) throw new Killed("it was killed");
        return answer;
      });
    }
    return typeof result === "object" && result !== null ? this.of(result) : result;
  }
}

/**
 * Runs a command again and again, each time killed one await later, until it comes to its end.
 * @param run one run, with all that is checked of it
 * @returns how often it was killed
 */
export async function killedAtEach(
  run: (command: (work: (life: Life) => Promise<unknown>) => Promise<void>) => Promise<void>,
): Promise<number> {
  for (let calls = 1;; calls++) {
    let ended = false;
    await run(async (work) => {
      const life = new Life(calls);
      try {
        await work(life);
        ended = true;
      } catch (error) {
        if (!life.isOver) throw error;
      }
    }).catch((error) => {
      throw new Error(`killed at await ${calls}: ${error.message}`, { cause: error });
    });
    if (ended) return calls - 1;
    assert(calls < 1000, "it comes to no end");
  }
}
