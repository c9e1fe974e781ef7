/**
 * What a configuration says about one entity or target. Apart from its reading, whose libraries a worker's thread would
 * load each time that one starts.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { ConfigError } from "../core/errors.ts";
import type { EventType } from "../core/stream_ids.ts";
import type { Config, EntityConfig, TargetConfig } from "./config.ts";

/**
 * The entity of that name.
 *
 * @throws {ConfigError} when the config has none; the message lists those that it has
 *
 * @example
 * ```ts
 * import { equal } from "node:assert/strict";
 * import { entityConfig, loadConfig } from "writebehind";
 *
 * equal(entityConfig(await loadConfig(), "session").table, "sessions");
 * ```
 */
export function entityConfig(config: Config, name: string): EntityConfig {
  checkArguments("entityConfig", { config, entity: name });
  const entity = config.entities.find((entity) => entity.name === name);
  if (entity !== undefined) return entity;
  const known = config.entities.map((entity) => entity.name).join(", ");
  throw new ConfigError(
    `no entity ${JSON.stringify(name)} in the configuration; its entities are: ${known}`,
  );
}

/**
 * The target of that name; by default the first.
 *
 * @throws {ConfigError} when the config has none; the message lists those that it has
 */
export function targetConfig({ targets }: Config, name?: string): TargetConfig {
  const target = name === undefined ? targets[0] : targets.find((one) => one.name === name);
  if (target !== undefined) return target;
  const known = targets.map((one) => one.name).join(", ");
  throw new ConfigError(
    `no target ${JSON.stringify(name)} in the configuration; its targets are: ${known}`,
  );
}

/** The target that the documents of an entity's cache are read from: the one that it names, or the first. */
export function sourceConfig(config: Config, entity: string): TargetConfig {
  return targetConfig(config, entityConfig(config, entity).cache.source ?? undefined);
}

/**
 * Whether changes of an entity's documents are forwarded to the target, as
 * `dummy_data.perform_write_behind` says (the original's place for it).
 * @param verb one kind of change; all of them when left out
 */
export function isForwarded(config: Config, entity: string, verb?: EventType): boolean {
  entityConfig(config, entity);
  const forwarded = config.dummy_data.perform_write_behind;
  return verb === undefined ? Object.values(forwarded).every(Boolean) : forwarded[verb];
}
