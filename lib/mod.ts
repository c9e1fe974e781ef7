/**
 * writebehind: Redis as a fast front for writes, every change carried on to a relational database.
 * This file names what is public, and nothing else. The notebook room, the embedded servers and the
 * sampler's charts are imported by their own paths, since they load heavy packages.
 * @module
 */

export {
  type Config,
  configWith,
  type DeepPartial,
  type EntityConfig,
  entityConfig,
  loadConfig,
  parseConfig,
  type SearchFieldConfig,
} from "./config.ts";
export {
  type ConnectionOptions,
  connectPostgres,
  connectRedis,
  RedisConnection,
} from "./connections.ts";
export {
  type DeadLetter,
  type DeadLetterEvent,
  type DeadLetterSelection,
  type DeadLetterState,
  discardDeadLetters,
  listDeadLetters,
  readDeadLetter,
} from "./deadletter.ts";
export {
  deleteDocument,
  generateDocId,
  insertDocument,
  type InsertOptions,
  readByIds,
  type ReadOptions,
  type Receipt,
  updateDocument,
  type WriteOptions,
} from "./documents.ts";
export type { Durability } from "./durability.ts";
export {
  BackpressureError,
  ConfigError,
  ConnectionError,
  DocumentError,
  type DocumentErrorCode,
  DurabilityError,
  RedisRefusedError,
  UnknownOutcomeError,
  WriteBehindError,
} from "./errors.ts";
export { documentKey, type EventType, streamIdOf, versionOf } from "./events.ts";
export type { Json, JsonObject } from "./json.ts";
export { main } from "./main.ts";
export { type CounterName, loadMetrics, type Metrics } from "./metrics/counters.ts";
export { type Sample, Sampler, type SamplerOptions } from "./metrics/sampler.ts";
export { describeServers, resolveServers, serverOverrides } from "./services/registry.ts";
export { rebuild, RebuildRefusedError, type RebuildReport } from "./rebuild.ts";
export { repairRedis, type RepairReport, repairTarget } from "./repair.ts";
export { replayDeadLetters, type ReplayOutcome, type ReplayReport } from "./replay.ts";
export { createSearchIndex, randomSearchQueries, search, searchRaw } from "./search.ts";
export { caughtUp } from "./sink/progress.ts";
export { consumePeriodically, RedisWriteBehind, type SinkStatus } from "./sink/sink.ts";
export { type PartitionStatus, readStatus } from "./status.ts";
export { createTable } from "./targets/schema.ts";
export { dummyDataWorker, generateDummySession, seededRandom } from "./traffic.ts";
export { verify, type VerifyOptions, type VerifyReport } from "./verify.ts";
