/**
 * Random searches, as the original project makes them.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { type Config, entityConfig, type SearchFieldConfig } from "../config/load.ts";
import { reasonOf } from "../core/errors.ts";
import { below, seededRandom } from "../core/random.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { SearchFilter } from "../search/query.ts";
import { search } from "../search/search.ts";
import { generateDummySession } from "./dummy_session.ts";

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
 * Runs random queries for values that the dummy sessions have.
 * @param count queries
 * @param options.seed the same seed asks the same queries
 * @returns what was asked and how many documents were found; a query that fails says so in its entry
 * @throws {ConfigError} where the configuration has no such entity
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, randomSearchQueries } from "writebehind";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * console.table(await randomSearchQueries(redis, config, "session", 5));
 * ```
 */
export async function randomSearchQueries(
  redis: RedisConnection,
  config: Config,
  entity: string,
  count: number,
  options: { seed?: number } = {},
): Promise<RandomQuery[]> {
  checkArguments("randomSearchQueries", { redis, config, entity, count, options });
  const { seed = config.dummy_data.seed } = options;
  checkArguments("randomSearchQueries", { seed });
  entityConfig(config, entity);
  const random = seededRandom(seed);
  const queries: RandomQuery[] = [];
  for (let made = 0; made < count; made++) {
    const session: Record<string, unknown> = generateDummySession(random);
    const fields = config.search_index.fields
      .filter(({ name, type }) => name in session && type !== "GEO");
    const field = fields[below(random, fields.length)];
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
