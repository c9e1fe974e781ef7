/**
 * The rule by which processes share an entity's partitions: who is to have which, by what each sees of the others. It
 * asks nobody, and reads no clock but its process's own, of which only differences count.
 * @module
 */

import type { Shares } from "../targets/target.ts";

/** How long a process is no member, in ms, once all that it tries has failed again and again: then it tries anew. */
const UNWELL_MS = 60_000;
/** How long it keeps, in ms, what it has taken though another should have. */
const RESCUED_MS = 60_000;
/**
 * How long it waits, in ms, for what others may do by themselves: it keeps what fails, since all others may fail as well,
 * and after an outage it takes nothing and gives nothing, since they may not be back.
 */
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
 * others, and no partition moves that need not: what is left over stays where it is.
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
  // Not by how much more: that changes while others give theirs, and what is kept would be given a little later.
  const byCount = [...held].sort(([a, { length: most }], [b, { length }]) =>
    Number(length > least) - Number(most > least) || (a < b ? -1 : 1)
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

/** What one process knows of the partitions, and is to do about them. */
export class SharingRule {
  #process: string;
  #streams: readonly string[];
  #leaseMs: number;
  #now: () => number;
  /** since when it is no member, and until when */
  #unwell = { since: Infinity, until: -Infinity };
  /** when the target could tell nothing last */
  #awayAt = -Infinity;
  /** since when nobody has had a partition */
  #freeSince = new Map<string, number>();
  /** until when partitions are kept that another should have taken, and had not for long */
  #rescued = new Map<string, number>();
  #mine = new Set<string>();
  /** `null` before the first look at what is there */
  #plan: Plan | null = null;
  /** what was more than its share at the look before */
  #surplus: readonly string[] = [];

  /**
   * @param process its name
   * @param streams of all partitions
   * @param leaseSeconds how long a lease holds that nobody renews
   * @param now its clock, in ms
   */
  constructor(
    process: string,
    streams: readonly string[],
    leaseSeconds: number,
    now: () => number = () => performance.now(),
  ) {
    this.#process = process;
    this.#streams = streams;
    this.#leaseMs = 1000 * leaseSeconds;
    this.#now = now;
  }

  /** Whether the process may have a partition now. */
  allows(stream: string): boolean {
    if (this.#plan === null) return true; // it cannot be known: whoever is first has it
    const { take, keep } = this.#plan;
    return take.includes(stream) || keep.includes(stream) || this.keeps(stream) ||
      this.#isLeft(stream);
  }

  /** Whether the process has a partition, and need not give it back. */
  keeps(stream: string): boolean {
    return this.#plan === null || this.#mine.has(stream) && !this.#plan.give.includes(stream);
  }

  /** What it has and is to give back. */
  get gives(): string[] {
    return this.#plan?.give.filter((stream) => this.#mine.has(stream)) ?? [];
  }

  /** Whether there is something that it has to wait for. */
  get waits(): boolean {
    return this.#mine.size === 0 || this.#plan !== null && this.#plan.take.length > 0;
  }

  /** Whether nobody has had a partition for longer than a lease: whatever the plan says, it is anybody's then. */
  #isLeft(stream: string): boolean {
    return this.#now() - (this.#freeSince.get(stream) ?? Infinity) > this.#leaseMs;
  }

  /** A partition was taken, or was lost or given back. */
  note(stream: string, { isMine }: { isMine: boolean }): void {
    if (!isMine) {
      this.#mine.delete(stream);
      return;
    }
    this.#mine.add(stream);
    if (this.#isLeft(stream)) this.#rescued.set(stream, this.#now() + RESCUED_MS);
    this.#freeSince.delete(stream);
  }

  /**
   * Whether the others may count on it: not where all fails that it has, or would take.
   * @param fails whether a partition has failed again and again
   */
  isWell(fails: (stream: string) => boolean): boolean {
    const tried = [...this.#mine, ...this.#plan?.take ?? []];
    const now = this.#now();
    if (now - this.#awayAt < AWAY_MS) this.#unwell = { since: Infinity, until: -Infinity };
    else if (tried.length > 0) {
      this.#unwell = tried.every(fails)
        ? { since: Math.min(this.#unwell.since, now), until: now + UNWELL_MS }
        : { since: Infinity, until: -Infinity };
    }
    const isWell = now >= this.#unwell.until;
    if (isWell) this.#unwell.since = Infinity;
    return isWell;
  }

  /**
   * Makes the plan of what is there.
   * @param shares `null` where the target cannot tell: then it keeps what it has, and takes nothing
   * @param options.isWell whether the process counts among the members
   */
  see(shares: Shares | null, { isWell }: { isWell: boolean }): void {
    const now = this.#now();
    const mine = [...this.#mine];
    if (shares === null) {
      this.#awayAt = now;
      this.#plan &&= { take: [], keep: mine, give: [] };
      return;
    }
    const isAlone = shares.members.every((member) => member === this.#process);
    if (!isWell && !isAlone) {
      const gives = now - this.#unwell.since > PATIENCE_MS;
      this.#plan = { take: [], keep: gives ? [] : mine, give: gives ? mine : [] };
      this.#freeSince.clear();
      return;
    }
    const known = this.#withMine(shares);
    this.#noteFree(known);
    const plan = planOf(this.#process, known, this.#streams);
    // Looked at twice: who comes and goes at once moves nothing.
    const isSurplus = (stream: string) =>
      this.#surplus.includes(stream) && now >= (this.#rescued.get(stream) ?? -Infinity);
    const give = plan.give.filter(isSurplus);
    this.#surplus = plan.give;
    const areBack = now - this.#awayAt >= PATIENCE_MS;
    this.#plan = areBack
      ? { ...plan, give }
      : { take: [], keep: [...plan.keep, ...plan.give], give: [] };
  }

  #noteFree({ owners }: Shares): void {
    for (const stream of this.#streams) {
      if (owners.has(stream)) this.#freeSince.delete(stream);
      else if (!this.#freeSince.has(stream)) this.#freeSince.set(stream, this.#now());
    }
  }

  /** What it has taken meanwhile is known better here; what it takes just now, there. */
  #withMine({ members, owners }: Shares): Shares {
    const known = new Map(owners);
    for (const stream of this.#mine) known.set(stream, this.#process);
    return { members, owners: known };
  }
}
