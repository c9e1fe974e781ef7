/**
 * Whether Redis, the offset and the table belong together, for the sink, status and every command that would do harm
 * where they do not.
 * @module
 */

import { Buffer } from "node:buffer";
import { type Config, entityConfig } from "../config/load.ts";
import { ConfigError } from "../core/errors.ts";
import { compareStreamIds, versionOf } from "../core/stream_ids.ts";
import { noteIdentity, type Origin, readOrigin, succeeds, successorOf } from "../redis/identity.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, type PartitionKeys, partitionsOf } from "../redis/keys.ts";
import { readRegistrations } from "../redis/registrations.ts";
import { adoptIt, tableProblems } from "../targets/common.ts";
import type { Belonging, Claim, Target } from "../targets/target.ts";
import { decodeEntry, type Entry, isEvent } from "./decode.ts";
import { hasWitness } from "./rewind.ts";

/**
 * Why a partition cannot go on:
 * - `source`: its offset counts the events of other data in Redis
 * - `target`: it was carried on to another target
 * - `table`: the table is gone, or is another one
 * - `streams`: the table holds what other streams have brought
 * - `emptied`: the table has no rows any more
 */
export interface Mismatch {
  kind: "source" | "target" | "table" | "streams" | "emptied";
  /** for people, with what to do */
  reason: string;
}

/** What was found. */
export interface Assessment {
  origin: Origin;
  belonging: Belonging;
  /** empty where the partition can go on */
  mismatches: Mismatch[];
  /** why rows may be missing or old, found now */
  doubts: string[];
  /** what the target has lost of what it had committed last; `null` where it has lost nothing */
  lostCommits: LostCommits | null;
}

/** A target's offset is lower than the one that its sinks have told last. */
export interface LostCommits {
  /** the offset now */
  offset: string;
  /** the offset that was told */
  told: string;
  /** what came after the one and up to the other may be missing: the stream does not hold it; `null` for nothing */
  missing: { after: string; upTo: string } | null;
}

/** Looks whether a partition's data in Redis, its offset and its table belong together. Changes nothing. */
export async function assess(
  redis: RedisConnection,
  target: Target,
  config: Config,
  keys: PartitionKeys,
): Promise<Assessment> {
  const streams = allPartitions(config, keys.entity).map(({ stream }) => stream);
  // Redis first: a sink trims behind its commits, so what Redis tells is never past a later look at the target.
  const { name } = target.describe();
  const origin = await readOrigin(redis, keys, name);
  let belonging = await target.identities.read(keys, streams);
  // A target reads offsets, then rows: another partition may have brought the first ones in between.
  if (belonging.rows === "ours" && !belonging.begun) {
    belonging = await target.identities.read(keys, streams);
  }
  const { offset, others, problem, doubt } = belonging;
  const mismatches: Mismatch[] = [];
  const other = await sourceMismatch(redis, name, keys, origin, belonging);
  if (other !== null) mismatches.push(other);
  if (problem !== null) {
    mismatches.push({ kind: others.length > 0 ? "streams" : "table", reason: problem });
  }
  if (doubt?.refused) mismatches.push({ kind: "emptied", reason: doubt.reason });
  const { registered: told, removedTo } = origin;
  const removed = compareStreamIds(removedTo, offset) > 0;
  const wentBack = offset !== "0-0" && compareStreamIds(told, offset) > 0;
  const missing = removed ? { after: offset, upTo: removedTo } : null;
  const assessment = {
    origin,
    belonging,
    mismatches,
    doubts: doubtsOf(origin, belonging, removed),
    lostCommits: wentBack ? { offset, told, missing } : null,
  };
  if (mismatches.length === 0 && belonging.gone.length === 0 && !belonging.parkedLast) {
    await lookForLastRow(redis, target, config, keys, assessment);
  }
  return assessment;
}

async function sourceMismatch(
  redis: RedisConnection,
  name: string,
  keys: PartitionKeys,
  { identity, told, removedTo }: Origin,
  { source, offset, begun, rows }: Belonging,
): Promise<Mismatch | null> {
  const { stream, entity } = keys;
  // Without one, Redis was emptied, or no sink has ever noted one.
  if (identity === null || identity === source) return null;
  // It was emptied, and the sink of another target has noted that.
  if (source !== null && succeeds(identity, source)) return null;
  // What a target that holds nothing has noted binds it to nothing.
  if (source !== null && begun) {
    return {
      kind: "source",
      reason:
        `The offset of ${stream} belongs to other data in Redis than these: two Redis write to one target, or ` +
        `another Redis is configured. Use the one before; or ${adoptIt(entity)}`,
    };
  }
  if (offset !== "0-0" && await hasWitness(redis, keys, offset)) return null;
  if (rows === "ours" && !await isStranger(redis, name, keys)) return null;
  // Of a stream from which nothing was removed, and that nobody has carried on, a target can have all.
  if (told === "0-0" && removedTo === "0-0") return null;
  return {
    kind: "target",
    reason:
      `${stream} was carried on to another target: this one holds none of it. Use the one before ` +
      `(postgresql.database, targets); beside that one, run deno task target add ${name}; or ${
        adoptIt(entity)
      }`,
  };
}

/** Whether a stream knows other targets only: the rows that one of those has are of other partitions. */
async function isStranger(
  redis: RedisConnection,
  name: string,
  keys: PartitionKeys,
): Promise<boolean> {
  const known = await readRegistrations(redis, keys);
  return known.length > 0 && known.every((target) => target.name !== name);
}

function doubtsOf(
  { identity, told, registered, removedTo }: Origin,
  { offset, source, rows, begun, gone }: Belonging,
  removed: boolean,
): string[] {
  const doubts: string[] = [];
  const fresh = source === null && offset === "0-0";
  // What the original has removed is in its table.
  if (removed && !(fresh && identity === null && rows === "original")) {
    doubts.push(
      `events up to ${removedTo} were removed from the stream, and the target holds those up to ${offset} only`,
    );
  }
  // The data may be known by another target's sink; of the rows, this one's other partitions have brought the first.
  const wasThere = told !== "0-0" || registered !== "0-0";
  if (fresh && rows === "ours" && (wasThere || !begun)) {
    doubts.push("the offset is missing, and the table has rows that events were written to");
  }
  if (gone.length > 0) doubts.push(`${gone.join(", ")} gone; a sink makes what is missing anew`);
  return doubts;
}

/** The offset promises the row of its own event: one that is missing, or older, tells of rows that are gone. */
async function lookForLastRow(
  redis: RedisConnection,
  target: Target,
  config: Config,
  keys: PartitionKeys,
  { belonging: { offset }, mismatches, doubts }: Assessment,
): Promise<void> {
  const { rows } = target;
  if (!rows || offset === "0-0") return;
  const [entry] = await redis.xrangeBuffer(keys.stream, offset, offset) as Entry[];
  const event = entry && decodeEntry(entry);
  if (!event || !isEvent(event) || event.payload === null) return;
  const id = event.docId.toString();
  const at = await rows.at(keys, [id]);
  // A sink has gone on meanwhile, or the event is parked.
  if (at.offset !== offset || at.parked[0]) return;
  const [row] = at.rows;
  if (row && BigInt(row.version) >= versionOf(offset)!) return;
  const { table } = entityConfig(config, keys.entity);
  // It was filled up to there, by documents: the offset's own may be gone meanwhile, or may have been refused.
  const { witness } = await target.offsets.standing(keys, { waits: false });
  if (witness === "0-0") return;
  const { done } = await rows.ids(keys.entity).next();
  if (done) mismatches.push({ kind: "emptied", reason: tableProblems.emptied(table, keys) });
  else {
    doubts.push(
      `the row of the document ${JSON.stringify(id)}, which was written last, is ${
        row ? "older" : "missing"
      }`,
    );
  }
}

/** Bytes of an identity. */
const IDENTITY_BYTES = 8;

const newIdentity = () =>
  Buffer.from(crypto.getRandomValues(new Uint8Array(IDENTITY_BYTES))).toString("hex");

/**
 * Sees that a partition that was claimed can go on, and notes what its offset belongs to.
 * @returns what is in doubt, where it is said the first time; and what the target has lost of its last commits
 * @throws {ConfigError} where it cannot go on, with what to do
 */
export async function identify(
  redis: RedisConnection,
  target: Target,
  config: Config,
  claim: Claim,
): Promise<{ doubts: string[]; lostCommits: LostCommits | null; note: () => Promise<void> }> {
  const { keys } = claim;
  const { identities } = target;
  const assessment = await assess(redis, target, config, keys);
  const { origin: { identity }, belonging: { source, noted, doubt }, mismatches } = assessment;
  refuse(mismatches);
  const { lostCommits } = assessment;
  const isMissing = lostCommits !== null && lostCommits.missing !== null;
  const doubts = assessment.doubts.filter((reason) => !doubt?.reason.includes(reason));
  if (claim.madeAnew.includes("writebehind_dead_letter")) {
    doubts.push("the dead letter was dropped, and with it the events that were parked");
  }
  for (const reason of doubts) {
    await identities.doubt(claim, reason, { keepWitness: !isMissing });
  }
  if (isMissing) claim.witness = "0-0";
  const known = source !== null && claim.witness !== "0-0" &&
    await hasWitness(redis, keys, claim.witness);
  const note = async () => {
    if (identity !== null) {
      if (identity !== source || !noted) await identities.note(claim, identity);
      return;
    }
    // Data that were emptied are others; where only the note is lost, it is written again.
    const minted = source === null ? newIdentity() : known ? source : successorOf(source);
    await identities.note(claim, await noteIdentity(redis, keys, minted));
  };
  return { doubts, lostCommits, note };
}

function refuse(mismatches: Mismatch[]): void {
  if (mismatches.length === 0) return;
  throw new ConfigError(mismatches.map(({ reason }) => reason).join("; "));
}

/**
 * Sees that a command may work with an entity's documents and rows.
 * @param except what does not matter to it
 * @returns what was found, one a partition that the target has, in order
 * @throws {ConfigError} where they do not belong together
 */
export async function checkBelonging(
  redis: RedisConnection,
  target: Target,
  config: Config,
  entity: string,
  except: Mismatch["kind"][] = [],
): Promise<Assessment[]> {
  const found: Assessment[] = [];
  for (const keys of partitionsOf(config, entity, target.describe().name)) {
    const assessment = await assess(redis, target, config, keys);
    refuse(assessment.mismatches.filter(({ kind }) => !except.includes(kind)));
    found.push(assessment);
  }
  return found;
}
