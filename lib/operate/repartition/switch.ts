/**
 * New streams in the place of the old ones, for writers, sinks and readers: at once in one Redis, and in a cluster first all
 * of them, each on its node and still refusing writers, then the word that these may go on.
 * @module
 */

import { textOf } from "../../config/shapes.ts";
import { compareStreamIds, nextMillisecond } from "../../core/stream_ids.ts";
import { failpoint } from "../../core/failpoints.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { allPartitions, gaugesOf, type PartitionKeys } from "../../redis/keys.ts";
import {
  readRegistrations,
  type Registration,
  registrationText,
} from "../../redis/registrations.ts";
import { recordOf } from "../../redis/shape.ts";
import { lastGeneratedId } from "../../redis/streams.ts";
import { decodeEntry, type Entry, isEvent } from "../../sink/decode.ts";
import type { Carried } from "./carried.ts";
import { type Change, change, isCluster, type Scope } from "./changes.ts";
import { markOf } from "./move.ts";
import { fieldsOf, noteState, type RepartitionState, stateKey } from "./state.ts";

/**
 * Does it. In a cluster, it goes on where it was stopped.
 * @param state what is noted now
 * @returns what is noted then; `null` where an old stream has got an entry meanwhile, of a program that asks nobody
 */
export async function switchStreams(
  scope: Scope,
  carried: readonly Carried[],
  state: RepartitionState,
): Promise<RepartitionState | null> {
  const done = { ...state, step: "index" } as const;
  const accepting = acceptance(scope, done);
  if (!isCluster(scope)) {
    const made = await retirement(scope, carried, state);
    return (await change(scope, [made, ...accepting])).length > 0 ? null : done;
  }
  if (state.step !== "accepting") {
    // Where it was stopped in between, streams that were made already are made again, as they are empty.
    const made = await retirement(scope, carried, state);
    if ((await change(scope, [made], "retiring")).length > 0) return null;
    await failpoint?.("repartition retired");
    await noteState(scope, { ...state, step: "accepting" });
  }
  await change(scope, accepting, "accepting");
  return done;
}

/** What new settings take over: the limits of the streams, and whether documents may be due. Names and values, in turn. */
export async function inheritance({ redis, config, entity }: Scope): Promise<string[]> {
  const read = await Promise.all(
    allPartitions(config, entity).map(({ settings }) =>
      redis.hmget(settings, "max_events", "max_bytes", "due")
    ),
  );
  const { max_events, max_bytes } = config.streams;
  // One that nobody has written has none.
  const [maxEvents, maxBytes] = read.find(([events]) => events !== null) ?? [];
  return [
    ...["max_events", maxEvents ?? String(max_events), "max_bytes", maxBytes ?? String(max_bytes)],
    ...read.some(([, , due]) => due !== null) ? ["due", "1"] : [],
  ];
}

/** The old streams go, where they are as they are known to be; new ones are there, and nobody may write to them yet. */
async function retirement(
  { redis, config, entity }: Scope,
  carried: readonly Carried[],
  state: RepartitionState,
): Promise<Change[]> {
  const { from, to, base, identity, ends, inherited } = state;
  const olds = allPartitions(config, entity, from);
  const news = allPartitions(config, entity, to);
  const registrations = await allRegistrations(redis, olds, carried, state);
  const mark = markOf(state);
  const fields = [
    ...["partitions", mark, "largest", "0", "identity", identity],
    ...inherited!,
    ...registrations.flatMap((one) => [`target:${one.name}`, registrationText(one)]),
  ];
  const record = recordOf(config, entity);
  const stays = (keys: PartitionKeys) => news.some(({ settings }) => settings === keys.settings);
  const gone = [
    ...olds.flatMap(({ stream, lastId, settings }) => [stream, lastId, settings]),
    // Sinks of former partitions may have reported of what others have since.
    ...[...olds, ...news].flatMap((keys) => registrations.map(({ name }) => gaugesOf(keys, name))),
  ];
  const refusing = olds.filter((keys) => keys.settings !== record && !stays(keys));
  return [
    ...olds.map(({ stream }): Change => ["LAST", stream, ends[stream] ?? "0-0", base]),
    ...gone.map((key): Change => ["UNLINK", key]),
    ...refusing.map(({ settings }): Change => ["HSET", settings, "partitions", mark]),
    ...news.flatMap(({ stream, settings }): Change[] => [
      ["MAKE", stream, base],
      ["HSET", settings, ...fields],
    ]),
  ];
}

/** All new partitions, then the record, by which others go on, then the state. */
function acceptance({ config, entity }: Scope, state: RepartitionState): Change[][] {
  const { to } = state;
  const accept = (key: string): Change => ["HSET", key, "partitions", textOf(to)];
  return [
    allPartitions(config, entity, to).map(({ settings }) => accept(settings)),
    [accept(recordOf(config, entity))],
    [["HSET", stateKey(config, entity), ...fieldsOf(state)]],
  ];
}

/** What the new streams are to know of targets: what the old ones did, before these were paused. */
async function allRegistrations(
  redis: RedisConnection,
  olds: readonly PartitionKeys[],
  carried: readonly Carried[],
  { paused, base }: RepartitionState,
): Promise<Registration[]> {
  const known = new Map<string, Registration>();
  for (const keys of olds) {
    for (const one of await readRegistrations(redis, keys)) {
      const isCarried = carried.some(({ name }) => name === one.name);
      const wasPaused = paused.some(({ target, state }) =>
        target === one.name && state === "paused"
      );
      known.set(one.name, {
        ...one,
        state: !isCarried ? one.state : wasPaused ? "paused" : "active",
        offset: isCarried ? base : "0-0",
        witness: "0-0",
      });
    }
  }
  return [...known.values()];
}

/**
 * What another program has written to the old streams, which asks nobody: documents to be moved and resent.
 * @returns their ids, the last ids of the streams now, and the id behind which new ones begin then
 */
export async function newcomers(
  redis: RedisConnection,
  { ends, base }: RepartitionState,
  olds: readonly PartitionKeys[],
): Promise<{ ids: Set<string>; ends: Record<string, string>; base: string }> {
  const ids = new Set<string>();
  const now: Record<string, string> = {};
  let last = base;
  for (const { stream } of olds) {
    const end = now[stream] = await lastGeneratedId(redis, stream);
    if (compareStreamIds(end, last) > 0) last = nextMillisecond(end);
    const entries = await redis.xrangeBuffer(stream, `(${ends[stream] ?? "0-0"}`, "+") as Entry[];
    for (const event of entries.map(decodeEntry).filter(isEvent)) ids.add(event.docId.toString());
  }
  return { ids, ends: now, base: last };
}
