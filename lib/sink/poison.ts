/**
 * Finds the rows of a batch that cannot be stored, so that the others can.
 *
 * Whether an error is a document's fault is found by trying, whatever its code: rows that are refused while others go
 * through are to blame. If all rows are refused, harmless ones are tried (see `works` in the port): if those are
 * refused too, the configuration is to blame, and nothing is parked. Only where no row is there yet, a code that means
 * bad data is believed. A table may be away for just a moment, in which some rows are tried and others not: so rows
 * are tried twice; of those with a code that means bad data, the first one. What may be chance, such as a deadlock,
 * counts only if it comes again and again for that row. And what depends on other rows, such as a foreign key, is judged
 * at its own place in the stream: the batch is made smaller until it has that event alone.
 * @module
 */

import { failpoint } from "../core/failpoints.ts";
import { type ErrorKind, isOfRows } from "../core/error_kinds.ts";
import type { Claim, Target } from "../targets/target.ts";
import type { Batch, BatchRows, Refusal, Removal, Tried, Upsert } from "../targets/batch.ts";
import { isEvent, type Item, park } from "./decode.ts";

/** What may be chance is a row's fault after so many failures of the row, over at least so many ms. */
const FAILURES = 3;
const SPREAD_MS = 5000;

/** Why an event is parked that was not refused itself. */
export const BEHIND: Refusal = {
  sqlstate: "",
  reason: "an earlier event of this document is parked",
};

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

  /** @param now the time, in ms */
  constructor(target: Target, now: () => number = () => performance.now()) {
    this.#target = target;
    this.#now = now;
  }

  /**
   * Parks the event of each row that cannot be stored, and those of its document behind it, which only a batch of
   * every event has. If the batch has an earlier event of the document, that one is tried next: it may be fine.
   * @param items the items that the batch covers
   * @param error the target's error for the batch
   * @returns the items with those events parked, `null` where no document is to blame, `smaller` where a smaller batch
   * has to tell
   * @throws where trying fails for another reason
   */
  async park(
    claim: Claim,
    items: Item[],
    batch: Batch,
    error: unknown,
  ): Promise<Item[] | "smaller" | null> {
    const kind = this.#target.kindOf(error);
    const rows = countOf(batch);
    if (kind === "transient" || rows === 0 || kind === "too_large" && rows > 1) return null;
    // The first time it is chance: trying would wait for the same locks, and delay the report of the failure.
    if (kind === "chance" && ++this.#chances === 1) return null;
    if (kind === "related" && batch.events > 1) return "smaller";
    await failpoint?.("probing");
    const refused = await this.#refused(claim, batch);
    if (refused === null) return "smaller";
    if (refused.size === 0) return null;
    const refusals = new Map([...refused].map(([row, refusal]) => [idOf(row), refusal]));
    const payloads = new Map(batch.upserts.map((row) => [idOf(row), row.payload]));
    const parked = new Set<string>();
    return items.map((event) => {
      if (!isEvent(event)) return event;
      const { key, type } = event;
      const id = idOf(event);
      const refusal = refusals.get(id) ?? (parked.has(key) ? BEHIND : undefined);
      if (refusal === undefined) return event;
      parked.add(key);
      const payload = type === "delete" ? null : event.payload ?? payloads.get(id) ?? null;
      return park(event, refusal, payload);
    });
  }

  /** A batch was applied. */
  wentWell(): void {
    this.#chances = 0;
  }

  /** Why rows cannot be stored; `null` where those that were refused may be fine beside others of the batch. */
  async #refused(claim: Claim, batch: Batch): Promise<Map<Removal, Refusal> | null> {
    const { batches } = this.#target;
    // One statement finds what is no JSON. If there was nothing else, the batch goes through without it.
    const invalid = await this.#invalid(claim, batch.upserts);
    if (invalid.size > 0) return invalid;
    for (const deep of [false, true]) {
      const attempt = (rows: BatchRows) => batches.probe(claim, rows, deep);
      const tried = await refusedRows(batch, attempt);
      if (tried.size === 0) continue;
      const blamed = await this.#blamed(claim, batch, tried, attempt);
      const isRelated = batch.events > 1 &&
        [...tried.values()].some(({ kind }) => kind === "related");
      return blamed.size === 0 && isRelated ? null : blamed;
    }
    return new Map();
  }

  /** Rows with payloads that are no JSON that the target can hold. */
  async #invalid(claim: Claim, upserts: Upsert[]): Promise<Map<Removal, Refusal>> {
    const { batches } = this.#target;
    const documents = await batches.invalidPayloads(claim, upserts);
    const rows = upserts.filter(({ key }) => documents.has(key));
    const invalid = new Map<Removal, Refusal>();
    for (const row of rows) {
      // Of a document with several rows, those that are fine are not to blame.
      const own = rows.length === documents.size
        ? documents
        : await batches.invalidPayloads(claim, [row]);
      const refusal = own.get(row.key);
      if (refusal) invalid.set(row, refusal);
    }
    return invalid;
  }

  /** Which of the rows that were refused are to blame. */
  async #blamed(
    claim: Claim,
    batch: Batch,
    tried: Map<Removal, Tried>,
    attempt: (rows: BatchRows) => Promise<Tried | null>,
  ): Promise<Map<Removal, Refusal>> {
    const suspects = this.#suspects;
    this.#suspects = new Map();
    const blamed = new Map<Removal, Refusal>();
    // What may be written says nothing of what may be removed, nor the other way round.
    for (const part of ["upserts", "removals"] as const) {
      const [refused, [passed]] = [
        batch[part].filter((row) => tried.has(row)),
        batch[part].filter((row) => !tried.has(row)),
      ];
      if (refused.length === 0) continue;
      const only = (rows: BatchRows[typeof part]) => ({ upserts: [], removals: [], [part]: rows });
      const of = (...kinds: ErrorKind[]) =>
        refused.filter((row) => kinds.includes(tried.get(row)!.kind));
      const isAlone = batch.events === 1;
      const [data, doubtful] = [
        of("document", ...(isAlone ? ["related" as const] : [])),
        of("configuration"),
      ];
      const othersPass = passed !== undefined || await this.#target.batches.works(claim, part);
      // A code that speaks of data is believed where no row is there that could show the contrary.
      const mayBlame = othersPass || othersPass === null && data.length === refused.length;
      // Only if what went through still does is it the row, and not a configuration in motion, that is refused again.
      const isStill = mayBlame && data.length + doubtful.length > 0 &&
        (passed === undefined || await attempt(only([passed])) === null);
      const isStillData = isStill && data.length > 0 && await attempt(only([data[0]!])) !== null;
      const again = isStill
        ? await refusedRows(only(doubtful), attempt)
        : new Map<Removal, Tried>();
      for (const row of refused) {
        const { kind, sqlstate, reason } = tried.get(row)!;
        if (kind === "related" && !isAlone) continue;
        const isToBlame = isOfRows(kind)
          ? isStillData
          : kind === "configuration"
          ? again.has(row)
          : othersPass && this.#isAgain(`${row.key} ${idOf(row)}`, suspects);
        if (isToBlame) blamed.set(row, { sqlstate, reason });
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

/** The stream id of a row's event, or of an event. */
const idOf = ({ ms, seq }: Pick<Removal, "ms" | "seq">) => `${ms}-${seq}`;

/** Those of the rows that are wanted. */
export const rowsWith = (
  { upserts, removals }: BatchRows,
  wanted: (row: Removal) => boolean,
): BatchRows => ({ upserts: upserts.filter(wanted), removals: removals.filter(wanted) });

/**
 * Finds the rows that cannot be stored by halving, and returns why. One bad row in 1,000 takes about
 * twenty attempts with ever fewer rows.
 * @param attempt tries rows, or writes them: returns why they are refused together, `null` where they are not
 */
export async function refusedRows<R extends Refusal>(
  { upserts, removals }: BatchRows,
  attempt: (rows: BatchRows) => Promise<R | null>,
): Promise<Map<Removal, R>> {
  const refused = new Map<Removal, R>();
  const halve = async ({ upserts, removals }: BatchRows, known: R | null): Promise<boolean> => {
    const count = countOf({ upserts, removals });
    if (count === 0) return false;
    const refusal = known ?? await attempt({ upserts, removals });
    if (refusal === null) return false;
    if (count === 1) {
      refused.set((upserts[0] ?? removals[0])!, refusal);
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
