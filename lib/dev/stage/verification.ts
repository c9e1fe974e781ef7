/**
 * The comparison of everything that the page asks for, and what it has found.
 * @module
 */

import { counted } from "../../core/counted.ts";
import { verify } from "../../operate/verify/verify.ts";
import type { VerifyView } from "./messages.ts";
import type { Scene } from "./scene.ts";

const NEVER: VerifyView = {
  running: false,
  progress: 0,
  lost: null,
  documents: 0,
  parked: 0,
  behind: 0,
  at: null,
};
/** A progress that differs by less is not shown. */
const WORTH_SHOWING = 0.02;

/** Compares on demand. */
export class Verification {
  readonly #scene: Scene;
  #view = NEVER;

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  /** How far it is, or what it has found last. */
  get view(): VerifyView {
    return this.#view;
  }

  /** What was found is of the past. */
  clear(): void {
    this.#view = NEVER;
  }

  /** Compares every document in Redis with its row. */
  async run(): Promise<void> {
    const { redis, target, config, entity, happened, signal } = this.#scene;
    this.#show({ running: true, progress: 0 });
    try {
      const report = await verify(redis, target, config, entity, {
        signal,
        onProgress: (compared, about) => {
          const progress = Math.min(1, compared / Math.max(1, about));
          if (progress - this.#view.progress >= WORTH_SHOWING) this.#show({ progress });
        },
      });
      const { mismatches: lost, parked, behind } = report.counts;
      const { documents } = report;
      this.#show({ lost, documents, parked, behind, at: Date.now() });
      const others = [parked > 0 ? `${parked} parked` : "", behind > 0 ? `${behind} behind` : ""]
        .filter(Boolean).map((text) => `, ${text}`).join("");
      happened.add(
        lost === 0 ? "mend" : "wrong",
        `verified: ${
          counted(documents, "document", documents.toLocaleString("en"))
        }, ${lost} lost${others}`,
        lost === 0 ? "verified: 0 lost" : `verified: ${lost} lost`,
      );
    } finally {
      this.#show({ running: false });
    }
  }

  #show(change: Partial<VerifyView>): void {
    this.#view = { ...this.#view, ...change };
    this.#scene.changed();
  }
}
