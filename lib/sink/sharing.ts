/**
 * Sharing an entity's partitions among processes: each looks who is there and who has what, and all come to the same
 * plan, which is even within one partition and moves the fewest.
 * @module
 */

import type { Config } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import type { Ownership, Shares } from "../targets/target.ts";

/** How often a process looks that has partitions, in ms; and one that waits for some. */
const LOOK_MS = 1000;
const WAITING_MS = 250;
/** How long a process is no member, in ms, once all that it tries has failed again and again: then it tries anew. */
const UNWELL_MS = 60_000;
/** How long it keeps, in ms, what it has taken though another should have. */
const RESCUED_MS = 60_000;
/** How long it keeps what it has meanwhile, in ms: where all others fail as well, nobody would do better. */
const PATIENCE_MS = 5000;
/** How long what fails says nothing of the process, in ms, once the target was away: it was so for all of them. */
const AWAY_MS = 10_000;

/** What one process does about its partitions, by their streams. */
export interface Plan {
  /** those that nobody has, and that it may take */
  take: readonly string[];
  /** those that it has, and keeps */
  keep: readonly string[];
  /** those that are more than its share */
  give: readonly string[];
}

/**
 * The plan of one process. Where all see the same, no two take the same partition, everyone comes within one of the
 * others, and no partition moves that need not: who has the most may keep the one that is left over.
 *
 * A partition of somebody who is no member (one of an earlier version, or one that is stuck) is nobody's business.
 * @param me its name, which counts as a member's also where the others do not see it
 * @param streams all partitions
 */
export function planOf(me: string, { members, owners }: Shares, streams: readonly string[]): Plan {
  const held = new Map([...members, me].map((member): [string, string[]] => [member, []]));
  const free: string[] = [];
  for (const stream of streams) {
    const owner = owners.get(stream);
    if (owner === undefined) free.push(stream);
    else held.get(owner)?.push(stream);
  }
  const shared = [...held.values()].reduce((sum, { length }) => sum + length, free.length);
  const least = Math.floor(shared / held.size);
  const leftOver = shared % held.size;
  const byCount = [...held].sort(([a, { length: most }], [b, { length }]) =>
    length - most || (a < b ? -1 : 1)
  );
  let next = 0;
  for (const [index, [member, { length }]] of byCount.entries()) {
    const share = least + (index < leftOver ? 1 : 0);
    const lacks = Math.max(0, share - length);
    if (member === me) {
      const mine = held.get(me)!;
      return {
        take: free.slice(next, next + lacks),
        keep: mine.slice(0, share),
        give: mine.slice(share),
      };
    }
    next += lacks;
  }
  throw new Error("it is a member itself");
}

/** The share of one process, looked at again and again. */
export class Sharing {
  #ownership: Ownership;
  #partitions: PartitionKeys[];
  #process: string;
  #leaseSeconds: number;
  #fails: (stream: string) => boolean;
  #onGive: (stream: string) => void;
  /** since when it is no member, and until when, by `performance.now()` */
  #unwell = { since: Infinity, until: -Infinity };
  /** when the target could tell nothing last, by `performance.now()` */
  #awayAt = -Infinity;
  /** since when nobody has had a partition, by `performance.now()` */
  #freeSince = new Map<string, number>();
  /** until when partitions are kept that another should have taken, and had not for long */
  #rescued = new Map<string, number>();
  #mine = new Set<string>();
  #plan: Plan | null = null;
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
  }

  /** Whether the process may have a partition now. Waits for the first look. */
  async allows(stream: string): Promise<boolean> {
    await this.#looked.promise;
    if (this.#plan === null) return true; // it cannot be known: whoever is first has it
    const { take, keep } = this.#plan;
    return take.includes(stream) || keep.includes(stream) || this.keeps(stream) ||
      this.#isLeft(stream);
  }

  /** Whether the process has a partition, and need not give it back. */
  keeps(stream: string): boolean {
    return this.#plan === null || this.#mine.has(stream) && !this.#plan.give.includes(stream);
  }

  /** Whether nobody has had a partition for longer than a lease: whatever the plan says, it is anybody's then. */
  #isLeft(stream: string): boolean {
    const since = this.#freeSince.get(stream) ?? Infinity;
    return performance.now() - since > 1000 * this.#leaseSeconds;
  }

  /** A partition was taken, or was lost or given back. */
  note(stream: string, { isMine }: { isMine: boolean }): void {
    if (!isMine) {
      this.#mine.delete(stream);
      return;
    }
    this.#mine.add(stream);
    if (this.#isLeft(stream)) this.#rescued.set(stream, performance.now() + RESCUED_MS);
    this.#freeSince.delete(stream);
  }

  /** Looks until the signal is aborted. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    let surplus: readonly string[] = [];
    while (!signal.aborted) {
      const isWell = this.#isWell();
      const shares = await this.#share(isWell);
      const isAlone = shares?.members.every((member) => member === this.#process);
      if (shares === null) {
        this.#awayAt = performance.now();
        this.#plan = null;
      } else if (!isWell && !isAlone) {
        const mine = [...this.#mine];
        const gives = performance.now() - this.#unwell.since > PATIENCE_MS;
        this.#plan = { take: [], keep: gives ? [] : mine, give: gives ? mine : [] };
        this.#freeSince.clear();
      } else {
        const streams = this.#partitions.map(({ stream }) => stream);
        const known = this.#withMine(shares);
        this.#noteFree(streams, known);
        const plan = planOf(this.#process, known, streams);
        // Looked at twice: who comes and goes at once moves nothing.
        const isRescued = (stream: string) =>
          performance.now() < (this.#rescued.get(stream) ?? -Infinity);
        const give = plan.give.filter((stream) => surplus.includes(stream) && !isRescued(stream));
        surplus = plan.give;
        this.#plan = { ...plan, give };
      }
      this.#looked.resolve();
      const { give = [], take = [] } = this.#plan ?? {};
      for (const stream of give) if (this.#mine.has(stream)) this.#onGive(stream);
      await delay(this.#mine.size > 0 && take.length === 0 ? LOOK_MS : WAITING_MS, signal);
    }
    this.#looked.resolve();
  }

  /** Whether the others may count on it: not where all fails that it has, or would take. */
  #isWell(): boolean {
    const tried = [...this.#mine, ...this.#plan?.take ?? []];
    const now = performance.now();
    if (now - this.#awayAt < AWAY_MS) this.#unwell = { since: Infinity, until: -Infinity };
    else if (tried.length > 0) {
      this.#unwell = tried.every(this.#fails)
        ? { since: Math.min(this.#unwell.since, now), until: now + UNWELL_MS }
        : { since: Infinity, until: -Infinity };
    }
    const isWell = now >= this.#unwell.until;
    if (isWell) this.#unwell.since = Infinity;
    return isWell;
  }

  #noteFree(streams: readonly string[], { owners }: Shares): void {
    for (const stream of streams) {
      if (owners.has(stream)) this.#freeSince.delete(stream);
      else if (!this.#freeSince.has(stream)) this.#freeSince.set(stream, performance.now());
    }
  }

  /** What it has taken meanwhile is known better here; what it takes just now, there. */
  #withMine({ members, owners }: Shares): Shares {
    const known = new Map(owners);
    for (const stream of this.#mine) known.set(stream, this.#process);
    return { members, owners: known };
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
