/**
 * writebehind: Redis as a fast front for writes, every change carried on to a target: PostgreSQL, or another one.
 *
 * This file names what is public, and nothing else. It loads no command line, and a target's driver only when
 * that target is opened.
 *
 * @example From a document to its row
 * ```ts
 * import * as wb from "writebehind";
 *
 * const config = await wb.loadConfig();
 * await using redis = await wb.connectRedis(config);
 * await using target = await wb.openTarget(config);
 * await using _sink = wb.consumePeriodically(redis, target, config, "session");
 *
 * await wb.insertDocument(redis, config, "session", wb.generateDummySession());
 * await wb.caughtUp(redis, target, config, "session");
 * ```
 * @module
 */

// Configuration, and which servers it leads to
export type { DatabaseAddress } from "./config/database_address.ts";
export type { RedisAddress } from "./config/redis_address.ts";
export {
  type AnyTarget,
  type CacheConfig,
  type ColumnConfig,
  type Config,
  configWith,
  type DeepPartial,
  type EntityConfig,
  entityConfig,
  type KafkaTargetConfig,
  loadConfig,
  type MysqlTargetConfig,
  type NodeAddress,
  parseConfig,
  type PostgresTargetConfig,
  type SearchFieldConfig,
  type SentinelAddress,
  type SqliteTargetConfig,
  type TargetConfig,
} from "./config/load.ts";
export {
  describeServers,
  type ResolvedServers,
  resolveServers,
  serverOverrides,
  type ServerSettings,
  type ServerSource,
} from "./config/servers.ts";

// Connections
export { connectRedis } from "./redis/connect.ts";
export { type ConnectionOptions, RedisConnection } from "./redis/connection.ts";
export { connectPostgres, openTarget, type PostgresPool } from "./targets/open.ts";

// Documents: writing and reading
export { type Json, type JsonObject } from "./core/json/encode.ts";
export { type Receipt } from "./core/receipt.ts";
export { type EventType, streamIdOf, versionOf } from "./core/stream_ids.ts";
export { generateDocId } from "./documents/ids.ts";
export { readByIds, type ReadOptions } from "./documents/read.ts";
export type { InsertOptions, UpdateOptions, WriteOptions } from "./documents/options.ts";
export { deleteDocument, insertDocument, updateDocument } from "./documents/write.ts";
export { type Durability } from "./redis/durability.ts";
export { documentKey } from "./redis/keys.ts";

// Errors
export {
  ArgumentError,
  BackpressureError,
  ConfigError,
  ConnectionError,
  DocumentError,
  type DocumentErrorCode,
  DurabilityError,
  RedisRefusedError,
  RepartitioningError,
  UnknownOutcomeError,
  WriteBehindError,
} from "./core/errors.ts";

// Search
export { SearchError, type SearchErrorCode } from "./search/error.ts";
export { createSearchIndex, type SearchIndexResult } from "./search/index.ts";
export { type SearchFilter } from "./search/query.ts";
export {
  type FoundDocument,
  search,
  type SearchOptions,
  searchRaw,
  type SearchResult,
} from "./search/search.ts";

// The sink
export {
  consumePeriodically,
  type PartitionState,
  RedisWriteBehind,
  type SinkStatus,
} from "./sink/sink.ts";
export { type Carried, Sinks } from "./sink/sinks.ts";
export { createTable } from "./targets/open.ts";

// Operating it
export { type ColumnsReport, migrateColumns } from "./operate/migrate_columns.ts";
export { adopt, type AdoptedPartition, type AdoptReport } from "./operate/adopt.ts";
export {
  type CacheOptions,
  type CacheReport,
  type CacheStatus,
  readCache,
  turnCacheOff,
  turnCacheOn,
} from "./operate/cache.ts";
export { caughtUp } from "./operate/caught_up.ts";
export { discardDeadLetters, listDeadLetters } from "./operate/dead_letters.ts";
export { type FarEntry, type MendReport, mendStreams } from "./operate/mend.ts";
export {
  rebuild,
  type RebuildOptions,
  RebuildRefusedError,
  type RebuildReport,
} from "./operate/rebuild.ts";
export {
  repartition,
  type RepartitionOptions,
  type RepartitionReport,
} from "./operate/repartition/repartition.ts";
export {
  replayDeadLetters,
  type ReplayOptions,
  type ReplayOutcome,
  type ReplayReport,
} from "./operate/replay.ts";
export { type PartitionStatus, readStatus } from "./operate/status.ts";
export type { CacheState, PartitionCache } from "./redis/cache_state.ts";
export { type AddReport, addTarget } from "./operate/add_target.ts";
export {
  type ListedTarget,
  listTargets,
  pauseTarget,
  type RemovedTarget,
  removeTarget,
  resumeTarget,
} from "./operate/targets.ts";
export type { TargetState } from "./redis/registrations.ts";
export type { Difference, Seen } from "./operate/verify/compare.ts";
export {
  type RepairOptions,
  repairRedis,
  type RepairReport,
  repairTarget,
} from "./operate/verify/repair.ts";
export { type FoundDoubt } from "./operate/verify/doubts.ts";
export { verify, type VerifyOptions, type VerifyReport } from "./operate/verify/verify.ts";
export { readDeadLetter } from "./targets/open.ts";

// The port to a target: writebehind/targets has also what is needed to write one
export type { ErrorKind } from "./core/error_kinds.ts";
export type { Shape } from "./config/shapes.ts";
export type { PartitionKeys } from "./redis/keys.ts";
export type {
  Adoption,
  Batches,
  Belonging,
  Claim,
  Doubt,
  Identities,
  Offsets,
  Ownership,
  Row,
  Rows,
  RowsAt,
  ScannedRow,
  Shares,
  Standing,
  Target,
  TargetDescription,
} from "./targets/target.ts";
export type { BlockedColumn, Columns } from "./targets/columns.ts";
export type { Batch, BatchRows, Parked, Refusal, Removal, Tried, Upsert } from "./targets/batch.ts";
export type {
  DeadLetter,
  DeadLetterEvent,
  DeadLetters,
  DeadLetterSelection,
  DeadLetterState,
  HeldDeadLetters,
  LetterStream,
  ParkedDocument,
  ParkedEvent,
  Settled,
} from "./targets/dead_letters.ts";

// What happens
export {
  type AnyListener,
  type Emitter,
  type Listener,
  type ListenerFailed,
  type Place,
  type RedisEvents,
  type SinkEvents,
  type TargetEvents,
} from "./core/events.ts";

// Metrics
export { loadMetrics, type Metrics } from "./metrics/counters.ts";
export { type Figures, type PartitionFigures, readFigures, type Sums } from "./metrics/figures.ts";
export { type Sample, Sampler, type SamplerOptions } from "./metrics/sampler.ts";
export { type CounterName, type Counters, type Gauge } from "./redis/counters.ts";

// The original's demonstration
export { type Random, seededRandom } from "./core/random.ts";
export { type DummySession, generateDummySession } from "./demo/dummy_session.ts";
export { type RandomQuery, randomSearchQueries } from "./demo/random_queries.ts";
export { type TrafficReport } from "./demo/tally.ts";
export { dummyDataWorker, type TrafficOptions } from "./demo/traffic.ts";
export { main, type PipelineOptions } from "./pipeline.ts";
