/**
 * What happened, as marks in the charts over time: by events, by what samples tell, and by hand.
 * @module
 */

import type { Emitter, RedisEvents, SinkEvents } from "../../core/events.ts";
import type { Sample } from "../../metrics/sampler.ts";
import type { VerifyReport } from "../../operate/verify/verify.ts";

/** Something that happened. */
export interface Mark {
  /** when */
  at: Date;
  /** in a few words */
  text: string;
  /** how often, shortly after each other */
  times: number;
}

/** What a verify has found. */
export interface Verified {
  /** when */
  at: Date;
  /** documents that are not as they should be in the target */
  lost: number;
  /** documents whose events the target did not reach meanwhile, so that nothing is known of them */
  behind: number;
  /** documents that were compared */
  compared: number;
}

/** The same within so many ms is one mark. */
const SAME_MS = 3000;
/** Marks that are kept; the oldest give way. */
const MOST_MARKS = 200;

/** Marks of a kernel. Charts draw those of the time that they show. */
export class Marks {
  /** what the newest verify has found; null before the first */
  verified: Verified | null = null;
  /** whether one runs now */
  verifying = false;
  /** where a click in the dashboard asks for one; null where nobody listens */
  verifyUrl: string | null = null;
  readonly #marks: Mark[] = [];

  /** The marks so far, in the order of their times. */
  get all(): readonly Mark[] {
    return this.#marks;
  }

  /** Marks a moment, by default this one, in all charts over time. */
  mark(text: string, at: Date = new Date()): void {
    const same = this.#marks.findLast((mark) => mark.text === text);
    if (same && Math.abs(at.getTime() - same.at.getTime()) <= SAME_MS) return void same.times++;
    const later = this.#marks.findIndex((mark) => mark.at > at);
    this.#marks.splice(later < 0 ? this.#marks.length : later, 0, { at, text, times: 1 });
    if (this.#marks.length > MOST_MARKS) this.#marks.shift();
  }

  /** Keeps and marks what a verify has found. */
  found({ documents, counts }: Pick<VerifyReport, "documents" | "counts">): void {
    const { mismatches: lost, behind } = counts;
    const at = new Date();
    this.verified = { at, lost, behind, compared: documents };
    this.mark(lost === 0 ? "verified: none lost" : `verified: ${lost} lost`, at);
  }

  /**
   * Marks what a sink of this process, or a connection, reports.
   * @returns a function that ends this
   */
  follow(events: Emitter<SinkEvents> | Emitter<RedisEvents>): () => void {
    return (events as Emitter<SinkEvents & RedisEvents>).onAll((name, event) => {
      const text = TEXTS[name]?.(event);
      if (text) this.mark(text);
    });
  }
}

/** What people are told of an event; of others nothing, since they are many, or follow from these. */
const TEXTS: {
  [Name in keyof (SinkEvents & RedisEvents)]?: (
    event: (SinkEvents & RedisEvents)[Name],
  ) => string | null;
} = {
  claimed: ({ again, process }) => again ? null : `sink ${shortly(process)} owns it`,
  lost: ({ process }) => `sink ${shortly(process)} lost it`,
  failed: ({ failures, kind }) => failures === 1 ? `failing: ${kind}` : null,
  recovered: () => "recovered",
  parked: () => "event parked",
  wentBack: () => "stream went back",
  rewound: () => "resent",
  swallowed: () => "rows swallowed",
  connectionLost: () => "Redis away",
  reconnected: () => "Redis back",
  replayed: ({ outcome }) => outcome === "applied" ? "replayed" : null,
};

/** A sink's process id, without its random part. */
function shortly(process: string): string {
  return process.split("-")[0]!;
}

/** What samples tell by themselves, whichever process it happened in: the target away and back, parked, another owner. */
function marksOf(samples: readonly Sample[]): Mark[] {
  const marks: Mark[] = [];
  let owner = samples.find((sample) => sample.owner !== null)?.owner;
  for (const [index, sample] of samples.entries()) {
    const before = samples[index - 1];
    const mark = (text: string, times = 1) => marks.push({ at: sample.at, text, times });
    if (!before) continue;
    if (before.targetAnswers && !sample.targetAnswers) mark("target away");
    if (!before.targetAnswers && sample.targetAnswers) mark("target back");
    const parked = sample.parked - before.parked;
    if (parked > 0) mark("event parked", parked);
    if (sample.owner !== null && sample.owner !== owner) {
      const now = sample.owner.split(", ").map(shortly).join(", ");
      mark(`sink ${now} owns it`);
      owner = sample.owner;
    }
  }
  return marks;
}

/**
 * The marks of the time that samples tell of, those of samples and others together: the same, shortly after each other,
 * once. What happened after the newest sample waits for the next one: where sampling has ended, or another cell goes on,
 * it is not of this chart.
 */
export function marksIn(samples: readonly Sample[], all: readonly Mark[]): Mark[] {
  const [first, last] = [samples[0]?.at, samples.at(-1)?.at];
  if (!first || !last) return [];
  const shown = all.filter(({ at }) => at >= first && at <= last);
  const more = marksOf(samples).filter(({ at, text }) =>
    !shown.some((mark) =>
      mark.text === text && Math.abs(mark.at.getTime() - at.getTime()) <= SAME_MS
    )
  );
  return [...shown, ...more].sort((a, b) => a.at.getTime() - b.at.getTime());
}

/** The marks of this kernel: what charts draw unless they are given others. */
export const kernelMarks: Marks = new Marks();
