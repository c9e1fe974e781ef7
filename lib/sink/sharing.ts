/**
 * Sharing an entity's partitions among processes: each tells that it is there, looks who else is and who has what, and
 * all come to the same plan.
 * @module
 */

import type { Config } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import type { Ownership, Shares } from "../targets/target.ts";
import { SharingRule } from "./sharing_rule.ts";

/** How often a process looks that has partitions, in ms; and one that waits for some. */
const LOOK_MS = 1000;
const WAITING_MS = 250;

/** The share of one process, looked at again and again. */
export class Sharing {
  #ownership: Ownership;
  #partitions: PartitionKeys[];
  #process: string;
  #leaseSeconds: number;
  #fails: (stream: string) => boolean;
  #onGive: (stream: string) => void;
  #rule: SharingRule;
  /** why the target could not tell last who is there */
  #failure: unknown = null;
  #looked = Promise.withResolvers<void>();

  /**
   * @param options.fails whether a partition has failed again and again: where all do, others may do better
   * @param options.onGive called when a partition is to be given back, once its batch is done
   */
  constructor(
    ownership: Ownership,
    config: Config,
    partitions: PartitionKeys[],
    { process, fails, onGive }: {
      process: string;
      fails: (stream: string) => boolean;
      onGive: (stream: string) => void;
    },
  ) {
    this.#ownership = ownership;
    this.#partitions = partitions;
    this.#process = process;
    this.#leaseSeconds = config.write_behind.lease_seconds;
    this.#fails = fails;
    this.#onGive = onGive;
    const streams = partitions.map(({ stream }) => stream);
    this.#rule = new SharingRule(process, streams, this.#leaseSeconds);
  }

  /**
   * Whether the process may have a partition now. Waits for the first look.
   * @throws what the target has answered where it cannot tell: who only stands by would not notice that it is away
   */
  async allows(stream: string): Promise<boolean> {
    await this.#looked.promise;
    if (this.#rule.allows(stream)) return true;
    if (this.#failure !== null) throw this.#failure;
    return false;
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
      const isWell = this.#rule.isWell(this.#fails);
      this.#rule.see(await this.#share(isWell), { isWell });
      this.#looked.resolve();
      for (const stream of this.#rule.gives) this.#onGive(stream);
      await delay(this.#rule.waits ? WAITING_MS : LOOK_MS, signal);
    }
    this.#looked.resolve();
  }

  /** `null` where the target cannot tell now. */
  async #share(isMember: boolean): Promise<Shares | null> {
    try {
      const shares = await this.#ownership.share!(this.#partitions, this.#process, {
        leaseSeconds: this.#leaseSeconds,
        isMember,
      });
      this.#failure = null;
      return shares;
    } catch (error) {
      this.#failure = error; // whoever asks for a partition tells it
      return null;
    }
  }

  /** Tells the others at once that it has gone. Never rejects. */
  async leave(): Promise<void> {
    await this.#share(false);
  }
}
