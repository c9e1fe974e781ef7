/**
 * What happens, as typed events: the log, metrics, charts and tests listen to them.
 * @module
 */

import { checkArguments } from "./arguments.ts";
import type { ErrorKind } from "./error_kinds.ts";
import { asError } from "./errors.ts";

/** Where something happened. */
export interface Place {
  /** the entity's name */
  entity: string;
  /** its partition, from 0 */
  partition: number;
  /** the key of the partition's events, such as `stream:session` */
  stream: string;
  /** the target's name in the configuration */
  target: string;
  /** who reports it: a sink's process id and a random part, or a process id alone */
  process: string;
}

/** What a sink reports, by the names of its events. */
export interface SinkEvents {
  /** The sink owns the partition, and reads on from the offset. `again`: it owned it before, nobody is known to have done so since, and an attempt failed. */
  claimed: Place & { epoch: string; offset: string; again: boolean };
  /** Another sink owns the partition; this one waits for it. */
  standby: Place;
  /** Another sink has taken the partition. */
  lost: Place & { error: Error };
  /** The partition was given back. */
  released: Place;
  /** An operator has paused the target: its events are kept until it is resumed. */
  paused: Place;
  /**
   * The target `target` was so far behind that the stream was full, and its `on_full` is `detach`: it has lost its place,
   * and has to be added anew. `process`: the sink of another target, which has found it.
   */
  detached: Place;
  /** Giving the partition back failed: the next owner has to wait until the lease ends. Once a minute at most. */
  releaseFailed: Place & { error: Error };
  /**
   * In a cluster: the partition has moved to another node, and its search index could not be made there. Once a minute
   * at most.
   */
  indexNotKept: Place & { error: Error };
  /** The lease could not be renewed; it still holds for a while. Once a minute at most. */
  leaseNotRenewed: Place & { error: Error };
  /**
   * A batch is in the target. `durationMs`: how long applying it took. `freshnessMs`: from the write call to the row
   * being visible, of some of its events.
   */
  applied: Place & {
    events: number;
    rows: number;
    parked: number;
    noops: number;
    offset: string;
    durationMs: number;
    freshnessMs: number[];
  };
  /** An attempt to claim, read or apply failed, such as by a lost connection; it is made again. `failures`: in a row. */
  failed: Place & { kind: ErrorKind; failures: number; error: Error };
  /** A batch was applied after failures. `failures`: how many there were in a row. */
  recovered: Place & { failures: number };
  /** A batch was too much at once: the next ones have at most `batchSize` events. */
  halved: Place & { batchSize: number };
  /** An event was put in the dead letter. `documentId` is null where the entry is no event. */
  parked: Place & {
    streamId: string;
    documentId: string | null;
    sqlstate: string;
    reason: string;
  };
  /** The stream no longer holds the last event that the target applied: it is rewound. */
  wentBack: Place & { witness: string };
  /** The rewind has ended. `documents`: how many were resent. */
  rewound: Place & { documents: number };
  /**
   * The target has lost what it had committed after `offset`, up to `told`: such as by the promotion of a standby that
   * was behind. What the stream holds of it is applied again; what came in `missing` it does not hold.
   */
  offsetWentBack: Place & {
    offset: string;
    told: string;
    missing: { after: string; upTo: string } | null;
    reason: string;
  };
  /** Rows may be missing or old, and status says so until a verify has looked. */
  doubted: Place & { reason: string };
  /**
   * A batch's rows were neither written nor refused, by a trigger of the table; status says so until a verify has
   * looked. `rows`: how many; `documentIds`: five of them at most.
   */
  swallowed: Place & { rows: number; documentIds: string[] };
  /** Tables of ours were gone, and were made anew. */
  madeAnew: Place & { tables: string[] };
  /**
   * The typed columns of the table differ from the configuration: `deno task target migrate` makes them alike.
   * `differences`: for people. Told by the owner of the first partition, once as long as they are the same.
   */
  columnsDiffer: Place & { differences: string };
  /** A trim failed: the stream grows until one succeeds. Once a minute at most. */
  trimFailed: Place & { error: Error };
  /** What was applied could not be settled in a cache's Redis: it stays there until that succeeds. Once a minute at most. */
  settleFailed: Place & { error: Error };
  /** What is due could not be deleted: it stays until that succeeds. Once a minute at most. */
  dueFailed: Place & { error: Error };
  /**
   * An event was not noted by its writer, which knows of no cache: from then on no document is evicted any more, until
   * `deno task cache on` runs again. `streamId`: the event's.
   */
  notNoted: Place & { streamId: string };
  /**
   * With a cache: documents were sent again, of which Redis notes events that the target has passed, and which no row shows:
   * they were removed from the stream before they were read, or a trigger has swallowed their rows. `documents`: how many.
   */
  resent: Place & { documents: number };
  /** `/metrics` goes without what this server would say. Once a minute at most. */
  scrapeFailed: { entity: string; server: "redis" | "target"; error: Error };
  /** A listener failed; nothing else was affected. */
  listenerFailed: ListenerFailed;
}

/** What is reported of targets that have no sink yet. */
export interface TargetEvents {
  /** The target cannot be opened: it is tried again for ever, and the others go on. Once a minute at most. */
  notOpened: { target: string; error: Error };
  /** A listener failed; nothing else was affected. */
  listenerFailed: ListenerFailed;
}

/** What a connection to Redis reports, and what operators do by way of it. */
export interface RedisEvents {
  /** The connection was lost, or is still away; the client keeps trying. Once a minute at most. */
  connectionLost: { address: string; error: Error };
  /** The connection is back. */
  reconnected: { address: string };
  /** Counters and log lines could not be sent; they are kept and sent later. Once a minute at most. */
  countersNotSent: { address: string; error: Error };
  /** A document's parked events were replayed, the newest of them standing for all. */
  replayed: Place & {
    streamId: string;
    documentId: string | null;
    outcome: "applied" | "gone" | "failed";
    sqlstate: string;
    reason: string;
  };
  /** A listener failed; nothing else was affected. */
  listenerFailed: ListenerFailed;
}

/** What a listener failed with, and the event that it was called with. */
export interface ListenerFailed {
  /** the event's name */
  listensTo: string;
  /** what the listener threw, or rejected with */
  error: Error;
}

/** Gets one kind of event. What it throws, or rejects with, is reported as `listenerFailed` and harms nobody. */
export type Listener<Event> = (event: Event) => unknown;

/** Gets every kind of event, with its name. */
export type AnyListener<Events> = <Name extends keyof Events & string>(
  name: Name,
  event: Events[Name],
) => unknown;

/**
 * Typed events of one source. Emitting never fails and waits for nobody; with `EventTarget` and `node:events` a
 * listener that fails ends the process.
 */
export class Emitter<Events extends { listenerFailed: ListenerFailed }> {
  #listeners: { [Name in keyof Events]?: Set<Listener<Events[Name]>> } = Object.create(null);
  #all = new Set<AnyListener<Events>>();

  /**
   * Calls a listener with each event of a name.
   * @returns a function that ends this
   */
  on<Name extends keyof Events>(name: Name, listener: Listener<Events[Name]>): () => void {
    checkArguments("on", { listener });
    const listeners = this.#listeners[name] ??= new Set();
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  /**
   * Calls a listener with every event and its name.
   * @returns a function that ends this
   */
  onAll(listener: AnyListener<Events>): () => void {
    checkArguments("onAll", { listener });
    this.#all.add(listener);
    return () => void this.#all.delete(listener);
  }

  /** Calls all listeners of an event. */
  emit<Name extends keyof Events & string>(name: Name, event: Events[Name]): void {
    for (const listener of this.#listeners[name] ?? []) this.#call(name, () => listener(event));
    for (const listener of this.#all) this.#call(name, () => listener(name, event));
  }

  #call(name: string, listener: () => unknown): void {
    const failed = (error: unknown) => {
      if (name === "listenerFailed") return;
      const event: ListenerFailed = { listensTo: name, error: asError(error) };
      this.emit("listenerFailed", event);
    };
    try {
      const result = listener();
      if (result instanceof Promise) result.catch(failed);
    } catch (error) {
      failed(error);
    }
  }
}

/** How often something that keeps failing is reported, in ms. */
const REPEAT_MS = 60_000;

/** Lets the same report through once a minute, while what it reports lasts. */
export class OncePerMinute {
  #reported = new Map<string, number>();
  #now: () => number;

  /** @param now the clock, in ms */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether `what` may be reported now: it was not within the last minute. */
  allows(what: string): boolean {
    const now = this.#now();
    if (now - (this.#reported.get(what) ?? -Infinity) < REPEAT_MS) return false;
    this.#reported.set(what, now);
    return true;
  }

  /** It is over: when it comes back, it is reported at once. */
  over(what: string): void {
    this.#reported.delete(what);
  }
}
