/**
 * The step in which new streams take the place of the old ones, for writers, sinks and readers at once.
 * @module
 */

import type { Config } from "../../config/load.ts";
import { sameShape, textOf } from "../../config/shapes.ts";
import { compareStreamIds } from "../../core/stream_ids.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { allPartitions, gaugesOf, type PartitionKeys } from "../../redis/keys.ts";
import {
  readRegistrations,
  type Registration,
  registrationText,
} from "../../redis/registrations.ts";
import { runScript, switchScript } from "../../redis/scripts/mod.ts";
import { recordOf, textOfRecord } from "../../redis/shape.ts";
import { lastGeneratedId } from "../../redis/streams.ts";
import { decodeEntry, type Entry, isEvent } from "../../sink/decode.ts";
import type { Carried } from "./carried.ts";
import { fieldsOf, type RepartitionState, stateKey } from "./state.ts";

/**
 * Does it.
 * @param state what is noted with it
 * @returns an old stream that has got an entry meanwhile, of a program that asks nobody; `null` where it is done
 */
export async function switchStreams(
  redis: RedisConnection,
  config: Config,
  entity: string,
  carried: readonly Carried[],
  state: RepartitionState,
): Promise<string | null> {
  const { from, to, base, identity, ends } = state;
  const olds = allPartitions(config, entity, from);
  const news = allPartitions(config, entity, to);
  const registrations = await allRegistrations(redis, olds, carried, state);
  const limits = await redis.hmget(olds[0]!.settings, "max_events", "max_bytes");
  const [maxEvents, maxBytes] = [
    limits[0] ?? String(config.streams.max_events),
    limits[1] ?? String(config.streams.max_bytes),
  ];
  const fields = [
    ...["partitions", textOf(to), "max_events", maxEvents, "max_bytes", maxBytes, "largest", "0"],
    ...["identity", identity],
    ...registrations.flatMap((one) => [`target:${one.name}`, registrationText(one)]),
  ];
  const record = recordOf(config, entity);
  const stays = (keys: PartitionKeys) => news.some(({ settings }) => settings === keys.settings);
  const refusing = olds.map((keys) => keys.settings)
    .filter((settings, index) => settings !== record && !stays(olds[index]!));
  const gauges = registrations.flatMap(({ name }) => olds.map((keys) => gaugesOf(keys, name)));
  const reply = await runScript(redis, switchScript, [record, stateKey(config, entity)], [
    JSON.stringify({
      ends: olds.flatMap(({ stream }) => [stream, ends[stream] ?? "0-0"]),
      gone: [
        ...olds.flatMap(({ stream, lastId, settings }) => [stream, lastId, settings]),
        ...gauges,
      ],
      refusing,
      mark: textOfRecord({ shape: from, to: sameShape(from, to) ? null : to, moving: true }),
      partitions: textOf(to),
      streams: news.map(({ stream }) => stream),
      last: base,
      settings: news.flatMap(({ settings }) => [settings, fields]),
      state: fieldsOf(state),
    }),
  ]);
  return reply === "" ? null : String(reply);
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
    if (compareStreamIds(end, last) > 0) last = `${Number(end.split("-")[0]) + 1}-0`;
    const entries = await redis.xrangeBuffer(stream, `(${ends[stream] ?? "0-0"}`, "+") as Entry[];
    for (const event of entries.map(decodeEntry).filter(isEvent)) ids.add(event.docId.toString());
  }
  return { ids, ends: now, base: last };
}
