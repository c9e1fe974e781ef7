/**
 * Ownership of partitions in Kafka: a lock (a group whose leader holds it, for as long as the broker hears of it), the
 * transactional id that fences off earlier owners, and an epoch that tells a claim from a later one.
 * @module
 */

import { failpoint } from "../../core/failpoints.ts";
import { awaitedLater } from "../../core/promises.ts";
import { WriteBehindError } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { ownerName, ownershipLost } from "../common.ts";
import type { Claim, Ownership } from "../target.ts";
import { GroupLock, isHeld } from "./locks.ts";
import { changing, lockOf, Session, type Shared } from "./session.ts";
import { changedIn } from "./states.ts";

/** A partition that a sink of this process owns. */
interface Owned {
  lock: GroupLock;
  session: Session;
  /** of the newest claim */
  epoch: string;
}

const OVER = () => new WriteBehindError("Connection closed: the partition was given back");

/** Locks by groups, epochs in the topic `writebehind_offset`. */
export class KafkaOwnership implements Ownership {
  #shared: Shared;
  #prepare: (keys: PartitionKeys) => Promise<string[]>;
  /** by stream and owner: sinks of one process exclude each other too */
  #owned = new Map<string, Owned>();

  /**
   * @param prepare makes an entity's topics where they are missing, before each claim; returns those of ours that were
   * gone
   */
  constructor(shared: Shared, prepare: (keys: PartitionKeys) => Promise<string[]>) {
    this.#shared = shared;
    this.#prepare = prepare;
  }

  /** The session of a claim; `null` where its owner has claimed again, or given it back. */
  sessionIfHeld({ keys, owner, epoch }: Claim): Session | null {
    const owned = this.#owned.get(ownerName(keys.stream, owner));
    return owned?.epoch === epoch ? owned.session : null;
  }

  /**
   * The session of a claim.
   * @throws {OwnershipLostError} where its owner has claimed again, or given it back
   */
  sessionOf(claim: Claim): Session {
    const session = this.sessionIfHeld(claim);
    if (session === null) throw ownershipLost(claim.keys);
    return session;
  }

  async claim(keys: PartitionKeys, owner: string, leaseSeconds: number): Promise<Claim | null> {
    const { address, client } = this.#shared;
    const name = ownerName(keys.stream, owner);
    const group = lockOf(this.#shared, keys.stream);
    const held = this.#owned.get(name);
    let lock = held && await held.lock.keep() ? held.lock : null;
    if (held && !lock) await this.#drop(name, held);
    if (!lock && await isHeld(client, group)) return null;
    const madeAnew = await this.#prepare(keys);
    lock ??= await GroupLock.take(address, group, owner, 1000 * leaseSeconds);
    if (!lock) return null;
    const session = new Session(this.#shared, keys, { isOwner: true });
    try {
      await failpoint?.("claiming");
      await session.alone(() =>
        session.writeState((state) => ({
          ...state,
          epoch: String(BigInt(state.epoch) + 1n),
          owner,
        }))
      );
    } catch (error) {
      await session.end(OVER());
      if (lock !== held?.lock) await lock.leave();
      throw error;
    }
    const former = this.#owned.get(name);
    const { epoch, last_id, witness, parked_version } = session.state;
    this.#owned.set(name, { lock, session, epoch });
    await former?.session.end(ownershipLost(keys));
    return {
      keys,
      owner,
      epoch,
      offset: last_id,
      witness,
      hasParked: this.#shared.letters.parkedOf(keys.stream).length > 0,
      parkedVersion: parked_version,
      madeAnew,
    };
  }

  async renew(claim: Claim): Promise<void> {
    const name = ownerName(claim.keys.stream, claim.owner);
    const owned = this.#owned.get(name);
    if (owned?.epoch !== claim.epoch) throw ownershipLost(claim.keys);
    if (await owned.lock.keep()) return;
    await this.#drop(name, owned);
    throw ownershipLost(claim.keys);
  }

  /** Nothing more is sent of the batch: what was sent is committed whole, or ended by the next claim. */
  abandon(claim: Claim, reason: Error): void {
    const ended = this.sessionIfHeld(claim)?.end(reason);
    if (ended) void awaitedLater(ended);
  }

  async release({ stream }: PartitionKeys, claim: Claim | null): Promise<void> {
    if (claim === null) return;
    const name = ownerName(stream, claim.owner);
    const owned = this.#owned.get(name);
    // An owner that has claimed anew goes on.
    if (owned?.epoch !== claim.epoch) return;
    await this.#drop(name, owned);
  }

  async #drop(name: string, { session, lock }: Owned): Promise<void> {
    this.#owned.delete(name);
    await session.end(OVER());
    await lock.leave();
  }

  async wentBack(claim: Claim): Promise<void> {
    const session = this.sessionOf(claim);
    await session.alone(() =>
      session.writeState((state) =>
        state.epoch !== claim.epoch ? null : {
          ...state,
          witness: "0-0",
          went_back: state.went_back + 1,
          went_back_at: new Date().toISOString(),
        }
      )
    );
  }

  async moveOffset(keys: PartitionKeys, offset: string, witness: string): Promise<void> {
    await changing(this.#shared, keys, (session) =>
      session.writeState((state) => ({
        ...changedIn(state),
        last_id: offset,
        witness,
      })));
  }

  /** Gives all partitions back. */
  async close(): Promise<void> {
    const dropped = [...this.#owned].map(([name, owned]) => this.#drop(name, owned));
    // What cannot be given back any more ends by itself.
    await Promise.allSettled(dropped);
  }
}
