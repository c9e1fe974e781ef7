/**
 * What the page's buttons do: their names, keys and words, in one list for the page, the keyboard and the server.
 * @module
 */

import type { Config } from "../../config/load.ts";

/** The names of all actions. */
export type ActionName =
  | "rate"
  | "burst"
  | "stopPostgres"
  | "startPostgres"
  | "kill"
  | "cut"
  | "poison"
  | "replay"
  | "promote"
  | "killRedis"
  | "verify"
  | "reset";

/**
 * What an action needs: nothing, leave to change the servers (`--control`), servers of the stage's own, or those with a
 * network that can be cut.
 */
export type Need = "nothing" | "control" | "own" | "network";

/** What is said where an action lacks what it needs. */
export const REFUSALS: Readonly<Record<Need, string>> = {
  nothing: "",
  control: "these servers are given, and only read: start with --control",
  own: "these servers are not the stage's own, and are not broken",
  network: "the network between these sinks and Redis cannot be cut",
};

/** One action. */
export interface Action {
  name: ActionName;
  /** the word on the button */
  label: string;
  /** the key that does the same, as the browser names it; the rate has keys of its own */
  key: string;
  need: Need;
  /** one sentence for who points at it */
  hint: string;
  /** where these are others in a cluster */
  inCluster?: Pick<Action, "label" | "hint">;
}

/** The most that the slider asks for, in documents a second. */
export const MAX_RATE = 100_000;
/** Documents in a burst. */
export const BURST = 5000;
/** How long the network is cut, in ms. */
export const CUT_MS = 5000;

/** All of them, in the order in which they stand on the page. */
export const ACTIONS: readonly Action[] = [
  {
    name: "rate",
    label: "Rate",
    key: "",
    need: "control",
    hint: "How many documents a second are written: ← and → change it, 0 stops",
  },
  {
    name: "burst",
    label: "Burst",
    key: "b",
    need: "control",
    hint: `Writes ${BURST} documents as fast as possible`,
  },
  {
    name: "stopPostgres",
    label: "Stop PostgreSQL",
    key: "p",
    need: "own",
    hint: "PostgreSQL ends like a crash; writers do not notice",
  },
  {
    name: "startPostgres",
    label: "Start PostgreSQL",
    key: "p",
    need: "own",
    hint: "PostgreSQL repairs its data, and the sink catches up",
  },
  {
    name: "kill",
    label: "Kill the sink",
    key: "k",
    need: "own",
    hint: "kill -9: the other sink takes over where this one stopped",
    inCluster: {
      label: "Kill a sink",
      hint: "kill -9 of the sink with the most partitions: the other takes over all of them",
    },
  },
  {
    name: "cut",
    label: "Cut the network",
    key: "n",
    need: "network",
    hint: `For ${CUT_MS / 1000} s nothing passes between the sinks and Redis`,
  },
  {
    name: "promote",
    label: "Promote the replica",
    key: "m",
    need: "own",
    hint: "Redis hands over to its replica, and the two change places",
    inCluster: {
      label: "Promote a replica",
      hint: "CLUSTER FAILOVER: the master with the most partitions and its replica change places",
    },
  },
  {
    name: "killRedis",
    label: "Kill Redis",
    key: "d",
    need: "own",
    hint: "kill -9 of the primary: its replica takes its place, and it comes back as the replica",
    inCluster: {
      label: "Kill a master",
      hint:
        "kill -9 of the master with the most partitions: the cluster makes its replica the master, " +
        "and it comes back as the replica",
    },
  },
  {
    name: "poison",
    label: "Poison a document",
    key: "x",
    need: "own",
    hint: "A document that PostgreSQL refuses: it is parked, and blocks nobody",
  },
  {
    name: "replay",
    label: "Mend and replay",
    key: "y",
    need: "control",
    hint: "What was parked is applied again",
  },
  {
    name: "verify",
    label: "Verify",
    key: "v",
    need: "nothing",
    hint: "Compares every document in Redis with its row",
  },
  {
    name: "reset",
    label: "Reset",
    key: "r",
    need: "own",
    hint: "Empties everything, and begins anew: press it twice",
  },
];

/** All actions, in the words of one Redis or of a cluster. */
export function actionsOf(config: Config): readonly Action[] {
  const isCluster = config.redis.cluster !== null;
  return ACTIONS.map(({ inCluster, ...action }) => ({ ...action, ...isCluster ? inCluster : {} }));
}
