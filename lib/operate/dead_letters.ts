/**
 * Listing and discarding parked events; `replay.ts` applies them again.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { isStreamOf } from "../redis/keys.ts";
import { deadLettersOf, type Pool, targetOf } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import type { DeadLetter, DeadLetterSelection, DeadLetterState } from "../targets/dead_letters.ts";

/**
 * Lists an entity's dead letters, one a document, those that were parked first at the top.
 * @param options.state which ones; `"all"` for all of them. @default {"parked"}
 * @throws {ConfigError} where the configuration has no such entity
 *
 * @example
 * ```ts
 * import { listDeadLetters, loadConfig, openTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using target = await openTarget(config);
 * for await (const { docId, reason, waiting } of listDeadLetters(target, config, "session")) {
 *   console.log(docId, reason, `and ${waiting} older events`);
 * }
 * ```
 */
export async function* listDeadLetters(
  target: Target | Pool,
  config: Config,
  entity: string,
  options: { state?: DeadLetterState | "all" } = {},
): AsyncGenerator<DeadLetter> {
  checkArguments("listDeadLetters", { target, config, entity, options });
  const { state = "parked" } = options;
  entityConfig(config, entity);
  yield* deadLettersOf(targetOf(target, config)).list(entity, state);
}

/**
 * Discards parked events. They stay in the table, for audit, and later events of their documents are applied
 * again once none of the document's events is parked. Where the target is a cache's source, the row counts from then on: the
 * sink removes the document from Redis.
 * @param selection a `streamId` names one event, a `docId` all of a document's
 * @param options.dryRun counts, and changes nothing. @default {false}
 * @returns how many events
 * @throws {ConfigError} where the configuration has no such entity
 *
 * @example
 * ```ts
 * import { discardDeadLetters, loadConfig, openTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using target = await openTarget(config);
 * const selection = { docId: "app-42" };
 * const events = await discardDeadLetters(target, config, "session", selection, { dryRun: true });
 * console.log(`would give up ${events} events`);
 * ```
 */
export async function discardDeadLetters(
  target: Target | Pool,
  config: Config,
  entity: string,
  selection: DeadLetterSelection,
  options: { dryRun?: boolean } = {},
): Promise<number> {
  checkArguments("discardDeadLetters", { target, config, entity, selection, options });
  const { dryRun = false } = options;
  entityConfig(config, entity);
  const letters = deadLettersOf(targetOf(target, config));
  let discarded = 0;
  // How many partitions there are, only Redis may know, and it is not asked. Other pipelines may use the target as well.
  for (const stream of await letters.streams(entity)) {
    if (!isStreamOf(config, entity, stream)) continue;
    discarded += await letters.discard({ entity, stream }, selection, dryRun);
  }
  return discarded;
}
