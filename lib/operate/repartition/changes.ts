/**
 * How a repartition changes Redis. One Redis takes all changes of a step at once. In a cluster no script sees more than one
 * slot, so each slot takes its own, and a replica has them too before it goes on: a failover takes back none of what the
 * next step builds on. All may be sent again, so whatever passes by itself is waited for.
 * @module
 */

import type { Buffer } from "node:buffer";
import type { Config } from "../../config/load.ts";
import { backoff, delay } from "../../core/delay.ts";
import { ConnectionError, reasonOf } from "../../core/errors.ts";
import { connectionErrorKind } from "../../core/error_kinds.ts";
import { failpoint } from "../../core/failpoints.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { durabilityOf } from "../../redis/durability.ts";
import { changeScript, runScript } from "../../redis/scripts/mod.ts";
import { slotOf } from "../../redis/slots.ts";

/** What is repartitioned, and how long what should pass by itself may take. */
export interface Scope {
  redis: RedisConnection;
  config: Config;
  entity: string;
  signal: AbortSignal;
  /** in ms */
  patienceMs: number;
}

/** A command of Redis, or another verb of `change.lua`, the key that it is about, and the rest of it. */
export type Change = readonly [verb: string, key: string, ...rest: (string | Buffer)[]];

/** Whether keys lie on several nodes. */
export const isCluster = ({ config }: Pick<Scope, "config">): boolean =>
  config.redis.cluster !== null;

/**
 * Makes changes: all stages at once, or in a cluster one after the other, each of them slot by slot.
 * @param place of a failpoint, before each slot's changes
 * @returns the keys that were not as `LAST`, `MARKED` or `FORGET` expect: nothing was done where they lie, nor later stages
 */
export async function change(
  scope: Scope,
  stages: readonly (readonly Change[])[],
  place = "changing",
): Promise<string[]> {
  if (!isCluster(scope)) {
    const { keys, args } = wordsOf(stages.flat());
    return await runScript(scope.redis, changeScript, keys, args) as string[];
  }
  for (const changes of stages) {
    const slots = Map.groupBy(changes, ([, key]) => slotOf(key));
    const odd = await Promise.all([...slots.values()].map(async (own) => {
      await failpoint?.(`repartition ${place}`);
      return await changeDurably(scope, own);
    }));
    if (odd.flat().length > 0) return odd.flat();
  }
  return [];
}

function wordsOf(changes: readonly Change[]): { keys: string[]; args: (string | Buffer)[] } {
  return {
    keys: [...new Set(changes.map(([, key]) => key))],
    args: changes.flatMap((words) => [String(words.length), ...words]),
  };
}

async function changeDurably(scope: Scope, changes: readonly Change[]): Promise<string[]> {
  const { redis, config } = scope;
  const { keys, args } = wordsOf(changes);
  return await patiently(scope, async () => {
    const node = redis.at(keys[0]!);
    const replicas = Math.max(durabilityOf(config).replicas, Math.min(1, await replicasOf(node)));
    const wait = { replicas, fsync: false };
    const { error, reply, unconfirmed } = await redis.runDurably(changeScript, keys, args, wait);
    if (error !== null) throw error;
    if (unconfirmed !== null) {
      throw new UnconfirmedError(`Redis at ${node.address}: ${unconfirmed}`);
    }
    return reply as string[];
  });
}

/** Changes that no replica has yet. */
class UnconfirmedError extends ConnectionError {}

/** How long the number of a node's replicas counts, in ms. */
const KNOWN_MS = 500;
const known = new WeakMap<RedisConnection, { at: number; count: Promise<number> }>();

/** How many replicas a node has now. */
function replicasOf(node: RedisConnection): Promise<number> {
  const last = known.get(node);
  if (last && performance.now() - last.at < KNOWN_MS) return last.count;
  const count = node.info("replication").then((text) =>
    Number(/connected_slaves:(\d+)/.exec(text)?.[1] ?? 0)
  );
  known.set(node, { at: performance.now(), count });
  count.catch(() => known.delete(node)); // who asked has the error
  return count;
}

/** Does what may be done again, until it goes well: over a failover, and while a slot moves to another node. */
export async function patiently<T>(scope: Scope, work: () => Promise<T>): Promise<T> {
  for (const patience = new Patience(scope);;) {
    try {
      return await work();
    } catch (error) {
      await patience.over(error);
    }
  }
}

/** Works on things, some at a time. Where that fails for one of them, no other is begun. */
export async function inLanes<T>(
  { signal }: Scope,
  lanes: number,
  things: readonly T[],
  work: (thing: T) => Promise<void>,
): Promise<void> {
  const left = [...things];
  const lane = async () => {
    try {
      while (left.length > 0) {
        signal.throwIfAborted();
        await work(left.shift()!);
      }
    } finally {
      left.length = 0;
    }
  };
  await Promise.all(Array.from({ length: Math.min(lanes, left.length) }, lane));
}

/**
 * What Redis answers where a slot moves, and a script names a key again that it has removed: from there on nothing was done,
 * and the key is looked for where the slot goes.
 */
const CUT = /attempted to access a non local key/;

/** How long the pauses before another attempt are, in ms. */
const AGAIN_MS = 20;
const AGAIN_MAX_MS = 500;

/** How long is waited for what should pass by itself, from when it is first there. */
export class Patience {
  #scope: Scope;
  #attempt = 0;
  #until: number | undefined;

  constructor(scope: Scope) {
    this.#scope = scope;
  }

  /** It goes on. */
  renew(): void {
    this.#attempt = 0;
    this.#until = undefined;
  }

  /** Waits a moment. @throws the error, where it does not pass, or has not in time */
  async over(error: unknown): Promise<void> {
    const { signal, patienceMs } = this.#scope;
    const now = performance.now();
    this.#until ??= now + patienceMs;
    const may = error instanceof UnconfirmedError || connectionErrorKind(error) === "transient" ||
      CUT.test(reasonOf(error));
    if (!may || now > this.#until) throw error;
    await delay(backoff(++this.#attempt, AGAIN_MS, AGAIN_MAX_MS), signal);
    signal.throwIfAborted();
  }
}
