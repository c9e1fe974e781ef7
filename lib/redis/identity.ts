/**
 * The identity of the data in Redis, kept in the settings of each partition, and what a stream tells of what was removed.
 * @module
 */

import { createHash } from "node:crypto";
import type { Redis } from "./client.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import { groupOf, type PartitionKeys } from "./keys.ts";
import { offsetIn } from "./registrations.ts";
import { identityScript, runScript } from "./scripts/mod.ts";
import { groupIn, isNoKey, pairsOf, valueOf } from "./streams.ts";

/** What a partition in Redis tells of those that carried it on. */
export interface Origin {
  /** the identity of the data; `null` where no sink has noted one, or all was emptied since */
  identity: string | null;
  /** the highest offset that a sink has told the stream's group; `0-0` for none */
  told: string;
  /** the offset that a sink of the target has told last, which stays where the stream was removed; `0-0` for none */
  registered: string;
  /** a target with an offset below this may lack what was removed; `0-0` where nothing was */
  removedTo: string;
}

/**
 * Reads it, in one round trip.
 * @param target whose sinks have told
 */
export async function readOrigin(
  redis: Redis,
  { settings, stream }: PartitionKeys,
  target: string,
): Promise<Origin> {
  const [identity, registration, info, groups] = (await redis.pipeline()
    .hget(settings, "identity")
    .hget(settings, `target:${target}`)
    .call("XINFO", "STREAM", stream)
    .call("XINFO", "GROUPS", stream)
    .exec())!;
  const noted = valueOf(identity!) as string | null;
  const registered = offsetIn(valueOf(registration!) as string | null) ?? "0-0";
  if (isNoKey(info![0])) return { identity: noted, told: "0-0", registered, removedTo: "0-0" };
  const facts = pairsOf(valueOf(info!));
  const group = groupIn(valueOf(groups!), groupOf(target));
  return {
    identity: noted,
    told: String(group?.get("last-delivered-id") ?? "0-0"),
    registered,
    removedTo: removedTo(facts),
  };
}

/** Trimming leaves the offset's own entry, so what is below the first entry was in the target once. */
function removedTo(facts: Map<string, unknown>): string {
  const deleted = String(facts.get("max-deleted-entry-id") ?? "0-0");
  const length = Number(facts.get("length"));
  if (Number(facts.get("entries-added")) <= length) return deleted;
  const first = length > 0
    ? (facts.get("first-entry") as [string, unknown])[0]
    : String(facts.get("last-generated-id"));
  return compareStreamIds(deleted, first) > 0 ? deleted : first;
}

/**
 * Notes the identity of the data, unless they have one.
 * @returns the one that they have: sinks of several targets may note theirs at the same time
 */
export async function noteIdentity(
  redis: Redis,
  { stream, settings }: PartitionKeys,
  identity: string,
): Promise<string> {
  return String(await runScript(redis, identityScript, [stream, settings], [identity]));
}

/** Emptyings that a target may have missed, of which another has told. */
const MOST_SUCCESSORS = 100;

/**
 * The identity of data that were emptied. It follows from the one before, so that each target finds the same, also one
 * that comes when another has noted it.
 */
export function successorOf(identity: string): string {
  return createHash("sha256").update(identity).digest("hex").slice(0, identity.length);
}

/** Whether data were emptied, perhaps more than once, since they had an identity. */
export function succeeds(identity: string, before: string): boolean {
  for (let step = 0; step < MOST_SUCCESSORS; step++) {
    before = successorOf(before);
    if (before === identity) return true;
  }
  return false;
}
