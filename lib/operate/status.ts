/**
 * The state of each partition, as any process can see it: from the target, the stream, and what the sink reports.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { knowsShape } from "../config/shapes.ts";
import { counted } from "../core/counted.ts";
import { ConfigError } from "../core/errors.ts";
import { type PartitionCache, readCaches } from "../redis/cache_state.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { explainRedis, isAway } from "../redis/explain.ts";
import { gaugesOf, type PartitionKeys, partitionsOf } from "../redis/keys.ts";
import type { Lag } from "../redis/lag.ts";
import { readRebuilding } from "../redis/rebuilding.ts";
import { hasPlace, readRegistrations } from "../redis/registrations.ts";
import { lastGeneratedId } from "../redis/streams.ts";
import { mostUnindexed } from "../search/index.ts";
import { assess } from "../sink/belonging.ts";
import { hasGoneBack } from "../sink/goal.ts";
import { sameDatabase } from "../sink/same_database.ts";
import { type Pool, targetOf } from "../targets/open.ts";
import { readStandings, type StandingAndLag, type View, viewOf } from "../targets/standings.ts";
import type { Target } from "../targets/target.ts";
import { type Both, judge, type Place } from "./judgement.ts";
import { columnsProblem } from "./migrate_columns.ts";
import { repartitionUnderWay } from "./repartition/state.ts";

/** One partition. What is unknown because a server is down is `null`. */
export interface PartitionStatus {
  /** whose partition it is */
  entity: string;
  /** the key of its events, such as `stream:session` */
  stream: string;
  /** the Redis that has it: its address, and behind one that sentinels have named, their name for it */
  node: string | null;
  /** the target's name */
  target: string | null;
  /** the last stream id that the target holds; `0-0` for none */
  offset: string | null;
  /** events that the target holds: applied, or parked */
  applied: number | null;
  /** events that were written: applied and behind */
  written: number | null;
  /** events that the target does not have */
  lagEvents: number | null;
  /** age of the oldest of them, in seconds */
  lagSeconds: number | null;
  /** the sink that holds a live lease */
  owner: string | null;
  /** time until its lease ends, in seconds */
  leaseSeconds: number | null;
  /** events that are parked now */
  parked: number | null;
  /** how often the stream went back and was rewound */
  wentBack: number | null;
  /** when it last did */
  wentBackAt: Date | null;
  /** the state that its sink reported last; not `owner` where nobody owns it */
  state: string | null;
  /** its failures in a row */
  failures: number | null;
  /** the error of the last one */
  lastError: string | null;
  /** its cache; `null` where it has none */
  cache: PartitionCache | null;
  /** why the partition makes no progress; empty where it does */
  stuck: string[];
  /** why rows may be missing or old, until a verify has looked; empty where nothing says so */
  doubts: string[];
  /** what else somebody should see to, though the partition goes on; empty where there is nothing */
  warnings: string[];
}

/**
 * Reads the state of those of an entity's partitions that a target has. Changes nothing.
 * @param redis `null` where it is down; one that does not answer, or a node of a cluster, is told as `stuck`
 * @param target `null` where it is down
 * @param options.name the name of a target that is down. @default {that of the first}
 * @returns one a partition, in order
 * @throws {ConfigError} where `streams.partitions` is `auto`, and Redis, which knows how many there are, does not answer
 * @throws the error of a server that is not down
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget, readStatus } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * for (const { stream, lagEvents, stuck } of await readStatus(redis, target, config, "session")) {
 *   console.log(stream, lagEvents, stuck.join("; "));
 * }
 * ```
 */
export async function readStatus(
  redis: RedisConnection | null,
  target: Target | Pool | null,
  config: Config,
  entity: string,
  options: { name?: string | undefined } = {},
): Promise<PartitionStatus[]> {
  checkArguments("readStatus", { config, entity, options });
  if (redis !== null) checkArguments("readStatus", { redis });
  if (target !== null) checkArguments("readStatus", { target });
  const { name: away = config.targets[0]!.name } = options;
  entityConfig(config, entity);
  const opened = target && targetOf(target, config);
  const name = opened?.describe().name ?? away;
  const seen = redis && await viewOf(redis, config, entity, name).catch((error) => {
    if (!isAway(error)) throw error;
    return null;
  });
  const view = seen ?? lastView(config, entity, name);
  const nodes = await Promise.all(view.partitions.map((keys) => redis && reach(redis, keys)));
  const partitions = await Promise.all(
    view.partitions.map((keys, index) => {
      const others = index === 0 ? view.others : [];
      const own = { ...view, partitions: [keys], others };
      return partitionStatus(redis, nodes[index]!, opened, config, own, name);
    }),
  );
  if (redis === null) return partitions;
  // The index and the table are of the whole entity: told once.
  const { warnings } = partitions[0]!;
  const underWay = seen && await repartitionUnderWay(redis, config, entity);
  if (underWay !== null) warnings.push(underWay);
  if (nodes.every((node) => node?.silence === null)) {
    warnings.push(...await lookAtIndex(redis, config, entity));
  }
  const columns = opened && await columnsProblem(opened, entity);
  if (columns !== null) warnings.push(columns);
  return partitions;
}

/** The partitions where Redis does not say which there are: as the configuration does, or Redis did last. */
function lastView(config: Config, entity: string, name: string): View {
  if (!knowsShape(config, entity)) {
    throw new ConfigError(
      `Cannot show the partitions of ${entity}: streams.partitions is auto, and Redis, which knows how many there are, ` +
        "does not answer; to see what the targets hold of them, set their number",
    );
  }
  return { partitions: partitionsOf(config, entity, name), others: [], isMoving: false };
}

/** The Redis that has a partition. */
interface Reached {
  address: string | null;
  /** why it says nothing, for people; `null` where it answers */
  silence: string | null;
}

/** Sees whether a partition's Redis answers: of a cluster, one node may be away. */
async function reach(redis: RedisConnection, { stream }: PartitionKeys): Promise<Reached> {
  let address: string | null = null;
  try {
    ({ address } = redis.at(stream));
    await redis.xlen(stream);
    // The answer may have told of another node, which has its slot by now.
    return { address: redis.at(stream).address, silence: null };
  } catch (error) {
    if (!isAway(error)) throw error;
    const where = address ?? redis.address;
    return { address, silence: `Redis at ${where} does not answer: ${explainRedis(error)}` };
  }
}

async function partitionStatus(
  connection: RedisConnection | null,
  node: Reached | null,
  target: Target | null,
  config: Config,
  view: View,
  name: string,
): Promise<PartitionStatus> {
  const keys = view.partitions[0]!;
  const silence = node && node.silence;
  const redis = silence === null ? connection : null;
  const offsets = target && target.offsets;
  const together = redis && offsets &&
    (await readStandings(redis, offsets, view, { waits: true }))[0];
  const standing = together ? together.standing : offsets && await offsets.standing(keys);
  const lag: Lag | null = together ? together.lag : null;
  const gauges = redis && new Map(Object.entries(await redis.hgetall(gaugesOf(keys, name))));
  const [cache = null] = redis ? await readCaches(redis, [keys]) : [];
  // Reports of a standby, or of a sink that is gone while another owns the partition, do not count.
  const heard = gauges !== null && gauges.size > 0 &&
    (!standing?.live || gauges.get("owner") === standing.owner);
  const failures = heard ? Number(gauges.get("failures") ?? 0) : gauges && 0;
  const reported = gauges && (String(gauges.get("state") ?? "") || null);
  const place = { config, keys, name, isMoving: view.isMoving };
  const both = redis && target && together
    ? await lookAtBoth(redis, target, place, together)
    : null;
  const { stuck, ...judged } = judge(place, { both, cache, failures: failures ?? 0 });
  return {
    entity: keys.entity,
    stream: keys.stream,
    node: node && node.address,
    target: target && name,
    offset: standing && standing.offset,
    applied: standing && standing.events,
    written: standing && lag && standing.events + lag.events,
    lagEvents: lag && lag.events,
    lagSeconds: lag && lag.seconds,
    owner: standing?.live ? standing.owner : null,
    leaseSeconds: standing?.live ? standing.leaseSeconds : null,
    parked: standing && standing.parked,
    wentBack: standing && standing.wentBack,
    wentBackAt: standing && standing.wentBackAt,
    // One that failed may have given its lease up since, and says why; that one owns it is not so then.
    state: heard && !(reported === "owner" && standing?.live === false) ? reported : null,
    failures,
    lastError: heard ? String(gauges.get("last_error") ?? "") || null : null,
    cache: cache?.state == null ? null : cache,
    stuck: silence === null ? stuck : [silence, ...stuck],
    ...judged,
  };
}

/** Looks at what only both servers together can tell. */
async function lookAtBoth(
  redis: RedisConnection,
  target: Target,
  { config, keys, name, isMoving }: Place,
  { standing, lag }: StandingAndLag,
): Promise<Both> {
  // While documents and parked events move, neither are all here nor there.
  const assessment = isMoving ? null : await assess(redis, target, config, keys);
  const registrations = await readRegistrations(redis, keys);
  const state = registrations.find((one) => one.name === name)?.state ?? "active";
  const lastId = await lastGeneratedId(redis, keys.stream);
  const [seconds] = await redis.at(keys.stream).time();
  return {
    standing,
    lag,
    assessment,
    registrations,
    state,
    // For one that has no place any more, nothing is kept.
    hasGoneBack: hasPlace(state) && await hasGoneBack(redis, target.offsets, keys, standing),
    lastId,
    clockMs: Number(seconds) * 1000,
    namesake: await sameDatabase(redis, config, keys, name, standing),
    rebuiltFrom: await readRebuilding(redis, keys),
  };
}

/** Documents that no search finds. */
async function lookAtIndex(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<string[]> {
  if (!config.search_index.create_index) return [];
  const most = await mostUnindexed(redis, config, entity);
  return most === null ? [] : [
    `${most.name} could not index ${counted(most.unindexed, "document")}, which no search finds; ` +
    `FT.INFO ${most.name} has the last error`,
  ];
}
