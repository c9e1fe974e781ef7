/**
 * What a sink does first with a partition whose stream, or whose offset, is not where the other was left.
 * @module
 */

import type { Config } from "../config/load.ts";
import { counted } from "../core/counted.ts";
import { WriteBehindError } from "../core/errors.ts";
import { failpoint } from "../core/failpoints.ts";
import { isFar } from "../core/stream_ids.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { readRegistration } from "../redis/registrations.ts";
import { lastGeneratedId } from "../redis/streams.ts";
import { type Claim, ParkedChangedError, type Target } from "../targets/target.ts";
import type { StreamReader } from "./reader.ts";
import type { PartitionReport } from "./report.ts";
import { hasWitness, rewind } from "./rewind.ts";
import { isSource, Settler } from "./settler.ts";

/** The stream no longer holds the last event that the target applied. */
export class WentBackError extends WriteBehindError {}

/** What a claimed partition is worked on with. */
export interface Scope {
  /** for what is not the partition's alone */
  redis: RedisConnection;
  /** the partition's own connection, to its node */
  own: RedisConnection;
  target: Target;
  config: Config;
  reader: StreamReader;
  report: PartitionReport;
}

/** Where the target is a cache's source. */
export function settlerOf(
  { target, config, reader, report }: Scope,
  claim: Claim,
): Settler | null {
  if (!isSource(config, claim.keys.entity, report.place.target)) return null;
  return new Settler(config, reader, target, claim, report);
}

/**
 * An offset at an id that no version can hold, of a stream that was mended or emptied since, passes all that comes:
 * it is moved back to the stream's begin. What was applied before is applied again, in order, which changes nothing.
 * @throws {ParkedChangedError} where it was moved: the partition is to be claimed again
 */
export async function moveBack({ own, target, report }: Scope, claim: Claim): Promise<void> {
  const { keys, offset } = claim;
  if (!isFar(offset) || isFar(await lastGeneratedId(own, keys.stream))) return;
  const reason =
    `the offset of ${keys.stream} was moved back from ${offset}, which no version can hold`;
  await target.identities.doubt(claim, reason, { keepWitness: false });
  report.doubted(reason);
  await target.ownership.moveOffset(keys, "0-0", "0-0");
  throw new ParkedChangedError(reason);
}

/** The stream has gone back: reports it, and resends what the target may not have. */
export async function rewindStream(scope: Scope, claim: Claim): Promise<void> {
  const { redis, own, target, report } = scope;
  const { keys } = claim;
  // With nothing applied, all is read anyway, and there is nothing to expect.
  if (claim.witness === "0-0" && claim.offset !== "0-0") await expectWitness(target, claim);
  const what =
    `${keys.stream} has gone back: the entry ${claim.witness}, which the target has applied ` +
    "last, is not in it any more";
  report.goneBack(claim.witness, new WentBackError(what));
  await failpoint?.("resending");
  const settler = settlerOf(scope, claim);
  await settler?.wentBack(redis);
  const known = await readRegistration(own, keys, report.place.target);
  // What was kept, up to there, is of the time before: the note was made when all of it was in the target.
  const goesOn = known !== null && await hasWitness(own, keys, known.witness);
  const applied = goesOn ? known.witness : "0-0";
  let sent = await rewind(own, keys, claim.offset, applied);
  sent += await settler?.resendGone() ?? 0;
  await failpoint?.("resent");
  await target.ownership.wentBack(claim);
  claim.witness = "0-0";
  const done = `${counted(sent, "document")} resent; run verify for what else was lost`;
  report.rewound(sent, new WentBackError(`${what}; ${done}`));
}

/**
 * A stream may go back again before anything was applied: then no witness is expected, and only its last id tells,
 * which a rewind moves first of all. So that whoever goes on where this sink dies half way knows of it, the offset's
 * own entry is expected, which is not there.
 */
async function expectWitness(target: Target, { keys, offset }: Claim): Promise<never> {
  await target.ownership.moveOffset(keys, offset, offset);
  throw new ParkedChangedError(`${keys.stream} is to be rewound`);
}
