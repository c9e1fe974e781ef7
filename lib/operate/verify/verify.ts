/**
 * Compares Redis with the target, document by document, on a live system and in bounded memory.
 * @module
 */

import { checkArguments } from "../../core/arguments.ts";
import { type Config, isForwarded } from "../../config/load.ts";
import { checkShape } from "../../redis/shape.ts";
import { type Pool, targetOf } from "../../targets/open.ts";
import type { Target } from "../../targets/target.ts";
import { counted } from "../../core/counted.ts";
import { delay } from "../../core/delay.ts";
import { compareStreamIds, type EventType } from "../../core/stream_ids.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { checkBelonging } from "../../sink/belonging.ts";
import { Comparison, type Difference, type Seen, type Suspect } from "./compare.ts";
import { doubtsIn, type FoundDoubt, settleDoubts } from "./doubts.ts";
import { Scan } from "./scan.ts";

/**
 * The result of a comparison. A list holds at most {@linkcode MAX_LISTED} documents; `counts` are
 * complete.
 */
export interface VerifyReport {
  /** documents in Redis; while others are written, one may be counted twice */
  documents: number;
  /** rows in the target */
  rows: number;
  /** documents that equal their rows */
  equal: number;
  /** differences that persist after the target has caught up: these are errors */
  mismatches: Seen[];
  /** documents whose events the target did not reach in time */
  behind: string[];
  /** documents with an event in the dead-letter table */
  parked: string[];
  /** documents that are only in the target, since a cache has evicted them: no difference */
  evicted: number;
  /** differences that `perform_write_behind` explains */
  notForwarded: string[];
  /** how long the full lists would be */
  counts: { mismatches: number; behind: number; parked: number; notForwarded: number };
  /** JSON values under the entity's prefix that cannot be its documents: a bad id, or one of another partition */
  foreign: number;
  /** why rows might have been missing when it began; settled where nothing differs and nothing is behind */
  doubts: FoundDoubt[];
}

/** The most documents in a list of a report, and the most differences that wait for a second look. */
export const MAX_LISTED = 100_000;
const LOOK_AGAIN_MS = 50;
/** A missing row has no version: only looking several times shows whether it stays missing. */
const LOOKS_FOR_MISSING = 3;

/** A report's counts, in one line for people. */
export function countsOf({ documents, rows, equal, evicted, counts }: VerifyReport): string {
  return `${counted(documents, "document")}, ${counted(rows, "row")}, ${equal} equal, ` +
    `${counted(counts.mismatches, "mismatch")}, ` +
    `${counts.behind} behind, ${counts.parked} parked, ${counts.notForwarded} not forwarded` +
    (evicted > 0 ? `, ${evicted} only in the target: evicted` : "");
}

/** Options of {@linkcode verify}. */
export interface VerifyOptions {
  /** how long the target may take to catch up with what was seen, in ms. @default {10000} */
  settleMs?: number;
  /** called after each chunk, with the documents and rows compared so far and about how many there are */
  onProgress?: (compared: number, about: number) => void;
  /** stops it between two chunks, with its reason */
  signal?: AbortSignal;
}

/**
 * Compares every document of an entity with its row; of a target that has some of the partitions, the documents of
 * those, and a row of another one is `extra`. Documents are equal as JSON values: numbers as
 * decimals, keys in any order. Writers need not stop: a difference counts only if it is still there, unchanged,
 * when the target has passed the last event that was in the stream when the difference was seen.
 * @throws {WriteBehindError} where the target keeps no rows that can be read
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, verify } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * const { equal, mismatches, counts } = await verify(redis, target, config, "session");
 * console.log(equal, counts.mismatches, mismatches.slice(0, 10));
 * ```
 */
export async function verify(
  redis: RedisConnection,
  target: Target | Pool,
  config: Config,
  entity: string,
  options: VerifyOptions = {},
): Promise<VerifyReport> {
  checkArguments("verify", { redis, target, config, entity, options });
  const { settleMs = 10_000, onProgress, signal = new AbortController().signal } = options;
  checkArguments("verify", { settleMs, onProgress, signal });
  await checkShape(redis, config, entity);
  const opened = targetOf(target, config);
  // A table that was emptied may be compared: it shows what is missing.
  const assessments = await checkBelonging(redis, opened, config, entity, ["emptied"]);
  const doubts = doubtsIn(config, entity, opened, assessments);
  const scan = new Scan(redis, opened, config, entity);
  const comparison = new Comparison(redis, opened, config, entity);
  const report: VerifyReport = {
    documents: 0,
    rows: 0,
    equal: 0,
    mismatches: [],
    behind: [],
    parked: [],
    evicted: 0,
    notForwarded: [],
    counts: { mismatches: 0, behind: 0, parked: 0, notForwarded: 0 },
    foreign: 0,
    doubts,
  };
  const about = onProgress ? await scan.size() : 0;
  const settling = new Settling(
    comparison,
    (verb) => isForwarded(config, entity, verb),
    report,
    settleMs,
    signal,
  );
  const progress = () => onProgress?.(report.documents + report.rows, about);
  for await (const { count, suspected } of scan.rows()) {
    signal.throwIfAborted();
    report.rows += count;
    await settling.add(await comparison.compare(suspected));
    progress();
  }
  for await (const { count, suspected } of scan.documents()) {
    signal.throwIfAborted();
    report.documents += count;
    report.equal += count;
    const found = await comparison.compare(suspected);
    await settling.add(found.filter((suspect) => !settling.mayHaveListed(suspect)));
    progress();
  }
  await settling.settle();
  report.evicted = comparison.evicted;
  report.foreign = scan.foreign;
  if (report.counts.mismatches + report.counts.behind === 0) {
    await settleDoubts(opened, config, entity, doubts);
  }
  return report;
}

/** Holds differences until the target has passed what was seen, then looks again. */
class Settling {
  #suspects = new Map<string, Suspect>();
  #listed = new Set<string>();
  #comparison: Comparison;
  #forwards: (verb: EventType) => boolean;
  #report: VerifyReport;
  #settleMs: number;
  #signal: AbortSignal;

  constructor(
    comparison: Comparison,
    forwards: (verb: EventType) => boolean,
    report: VerifyReport,
    settleMs: number,
    signal: AbortSignal,
  ) {
    this.#comparison = comparison;
    this.#forwards = forwards;
    this.#report = report;
    this.#settleMs = settleMs;
    this.#signal = signal;
  }

  /**
   * Whether a document that the scan of documents found may be in the report already, by way of its row. Once
   * the lists overflow this is not known, unless it has no row.
   */
  mayHaveListed({ id, difference }: Suspect): boolean {
    return this.#listed.has(id) || this.#listed.size >= MAX_LISTED && difference !== "missing";
  }

  async add(found: Suspect[]): Promise<void> {
    for (const suspect of found) this.#suspects.set(suspect.id, suspect);
    if (this.#suspects.size >= MAX_LISTED) await this.settle();
  }

  async settle(): Promise<void> {
    const deadline = performance.now() + this.#settleMs;
    while (this.#suspects.size > 0) {
      const late = performance.now() >= deadline;
      await this.#look(late);
      if (this.#suspects.size === 0) return;
      if (late) {
        for (const suspect of this.#suspects.values()) this.#list("behind", suspect);
        this.#suspects.clear();
        return;
      }
      await delay(LOOK_AGAIN_MS, this.#signal);
      this.#signal.throwIfAborted();
    }
  }

  /** Looks again at what the target has passed. */
  async #look(late: boolean): Promise<void> {
    const partitions = [...new Set([...this.#suspects.values()].map(({ partition }) => partition))];
    const progress = new Map(
      await Promise.all(
        partitions.map(async (partition) =>
          [partition, await this.#comparison.progress(partition)] as const
        ),
      ),
    );
    const settled = [...this.#suspects.values()].filter((suspect) => {
      const { offset, counts, goal } = progress.get(suspect.partition)!;
      // What a sink has resent since it was seen lies past its goal.
      if (counts && suspect.goal.wentBack !== goal.wentBack) suspect.goal = goal;
      return compareStreamIds(offset, suspect.goal.id) >= 0 && (late || counts);
    });
    if (settled.length === 0) return;
    // Asked before the rows are read, so that a replay in between makes a document equal, not a mismatch.
    const parked = await this.#comparison.parked(settled);
    const again = new Map(
      (await this.#comparison.compare(settled.map(({ id }) => id))).map((now) => [now.id, now]),
    );
    for (const before of settled) {
      const now = again.get(before.id);
      this.#suspects.delete(before.id);
      if (now === undefined) continue;
      if (parked.has(now.id)) this.#list("parked", now);
      else if (now.document !== before.document || now.row !== before.row) {
        this.#suspects.set(now.id, now);
      } else if (now.row === null && before.looks + 1 < LOOKS_FOR_MISSING && !late) {
        this.#suspects.set(now.id, { ...now, looks: before.looks + 1 });
      } else if (this.#isNotForwarded(now.difference)) this.#list("notForwarded", now);
      else this.#list("mismatches", now);
    }
  }

  #list(kind: keyof VerifyReport["counts"], suspect: Suspect): void {
    const { id, difference, document, row } = suspect;
    this.#report.counts[kind]++;
    if (document !== null) this.#report.equal--;
    if (this.#listed.size < MAX_LISTED) this.#listed.add(id);
    if (this.#report[kind].length === MAX_LISTED) return;
    if (kind === "mismatches") this.#report.mismatches.push({ id, difference, document, row });
    else this.#report[kind].push(id);
  }

  /** Whether the configuration explains a difference. */
  #isNotForwarded(difference: Difference): boolean {
    const forwards = this.#forwards;
    switch (difference) {
      case "missing":
        return !forwards("insert");
      // An insert may overwrite a document as well.
      case "different":
        return !forwards("update") || !forwards("insert");
      case "extra":
        return !forwards("delete");
    }
  }
}
