/**
 * What is parked, why, and giving it up. Applying it again is in `replay.ts`.
 * @module
 */

import type { Pool } from "pg";
import { type Config, entityConfig } from "../config/load.ts";
import { allPartitions } from "../redis/keys.ts";
import { deadLettersOf, targetOf } from "../targets/open.ts";
import type {
  DeadLetter,
  DeadLetterSelection,
  DeadLetterState,
  Target,
} from "../targets/target.ts";

/**
 * Lists an entity's dead letters, one a document, the ones parked first at the top.
 * @param options.state which ones; `"all"` for all of them. @default {"parked"}
 */
export async function* listDeadLetters(
  target: Target | Pool,
  config: Config,
  entity: string,
  { state = "parked" }: { state?: DeadLetterState | "all" } = {},
): AsyncGenerator<DeadLetter> {
  entityConfig(config, entity);
  yield* deadLettersOf(targetOf(target, config)).list(entity, state);
}

/**
 * Gives up parked events: they stay in the table, for audit, and later events of their documents flow
 * again once nothing of the document is parked.
 * @param selection a `streamId` names one event, a `docId` all of a document's
 * @param options.dryRun counts, and changes nothing
 * @returns events
 */
export async function discardDeadLetters(
  target: Target | Pool,
  config: Config,
  entity: string,
  selection: DeadLetterSelection,
  { dryRun = false }: { dryRun?: boolean } = {},
): Promise<number> {
  entityConfig(config, entity);
  const letters = deadLettersOf(targetOf(target, config));
  let discarded = 0;
  for (const keys of allPartitions(config, entity)) {
    discarded += await letters.discard(keys, selection, dryRun);
  }
  return discarded;
}
