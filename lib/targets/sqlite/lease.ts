/**
 * Ownership of partitions of a file: a lock of the operating system, which is gone with its process, and an epoch
 * that fences off earlier owners.
 * @module
 */

import { failpoint } from "../../core/failpoints.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { ownerName, ownershipLost } from "../common.ts";
import type { Claim, Ownership } from "../target.ts";
import type { Connections } from "./connection.ts";
import { leaseFile, takeLock } from "./files.ts";

/** Locks beside the file, epochs in `writebehind_offset`. */
export class SqliteOwnership implements Ownership {
  #connections: Connections;
  #prepare: (keys: PartitionKeys) => Promise<string[]>;
  #abandon: (keys: PartitionKeys, reason: Error) => void;
  /** by stream and owner: sinks of one process exclude each other too */
  #locks = new Map<string, { file: Deno.FsFile; epoch: string }>();

  /**
   * @param prepare checks an entity's tables and brings them up to date, before each claim; returns those of ours
   * that were gone
   * @param abandon lets the batch under way fail
   */
  constructor(
    connections: Connections,
    prepare: (keys: PartitionKeys) => Promise<string[]>,
    abandon: (keys: PartitionKeys, reason: Error) => void,
  ) {
    this.#connections = connections;
    this.#prepare = prepare;
    this.#abandon = abandon;
  }

  /** The lock has no end in time: it holds as long as the process lives. */
  async claim(keys: PartitionKeys, owner: string): Promise<Claim | null> {
    const { stream } = keys;
    const name = ownerName(stream, owner);
    const held = this.#locks.get(name);
    const file = held?.file ?? await takeLock(leaseFile(this.#connections.path, stream));
    if (file === null) return null;
    try {
      const madeAnew = await this.#prepare(keys);
      await failpoint?.("claiming");
      const claimed = await this.#connections.writer.call("claim", [stream, owner]);
      this.#locks.set(name, { file, epoch: claimed.epoch });
      return { keys, owner, ...claimed, madeAnew };
    } catch (error) {
      if (!held) file.close();
      throw error;
    }
  }

  async renew(claim: Claim): Promise<void> {
    const now = await this.#connections.reader.call("epoch", [claim.keys.stream]);
    if (now === claim.epoch) return;
    this.#unlock(claim);
    throw ownershipLost(claim.keys);
  }

  /** The worker goes on with the batch; the next claim comes behind it. */
  abandon({ keys }: Claim, reason: Error): void {
    this.#abandon(keys, reason);
  }

  release(_keys: PartitionKeys, claim: Claim | null): Promise<void> {
    if (claim !== null) this.#unlock(claim);
    return Promise.resolve();
  }

  /** Gives a claim's lock back, unless its owner has claimed anew by it. */
  #unlock({ keys, owner, epoch }: Claim): void {
    const name = ownerName(keys.stream, owner);
    const lock = this.#locks.get(name);
    if (lock?.epoch !== epoch) return;
    lock.file.close();
    this.#locks.delete(name);
  }

  async wentBack({ keys, epoch }: Claim): Promise<void> {
    await this.#connections.writer.call("wentBack", [keys.stream, epoch]);
  }

  async moveOffset({ stream }: PartitionKeys, offset: string, witness: string): Promise<void> {
    await this.#connections.writer.call("moveOffset", [stream, offset, witness]);
  }

  /** Gives all locks back. */
  close(): void {
    for (const { file } of this.#locks.values()) file.close();
    this.#locks.clear();
  }
}
