/**
 * The targets of an entity that is repartitioned: whether they hold all, and what they are told of the new streams.
 * @module
 */

import type { Config } from "../../config/load.ts";
import type { Shape } from "../../config/shapes.ts";
import { ConfigError, WriteBehindError } from "../../core/errors.ts";
import { failpoint } from "../../core/failpoints.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { allPartitions, type PartitionKeys } from "../../redis/keys.ts";
import {
  readRegistration,
  readRegistrations,
  register,
  type Registration,
  setState,
} from "../../redis/registrations.ts";
import { assess, checkBelonging } from "../../sink/belonging.ts";
import { goalOf, isReached } from "../../sink/goal.ts";
import type { Target } from "../../targets/target.ts";
import type { Paused, RepartitionState } from "./state.ts";

/** A target that holds what is in the streams, or is to. */
export interface Carried {
  target: Target;
  name: string;
}

/** Whether events are kept for a target. */
const counts = (registration: Registration | null) =>
  registration?.state !== "removed" && registration?.state !== "detached";

/**
 * The targets that count.
 * @throws {ConfigError} where one is not there, or cannot be taken along
 */
export async function carriedTargets(
  redis: RedisConnection,
  targets: readonly Target[],
  config: Config,
  entity: string,
  from: Shape,
): Promise<Carried[]> {
  const given = new Map(targets.map((target) => [target.describe().name, target]));
  const carried = new Map(given);
  for (const keys of allPartitions(config, entity, from)) {
    const { stream } = keys;
    for (const registration of await readRegistrations(redis, keys)) {
      const { name, state } = registration;
      if (!counts(registration)) carried.delete(name);
      else if (state === "filling") {
        throw new ConfigError(
          `Cannot repartition ${entity}: the target ${name} is being added (${stream}); run deno task target add ${name} ` +
            "to its end first",
        );
      } else if (!given.has(name)) {
        throw new ConfigError(
          `Cannot repartition ${entity}: ${stream} is kept for the target ${name}, which is not in the configuration; ` +
            `name it there, or run deno task target remove ${name}`,
        );
      }
    }
  }
  return [...carried].map(([name, target]) => ({ name, target }));
}

/** A target that lacks something, for people. */
export interface Behind {
  reason: string;
  /** whether somebody carries events on to it */
  is: "owned" | "paused" | "alone";
}

/**
 * Looks which target lacks events of the streams.
 * @returns the first that does; `null` where all hold all
 */
export async function behind(
  redis: RedisConnection,
  carried: readonly Carried[],
  partitions: readonly PartitionKeys[],
): Promise<Behind | null> {
  for (const { name, target } of carried) {
    for (const keys of partitions) {
      const { stream } = keys;
      const goal = await goalOf(redis, target.offsets, keys);
      const { is: how, offset } = await isReached(redis, target.offsets, keys, goal);
      if (how === "reached") continue;
      const { live } = await target.offsets.standing(keys, { waits: false });
      const state = (await readRegistration(redis, keys, name))?.state ?? "active";
      const is = state === "paused" ? state : live ? "owned" : "alone";
      const hints = {
        owned: "see the last error in deno task status",
        paused: `it is paused: run deno task target resume ${name}`,
        alone: "no sink owns it: start one",
      };
      return {
        reason: how === "behind"
          ? `the target ${name} is behind: ${stream} is at ${offset}, not at ${goal.id}; ${
            hints[is]
          }`
          : `${stream} has gone back, and is to be rewound for the target ${name}; ${hints[is]}`,
        is,
      };
    }
  }
  return null;
}

/** How far all are together, to see whether they move. */
export async function offsetsOf(
  carried: readonly Carried[],
  partitions: readonly PartitionKeys[],
): Promise<string> {
  const offsets = carried.flatMap(({ target }) =>
    partitions.map((keys) => target.offsets.offset(keys))
  );
  return (await Promise.all(offsets)).join();
}

/** @throws where a target keeps parked events that it cannot take along */
export async function checkParked(
  carried: readonly Carried[],
  entity: string,
  partitions: readonly PartitionKeys[],
): Promise<void> {
  for (const { name, target } of carried) {
    if (target.deadLetters?.move) continue;
    for (const keys of partitions) {
      const { parked } = await target.offsets.standing(keys, { waits: false });
      if (parked === 0) continue;
      throw new WriteBehindError(
        `Cannot repartition ${entity}: ${parked} events of ${keys.stream} are parked in ${name}, which cannot move them; ` +
          `replay or discard them first, see deno task dead-letter --target ${name}`,
      );
    }
  }
}

/** Sees that the targets belong to the streams. @returns why rows may be missing, by target */
export async function doubtsOf(
  redis: RedisConnection,
  carried: readonly Carried[],
  config: Config,
  entity: string,
): Promise<Record<string, string>> {
  const doubts: Record<string, string> = {};
  for (const { name, target } of carried) {
    await checkBelonging(redis, target, config, entity);
    const found = new Set<string>();
    for (const keys of allPartitions(config, entity)) {
      const { belonging, doubts: now } = await assess(redis, target, config, keys);
      for (const reason of [...belonging.doubt ? [belonging.doubt.reason] : [], ...now]) {
        found.add(reason);
      }
    }
    if (found.size > 0) doubts[name] = [...found].join("; ");
  }
  return doubts;
}

/** What each target may do with each stream now. */
export async function statesOf(
  redis: RedisConnection,
  carried: readonly Carried[],
  partitions: readonly PartitionKeys[],
): Promise<Paused[]> {
  const found: Paused[] = [];
  for (const keys of partitions) {
    for (const { name } of carried) {
      const state = (await readRegistration(redis, keys, name))?.state ?? null;
      found.push({ stream: keys.stream, target: name, state });
    }
  }
  return found;
}

/** Pauses all, so that their sinks give the partitions back. */
export async function pauseAll(
  redis: RedisConnection,
  { targets }: Config,
  partitions: readonly PartitionKeys[],
  paused: readonly Paused[],
): Promise<void> {
  for (const { stream, target: name } of paused) {
    const keys = partitions.find((one) => one.stream === stream)!;
    if (await setState(redis, keys, name, "paused")) continue;
    const onFull = targets.find((target) => target.name === name)?.on_full ?? "stop";
    const registration = { name, state: "paused", offset: "0-0", witness: "0-0", onFull } as const;
    await register(redis, keys, registration);
  }
}

/** Lets them go on as before. */
export async function resumeAll(
  redis: RedisConnection,
  partitions: readonly PartitionKeys[],
  paused: readonly Paused[],
): Promise<void> {
  for (const { stream, target, state } of paused) {
    const keys = partitions.find((one) => one.stream === stream)!;
    if (state === null) await redis.hdel(keys.settings, `target:${target}`);
    else await setState(redis, keys, target, state);
  }
}

/** Whether a sink has one of the partitions. @returns which, for people */
export async function owned(
  carried: readonly Carried[],
  partitions: readonly PartitionKeys[],
): Promise<string | null> {
  for (const { name, target } of carried) {
    for (const keys of partitions) {
      const { live, owner } = await target.offsets.standing(keys, { waits: false });
      if (live) return `the sink ${owner} of ${name} has ${keys.stream} still; stop that one`;
    }
  }
  return null;
}

/** What is said in between; it is taken back where nothing else was in doubt. */
const MOVED = "repartitioned";

/** Lets the targets go on with the new streams, and moves what is parked. */
export async function moveTargets(
  carried: readonly Carried[],
  config: Config,
  entity: string,
  { from, to, base, identity, doubts }: RepartitionState,
): Promise<void> {
  const olds = allPartitions(config, entity, from);
  const news = allPartitions(config, entity, to);
  const streams = news.map(({ stream }) => stream);
  const others = olds.map(({ stream }) => stream).filter((stream) => !streams.includes(stream));
  for (const { name, target: { migrate, identities, deadLetters }, target } of carried) {
    await migrate.call(target, entity);
    for (const keys of news) {
      const doubt = doubts[name] ?? MOVED;
      await identities.adopt(keys, {
        ...{ source: identity, offset: base, witness: "0-0", others, doubt },
      });
      if (doubt !== MOVED) continue;
      const noted = (await identities.read(keys, streams)).doubt;
      if (noted?.reason === MOVED) await identities.settle(keys, noted);
    }
    for (const keys of olds) await deadLetters?.move?.(keys, news);
    await failpoint?.("repartition targets");
  }
}
