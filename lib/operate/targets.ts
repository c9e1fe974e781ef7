/**
 * The targets of a pipeline: which ones there are, and pausing and removing one while everything runs.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import type { Config } from "../config/load.ts";
import { ConfigError, reasonOf } from "../core/errors.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import { checkUncached } from "../redis/cache_state.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, groupOf, type PartitionKeys, targetsWith } from "../redis/keys.ts";
import { readLag } from "../redis/lag.ts";
import {
  hasPlace,
  readRegistrations,
  register,
  type Registration,
  setState,
  type TargetState,
} from "../redis/registrations.ts";
import { checkShape, lookAtShape } from "../redis/shape.ts";
import { isNoKey } from "../redis/streams.ts";
import { hasWitness } from "../sink/rewind.ts";
import { isSource } from "../sink/settler.ts";

/** A target of a stream. */
export interface ListedTarget {
  /** its name */
  name: string;
  /** the key of the events, such as `stream:session` */
  stream: string;
  /** what it is; `null` where the configuration does not name it */
  kind: string | null;
  /** what it may do with the stream; `null` where no sink has ever registered it */
  state: TargetState | null;
  /** the offset that it has told last; `null` where it has told none */
  offset: string | null;
  /** events behind that offset; all where it has told none */
  lagEvents: number;
  /** whether the stream is trimmed no further because of it */
  holdsUp: boolean;
  /** whether its offset is of the stream as it was before that went back: its sink has to rewind it */
  goneBack: boolean;
}

/**
 * Lists the targets that the configuration or the streams of an entity name, by what the streams say: no target is asked.
 *
 * @example
 * ```ts
 * import { connectRedis, listTargets, loadConfig } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * for (const { name, stream, state, lagEvents } of await listTargets(redis, config, "session")) {
 *   console.log(name, stream, state, lagEvents);
 * }
 * ```
 */
export async function listTargets(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<ListedTarget[]> {
  checkArguments("listTargets", { redis, config, entity });
  const { shape } = await lookAtShape(redis, config, entity);
  const listed: ListedTarget[] = [];
  for (const keys of allPartitions(config, entity, shape)) {
    const { stream } = keys;
    const known = new Map((await readRegistrations(redis, keys)).map((one) => [one.name, one]));
    const names = [...targetsWith(config, keys).map(({ name }) => name), ...known.keys()];
    const counting = [...new Set(names)].filter((name) => holds(known.get(name)));
    const offsets = counting.map((name) => known.get(name)?.offset ?? "0-0");
    const lowest = offsets.sort(compareStreamIds)[0];
    for (const name of new Set(names)) {
      const registration = known.get(name);
      const offset = registration?.offset ?? null;
      const witness = holds(registration) && registration?.witness || "0-0";
      const goneBack = !await hasWitness(redis, keys, witness);
      const [lag] = await readLag(redis, [{ stream, offset: offset ?? "0-0" }]);
      listed.push({
        name,
        stream,
        kind: config.targets.find((target) => target.name === name)?.kind ?? null,
        state: registration?.state ?? null,
        offset,
        lagEvents: lag!.events,
        holdsUp: goneBack ||
          lag!.events > 0 && holds(registration) && (offset ?? "0-0") === lowest,
        goneBack,
      });
    }
  }
  return listed;
}

/** Whether the events that a target lacks are kept for it; one that nobody has registered may lack all. */
function holds(registration: Registration | undefined): boolean {
  return registration === undefined || hasPlace(registration.state);
}

/**
 * Stops carrying events on to a target, which keeps its place: its events stay in the streams until it is resumed.
 * A sink sees it within about a second.
 * @throws {ConfigError} where neither the configuration nor a stream of the entity knows the target
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, pauseTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await pauseTarget(redis, config, "session", "archive");
 * ```
 */
export async function pauseTarget(
  redis: RedisConnection,
  config: Config,
  entity: string,
  name: string,
): Promise<void> {
  checkArguments("pauseTarget", { redis, config, entity, name });
  await changeState(redis, config, entity, name, "paused");
}

/**
 * Carries events on to a target again, from where it was paused.
 * @throws {ConfigError} where neither the configuration nor a stream of the entity knows the target, or it was not paused
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, resumeTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await resumeTarget(redis, config, "session", "archive");
 * ```
 */
export async function resumeTarget(
  redis: RedisConnection,
  config: Config,
  entity: string,
  name: string,
): Promise<void> {
  checkArguments("resumeTarget", { redis, config, entity, name });
  await changeState(redis, config, entity, name, "active");
}

/** States that only adding a target ends. */
const ENDED: TargetState[] = ["filling", "detached", "removed"];

async function changeState(
  redis: RedisConnection,
  config: Config,
  entity: string,
  name: string,
  state: TargetState,
): Promise<void> {
  const found = await registered(redis, config, entity, name);
  for (const { registration, keys } of found) {
    if (registration !== null) checkNotEnded(name, keys, registration.state);
  }
  for (const { keys } of found) {
    // It may have been removed since, or may just be added.
    checkNotEnded(name, keys, await noteState(redis, config, keys, name, state, ENDED));
  }
}

function checkNotEnded(name: string, { stream }: PartitionKeys, state: TargetState): void {
  if (!ENDED.includes(state)) return;
  throw new ConfigError(
    `the target ${name} is ${state} (${stream}): run deno task target add ${name}`,
  );
}

/**
 * Notes a state, also of a target that no sink has registered: it may lack all.
 * @param keeping states under which it stays as it is
 * @returns the state that is noted now
 */
async function noteState(
  redis: RedisConnection,
  { targets }: Config,
  keys: PartitionKeys,
  name: string,
  state: TargetState,
  keeping: TargetState[] = [],
): Promise<TargetState> {
  const noted = await setState(redis, keys, name, state, keeping);
  if (noted !== null) return noted;
  const onFull = targets.find((target) => target.name === name)?.on_full ?? "stop";
  const registration = { name, state, offset: "0-0", witness: "0-0", onFull };
  return (await register(redis, keys, registration, { keeping }))!.state;
}

/** A target in all streams of an entity that it has, or that know it; `null` in one where nobody has registered it. */
async function registered(
  redis: RedisConnection,
  config: Config,
  entity: string,
  name: string,
): Promise<{ keys: PartitionKeys; registration: Registration | null }[]> {
  await checkShape(redis, config, entity);
  const names = new Set(config.targets.map((target) => target.name));
  const found: { keys: PartitionKeys; registration: Registration | null }[] = [];
  for (const keys of allPartitions(config, entity)) {
    const known = await readRegistrations(redis, keys);
    for (const one of known) names.add(one.name);
    const registration = known.find((one) => one.name === name) ?? null;
    const isConfigured = config.targets.some((target) => target.name === name);
    const isHere = targetsWith(config, keys).some((target) => target.name === name);
    if (registration !== null || isHere || !isConfigured) found.push({ keys, registration });
  }
  if (names.has(name)) return found;
  throw new ConfigError(
    `neither the configuration nor the streams of ${entity} know a target ${
      JSON.stringify(name)
    }; they know: ${[...names].sort().join(", ")}`,
  );
}

/** What a target that is removed will not get. */
export interface RemovedTarget {
  /** the key of the events */
  stream: string;
  /** events that it had not told to have applied */
  events: number;
}

/**
 * Gives a target up: its events are not kept any more, and no sink carries any on to it until it is added anew. What it
 * holds stays there.
 * @param options.dryRun looks, and changes nothing. @default {false}
 * @returns what it will not get, one a stream
 * @throws {ConfigError} where neither the configuration nor a stream of the entity knows the target, or a cache reads from it
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, removeTarget } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * const gone = await removeTarget(redis, config, "session", "archive", { dryRun: true });
 * for (const { stream, events } of gone) console.log(stream, events);
 * ```
 */
export async function removeTarget(
  redis: RedisConnection,
  config: Config,
  entity: string,
  name: string,
  options: { dryRun?: boolean } = {},
): Promise<RemovedTarget[]> {
  checkArguments("removeTarget", { redis, config, entity, name, options });
  const { dryRun = false } = options;
  const found = await registered(redis, config, entity, name);
  if (isSource(config, entity, name)) {
    const cannot = `Cannot remove the target ${name}, which ${entity} is read from`;
    await checkUncached(redis, config, entity, cannot);
  }
  const gone: RemovedTarget[] = [];
  for (const { keys, registration } of found) {
    const { stream } = keys;
    const [lag] = await readLag(redis, [{ stream, offset: registration?.offset ?? "0-0" }]);
    gone.push({ stream, events: lag!.events });
    if (dryRun) continue;
    await noteState(redis, config, keys, name, "removed");
    await redis.xgroup("DESTROY", stream, groupOf(name)).catch((error) => {
      if (!isNoKey(error) && !/requires the key to exist/.test(reasonOf(error))) throw error;
    });
  }
  return gone;
}
