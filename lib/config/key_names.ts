/**
 * What the keys in Redis begin with, and the rule that no two of their kinds may meet: one would overwrite the
 * other, or be refused as another type of value.
 * @module
 */

import type { Config, DeepPartial } from "./config.ts";

/** What the keys of each kind begin with; `lib/redis/keys.ts` has what follows. */
export interface KeyFamilies {
  /** the events of an entity */
  readonly streams: string;
  /** what all writers of a stream must agree on */
  readonly settings: string;
  /** copies of the offsets, for people */
  readonly lastIds: string;
  /** what the sinks report, for people */
  readonly gauges: string;
  /** which documents have an event that a cache's target has not applied */
  readonly notes: string;
  /** when documents and receipts of requests are due to go */
  readonly due: string;
  /** documents that a cache's target was just asked for */
  readonly asked: string;
  /** the first receipts of requests */
  readonly requests: string;
  /** the counters, by their names */
  readonly counters: string;
  /** how often readers have found documents in a cache, and have not */
  readonly looks: string;
}

/** What the keys of each kind begin with. */
export function keyFamilies(
  { prefix, last_id_key_prefix }: Pick<Config["streams"], "prefix" | "last_id_key_prefix">,
): KeyFamilies {
  return {
    streams: `${prefix}:`,
    settings: `${prefix}:settings:`,
    lastIds: `${last_id_key_prefix}:${prefix}:`,
    gauges: `metrics:sink:${prefix}:`,
    notes: `${prefix}:notes:`,
    due: `${prefix}:due:`,
    asked: `${prefix}:asked:`,
    requests: "request:",
    counters: "metrics:",
    // Writers and readers may use what begins with metrics:redis_.
    looks: "metrics:redis_cache:",
  };
}

/** The key of a copy of a stream without the entries that block it; it takes the stream's place. */
export const mendingKey = (stream: string): string => `${stream}:mend`;

/** A key, or all keys that begin so. */
interface Name {
  readonly text: string;
  readonly family: boolean;
  /** who has it; names of one owner cannot meet each other */
  readonly of: string;
  /** the key of the configuration that it comes from */
  readonly path: string;
}

/** Two kinds of keys that would meet. */
export interface KeyCollision {
  /** the key of the configuration that is to be changed */
  readonly path: readonly string[];
  readonly message: string;
}

/** Finds what the configuration names that is, or lies among, other keys of ours; the documents' are looked at elsewhere. */
export function* keyCollisions(
  streams: DeepPartial<Config["streams"]> | undefined,
  entities: readonly string[],
): Generator<KeyCollision> {
  const { prefix, last_id_key_prefix, log_streams = {} } = streams ?? {};
  if (typeof prefix !== "string" || typeof last_id_key_prefix !== "string") return;
  const families = keyFamilies({ prefix, last_id_key_prefix });
  const names: Name[] = [];
  const add = (path: string, of: string, text: string, family = false) =>
    names.push({ text, family, of, path });
  for (const counter of Object.keys(log_streams)) {
    add("", `the counter ${counter}`, families.counters + counter);
  }
  add("", "the looks at caches", families.looks, true);
  add("", "the receipts of requests", families.requests, true);
  add("streams.prefix", "the gauges of sinks", families.gauges, true);
  add("streams.prefix", "the settings of streams", families.settings, true);
  add("streams.prefix", "the notes of a cache", families.notes, true);
  add("streams.prefix", "the due times of documents", families.due, true);
  add("streams.prefix", "the questions of a cache", families.asked, true);
  for (const entity of entities) {
    const stream = families.streams + entity;
    add("streams.prefix", `entity ${entity}`, stream);
    add("streams.prefix", `entity ${entity}`, mendingKey(stream));
  }
  add("streams.last_id_key_prefix", "streams.last_id_key_prefix", families.lastIds, true);
  for (const [key, name] of Object.entries(log_streams)) {
    const path = `streams.log_streams.${key}`;
    if (typeof name === "string") add(path, path, name);
  }
  for (const [index, name] of names.entries()) {
    // What comes from one key of the configuration is apart by itself, or it meets what came before as well.
    const other = names.slice(0, index).find((one) => one.path !== name.path && meet(one, name));
    if (other === undefined) continue;
    yield {
      path: name.path.split("."),
      message: `${
        name.family ? `keys that begin with ${name.text} are` : `the key ${name.text} is`
      } used by ${other.of}; choose another`,
    };
  }
}

function meet(one: Name, other: Name): boolean {
  return one.text === other.text || one.family && other.text.startsWith(one.text) ||
    other.family && one.text.startsWith(other.text);
}
