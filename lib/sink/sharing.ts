/**
 * Sharing an entity's partitions among processes: each looks who is there and who has what, and all come to the same
 * plan, which is even within one partition and moves the fewest.
 * @module
 */

import type { Config } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { lastGeneratedId } from "../redis/streams.ts";
import type { Ownership, Shares } from "../targets/target.ts";
import { SharingRule } from "./sharing_rule.ts";

/** How often a process looks that has partitions, in ms; and one that waits for some. */
const LOOK_MS = 1000;
const WAITING_MS = 250;

/** The share of one process, looked at again and again. */
export class Sharing {
  #redis: RedisConnection;
  #ownership: Ownership;
  #partitions: PartitionKeys[];
  #process: string;
  #leaseSeconds: number;
  #fails: (stream: string) => boolean;
  #onGive: (stream: string) => void;
  #rule: SharingRule;
  #looked = Promise.withResolvers<void>();

  /**
   * @param options.fails whether a partition has failed again and again: where all do, others may do better
   * @param options.onGive called when a partition is to be given back, once its batch is done
   */
  constructor(
    redis: RedisConnection,
    ownership: Ownership,
    config: Config,
    partitions: PartitionKeys[],
    { process, fails, onGive }: {
      process: string;
      fails: (stream: string) => boolean;
      onGive: (stream: string) => void;
    },
  ) {
    this.#redis = redis;
    this.#ownership = ownership;
    this.#partitions = partitions;
    this.#process = process;
    this.#leaseSeconds = config.write_behind.lease_seconds;
    this.#fails = fails;
    this.#onGive = onGive;
    const streams = partitions.map(({ stream }) => stream);
    this.#rule = new SharingRule(process, streams, this.#leaseSeconds);
  }

  /** Whether the process may have a partition now. Waits for the first look. */
  async allows(stream: string): Promise<boolean> {
    await this.#looked.promise;
    return this.#rule.allows(stream);
  }

  /** Whether the process has a partition, and need not give it back. */
  keeps(stream: string): boolean {
    return this.#rule.keeps(stream);
  }

  /** A partition was taken, or was lost or given back. */
  note(stream: string, state: { isMine: boolean }): void {
    this.#rule.note(stream, state);
  }

  /** Looks until the signal is aborted. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let isMember = this.#rule.isWell(this.#fails);
      if (!isMember) {
        this.#rule.noteSource({ answers: await this.#answers() });
        isMember = this.#rule.isWell(this.#fails);
      }
      this.#rule.see(await this.#share(isMember), { isMember });
      this.#looked.resolve();
      for (const stream of this.#rule.gives) this.#onGive(stream);
      await delay(this.#rule.waits ? WAITING_MS : LOOK_MS, signal);
    }
    this.#looked.resolve();
  }

  /** Whether Redis answers: in a cluster, the node of what the process has, or would take, or of the first partition. */
  async #answers(): Promise<boolean> {
    const [stream = this.#partitions[0]!.stream] = this.#rule.tries;
    try {
      await lastGeneratedId(this.#redis.at(stream), stream);
      return true;
    } catch {
      return false; // whoever reads a partition tells why
    }
  }

  /** `null` where the target cannot tell now. */
  async #share(isMember: boolean): Promise<Shares | null> {
    try {
      return await this.#ownership.share!(this.#partitions, this.#process, {
        leaseSeconds: this.#leaseSeconds,
        isMember,
      });
    } catch {
      return null; // whoever claims a partition tells why
    }
  }

  /** Tells the others at once that it has gone. Never rejects. */
  async leave(): Promise<void> {
    await this.#share(false);
  }
}
