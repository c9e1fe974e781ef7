/**
 * The search index of an entity: created, compared with the configuration, and replaced on request.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import type { Config } from "../config/load.ts";
import type { Shape } from "../config/shapes.ts";
import { delay } from "../core/delay.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions, indexesOf, type IndexName, type PartitionKeys } from "../redis/keys.ts";
import { pairsOf } from "../redis/streams.ts";
import { ask, SearchError } from "./error.ts";

/** What {@linkcode createSearchIndex} found or did. */
export interface SearchIndexResult {
  /** `off`: `search_index.create_index` is false. `differs`: another definition, left as it is */
  status: "created" | "unchanged" | "differs" | "rebuilt" | "off";
  /** how the index that was found differs from the configuration, a line each */
  differences: string[];
  /**
   * documents that RediSearch could not index, so that no search finds them: a number where the index says TEXT, for
   * example; counted since the index was made
   */
  unindexed: number;
}

/**
 * Creates the entity's search index from `search_index`, once: an index that exists is compared, and
 * replaced only when `rebuild` is asked for. Returns when the documents that exist are indexed. In a cluster it is one
 * index a partition, and sinks make it anew where a partition has moved.
 * @param options.rebuild replace an index of another definition; searches miss documents meanwhile
 * @param options.deadlineMs how long indexing may take, in ms. @default {60000}
 * @throws {ConfigError} where the configuration has no such entity
 * @throws {SearchError} `indexing` after the deadline (Redis goes on with it), or `refused`
 * @throws {ConnectionError} without an answer from Redis
 *
 * @example
 * ```ts
 * import { connectRedis, createSearchIndex, loadConfig } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * const { status, differences } = await createSearchIndex(redis, config, "session");
 * if (status === "differs") console.log(differences.join("\n"));
 * ```
 */
export async function createSearchIndex(
  redis: RedisConnection,
  config: Config,
  entity: string,
  options: { rebuild?: boolean; deadlineMs?: number } = {},
): Promise<SearchIndexResult> {
  checkArguments("createSearchIndex", { redis, config, entity, options });
  const { rebuild = false, deadlineMs = 60_000 } = options;
  checkArguments("createSearchIndex", { deadlineMs });
  const indexes = indexesOf(config, entity);
  if (!config.search_index.create_index) return { status: "off", differences: [], unindexed: 0 };
  const results = await Promise.all(
    indexes.map((index) => createOne(redis, config, index, { rebuild, deadlineMs })),
  );
  if (config.redis.cluster !== null) {
    for (const { settings } of allPartitions(config, entity)) {
      await redis.hset(settings, INDEXED, 1);
    }
  }
  const statuses = new Set(results.map(({ status }) => status));
  return {
    status: (["differs", "rebuilt", "created"] as const).find((one) => statuses.has(one)) ??
      "unchanged",
    differences: [...new Set(results.flatMap(({ differences }) => differences))],
    unindexed: results.reduce((sum, { unindexed }) => sum + unindexed, 0),
  };
}

/** The field of a partition's settings that says that it has an index; it moves with the partition, as the index does not. */
const INDEXED = "index";

/** Sees that a partition whose slot has moved to another node keeps its index: makes it there. */
export async function keepIndex(
  redis: RedisConnection,
  config: Config,
  { entity, partition, settings }: PartitionKeys,
): Promise<void> {
  if (config.redis.cluster === null || !config.search_index.create_index) return;
  if (await redis.hget(settings, INDEXED) === null) return;
  await create(redis, config, indexesOf(config, entity)[partition]!);
}

async function createOne(
  redis: RedisConnection,
  config: Config,
  index: IndexName,
  { rebuild, deadlineMs }: { rebuild: boolean; deadlineMs: number },
): Promise<SearchIndexResult> {
  const { name } = index;
  let status: SearchIndexResult["status"] = "created";
  let differences: string[] = [];
  if (!await create(redis, config, index)) {
    const info = await readInfo(redis, name);
    differences = compare(info, config, index);
    status = differences.length === 0 ? "unchanged" : "differs";
    if (status === "differs" && !rebuild) return { status, differences, unindexed: info.failures };
  }
  if (status === "differs") {
    // Without DD only the index goes and the documents stay. Another process may have dropped it just now.
    await ask(redis, name, ["FT.DROPINDEX", name]).catch(ignoreMissing);
    await create(redis, config, index);
    status = "rebuilt";
  }
  const { failures } = await indexed(redis, name, deadlineMs);
  return { status, differences, unindexed: failures };
}

/**
 * Drops the indexes that an entity had by another number of partitions, and has no more: one Redis has the same one still.
 * @param shape how it was split
 */
export async function dropOthers(
  redis: RedisConnection,
  config: Config,
  entity: string,
  shape: Shape,
): Promise<void> {
  if (!config.search_index.create_index) return;
  const own = new Set(indexesOf(config, entity).map(({ name }) => name));
  for (const { name } of indexesOf(config, entity, shape)) {
    if (!own.has(name)) await ask(redis, name, ["FT.DROPINDEX", name]).catch(ignoreMissing);
  }
}

function ignoreMissing(error: unknown): void {
  if (!(error instanceof SearchError && error.code === "no_index")) throw error;
}

/** @returns false where an index of that name exists */
async function create(
  redis: RedisConnection,
  config: Config,
  { name: index, prefixes }: IndexName,
): Promise<boolean> {
  const schema = config.search_index.fields.flatMap(({ path, name, type, sortable }) => [
    ...[path, "AS", name, type],
    ...(sortable ? ["SORTABLE"] : []),
  ]);
  // No stop words, so that every word of a document can be found.
  const options = ["PREFIX", String(prefixes.length), ...prefixes, "STOPWORDS", "0"];
  try {
    await ask(redis, index, ["FT.CREATE", index, "ON", "JSON", ...options, "SCHEMA", ...schema]);
    return true;
  } catch (error) {
    if (error instanceof SearchError && /already exists/i.test(error.message)) return false;
    throw error;
  }
}

/** What matters here of FT.INFO's answer. */
interface IndexInfo {
  definition: Map<string, unknown>;
  attributes: unknown[][];
  /** undefined: RediSearch's own list */
  stopWords: unknown[] | undefined;
  indexing: boolean;
  percent: number;
  failures: number;
}

async function readInfo(redis: RedisConnection, index: string): Promise<IndexInfo> {
  const info = pairsOf(await ask(redis, index, ["FT.INFO", index]));
  return {
    definition: pairsOf(info.get("index_definition")),
    attributes: info.get("attributes") as unknown[][],
    stopWords: info.get("stopwords_list") as unknown[] | undefined,
    indexing: Number(info.get("indexing")) > 0,
    percent: Math.floor(100 * Number(info.get("percent_indexed"))),
    failures: Number(info.get("hash_indexing_failures") ?? 0),
  };
}

/** The index of an entity that has most documents which RediSearch could not index; `null` where there is none such. */
export async function mostUnindexed(
  redis: RedisConnection,
  config: Config,
  entity: string,
): Promise<{ name: string; unindexed: number } | null> {
  const counts = await Promise.all(
    indexesOf(config, entity).map(async ({ name }) => (
      { name, unindexed: await countUnindexed(redis, name) }
    )),
  );
  const [most] = counts.toSorted((a, b) => b.unindexed - a.unindexed);
  return most && most.unindexed > 0 ? most : null;
}

async function countUnindexed(redis: RedisConnection, index: string): Promise<number> {
  try {
    return (await readInfo(redis, index)).failures;
  } catch (error) {
    // Who may not ask has nothing told; everything else of status is worth more.
    if (error instanceof SearchError) return 0;
    throw error;
  }
}

/**
 * Whether the documents that exist are indexed.
 * @throws {SearchError} `no_index`
 */
export async function isComplete(redis: RedisConnection, index: string): Promise<boolean> {
  return !(await readInfo(redis, index)).indexing;
}

/** Waits until the documents that exist are indexed. */
async function indexed(
  redis: RedisConnection,
  index: string,
  deadlineMs: number,
): Promise<IndexInfo> {
  const deadline = performance.now() + deadlineMs;
  for (let pause = 5;; pause = Math.min(2 * pause, 200)) {
    const info = await readInfo(redis, index);
    if (!info.indexing) return info;
    if (performance.now() >= deadline) {
      throw new SearchError(
        "indexing",
        `${index} is made, but after ${deadlineMs} ms Redis has indexed ${info.percent} % of the documents; ` +
          "it goes on, and until then searches miss some",
      );
    }
    await delay(pause);
  }
}

/** Options of a field that change what is found; RediSearch adds UNF to SORTABLE by itself. */
const FLAGS = ["SORTABLE", "NOSTEM", "NOINDEX", "CASESENSITIVE"];

function compare(info: IndexInfo, config: Config, { prefixes }: IndexName): string[] {
  const differences: string[] = [];
  const differ = (what: string, found: string, wanted: string) => {
    if (found !== wanted) differences.push(`${what}: the index has ${found}, wanted ${wanted}`);
  };
  const list = (values: unknown[]) => values.map(String).toSorted().join(", ") || "none";
  differ("key type", String(info.definition.get("key_type")), "JSON");
  differ(
    "prefixes",
    list(info.definition.get("prefixes") as unknown[]),
    list(prefixes),
  );
  differ("filter", String(info.definition.get("filter") ?? "none"), "none");
  differ("stop words", info.stopWords ? list(info.stopWords) : "RediSearch's own list", "none");
  const found = new Map(info.attributes.map((attribute) => {
    // Names and values, then flags: RESP3 has them in a list of their own, RESP2 bare at the end.
    const values = pairsOf(attribute);
    const options = attribute.slice(6).flat();
    const flags = FLAGS.filter((flag) => options.includes(flag));
    const name = String(values.get("attribute"));
    return [name, [values.get("identifier"), values.get("type"), ...flags].join(" ")] as const;
  }));
  const wanted = new Map(config.search_index.fields.map(({ name, path, type, sortable }) => {
    return [name, [path, type, ...(sortable ? ["SORTABLE"] : [])].join(" ")] as const;
  }));
  for (const name of new Set([...found.keys(), ...wanted.keys()])) {
    differ(`field ${name}`, found.get(name) ?? "none", wanted.get(name) ?? "none");
  }
  return differences;
}
