/**
 * Search over the documents by RediSearch: its index, and queries that take user input as it is.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig } from "../config/load.ts";
import { reasonOf } from "../core/errors.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { indexesOf, type IndexName } from "../redis/keys.ts";
import { pairsOf } from "../redis/streams.ts";
import { ask, SearchError } from "./error.ts";
import { isComplete } from "./index.ts";
import { buildQuery, type SearchFilter } from "./query.ts";

/** What a search returns of what it finds. */
export interface SearchOptions {
  /** documents at most. @default {10} */
  limit?: number;
  /** documents to skip. @default {0} */
  offset?: number;
  /**
   * Names of fields, indexed or not, or JSONPaths such as `$.device.os`.
   * @default all indexed fields
   */
  returns?: readonly string[] | undefined;
  /**
   * Whether a part is better than none: in a cluster, what the partitions have that can answer now. The result says
   * whether it is one.
   * @default {false}
   */
  partial?: boolean;
}

/** One document that a search found. */
export interface FoundDocument {
  /** the document's id, without the prefix of its key */
  id: string;
  /**
   * Each field that was asked for, read from the document: text as it is, objects, arrays and numbers as
   * JSON text, true and false as `1` and `0` (RediSearch's spelling), `null` for null or nothing there.
   */
  fields: Record<string, string | null>;
}

/** What a search found. */
export interface SearchResult {
  /** documents that match, also those outside `limit` and `offset` */
  total: number;
  /** at most `limit` of them */
  documents: FoundDocument[];
  /**
   * `true` where documents may be missing: the entity has a cache, so that what Redis has evicted is not among them, and the
   * columns of the cache's target are to be asked where all are needed; or a part was asked for, and partitions could not
   * answer.
   */
  partial?: true;
}

/**
 * Finds documents. User input is safe in every value: it is searched for, and never read as a query.
 *
 * What an index cannot hold is simply not found: an empty text, or one of punctuation only. Of an entity with a cache, what
 * is in Redis is found, and the result is `partial`.
 * @throws {ConfigError} where the configuration has no such entity
 * @throws {SearchError} `no_index`, `unknown_field`, `invalid`, `refused`; in a cluster also `incomplete`
 * @throws {ConnectionError} without an answer from Redis
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, search } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * const filter = { tag: { device_type: ["ios", "web"] }, text: { user_id: "user_42" } };
 * const { total, documents } = await search(redis, config, "session", filter, { limit: 5 });
 * console.log(total, documents.map(({ id, fields }) => [id, fields.device_model]));
 * ```
 */
export async function search(
  redis: RedisConnection,
  config: Config,
  entity: string,
  filter: SearchFilter,
  options: SearchOptions = {},
): Promise<SearchResult> {
  checkArguments("search", { redis, config, entity, filter, options });
  const { text, tag, numeric } = filter;
  checkArguments("search", { words: text, tag, numeric, returns: options.returns });
  const built = buildQuery(config, filter);
  checkPage(options);
  if (built === null) {
    return { total: 0, documents: [], ...coverage(config, entity) };
  }
  return await run(redis, config, entity, built.query, built.params, options);
}

/**
 * Runs a query in RediSearch's own language (dialect 2), such as `@device_type:{android}`. It is sent
 * unchanged: never put user input into it.
 * @param returns as in {@linkcode SearchOptions}
 * @param page `limit`, `offset` and `partial` as in {@linkcode SearchOptions}
 * @throws as {@linkcode search}
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, searchRaw } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * const query = "@device_type:{android} @user_id:user_4554";
 * const { total } = await searchRaw(redis, config, "session", query, ["user_id"]);
 * console.log(total);
 * ```
 */
export async function searchRaw(
  redis: RedisConnection,
  config: Config,
  entity: string,
  query: string,
  returns?: readonly string[],
  page: Omit<SearchOptions, "returns"> = {},
): Promise<SearchResult> {
  checkArguments("searchRaw", { redis, config, entity, query, returns, options: page });
  checkPage(page);
  return await run(redis, config, entity, query, [], { ...page, returns });
}

/** Redis indexes what it has. */
function coverage(config: Config, entity: string): { partial?: true } {
  return entityConfig(config, entity).cache.enabled ? { partial: true } : {};
}

function checkPage({ limit = 0, offset = 0 }: SearchOptions): void {
  for (const [name, value] of Object.entries({ limit, offset })) {
    if (Number.isSafeInteger(value) && value >= 0) continue;
    throw new SearchError(
      "invalid",
      `Cannot search: expected a whole ${name} of at least 0, got ${String(value)}`,
    );
  }
}

async function run(
  redis: RedisConnection,
  config: Config,
  entity: string,
  query: string,
  params: string[],
  { limit = 10, offset = 0, returns, partial = false }: SearchOptions,
): Promise<SearchResult> {
  const { fields } = config.search_index;
  const names = [...new Set(returns ?? fields.map(({ name }) => name))];
  // Always by path, which returns the document's own value, indexed or not.
  const columns = names.map((name, column) => {
    const path = name.startsWith("$") ? name : `$[${JSON.stringify(name)}]`;
    const known = fields.find((field) => field.name === name);
    return [known?.path ?? path, "AS", `f${column}`];
  });
  const indexes = indexesOf(config, entity);
  const several = indexes.length > 1;
  const searchOne = async ({ name, prefixes }: IndexName): Promise<SearchResult> => {
    const reply = await askComplete(redis, name, [
      ...["FT.SEARCH", name, query],
      ...(params.length > 0 ? ["PARAMS", String(params.length), ...params] : []),
      ...["RETURN", String(3 * columns.length), ...columns.flat()],
      // Those to skip may be in any of several indexes.
      ...["LIMIT", several ? "0" : String(offset), String(several ? offset + limit : limit)],
      ...["DIALECT", "2"],
    ]);
    const { total, found } = readReply(reply as unknown[], name, columns.length > 0);
    const documents = found.map(({ key, values }) => ({
      id: key.slice(prefixes.find((prefix) => key.startsWith(prefix))?.length ?? 0),
      fields: Object.fromEntries(
        names.map((name, column) => [name, (values.get(`f${column}`) ?? null) as string | null]),
      ),
    }));
    return { total, documents, ...coverage(config, entity) };
  };
  if (!several) return await searchOne(indexes[0]!);
  const { index_name } = entityConfig(config, entity);
  const { results, missing } = await all(indexes.map(searchOne), index_name, partial);
  return {
    total: results.reduce((sum, { total }) => sum + total, 0),
    documents: results.flatMap(({ documents }) => documents).slice(offset, offset + limit),
    ...coverage(config, entity),
    ...(missing > 0 ? { partial: true } : {}),
  };
}

/**
 * The results of all indexes, and how many have none.
 * @param partial whether some may have none; else that is an error of its own
 */
async function all(
  searches: Promise<SearchResult>[],
  index: string,
  partial: boolean,
): Promise<{ results: SearchResult[]; missing: number }> {
  const settled = await Promise.allSettled(searches); // the first failure is thrown below
  const failed = settled.filter((one) => one.status === "rejected");
  const results = settled.filter((one) => one.status === "fulfilled").map(({ value }) => value);
  const missing = failed.length;
  const [first] = failed;
  // What is wrong with the query, or with all of them, is that of one.
  if (first && (results.length === 0 || first.reason.code === "unknown_field")) throw first.reason;
  if (first && !partial) {
    throw new SearchError(
      "incomplete",
      `Cannot search all of ${index}: ${missing} of ${settled.length} partitions do not answer, since ` +
        `their node is away or their slot moves; try again, or with \`partial: true\` (${
          reasonOf(first.reason)
        })`,
      { cause: first.reason },
    );
  }
  return { results, missing };
}

/** The server on which an index was seen to be complete, by connection and name. */
const seen = new WeakMap<RedisConnection, Map<string, string>>();

/**
 * Asks an index that is complete. In a cluster it is made anew where its slot has moved, and misses documents until then;
 * elsewhere `createSearchIndex` has waited for it.
 */
async function askComplete(
  redis: RedisConnection,
  index: string,
  command: string[],
): Promise<unknown> {
  if (redis.at(index) === redis) return await ask(redis, index, command);
  const known = seen.getOrInsertComputed(redis, () => new Map());
  for (;;) {
    const { address } = redis.at(index);
    const complete = known.get(index) === address || await isComplete(redis, index);
    if (!complete) {
      throw new SearchError("incomplete", `Cannot search ${index}: it is being made; try again`);
    }
    const reply = await ask(redis, index, command);
    // Another server has answered.
    if (redis.at(index).address !== address) continue;
    known.set(index, address);
    return reply;
  }
}

interface Reply {
  total: number;
  found: { key: string; values: Map<string, unknown> }[];
}

/** Reads what FT.SEARCH answers: by RESP2 `[total, key, fields, …]`, by RESP3 pairs of names and values. */
function readReply(reply: unknown[], index: string, hasFields: boolean): Reply {
  if (typeof reply[0] === "number") {
    const [total, ...rest] = reply;
    const step = hasFields ? 2 : 1;
    const found = rest.filter((_, at) => at % step === 0).map((key, at) => ({
      key: key as string,
      values: pairsOf(hasFields ? rest[at * step + 1] ?? [] : []),
    }));
    return { total: total as number, found };
  }
  const answer = pairsOf(reply);
  const [warning] = (answer.get("warning") ?? []) as string[];
  if (warning !== undefined) {
    throw new SearchError(
      "refused",
      `Cannot search ${index}: the result is incomplete: ${warning}`,
    );
  }
  const found = (answer.get("results") as unknown[]).map(pairsOf).map((result) => ({
    key: result.get("id") as string,
    values: pairsOf(result.get("extra_attributes") ?? []),
  }));
  return { total: answer.get("total_results") as number, found };
}
