/**
 * The transactions of a partition in Oracle; experimental, see `session.ts`.
 * @module
 */

import { Buffer } from "node:buffer";
import type { PartitionKeys } from "../../redis/keys.ts";
import type { Batch, Parked } from "../batch.ts";
import { fieldsOf, ownershipLost } from "../common.ts";
import { type Claim, ParkedChangedError } from "../target.ts";
import type { OracleSession } from "./session.ts";
import {
  ANY_PARKED,
  BEGIN_OFFSET,
  END_LEASE,
  FIND_LEASE,
  GRANT_LEASE,
  LOCK_OFFSET,
  MOVE_OFFSET,
  PARK,
  parkedEvent,
  RAISE_EPOCH,
  READ_OFFSET,
  READ_PARKED,
  removedRow,
  removeRow,
  RENEW_LEASE,
  writeRow,
  writtenRow,
} from "./statements.ts";

/** Takes a partition that nobody owns; `null` while another sink holds it. */
export async function claim(
  session: OracleSession,
  keys: PartitionKeys,
  owner: string,
  leaseSeconds: number,
): Promise<Claim | null> {
  const { stream } = keys;
  return await inTransaction(session, async () => {
    await session.change(BEGIN_OFFSET, [{ stream }]);
    // It waits for a batch of the owner before, which is in by then or has failed.
    const [found] = await session.query(LOCK_OFFSET, { stream }) as [Record<string, string>];
    if ((await session.query(FIND_LEASE, { stream, owner })).length > 0) return null;
    const { next_epoch, last_id, witness, parked_version } = found;
    const mine = { stream, owner, epoch: next_epoch! };
    await session.change(RAISE_EPOCH, [mine]);
    await session.change(GRANT_LEASE, [{ ...mine, seconds: leaseSeconds }]);
    const parked = await session.query(ANY_PARKED, { stream });
    return {
      ...{ keys, owner, epoch: next_epoch!, offset: last_id!, witness: witness! },
      hasParked: parked.length > 0,
      parkedVersion: parked_version!,
      madeAnew: [],
    };
  });
}

/** Keeps the lease. @throws {OwnershipLostError} where another sink has taken the partition */
export async function renew(
  session: OracleSession,
  { keys, owner, epoch }: Claim,
  leaseSeconds: number,
): Promise<void> {
  const mine = { stream: keys.stream, owner, epoch, seconds: leaseSeconds };
  const renewed = await inTransaction(session, () => session.change(RENEW_LEASE, [mine]));
  if (renewed === 0) throw ownershipLost(keys);
}

/** Gives the partition back. */
export async function release(
  session: OracleSession,
  { keys, owner, epoch }: Claim,
): Promise<void> {
  const mine = { stream: keys.stream, owner, epoch };
  await inTransaction(session, () => session.change(END_LEASE, [mine]));
}

/**
 * Applies a batch and moves the offset, in one transaction, as the port asks of `apply`.
 * @throws {OwnershipLostError} nothing was applied
 * @throws {ParkedChangedError} nothing was applied
 */
export async function apply(
  session: OracleSession,
  claim: Claim,
  table: string,
  { lastId, events, upserts, removals, parked }: Batch,
): Promise<void> {
  const { keys: { stream, entity }, offset, epoch, parkedVersion } = claim;
  await inTransaction(session, async () => {
    const moved = await session.change(MOVE_OFFSET, [{
      ...{ stream, last_id: lastId, before: offset, events, epoch },
      parked_version: parkedVersion,
    }]);
    if (moved === 0) {
      const [now] = await session.query(READ_OFFSET, { stream });
      if (now?.epoch !== epoch) throw ownershipLost(claim.keys);
      throw new ParkedChangedError(`what is parked of ${stream} has changed`);
    }
    if (upserts.length > 0) await session.change(writeRow(table), upserts.map(writtenRow));
    if (removals.length > 0) await session.change(removeRow(table), removals.map(removedRow));
    if (parked.length > 0) {
      await session.change(PARK, parked.map((event) => parkedEvent(entity, stream, event)));
    }
  });
  claim.offset = claim.witness = lastId;
  if (parked.length > 0) claim.hasParked = true;
}

/** What is parked of a partition, as it was given to {@linkcode apply}. */
export async function parkedOf(
  session: OracleSession,
  { stream }: Pick<PartitionKeys, "stream">,
): Promise<Parked[]> {
  const rows = await inTransaction(session, () => session.query(READ_PARKED, { stream }));
  const bytes = (value: unknown) => value === null ? null : Buffer.from(value as Uint8Array);
  return rows.map((row) => ({
    streamId: String(row.stream_id),
    id: bytes(row.doc_id),
    // To Oracle a text of no characters is none.
    type: String(row.event_type ?? ""),
    ts: row.ts === null ? null : Number(row.ts),
    payload: Number(row.payload_there) === 0 ? null : bytes(row.payload) ?? Buffer.alloc(0),
    fields: fieldsOf(row.fields as string | null),
    sqlstate: String(row.code ?? ""),
    reason: String(row.reason ?? ""),
  }));
}

/** Commits what `work` did, or nothing. */
async function inTransaction<T>(session: OracleSession, work: () => Promise<T>): Promise<T> {
  try {
    const result = await work();
    await session.commit();
    return result;
  } catch (error) {
    await session.rollback().catch(() => {}); // the server rolls back what a lost connection has left
    throw error;
  }
}
