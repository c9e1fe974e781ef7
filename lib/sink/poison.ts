/**
 * Finds the rows of a batch that cannot be stored, so that the others can.
 * @module
 */

import type { Batch, Claim, Refusal, Removal, Target, Upsert } from "../targets/target.ts";
import { isEvent, type Item, park } from "./decode.ts";

/** Rows in the order of their keys. */
interface Rows {
  upserts: Upsert[];
  removals: Removal[];
}

/**
 * Parks the last event of each document whose row cannot be stored. An event before it, if there is one in
 * the batch, takes its place: it may be fine.
 * @returns the items with those events parked; at least one is
 */
export async function parkPoison(
  target: Target,
  claim: Claim,
  items: Item[],
  batch: Batch,
): Promise<Item[]> {
  const refused = await findPoison(target, claim, batch);
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

/** What is no JSON is found in one statement; the rest by halving. */
async function findPoison(
  { batches }: Target,
  claim: Claim,
  batch: Batch,
): Promise<Map<string, Refusal>> {
  const refused = await batches.invalidPayloads(claim, batch.upserts);
  // Where these were all, the batch goes well without them; else the next attempt looks further.
  if (refused.size > 0) return refused;
  return await refusedRows(
    batch,
    ({ upserts, removals }) => batches.probe(claim, upserts, removals),
  );
}

/**
 * Why rows cannot be stored, by their keys, found by halving: one bad row in 1,000 takes about twenty attempts of
 * ever fewer rows, and n bad rows at most 2·n.
 * @param attempt tries rows, or writes them: why they are refused together, `null` where they are not
 */
export async function refusedRows(
  { upserts, removals }: Rows,
  attempt: (rows: Rows) => Promise<Refusal | null>,
): Promise<Map<string, Refusal>> {
  const refused = new Map<string, Refusal>();
  const halve = async ({ upserts, removals }: Rows, known: Refusal | null): Promise<boolean> => {
    const count = upserts.length + removals.length;
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
    // Where the left half is fine the bad row is in the right one, and need not be asked for again.
    const single = right.upserts.length + right.removals.length === 1;
    await halve(right, inLeft || single ? null : refusal);
    return true;
  };
  await halve({ upserts, removals }, null);
  return refused;
}
