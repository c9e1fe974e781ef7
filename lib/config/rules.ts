/**
 * The rules between the keys of the configuration file: those that look at more than one of them. Any part of the value may
 * be missing here, since they are checked even where single keys are bad.
 * @module
 */

import type { CacheConfig, Config, DeepPartial } from "./config.ts";
import { keyCollisions } from "./key_names.ts";
import { rangeProblem } from "./ranges.ts";
import { clusterProblems, sentinelProblems } from "./sentinels.ts";

/** Prefixes of Redis keys that documents never have. */
const RESERVED_NAMES = ["stream", "log", "metrics", "request", "writebehind"];

/** The one entity of a file that names none. */
export const SESSION = { name: "session", table: "sessions" };

/** The one target of a file that names none. */
export const POSTGRESQL = { name: "postgresql", kind: "postgresql", on_full: "stop" } as const;

/** A problem found by a rule that looks at more than one key. */
interface CrossProblem {
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/** All that is wrong between keys. */
export function* crossProblems(config: DeepPartial<Config>): Generator<CrossProblem> {
  const { redis, dummy_data: traffic, write_behind: sink, search_index: search } = config;
  if (search?.create_index === true && Number.isInteger(redis?.db) && redis?.db !== 0) {
    yield {
      path: ["redis", "db"],
      message: "RediSearch lives in database 0; set db to 0, or search_index.create_index to false",
    };
  }
  if (redis) {
    yield* sentinelProblems(redis);
    yield* clusterProblems(redis);
  }
  const shares = [traffic?.create_pct, traffic?.update_pct, traffic?.delete_pct];
  if (shares.every((share) => typeof share === "number" && share >= 0 && share <= 1)) {
    const sum = shares.reduce<number>((total, share) => total + (share ?? 0), 0);
    if (Math.abs(sum - 1) > 1e-9) {
      yield {
        path: ["dummy_data"],
        message: `create_pct, update_pct and delete_pct must sum to 1, got ${shares.join(" + ")}`,
      };
    }
  }
  const { retry_base_ms: base, retry_max_ms: most } = sink ?? {};
  if (typeof base === "number" && typeof most === "number" && base > most) {
    yield {
      path: ["write_behind", "retry_base_ms"],
      message: `expected at most retry_max_ms (${most}), got ${base}`,
    };
  }
  if (Array.isArray(search?.fields)) {
    yield* repeated(search.fields, ["name"], ["search_index", "fields"]);
  }
  if (Array.isArray(config.targets)) {
    yield* targetProblems(config.targets);
    const problem = rangeProblem(config.targets, config.streams?.partitions ?? "auto");
    if (problem !== null) {
      yield { path: ["targets", problem.index, "partitions"], message: problem.message };
    }
  }
  yield* entityProblems(config);
}

/** Two targets that were the same place would write over each other's offsets. */
function* targetProblems(targets: readonly (object | undefined)[]): Generator<CrossProblem> {
  yield* repeated(targets, ["name", "path"], ["targets"]);
  const places = targets.map((target) => {
    const { kind, host, port, database, brokers, prefix } = (target ?? {}) as Record<
      string,
      unknown
    >;
    if (kind === "kafka") return JSON.stringify([kind, brokers ?? null, prefix ?? ""]);
    return kind === "postgresql" || kind === "mysql"
      ? JSON.stringify([kind, host ?? null, port ?? null, database ?? null])
      : undefined;
  });
  for (const [index, place] of places.entries()) {
    if (place === undefined || places.indexOf(place) === index) continue;
    if (place.startsWith('["kafka"')) {
      const message = "the same topics as those of the target before; give it another prefix";
      yield { path: ["targets", index, "prefix"], message };
      continue;
    }
    const message = "the same database as that of the target before; give it another";
    yield { path: ["targets", index, "database"], message };
  }
}

/** A cache is of documents that a target has, all of them, and gives back by their ids. */
function* cacheProblems(
  index: number,
  cache: DeepPartial<CacheConfig> | undefined,
  targets: DeepPartial<Config>["targets"],
  dummy: DeepPartial<Config>["dummy_data"],
): Generator<CrossProblem> {
  if (cache?.enabled !== true) return;
  const path = ["entities", index, "cache"];
  const known = Array.isArray(targets) ? targets : [POSTGRESQL];
  const source = known.find(({ name }) => name === (cache.source ?? known[0]?.name));
  if (source === undefined) {
    const message = `expected one of the targets (${known.map(({ name }) => name).join(", ")})`;
    yield { path: [...path, "source"], message };
  } else if (source.kind === "kafka") {
    const message =
      `the target ${source.name} is a kafka, which gives no document back by its id; ` +
      "name another";
    yield { path: [...path, "source"], message };
  }
  if (source?.partitions !== undefined) {
    const message = `the target ${source.name} has some of the partitions only; name another`;
    yield { path: [...path, "source"], message };
  }
  if (source?.on_full === "detach") {
    const message =
      `the target ${source.name} may lose its place (on_full: detach), and evicted documents with it; ` +
      "set on_full: stop";
    yield { path: [...path, "source"], message };
  }
  if (Object.values(dummy?.perform_write_behind ?? {}).includes(false)) {
    const message =
      "a cache needs all changes in its target; set dummy_data.perform_write_behind " +
      "to true for all three, or leave it out";
    yield { path: [...path, "enabled"], message };
  }
}

function* entityProblems(
  { entities, streams, search_index, targets, dummy_data }: DeepPartial<Config>,
) {
  const list = entities ?? [{ ...SESSION, ...search_index }];
  if (!Array.isArray(list)) return;
  yield* repeated(list, ["name", "table", "index_name"], ["entities"]);
  for (const [index, item] of list.entries()) {
    const columns: unknown = item?.columns;
    if (Array.isArray(columns)) yield* repeated(columns, ["name"], ["entities", index, "columns"]);
    yield* cacheProblems(index, item?.cache, targets, dummy_data);
  }

  // A document's key is `<entity>:<id>`, and no other key of ours may begin like one.
  const logs = Object.entries(streams?.log_streams ?? {})
    .map(([key, name]) => [`streams.log_streams.${key}`, name] as const);
  const taken = new Map<unknown, string>(
    [
      ["streams.prefix", streams?.prefix] as const,
      ["streams.last_id_key_prefix", streams?.last_id_key_prefix] as const,
      ...logs,
    ].map(([key, name]) => [typeof name === "string" ? name.split(":")[0] : undefined, key]),
  );
  for (const name of RESERVED_NAMES) taken.set(name, "the project's own keys");
  for (const [index, item] of list.entries()) {
    const name: unknown = item?.name;
    if (typeof name !== "string" || !taken.has(name)) continue;
    const other = taken.get(name)!;
    // The one entity of a file that names none: the other name is to be changed.
    yield entities === undefined || entities === null
      ? {
        path: other.split("."),
        message: `documents of ${name} have keys like it; choose another`,
      }
      : {
        path: ["entities", index, "name"],
        message: `the name ${name} is used by ${other}; choose another`,
      };
  }

  yield* keyCollisions(
    streams,
    list.map((item) => item?.name).filter((name) => typeof name === "string"),
  );
}

function* repeated(
  list: readonly (object | undefined)[],
  keys: readonly string[],
  path: CrossProblem["path"],
): Generator<CrossProblem> {
  for (const key of keys) {
    const values = list.map((item) => Object.getOwnPropertyDescriptor(item ?? {}, key)?.value);
    for (const [index, value] of values.entries()) {
      if (typeof value !== "string" || values.indexOf(value) === index) continue;
      const message = `${JSON.stringify(value)} is used twice; choose another`;
      yield { path: [...path, index, key], message };
    }
  }
}
