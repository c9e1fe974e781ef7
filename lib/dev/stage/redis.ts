/**
 * What the stage does to a Redis of its own, whatever that is.
 * @module
 */

import type { Happenings } from "./happened.ts";
import type { Notices } from "./notices.ts";

/** Where it is told what is done to Redis. */
export interface Told {
  readonly happened: Happenings;
  readonly notices: Notices;
}

/** A Redis of the stage's own, and what is done to it. What is broken is told before what follows from it. */
export interface StageRedis extends AsyncDisposable {
  /** for writers, and for what watches; with the password */
  readonly url: string;
  /** for the sinks; with the password */
  readonly sinksUrl: string;
  /** the ports of a primary and its replica; `null` in a cluster */
  readonly pair: { primary: number; replica: number } | null;
  /** whether the network can be cut here */
  readonly canBeCut: boolean;
  /** Packets between the sinks and Redis vanish, until {@linkcode mend}. */
  cut(): void;
  /** What was held back arrives. */
  mend(): Promise<void>;
  /**
   * A primary hands over to its replica, with every write, and all clients go there.
   * @throws {Error} where that does not become the primary in time
   */
  promote(told: Told): Promise<void>;
  /**
   * Kills a primary, as a power cut would: its replica takes its place, and it comes back as the replica.
   * @throws {Error} where that does not become the primary in time
   */
  kill(told: Told): Promise<void>;
}
