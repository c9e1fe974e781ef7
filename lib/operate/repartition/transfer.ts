/**
 * Keys on their way to other names, with what is left of their time. One Redis renames them. In a cluster the new name lies
 * in another slot: it is copied there, and removed when a replica has the copy. Writers are refused meanwhile, so both
 * are the same, and readers find one of them. Stopped in between, what is left is moved when it is run again.
 * @module
 */

import type { Buffer } from "node:buffer";
import { failpoint } from "../../core/failpoints.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { moveScript, runScript, takeScript } from "../../redis/scripts/mod.ts";
import { valueOf } from "../../redis/streams.ts";
import { type Change, change, inLanes, isCluster, patiently, type Scope } from "./changes.ts";
import { overtaken } from "./state.ts";

/** A key of a partition. */
export interface Place {
  in: Pick<PartitionKeys, "settings">;
  key: string;
}

/** Where a key goes: to one place, or to several. One of them may be its own. */
export interface Way {
  from: Place;
  to: Place[];
}

/** Keys that are moved at a time: one Redis does nothing else meanwhile. */
const MOVED = 250;
/** Batches of one call that are on their way at the same time in a cluster, and bytes of each, or one key. */
const LANES = 2;
const MOVED_BYTES = 4 << 20;
/** The end of a dump is its checksum. */
const SUM_BYTES = 8;

/**
 * Moves keys; in a cluster, all of one slot. One that is not there any more was moved before.
 * @param mark what the settings of both partitions say as long as keys move
 * @returns how many were moved
 */
export async function transfer(scope: Scope, mark: string, ways: Way[]): Promise<number> {
  const batches = Array.from(
    { length: Math.ceil(ways.length / MOVED) },
    (_, index) => ways.slice(MOVED * index, MOVED * (index + 1)),
  );
  if (!isCluster(scope)) {
    const counts = await Promise.all(batches.map((batch) => rename(scope, batch)));
    return counts.reduce((sum, count) => sum + count, 0);
  }
  let moved = 0;
  await inLanes(scope, LANES, batches, async (batch) => {
    const count = await copy(scope, mark, batch);
    moved += count;
  });
  return moved;
}

/** The batches of one chunk go out together. */
async function rename({ redis }: Scope, ways: Way[]): Promise<number> {
  const isOne = ({ from, to }: Way) => to.length === 1 && to[0]!.key !== from.key;
  const pairs = ways.filter(isOne).flatMap(({ from, to }) => [from.key, to[0]!.key]);
  const pipeline = redis.pipeline();
  for (const way of ways) {
    if (isOne(way)) continue;
    const others = elsewhere(way);
    for (const { key } of others) pipeline.copy(way.from.key, key);
    if (others.length === way.to.length) pipeline.del(way.from.key);
  }
  const [replies, renamed] = await Promise.all([
    pipeline.exec(),
    pairs.length > 0 ? runScript(redis, moveScript, pairs, []) : 0,
  ]);
  for (const reply of replies ?? []) valueOf(reply);
  return renamed as number;
}

const elsewhere = ({ from, to }: Way): Place[] => to.filter(({ key }) => key !== from.key);

async function copy(scope: Scope, mark: string, ways: Way[]): Promise<number> {
  let moved = 0;
  for (let left = ways; left.length > 0;) {
    const dumps = await take(scope, left.map(({ from }) => from.key));
    const copies: Change[] = [];
    const gone: Change[] = [];
    const [there, here] = [new Set<string>(), new Set<string>()];
    for (const [index, { dump, leftMs }] of dumps.entries()) {
      const way = left[index]!;
      const others = elsewhere(way);
      if (dump === null) continue;
      for (const { in: { settings }, key } of others) {
        there.add(settings);
        copies.push(["RESTORE", key, String(leftMs), dump, "REPLACE"]);
      }
      if (others.length < way.to.length) continue;
      here.add(way.from.in.settings);
      gone.push(["FORGET", way.from.key, dump.subarray(-SUM_BYTES)]);
    }
    const marked = (all: Set<string>) => [...all].map((one): Change => ["MARKED", one, mark]);
    if ((await change(scope, [[...marked(there), ...copies]])).length > 0) {
      throw overtaken(scope.entity);
    }
    await failpoint?.("repartition copied");
    const stayed = new Set(await change(scope, [[...marked(here), ...gone]]));
    if ([...here].some((settings) => stayed.has(settings))) throw overtaken(scope.entity);
    // What another program has changed meanwhile, which asks nobody, is copied again.
    const again = left.slice(0, dumps.length).filter(({ from }) => stayed.has(from.key));
    moved += gone.length - again.length;
    left = [...left.slice(dumps.length), ...again];
  }
  return moved;
}

/** @returns what the first keys hold, as many as are not too many bytes */
async function take(
  scope: Scope,
  keys: string[],
): Promise<{ dump: Buffer | null; leftMs: number }[]> {
  const args = [takeScript.source, String(keys.length), ...keys, String(MOVED_BYTES)];
  const reply = await patiently(
    scope,
    () => scope.redis.callBuffer("EVAL", ...args) as Promise<(Buffer | null | number)[]>,
  );
  return Array.from({ length: reply.length / 2 }, (_, index) => ({
    dump: reply[2 * index] as Buffer | null,
    leftMs: reply[2 * index + 1] as number,
  }));
}
