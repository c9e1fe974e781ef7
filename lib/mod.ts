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
} from "./config/load.ts";
export { type ConnectionOptions, connectRedis, RedisConnection } from "./redis/connection.ts";
export {
  deleteDocument,
  insertDocument,
  type InsertOptions,
  updateDocument,
  type WriteOptions,
} from "./documents/write.ts";
export { generateDocId } from "./documents/ids.ts";
export { readByIds, type ReadOptions } from "./documents/read.ts";
export { type Receipt } from "./core/receipt.ts";
export { type Durability } from "./redis/durability.ts";
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
} from "./core/errors.ts";
export { documentKey } from "./redis/keys.ts";
export { type EventType, streamIdOf, versionOf } from "./core/stream_ids.ts";
export { type Json, type JsonObject } from "./core/json/encode.ts";
export { main } from "./cli/main.ts";
export { type CounterName } from "./redis/counters.ts";
export { loadMetrics, type Metrics } from "./metrics/counters.ts";
export { type Sample, Sampler, type SamplerOptions } from "./metrics/sampler.ts";
export { describeServers, resolveServers, serverOverrides } from "./config/servers.ts";
export { rebuild, RebuildRefusedError, type RebuildReport } from "./operate/rebuild.ts";
export { repairRedis, type RepairReport, repairTarget } from "./operate/verify/repair.ts";
export { replayDeadLetters, type ReplayOutcome, type ReplayReport } from "./operate/replay.ts";
export { createSearchIndex } from "./search/index.ts";
export { randomSearchQueries } from "./demo/random_queries.ts";
export { search, searchRaw } from "./search/search.ts";
export { caughtUp } from "./operate/caught_up.ts";
export { consumePeriodically, RedisWriteBehind, type SinkStatus } from "./sink/sink.ts";
export { type PartitionStatus, readStatus } from "./operate/status.ts";
export { dummyDataWorker } from "./demo/traffic.ts";
export { generateDummySession } from "./demo/dummy_session.ts";
export { seededRandom } from "./core/random.ts";
export { verify, type VerifyOptions, type VerifyReport } from "./operate/verify/verify.ts";

export { discardDeadLetters, listDeadLetters } from "./operate/dead_letters.ts";
export { connectPostgres, createTable, openTarget, readDeadLetter } from "./targets/open.ts";
export type {
  DeadLetter,
  DeadLetterEvent,
  DeadLetterSelection,
  DeadLetterState,
  Target,
} from "./targets/target.ts";
