/**
 * What nobody tells, and the figures show: who took over, that the target has caught up, and on given servers all else.
 * @module
 */

import { counted } from "../../core/counted.ts";
import type { Figures } from "../../metrics/figures.ts";
import type { Happenings } from "./happened.ts";
import type { Reachable, StageSample } from "./watch.ts";

/** The target counts as caught up when its oldest missing event is younger, in seconds. */
const CAUGHT_UP_SECONDS = 0.5;
/** A shorter wait than this, in seconds, is not worth a line. */
const WORTH_TELLING_SECONDS = 1;
/** Partitions change hands together: one line tells of all, once none has followed for so long, in ms. */
const TOGETHER_MS = 700;
/** So many looks in a row that fail are no chance. */
const FAILED_LOOKS = 2;

/** A sink that was killed. */
interface Killed {
  name: string;
  /** in ms, by `performance.now()` */
  at: number;
  /** how many partitions it owned */
  count: number;
  /** those of them that nobody has taken yet */
  left: Set<string>;
  /** who has taken the others: it may be the killed one itself, back before the other looked again */
  by: Set<string>;
}

const streamsOf = ({ partitions }: Figures) => partitions.map(({ stream }) => stream).join();

/** Adds to the list what it notices. */
export class Notices {
  readonly #happened: Happenings;
  /** how many partitions there are */
  readonly #partitions: number;
  /** the sink that was killed last, and what it has left, until others have taken over all of it */
  #killed: Killed | undefined;
  /** the sink that owned a stream last */
  #owners = new Map<string, string>();
  /** sinks that have claimed some of several partitions, when last, and which is not told yet */
  #claims = new Map<string, number>();
  /** since when the target has to catch up after a fault, and with how much */
  #behind: { since: number; events: number; seconds: number } | undefined;
  #lag = { events: 0, seconds: 0 };
  #figures: Figures | null = null;
  #reachable: Reachable = { redis: true, target: true };
  /** how many looks in a row have failed, though the servers answer */
  #failedLooks = 0;

  constructor(happened: Happenings, partitions: number) {
    this.#happened = happened;
    this.#partitions = partitions;
  }

  /** Everything begins anew. */
  clear(): void {
    this.#killed = this.#behind = undefined;
    this.#owners.clear();
    this.#claims.clear();
    this.#lag = { events: 0, seconds: 0 };
    this.#figures = null;
    this.#failedLooks = 0;
  }

  /** The owner of some streams was killed, at a time in ms. */
  killed(name: string, at: number, owned: ReadonlySet<string>): void {
    // It may not have said yet that it has lost some, which the other has taken.
    const left = new Set([...owned].filter((stream) => this.#owners.get(stream) === name));
    if (left.size > 0) this.#killed = { name, at, count: left.size, left, by: new Set() };
  }

  /** A sink owns a stream from now on. */
  claimed(sink: string, stream: string): void {
    const before = this.#owners.get(stream);
    this.#owners.set(stream, sink);
    const killed = this.#killed;
    if (killed?.left.delete(stream)) return this.#tookOver(sink, killed);
    if (before === sink) return;
    if (this.#partitions > 1) this.#claims.set(sink, performance.now());
    else if (before === undefined) this.#happened.add("note", `sink ${sink} owns ${stream}`);
    else this.#happened.add("note", `sink ${sink} took over`);
  }

  #tookOver(sink: string, { name, at, count, left, by }: Killed): void {
    by.add(sink);
    if (left.size > 0) return;
    this.#killed = undefined;
    const seconds = ((performance.now() - at) / 1000).toFixed(1);
    const what = this.#partitions > 1 ? ` ${counted(count, "partition")}` : "";
    const sinks = by.size > 1 ? "sinks" : "sink";
    const names = [...by].sort();
    const who = names.map((one) => one === name ? `${one} (back again)` : one).join(" and ");
    const text = `${sinks} ${who} took over${what} after ${seconds} s`;
    this.#happened.add("mend", text, `${sinks} ${names.join(" and ")} took over`);
    this.faultIsOver();
  }

  /** Tells who has claimed some of several partitions. */
  #showClaims(): void {
    for (const [sink, at] of this.#claims) {
      if (performance.now() - at < TOGETHER_MS) continue;
      this.#claims.delete(sink);
      const owned = [...this.#owners.values()].filter((owner) => owner === sink).length;
      this.#happened.add("note", `sink ${sink} owns ${owned} of ${this.#partitions} partitions`);
    }
  }

  /** When the target has caught up, the list says so. */
  faultIsOver(): void {
    this.#behind = { since: Date.now(), ...this.#lag };
  }

  /**
   * Looks whether the figures could be read. Why not is told once, and only of a second look: the first may have met a
   * server that was just coming back.
   */
  looked(figures: Figures | null, trouble: string | null): void {
    if (trouble !== null) {
      this.#failedLooks++;
      if (this.#failedLooks !== FAILED_LOOKS) return;
      this.#happened.add("wrong", `the figures cannot be read: ${trouble}`);
    } else if (figures) {
      const told = this.#failedLooks >= FAILED_LOOKS;
      this.#failedLooks = 0;
      if (told) this.#happened.add("mend", "the figures can be read again");
    }
  }

  /** Looks at the figures of the stage's own servers. */
  ownServers(sample: StageSample | null, { target }: Reachable): void {
    this.#showClaims();
    if (!sample) return;
    const { at, lag: events, lagSeconds: seconds } = sample;
    this.#lag = { events, seconds };
    const behind = this.#behind;
    if (!behind || !target) return;
    behind.events = Math.max(behind.events, events);
    behind.seconds = Math.max(behind.seconds, seconds);
    if (at <= behind.since || seconds >= CAUGHT_UP_SECONDS) return;
    this.#behind = undefined;
    if (behind.seconds < WORTH_TELLING_SECONDS) return;
    const took = ((at - behind.since) / 1000).toFixed(1);
    const { events: most } = behind;
    const waiting = counted(most, "event", most.toLocaleString("en"));
    const text = `caught up ${took} s later, with ${waiting} waiting`;
    this.#happened.add("mend", text, "caught up");
  }

  /** Looks at the figures of given servers, whose sinks tell us nothing. */
  givenServers(figures: Figures | null, reachable: Reachable, targetName: string): void {
    const was = this.#reachable;
    this.#reachable = reachable;
    this.#answers("Redis", was.redis, reachable.redis);
    this.#answers(targetName, was.target, reachable.target);
    const before = this.#figures;
    this.#figures = figures ?? before;
    if (!before || !figures) return;
    // After a repartition, what is of other streams cannot be compared.
    if (streamsOf(before) !== streamsOf(figures)) return;
    const changed = figures.partitions.filter(({ owner }, index) =>
      owner !== before.partitions[index]!.owner
    );
    for (const [owner, streams] of Map.groupBy(changed, ({ owner }) => owner)) {
      this.#owner(
        streams.length === 1 ? streams[0]!.stream : counted(streams.length, "partition"),
        owner,
      );
    }
    if (before.parked === figures.parked) return; // what a repartition moves stays parked
    figures.partitions.forEach(({ stream, parked }, index) => {
      const then = before.partitions[index]!;
      const more = parked - then.parked;
      if (more > 0) {
        this.#happened.add("wrong", `${counted(more, "event")} of ${stream} parked`, "parked");
      }
      if (more < 0) {
        this.#happened.add("mend", `${counted(-more, "event")} of ${stream} no longer parked`);
      }
    });
  }

  #answers(who: string, did: boolean, does: boolean): void {
    if (did === does) return;
    if (does) this.#happened.add("mend", `${who} answers again`, `${who} is back`);
    else this.#happened.add("wrong", `${who} does not answer`, `${who} is away`);
  }

  #owner(what: string, owner: string | null): void {
    if (owner === null) this.#happened.add("wrong", `nobody owns ${what}`, "no owner");
    else this.#happened.add("note", `${owner} has taken ${what}`, "taken over");
  }
}
