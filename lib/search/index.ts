/**
 * The search index of an entity: created, compared with the configuration, and replaced on request.
 * @module
 */

import { type Config, entityConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { allPartitions } from "../redis/keys.ts";
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
 * replaced only when `rebuild` is asked for. Returns when the documents that exist are indexed.
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
  { rebuild = false, deadlineMs = 60_000 }: { rebuild?: boolean; deadlineMs?: number } = {},
): Promise<SearchIndexResult> {
  const { index_name: index } = entityConfig(config, entity);
  if (!config.search_index.create_index) return { status: "off", differences: [], unindexed: 0 };
  let status: SearchIndexResult["status"] = "created";
  let differences: string[] = [];
  if (!await create(redis, config, entity, index)) {
    const info = await readInfo(redis, index);
    differences = compare(info, config, entity);
    status = differences.length === 0 ? "unchanged" : "differs";
    if (status === "differs" && !rebuild) return { status, differences, unindexed: info.failures };
  }
  if (status === "differs") {
    // Without DD only the index goes and the documents stay. Another process may have dropped it just now.
    await ask(redis, index, ["FT.DROPINDEX", index]).catch(ignoreMissing);
    await create(redis, config, entity, index);
    status = "rebuilt";
  }
  const { failures } = await indexed(redis, index, deadlineMs);
  return { status, differences, unindexed: failures };
}

function ignoreMissing(error: unknown): void {
  if (!(error instanceof SearchError && error.code === "no_index")) throw error;
}

export const prefixesOf = (config: Config, entity: string) =>
  allPartitions(config, entity).map(({ documentPrefix }) => documentPrefix);

/** @returns false where an index of that name exists */
async function create(
  redis: RedisConnection,
  config: Config,
  entity: string,
  index: string,
): Promise<boolean> {
  const prefixes = prefixesOf(config, entity);
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

/** How many documents RediSearch could not index; `null` where there is no such index. */
export async function countUnindexed(
  redis: RedisConnection,
  index: string,
): Promise<number | null> {
  try {
    return (await readInfo(redis, index)).failures;
  } catch (error) {
    // Who may not ask has nothing told; everything else of status is worth more.
    if (error instanceof SearchError) return null;
    throw error;
  }
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

function compare(info: IndexInfo, config: Config, entity: string): string[] {
  const differences: string[] = [];
  const differ = (what: string, found: string, wanted: string) => {
    if (found !== wanted) differences.push(`${what}: the index has ${found}, wanted ${wanted}`);
  };
  const list = (values: unknown[]) => values.map(String).toSorted().join(", ") || "none";
  differ("key type", String(info.definition.get("key_type")), "JSON");
  differ(
    "prefixes",
    list(info.definition.get("prefixes") as unknown[]),
    list(prefixesOf(config, entity)),
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
