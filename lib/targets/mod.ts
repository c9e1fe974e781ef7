/**
 * The port to a target: opening one, and the types for those who write one.
 * @module
 */

export type { Config, EntityConfig, SearchFieldConfig } from "../config/load.ts";
export type { ErrorKind } from "../core/error_kinds.ts";
export { ConnectionError, WriteBehindError } from "../core/errors.ts";
export type { EventType } from "../core/stream_ids.ts";
export type { PartitionKeys } from "../redis/keys.ts";
export {
  connectPostgres,
  createTable,
  openTarget,
  type PostgresPool,
  readDeadLetter,
} from "./open.ts";
export {
  type Adoption,
  type Batches,
  type Belonging,
  type Claim,
  type Doubt,
  type Identities,
  type Offsets,
  type Ownership,
  OwnershipLostError,
  PAGE_ROWS,
  ParkedChangedError,
  READ_BYTES,
  type Row,
  type Rows,
  type RowsAt,
  type ScannedRow,
  type Shares,
  type Standing,
  type Target,
  type TargetDescription,
} from "./target.ts";
export { type BlockedColumn, BLOCKING_IDS, type Columns } from "./columns.ts";
export type { Batch, BatchRows, Parked, Refusal, Removal, Tried, Upsert } from "./batch.ts";
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
} from "./dead_letters.ts";
