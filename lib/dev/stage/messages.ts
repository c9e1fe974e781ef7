/**
 * What the page is sent.
 * @module
 */

import type { Action, ActionName } from "./actions.ts";
import type { Happening } from "./happened.ts";
import type { MasterView } from "./nodes.ts";
import type { SinkView } from "./sinks.ts";
import type { CacheView, Reachable, StageSample, TargetView } from "./watch.ts";

/** The last comparison of everything. */
export interface VerifyView {
  running: boolean;
  /** how far it is, 0 to 1 */
  progress: number;
  /** documents that are not in the target as they should be; null where nothing was compared yet */
  lost: number | null;
  documents: number;
  parked: number;
  behind: number;
  /** when it ended, in ms since 1970 */
  at: number | null;
}

/** Everything that the page shows beside figures and happenings. */
export interface StageState {
  /** the servers are the stage's own */
  own: boolean;
  /** the actions that may be taken */
  allowed: ActionName[];
  /** those under way */
  busy: ActionName[];
  entity: string;
  /** documents a second that are asked for */
  rate: number;
  /** documents a second that are written, where that is less: as fast as possible; else null */
  asFastAsPossible: number | null;
  /** writes that were refused, or whose outcome is unknown */
  failed: number;
  reachable: Reachable;
  /** what the target is called that the figures are of */
  target: string;
  /** all of several targets; empty where there is one only */
  targets: readonly TargetView[];
  /** `null` where the entity has none */
  cache: CacheView | null;
  postgresRuns: boolean;
  /** ports, of a Redis of its own; `null` in a cluster */
  pair: { primary: number; replica: number } | null;
  /** where the partitions are; `null` where Redis is no cluster */
  masters: readonly MasterView[] | null;
  sinks: SinkView[];
  /** until when nothing passes, in ms since 1970 */
  cutUntil: number | null;
  verify: VerifyView;
}

/** What the page is sent, each as one message. */
export type StageMessage =
  | {
    kind: "hello";
    actions: readonly Action[];
    maxRate: number;
    samples: readonly StageSample[];
    happenings: readonly Happening[];
    state: StageState;
  }
  | { kind: "sample"; sample: StageSample }
  | { kind: "happened"; happening: Happening }
  | { kind: "state"; state: StageState }
  | { kind: "beat" }
  | { kind: "bye" };
