/**
 * The configuration alone: loads no driver of any server.
 * @module
 */

export { ConfigError, WriteBehindError } from "../core/errors.ts";
export type { DatabaseAddress } from "./database_address.ts";
export type { RedisAddress } from "./redis_address.ts";
export type {
  AnyTarget,
  CacheConfig,
  ColumnConfig,
  Config,
  DeepPartial,
  EntityConfig,
  KafkaTargetConfig,
  MysqlTargetConfig,
  NodeAddress,
  PostgresTargetConfig,
  SearchFieldConfig,
  SentinelAddress,
  SqliteTargetConfig,
  TargetConfig,
} from "./config.ts";
export { configWith, entityConfig, loadConfig, parseConfig } from "./load.ts";
export {
  describeServers,
  type ResolvedServers,
  resolveServers,
  serverOverrides,
  type ServerSettings,
  type ServerSource,
} from "./servers.ts";
