/**
 * Search over the documents by RediSearch: its index, and queries that take user input as it is.
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { type Config, entityConfig, type SearchFieldConfig } from "./config.ts";
import type { RedisConnection } from "./connections.ts";
import { ConnectionError, reasonOf, WriteBehindError } from "./errors.ts";
import { allPartitions } from "./events.ts";
import { generateDummySession, seededRandom } from "./traffic.ts";

/** Why an index or a search was refused. */
export type SearchErrorCode =
  /** there is no such index yet */
  | "no_index"
  /** the index has no such field, or one of another type */
  | "unknown_field"
  /** a filter, limit or offset that cannot be one */
  | "invalid"
  /** the index is not filled yet, after the deadline */
  | "indexing"
  /** Redis refuses the command, such as for the syntax of a raw query */
  | "refused";

/** A search, or the making of its index, failed. */
export class SearchError extends WriteBehindError {
  constructor(readonly code: SearchErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** What {@linkcode createSearchIndex} found or did. */
export interface SearchIndexResult {
  /** `off`: `search_index.create_index` is false. `differs`: another definition, left as it is */
  status: "created" | "unchanged" | "differs" | "rebuilt" | "off";
  /** how the index that was found differs from the configuration, a line each */
  differences: string[];
}

/** What a search looks for: documents that meet all of it. An empty filter meets all documents. */
export interface SearchFilter {
  /** TEXT fields: these words in this order, whole words, whatever stands between them */
  text?: Record<string, string>;
  /** TAG fields: the whole value, or one of several; upper and lower case are the same */
  tag?: Record<string, string | string[]>;
  /** NUMERIC fields: least and greatest value, both included; infinite ones leave an end open */
  numeric?: Record<string, [min: number, max: number]>;
}

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
  returns?: readonly string[];
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
  documents: FoundDocument[];
}

/** One query of {@linkcode randomSearchQueries}. */
export interface RandomQuery {
  /** such as `@device_type: android` */
  asked: string;
  /** documents that match; 0 where the query failed */
  found: number;
  /** why the query failed, or null */
  error: string | null;
}

/**
 * Creates the entity's search index from `search_index`, once: an index that exists is compared, and
 * replaced only when `rebuild` is asked for. Returns when the documents that exist are indexed.
 * @param options.rebuild replace an index of another definition; searches miss documents meanwhile
 * @param options.deadlineMs how long indexing may take, in ms. @default {60000}
 * @throws {ConfigError} where the configuration has no such entity
 * @throws {SearchError} `indexing` after the deadline (Redis goes on with it), or `refused`
 * @throws {ConnectionError} without an answer from Redis
 */
export async function createSearchIndex(
  redis: RedisConnection,
  config: Config,
  entity: string,
  { rebuild = false, deadlineMs = 60_000 }: { rebuild?: boolean; deadlineMs?: number } = {},
): Promise<SearchIndexResult> {
  const { index_name: index } = entityConfig(config, entity);
  if (!config.search_index.create_index) return { status: "off", differences: [] };
  let result: SearchIndexResult;
  if (await create(redis, config, entity, index)) {
    result = { status: "created", differences: [] };
  } else {
    const differences = compare(await readInfo(redis, index), config, entity);
    result = { status: differences.length === 0 ? "unchanged" : "differs", differences };
  }
  if (result.status === "differs") {
    if (!rebuild) return result;
    // Without DD: the index goes, the documents stay. Another process may have dropped it just now.
    await ask(redis, index, ["FT.DROPINDEX", index]).catch(ignoreMissing);
    await create(redis, config, entity, index);
    result = { ...result, status: "rebuilt" };
  }
  await indexed(redis, index, deadlineMs);
  return result;
}

/**
 * Finds documents. User input is safe in every value: it never changes the query, only what it looks for.
 *
 * What no index holds finds nothing, without an error: the empty text, or text of punctuation only.
 * @throws {ConfigError} where the configuration has no such entity
 * @throws {SearchError} `no_index`, `unknown_field`, `invalid`, `refused`
 * @throws {ConnectionError} without an answer from Redis
 */
export async function search(
  redis: RedisConnection,
  config: Config,
  entity: string,
  filter: SearchFilter,
  options: SearchOptions = {},
): Promise<SearchResult> {
  const built = buildQuery(config, filter);
  checkPage(options);
  if (built === null) {
    entityConfig(config, entity);
    return { total: 0, documents: [] };
  }
  return await run(redis, config, entity, built.query, built.params, options);
}

/**
 * Runs a query in RediSearch's own language (dialect 2), such as `@device_type:{android}`. It is sent as
 * it is: never put user input into it.
 * @param returns as in {@linkcode SearchOptions}
 * @throws as {@linkcode search}
 */
export async function searchRaw(
  redis: RedisConnection,
  config: Config,
  entity: string,
  query: string,
  returns?: readonly string[],
  page: { limit?: number; offset?: number } = {},
): Promise<SearchResult> {
  checkPage(page);
  return await run(redis, config, entity, query, [], { ...page, returns });
}

/**
 * Runs random queries for values that the dummy sessions have.
 * @param count queries
 * @param options.seed the same seed asks the same queries
 * @returns what was asked and how many documents were found; a query that fails says so in its entry
 */
export async function randomSearchQueries(
  redis: RedisConnection,
  config: Config,
  entity: string,
  count: number,
  { seed = config.dummy_data.seed }: { seed?: number } = {},
): Promise<RandomQuery[]> {
  entityConfig(config, entity);
  const random = seededRandom(seed);
  const queries: RandomQuery[] = [];
  for (let made = 0; made < count; made++) {
    const session: Record<string, unknown> = generateDummySession(random);
    const fields = config.search_index.fields
      .filter(({ name, type }) => name in session && type !== "GEO");
    const field = fields[Math.floor(random() * fields.length)];
    const value = field && session[field.name];
    const filter = field ? filterFor(field, value) : {};
    const asked = field ? `@${field.name}: ${value}` : "*";
    try {
      const { total } = await search(redis, config, entity, filter, { limit: 0 });
      queries.push({ asked, found: total, error: null });
    } catch (error) {
      queries.push({ asked, found: 0, error: reasonOf(error) });
    }
  }
  return queries;
}

function filterFor({ name, type }: SearchFieldConfig, value: unknown): SearchFilter {
  if (type === "NUMERIC") return { numeric: { [name]: [Number(value), Number(value)] } };
  return type === "TAG" ? { tag: { [name]: String(value) } } : { text: { [name]: String(value) } };
}

/** Sends one command; errors come back typed. */
async function ask(
  redis: RedisConnection,
  index: string,
  [command = "", ...args]: string[],
): Promise<unknown> {
  try {
    return await redis.call(command, ...args);
  } catch (cause) {
    const reason = reasonOf(cause);
    if ((cause as Error).name !== "ReplyError") {
      throw new ConnectionError(`Cannot search ${index}: no answer from Redis (${reason})`, {
        cause,
      });
    }
    // Worded differently by RediSearch 2.8, 2.10 and 8.
    if (/no such index|unknown index name|index.*not.?found/i.test(reason)) {
      throw new SearchError(
        "no_index",
        `Cannot search ${index}: there is no such index; make it by createSearchIndex`,
        { cause },
      );
    }
    if (/unknown (field|property)/i.test(reason)) {
      throw new SearchError("unknown_field", `Cannot search ${index}: ${reason}`, { cause });
    }
    throw new SearchError(
      "refused",
      `Cannot search ${index}: Redis refuses ${command}: ${reason}`,
      {
        cause,
      },
    );
  }
}

function ignoreMissing(error: unknown): void {
  if (!(error instanceof SearchError && error.code === "no_index")) throw error;
}

const prefixesOf = (config: Config, entity: string) =>
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
  // No stop words: every word that a document has can be found.
  const options = ["PREFIX", String(prefixes.length), ...prefixes, "STOPWORDS", "0"];
  try {
    await ask(redis, index, ["FT.CREATE", index, "ON", "JSON", ...options, "SCHEMA", ...schema]);
    return true;
  } catch (error) {
    if (error instanceof SearchError && /already exists/i.test(error.message)) return false;
    throw error;
  }
}

/** What FT.INFO says, as far as it matters here: pairs in one list, in all versions and protocols. */
interface IndexInfo {
  definition: Map<unknown, unknown>;
  attributes: unknown[][];
  /** undefined: RediSearch's own list */
  stopWords: unknown[] | undefined;
  indexing: boolean;
  percent: number;
}

async function readInfo(redis: RedisConnection, index: string): Promise<IndexInfo> {
  const info = pairs(await ask(redis, index, ["FT.INFO", index]));
  return {
    definition: pairs(info.get("index_definition")),
    attributes: info.get("attributes") as unknown[][],
    stopWords: info.get("stopwords_list") as unknown[] | undefined,
    indexing: Number(info.get("indexing")) > 0,
    percent: Math.floor(100 * Number(info.get("percent_indexed"))),
  };
}

function pairs(list: unknown): Map<unknown, unknown> {
  const items = list as unknown[];
  const map = new Map<unknown, unknown>();
  for (let index = 0; index + 1 < items.length; index += 2) map.set(items[index], items[index + 1]);
  return map;
}

async function indexed(redis: RedisConnection, index: string, deadlineMs: number): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  for (let pause = 5;; pause = Math.min(2 * pause, 200)) {
    const { indexing, percent } = await readInfo(redis, index);
    if (!indexing) return;
    if (performance.now() >= deadline) {
      throw new SearchError(
        "indexing",
        `${index} is made, but after ${deadlineMs} ms Redis has indexed ${percent} % of the documents; ` +
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
    // Names and values, then flags: in a list of their own by RESP3, bare at the end by RESP2.
    const values = pairs(attribute);
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

/** Every ASCII character that is not part of a word to RediSearch. */
const PUNCTUATION = /[!-/:-@[-^`{-~]/g;

const fieldInQuery = (name: string) => `@${name.replace(PUNCTUATION, "\\$&")}`;

/**
 * The filter in RediSearch's language, dialect 2, with the values as parameters.
 * @returns null where nothing can match
 * @throws {SearchError} `unknown_field`, `invalid`
 */
export function buildQuery(
  config: Config,
  { text = {}, tag = {}, numeric = {} }: SearchFilter,
): { query: string; params: string[] } | null {
  const parts: string[] = [];
  const params: string[] = [];
  // A parameter's value is never read as a query.
  const parameter = (value: string) => {
    const name = `p${params.length / 2}`;
    params.push(name, value);
    return `$${name}`;
  };
  for (const [name, value] of Object.entries(text)) {
    checkField(config, name, "TEXT");
    const words = wordsOf(value);
    if (words.length === 0) return null;
    parts.push(`${fieldInQuery(name)}:"${words.join(" ")}"`);
  }
  for (const [name, value] of Object.entries(tag)) {
    checkField(config, name, "TAG");
    // RediSearch has no entry for an empty tag, and U+0000 would end the value.
    const values = [value].flat().filter((one) => one !== "" && !one.includes("\0"));
    if (values.length === 0) return null;
    // A backslash takes the character after it as it is, also in parameters.
    const alternatives = values.map((one) => parameter(one.replaceAll("\\", "\\\\")));
    parts.push(`${fieldInQuery(name)}:{${alternatives.join("|")}}`);
  }
  for (const [name, ends] of Object.entries(numeric)) {
    checkField(config, name, "NUMERIC");
    if (ends.some(Number.isNaN)) {
      throw new SearchError("invalid", `Cannot search by ${name}: expected numbers, got NaN`);
    }
    const [min, max] = ends.map((end) => parameter(numberInQuery(end)));
    parts.push(`${fieldInQuery(name)}:[${min} ${max}]`);
  }
  return { query: parts.length === 0 ? "*" : parts.join(" "), params };
}

function numberInQuery(value: number): string {
  return Number.isFinite(value) ? String(value) : value > 0 ? "+inf" : "-inf";
}

/**
 * The words of a text, cut as RediSearch cuts a document's: by punctuation, without control characters
 * and without a backslash before a letter.
 */
function wordsOf(text: string): string[] {
  return text
    .replaceAll("\t", " ")
    .replace(/\\(?=[\w\u0080-\uffff])/g, "")
    .replace(PUNCTUATION, " ")
    // deno-lint-ignore no-control-regex -- these are what RediSearch leaves out of a word
    .replace(/[\x00-\x1f\x7f]/g, "")
    .split(" ")
    .filter((word) => word !== "");
}

function checkField({ search_index }: Config, name: string, type: string): void {
  const field = search_index.fields.find((field) => field.name === name);
  if (field?.type === type) return;
  const fields = search_index.fields.map(({ name, type }) => `${name} (${type})`).join(", ");
  throw new SearchError(
    "unknown_field",
    `Cannot search by ${JSON.stringify(name)} as ${type}: search_index.fields has ${fields}`,
  );
}

function checkPage({ limit = 0, offset = 0 }: SearchOptions): void {
  for (const [name, value] of Object.entries({ limit, offset })) {
    if (Number.isSafeInteger(value) && value >= 0) continue;
    throw new SearchError(
      "invalid",
      `Cannot search: expected a whole ${name} of at least 0, got ${value}`,
    );
  }
}

async function run(
  redis: RedisConnection,
  config: Config,
  entity: string,
  query: string,
  params: string[],
  { limit = 10, offset = 0, returns }: SearchOptions,
): Promise<SearchResult> {
  const { index_name: index } = entityConfig(config, entity);
  const { fields } = config.search_index;
  const names = [...new Set(returns ?? fields.map(({ name }) => name))];
  // Always by path, so that the document's own value comes, indexed or not.
  const columns = names.map((name, column) => {
    const path = name.startsWith("$") ? name : `$[${JSON.stringify(name)}]`;
    const known = fields.find((field) => field.name === name);
    return [known?.path ?? path, "AS", `f${column}`];
  });
  const reply = await ask(redis, index, [
    ...["FT.SEARCH", index, query],
    ...(params.length > 0 ? ["PARAMS", String(params.length), ...params] : []),
    ...["RETURN", String(3 * columns.length), ...columns.flat()],
    ...["LIMIT", String(offset), String(limit), "DIALECT", "2"],
  ]);
  const { total, found } = readReply(reply as unknown[], index, columns.length > 0);
  const prefixes = prefixesOf(config, entity);
  const documents = found.map(({ key, values }) => ({
    id: key.slice(prefixes.find((prefix) => key.startsWith(prefix))?.length ?? 0),
    fields: Object.fromEntries(
      names.map((name, column) => [name, (values.get(`f${column}`) ?? null) as string | null]),
    ),
  }));
  return { total, documents };
}

interface Reply {
  total: number;
  found: { key: string; values: Map<unknown, unknown> }[];
}

/** Reads what FT.SEARCH answers: by RESP2 `[total, key, fields, …]`, by RESP3 pairs of names and values. */
function readReply(reply: unknown[], index: string, hasFields: boolean): Reply {
  if (typeof reply[0] === "number") {
    const [total, ...rest] = reply;
    const step = hasFields ? 2 : 1;
    const found = rest.filter((_, at) => at % step === 0).map((key, at) => ({
      key: key as string,
      values: pairs(hasFields ? rest[at * step + 1] ?? [] : []),
    }));
    return { total: total as number, found };
  }
  const answer = pairs(reply);
  const [warning] = (answer.get("warning") ?? []) as string[];
  if (warning !== undefined) {
    throw new SearchError(
      "refused",
      `Cannot search ${index}: the result is incomplete: ${warning}`,
    );
  }
  const found = (answer.get("results") as unknown[]).map(pairs).map((result) => ({
    key: result.get("id") as string,
    values: pairs(result.get("extra_attributes") ?? []),
  }));
  return { total: answer.get("total_results") as number, found };
}
