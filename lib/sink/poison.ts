/**
 * Finds the rows of a batch that cannot be stored, so that the others can.
 *
 * Whether an error is a document's fault is found by trying, whatever its code: rows that are refused while others go
 * through are to blame. If all rows are refused, harmless ones are tried (see `works` in the port): if those are
 * refused too, the configuration is to blame, and nothing is parked. Only where no row is there yet, a code that means
 * bad data is believed. A table may be away for just a moment, in which some rows are tried and others not: so rows
 * are tried twice; of those with a code that means bad data, the first one. What may be chance, such as a deadlock,
 * counts only if it comes again and again for that row.
 * @module
 */

import { failpoint } from "../core/failpoints.ts";
import type { ErrorKind } from "../core/error_kinds.ts";
import type { Claim, Target } from "../targets/target.ts";
import type { Batch, BatchRows, Refusal, Tried } from "../targets/batch.ts";
import { isEvent, type Item, park } from "./decode.ts";

/** What may be chance is a row's fault after so many failures of the row, over at least so many ms. */
const FAILURES = 3;
const SPREAD_MS = 5000;

/** A row that was refused for a reason that may be chance. */
interface Suspect {
  since: number;
  failures: number;
}

/** Finds the rows to blame in the refused batches of one partition. */
export class Poison {
  #target: Target;
  #suspects = new Map<string, Suspect>();
  /** failures that may be chance, since the last batch that was applied */
  #chances = 0;
  #now: () => number;

  /** @param now the clock, in ms */
  constructor(target: Target, now: () => number = Date.now) {
    this.#target = target;
    this.#now = now;
  }

  /**
   * Parks the last event of each document whose row cannot be stored. If the batch has an earlier event of the
   * document, that one is tried next: it may be fine.
   * @param items the items that the batch covers
   * @param error the target's error for the batch
   * @returns the items with those events parked, `null` where no document is to blame
   * @throws where trying fails for another reason
   */
  async park(claim: Claim, items: Item[], batch: Batch, error: unknown): Promise<Item[] | null> {
    const kind = this.#target.kindOf(error);
    const rows = countOf(batch);
    if (kind === "transient" || rows === 0 || kind === "too_large" && rows > 1) return null;
    // The first time it is chance: trying would wait for the same locks, and delay the report of the failure.
    if (kind === "chance" && ++this.#chances === 1) return null;
    await failpoint?.("probing");
    const refused = await this.#refused(claim, batch);
    if (refused.size === 0) return null;
    const payloads = new Map(batch.upserts.map(({ key, payload }) => [key, payload]));
    const result = [...items];
    for (let index = result.length - 1; index >= 0 && refused.size > 0; index--) {
      const event = result[index]!;
      if (!isEvent(event)) continue;
      const { key } = event;
      const refusal = refused.get(key);
      if (refusal === undefined) continue;
      const payload = event.type === "delete" ? null : event.payload ?? payloads.get(key) ?? null;
      result[index] = park(event, refusal, payload);
      refused.delete(key);
    }
    return result;
  }

  /** A batch was applied. */
  wentWell(): void {
    this.#chances = 0;
  }

  /** Why rows cannot be stored, by their keys. */
  async #refused(claim: Claim, batch: Batch): Promise<Map<string, Refusal>> {
    const { batches } = this.#target;
    // One statement finds what is no JSON. If there was nothing else, the batch goes through without it.
    const invalid = await batches.invalidPayloads(claim, batch.upserts);
    if (invalid.size > 0) return invalid;
    for (const deep of [false, true]) {
      const attempt = (rows: BatchRows) => batches.probe(claim, rows, deep);
      const tried = await refusedRows(batch, attempt);
      if (tried.size > 0) return await this.#blamed(claim, batch, tried, attempt);
    }
    return new Map();
  }

  /** Which of the rows that were refused are to blame. */
  async #blamed(
    claim: Claim,
    batch: Batch,
    tried: Map<string, Tried>,
    attempt: (rows: BatchRows) => Promise<Tried | null>,
  ): Promise<Map<string, Refusal>> {
    const suspects = this.#suspects;
    this.#suspects = new Map();
    const blamed = new Map<string, Refusal>();
    // What may be written says nothing of what may be removed, nor the other way round.
    for (const part of ["upserts", "removals"] as const) {
      const [refused, [passed]] = [
        batch[part].filter(({ key }) => tried.has(key)),
        batch[part].filter(({ key }) => !tried.has(key)),
      ];
      if (refused.length === 0) continue;
      const only = (rows: BatchRows[typeof part]) => ({ upserts: [], removals: [], [part]: rows });
      const of = (...kinds: ErrorKind[]) =>
        refused.filter(({ key }) => kinds.includes(tried.get(key)!.kind));
      const [data, doubtful] = [of("document"), of("configuration")];
      const othersPass = passed !== undefined || await this.#target.batches.works(claim, part);
      // A code that speaks of data is believed where no row is there that could show the contrary.
      const mayBlame = othersPass || othersPass === null && data.length === refused.length;
      // Only if what went through still does is it the row, and not a configuration in motion, that is refused again.
      const isStill = mayBlame && data.length + doubtful.length > 0 &&
        (passed === undefined || await attempt(only([passed])) === null);
      const isStillData = isStill && data.length > 0 && await attempt(only([data[0]!])) !== null;
      const again = isStill ? await refusedRows(only(doubtful), attempt) : new Map<string, Tried>();
      for (const { key, ms, seq } of refused) {
        const { kind, sqlstate, reason } = tried.get(key)!;
        const isToBlame = kind === "document"
          ? isStillData
          : kind === "configuration"
          ? again.has(key)
          : othersPass && this.#isAgain(`${key} ${ms}-${seq}`, suspects);
        if (isToBlame) blamed.set(key, { sqlstate, reason });
      }
    }
    return blamed;
  }

  /** Notes one more failure of a row. @returns whether it can no longer be chance */
  #isAgain(row: string, before: Map<string, Suspect>): boolean {
    const now = this.#now();
    const { since, failures } = before.get(row) ?? { since: now, failures: 0 };
    this.#suspects.set(row, { since, failures: failures + 1 });
    return failures + 1 >= FAILURES && now - since >= SPREAD_MS;
  }
}

const countOf = ({ upserts, removals }: BatchRows) => upserts.length + removals.length;

/** Those of the rows whose keys are wanted. */
export const rowsWith = (
  { upserts, removals }: BatchRows,
  wanted: (key: string) => boolean,
): BatchRows => ({
  upserts: upserts.filter(({ key }) => wanted(key)),
  removals: removals.filter(({ key }) => wanted(key)),
});

/**
 * Finds the rows that cannot be stored by halving, and returns why, by their keys. One bad row in 1,000 takes about
 * twenty attempts with ever fewer rows.
 * @param attempt tries rows, or writes them: returns why they are refused together, `null` where they are not
 */
export async function refusedRows<R extends Refusal>(
  { upserts, removals }: BatchRows,
  attempt: (rows: BatchRows) => Promise<R | null>,
): Promise<Map<string, R>> {
  const refused = new Map<string, R>();
  const halve = async ({ upserts, removals }: BatchRows, known: R | null): Promise<boolean> => {
    const count = countOf({ upserts, removals });
    if (count === 0) return false;
    const refusal = known ?? await attempt({ upserts, removals });
    if (refusal === null) return false;
    if (count === 1) {
      refused.set((upserts[0] ?? removals[0])!.key, refusal);
      return true;
    }
    const middle = Math.floor(count / 2);
    const left = {
      upserts: upserts.slice(0, middle),
      removals: removals.slice(0, Math.max(0, middle - upserts.length)),
    };
    const right = {
      upserts: upserts.slice(middle),
      removals: removals.slice(Math.max(0, middle - upserts.length)),
    };
    const inLeft = await halve(left, null);
    // If the left half is fine, the right half is known to be refused and need not be tried.
    const single = right.upserts.length + right.removals.length === 1;
    await halve(right, inLeft || single ? null : refusal);
    return true;
  };
  await halve({ upserts, removals }, null);
  return refused;
}
