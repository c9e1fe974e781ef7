/**
 * What nobody tells, and the figures show: who took over, that the target has caught up, and on given servers all else.
 * @module
 */

import type { Figures } from "../../metrics/figures.ts";
import type { Happenings } from "./happened.ts";
import type { Reachable, StageSample } from "./watch.ts";

/** The target counts as caught up when its oldest missing event is younger, in seconds. */
const CAUGHT_UP_SECONDS = 0.5;
/** A shorter wait than this, in seconds, is not worth a line. */
const WORTH_TELLING_SECONDS = 1;

/** Adds to the list what it notices. */
export class Notices {
  readonly #happened: Happenings;
  /** the sink that was killed last, until another has taken over */
  #killed: { name: string; at: number } | undefined;
  /** the sink that owned the stream last */
  #owners = new Map<string, string>();
  /** since when the target has to catch up after a fault, and with how much */
  #behind: { since: number; events: number; seconds: number } | undefined;
  #lag = { events: 0, seconds: 0 };
  #figures: Figures | null = null;
  #reachable: Reachable = { redis: true, target: true };

  constructor(happened: Happenings) {
    this.#happened = happened;
  }

  /** Everything begins anew. */
  clear(): void {
    this.#killed = this.#behind = undefined;
    this.#owners.clear();
    this.#lag = { events: 0, seconds: 0 };
    this.#figures = null;
  }

  /** The owner was killed, at a time in ms. */
  killed(name: string, at: number): void {
    this.#killed = { name, at };
  }

  /** A sink owns a stream from now on. */
  claimed(sink: string, stream: string): void {
    const before = this.#owners.get(stream);
    this.#owners.set(stream, sink);
    const killed = this.#killed;
    if (!killed || killed.name === sink) {
      if (before === undefined) this.#happened.add("note", `sink ${sink} owns ${stream}`);
      else if (before !== sink) this.#happened.add("note", `sink ${sink} took over`);
      return;
    }
    const seconds = ((Date.now() - killed.at) / 1000).toFixed(1);
    this.#killed = undefined;
    const text = `sink ${sink} took over after ${seconds} s`;
    this.#happened.add("mend", text, `sink ${sink} took over`);
    this.faultIsOver();
  }

  /** When the target has caught up, the list says so. */
  faultIsOver(): void {
    this.#behind = { since: Date.now(), ...this.#lag };
  }

  /** Looks at the figures of the stage's own servers. */
  ownServers(sample: StageSample | null, { target }: Reachable): void {
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
    const most = behind.events.toLocaleString("en");
    const text = `caught up ${took} s later: ${most} events were waiting`;
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
    figures.partitions.forEach(({ stream, owner, parked }, index) => {
      const then = before.partitions[index]!;
      if (owner !== then.owner) this.#owner(stream, owner);
      const more = parked - then.parked;
      if (more > 0) this.#happened.add("wrong", `${more} events of ${stream} parked`, "parked");
      if (more < 0) this.#happened.add("mend", `${-more} events of ${stream} no longer parked`);
    });
  }

  #answers(who: string, did: boolean, does: boolean): void {
    if (did === does) return;
    if (does) this.#happened.add("mend", `${who} answers again`, `${who} is back`);
    else this.#happened.add("wrong", `${who} does not answer`, `${who} is away`);
  }

  #owner(stream: string, owner: string | null): void {
    if (owner === null) this.#happened.add("wrong", `nobody owns ${stream}`, "no owner");
    else this.#happened.add("note", `${owner} owns ${stream}`, "taken over");
  }
}
